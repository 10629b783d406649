//! The tree that a chain of layers shows, known from their indexes alone: nothing is unpacked and no
//! content is read. Whiteouts and opaque directories are applied when a layer is put on top; every
//! lookup afterwards is one binary search.

use super::entry::{Entry, Kind, compare, is_below, join, names, parent};
use super::index::Index;
use std::collections::HashMap;
use std::sync::Arc;

/// How many symbolic links one lookup follows, as in the kernel.
const LINK_LIMIT: usize = 40;

/// What stands at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Type, mode, owner. Hard links show the file that they name.
    pub entry: Arc<Entry>,
    /// The layer that holds the content, counted from the bottom.
    pub layer: usize,
    /// The path in that layer under which the content was written.
    pub origin: Arc<[u8]>,
    /// The file of a residue that this is, if it has one of its own with that content: its layer, and its first name.
    pub copy: Option<Arc<(usize, Vec<u8>)>>,
}

/// What tells files apart, whatever their names and contents.
pub type FileId = (usize, Arc<[u8]>, Option<Arc<(usize, Vec<u8>)>>);

impl Node {
    /// Where the node stands.
    pub fn path(&self) -> &[u8] {
        &self.entry.path
    }

    /// The file that stands here: equal for all its names.
    pub fn file(&self) -> FileId {
        (self.layer, self.origin.clone(), self.copy.clone())
    }

    /// Whether the file got its content under another name, and so has had two at least.
    fn is_further_name(&self) -> bool {
        self.copy.as_ref().map_or(*self.origin != *self.path(), |copy| copy.1 != self.path())
    }
}

/// Why a path cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many symbolic links, or a circle.
    #[error("{0}: too many levels of symbolic links")]
    Links(String),
    /// A name that would have to be a directory.
    #[error("{0}: not a directory")]
    NotDirectory(String),
}

/// The merged tree of a chain of layers.
#[derive(Debug, Clone, Default)]
pub struct View {
    nodes: Arc<Vec<Node>>,
    layers: usize,
}

impl View {
    /// The view without any layer: an empty root.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The view of a chain, bottom first.
    pub fn of<'a>(chain: impl IntoIterator<Item = &'a Index>) -> Self {
        chain.into_iter().fold(Self::empty(), |view, index| view.with(index))
    }

    /// How many layers it has.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// All nodes in walk order. The root is there only if a layer names it.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Puts one more layer on top. Linear in the size of both.
    #[must_use]
    pub fn with(&self, index: &Index) -> Self {
        let mut merge = Merge { below: self, layer: self.layers, nodes: Vec::new(), hidden: None };
        merge.nodes.reserve(self.nodes.len() + index.entries().len());
        let mut lower = self.nodes.iter().peekable();
        for entry in index.entries() {
            while let Some(node) = lower.next_if(|node| compare(node.path(), &entry.path).is_lt()) {
                merge.keep(node);
            }
            let same = lower.next_if(|node| node.path() == entry.path);
            let lower_same = same.filter(|_| !merge.hides(&entry.path));
            // One path can carry a whiteout and a node: the lower node went with the first of them.
            merge.put(entry, lower_same);
        }
        lower.for_each(|node| merge.keep(node));
        Self { nodes: Arc::new(merge.nodes), layers: self.layers + 1 }
    }

    /// The same with what the step of the topmost layer has left beside it. What does not fit to the tree is not there:
    /// it may come from a cache of others.
    #[must_use]
    pub fn with_residue(mut self, residue: &Index) -> Self {
        let top = self.layers.saturating_sub(1);
        let nodes = Arc::make_mut(&mut self.nodes);
        let find = |nodes: &[Node], path: &[u8]| nodes.binary_search_by(|node| compare(node.path(), path)).ok();
        for entry in residue.entries() {
            let Some(at) = find(nodes, &entry.path) else { continue };
            if !super::residue::fits(entry, &nodes[at].entry) {
                continue;
            }
            match &entry.kind {
                Kind::Directory => {
                    let entry = Entry { kind: Kind::Directory, mtime: entry.mtime, ..Entry::clone(&nodes[at].entry) };
                    nodes[at].entry = Arc::new(entry);
                }
                Kind::Hardlink(target) => {
                    let file = find(nodes, target).map(|at| nodes[at].clone());
                    let same = |file: &Node| file.entry.kind == nodes[at].entry.kind;
                    if let Some(Node { layer, origin, copy, .. }) = file.filter(same) {
                        nodes[at] = Node { entry: nodes[at].entry.clone(), layer, origin, copy };
                    }
                }
                _ => nodes[at].copy = Some(Arc::new((top, entry.path.clone()))),
            }
        }
        self
    }

    /// The files that have, or had, several names, and how many each has.
    pub(super) fn shared(&self) -> HashMap<FileId, usize> {
        let further = self.nodes.iter().filter(|node| node.is_further_name());
        let mut names: HashMap<FileId, usize> = further.map(|node| (node.file(), 0)).collect();
        for node in self.nodes.iter() {
            if let Some(names) = names.get_mut(&node.file()) {
                *names += 1;
            }
        }
        names
    }

    /// What stands at exactly this path, without following a link at its end or on its way.
    pub fn lstat(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.binary_search_by(|node| compare(node.path(), path)).ok().map(|at| &self.nodes[at])
    }

    /// Whether a directory stands at exactly this path; the root always does.
    pub fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.lstat(path).is_some_and(|node| node.entry.is_dir())
    }

    /// The path that `path` means when every symbolic link, also the last, is followed inside the root.
    /// Names that do not exist are kept as they are, so that the result can be created.
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        resolve(path, |at| {
            Ok(match self.lstat(at).map(|node| &node.entry.kind) {
                Some(Kind::Symlink(target)) => Step::Link(target.clone()),
                Some(Kind::Directory | Kind::Implicit) => Step::Directory,
                Some(_) => Step::Other,
                None => Step::Missing,
            })
        })
    }

    /// What the path means, links followed; `None` if nothing is there.
    pub fn stat(&self, path: &[u8]) -> Result<Option<&Node>, Error> {
        Ok(self.lstat(&self.resolve(path)?))
    }

    /// The nodes directly in a directory, in byte order of their names.
    pub fn read_dir<'a>(&'a self, dir: &'a [u8]) -> impl Iterator<Item = &'a Node> {
        let start = self.nodes.partition_point(|node| compare(node.path(), dir).is_le());
        let mut rest = &self.nodes[start..];
        std::iter::from_fn(move || {
            let child = rest.first().filter(|node| is_below(node.path(), dir))?;
            let end = rest.partition_point(|n| n.path() == child.path() || is_below(n.path(), child.path()));
            rest = &rest[end..];
            Some(child)
        })
    }

    /// Everything strictly below a directory, in walk order.
    pub fn below(&self, dir: &[u8]) -> &[Node] {
        let start = self.nodes.partition_point(|node| compare(node.path(), dir).is_le());
        let rest = &self.nodes[start..];
        &rest[..rest.partition_point(|node| is_below(node.path(), dir))]
    }
}

/// What a path's next name is, for [`resolve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A symbolic link with its target.
    Link(Vec<u8>),
    /// A directory.
    Directory,
    /// Anything else that exists.
    Other,
    /// Nothing.
    Missing,
}

/// Follows every symbolic link of a path inside the root. `..` stops at the root, as after chroot.
pub fn resolve<E: From<Error>>(path: &[u8], mut step: impl FnMut(&[u8]) -> Result<Step, E>) -> Result<Vec<u8>, E> {
    let mut done: Vec<u8> = Vec::new();
    let mut todo: Vec<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
    todo.reverse();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == b".." {
            done.truncate(parent(&done).map_or(0, <[u8]>::len));
            continue;
        }
        let next = join(&done, &name);
        match step(&next)? {
            Step::Link(target) => {
                links += 1;
                if links > LINK_LIMIT || next.len() + target.len() > super::entry::PATH_LIMIT * 4 {
                    return Err(Error::Links(super::entry::show(path)).into());
                }
                if target.starts_with(b"/") {
                    done.clear();
                }
                let at = todo.len();
                todo.extend(names(&target).map(<[u8]>::to_vec));
                todo[at..].reverse();
            }
            Step::Other if !todo.is_empty() => {
                return Err(Error::NotDirectory(super::entry::show(&next)).into());
            }
            Step::Directory | Step::Other | Step::Missing => done = next,
        }
    }
    Ok(done)
}

/// One pass over the lower nodes and the new layer, both in walk order.
struct Merge<'a> {
    below: &'a View,
    layer: usize,
    nodes: Vec<Node>,
    /// The topmost path below which lower nodes vanish, while the pass is inside it.
    hidden: Option<Vec<u8>>,
}

impl Merge<'_> {
    fn hides(&mut self, path: &[u8]) -> bool {
        if self.hidden.as_deref().is_some_and(|dir| !is_below(path, dir) && path != dir) {
            self.hidden = None;
        }
        self.hidden.as_deref().is_some_and(|dir| is_below(path, dir))
    }

    fn hide_below(&mut self, path: &[u8]) {
        if !self.hides(path) {
            self.hidden = Some(path.to_vec());
        }
    }

    fn keep(&mut self, node: &Node) {
        if !self.hides(node.path()) {
            self.nodes.push(node.clone());
        }
    }

    fn put(&mut self, entry: &Arc<Entry>, lower: Option<&Node>) {
        match &entry.kind {
            // The node at the path itself was consumed by the caller.
            Kind::Whiteout => self.hide_below(&entry.path),
            Kind::Opaque => {
                self.hide_below(&entry.path);
                self.nodes.extend(lower.cloned());
            }
            Kind::Implicit => match lower.filter(|node| node.entry.is_dir()) {
                Some(node) => self.nodes.push(node.clone()),
                None => self.add(entry),
            },
            Kind::Directory => self.add(entry),
            Kind::Hardlink(target) => {
                self.hide_below(&entry.path);
                self.add_link(entry, target);
            }
            _ => {
                self.hide_below(&entry.path);
                self.add(entry);
            }
        }
    }

    fn add(&mut self, entry: &Arc<Entry>) {
        let origin = entry.path.as_slice().into();
        self.nodes.push(Node { entry: entry.clone(), layer: self.layer, origin, copy: None });
    }

    /// A hard link shows the file it names: in this layer, whose index has that first, or below.
    fn add_link(&mut self, entry: &Arc<Entry>, target: &[u8]) {
        let found = self.nodes.binary_search_by(|node| compare(node.path(), target)).ok();
        let node = found.map(|at| &self.nodes[at]).or_else(|| self.below.lstat(target)).cloned();
        let Some(node) = node else {
            // One that names nothing is shown as it is, and fails where its content is asked for.
            return self.add(entry);
        };
        let entry = Arc::new(Entry { path: entry.path.clone(), ..Entry::clone(&node.entry) });
        self.nodes.push(Node { entry, ..node });
    }
}
