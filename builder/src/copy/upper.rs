//! The changes that a step makes to the tree below it, held as an overlay's upper directory would hold
//! them: with what is there, what replaces it, and which directories were touched. No content is read;
//! where it comes from is carried along.

use super::error::Error;
use super::mode::Chmod;
use super::owner::Owner;
use crate::layer::entry::{CAPABILITY, Entry, Kind, SETGID, compare, is_below, join, names, parent, show};
use crate::layer::view::{self, Step, View};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

/// A path in walk order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key(Vec<u8>);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}
impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What stands at a path of the upper directory.
#[derive(Debug, Clone)]
pub(super) struct Node<C> {
    /// What it is.
    pub entry: Entry,
    /// Where its content comes from.
    pub content: Option<C>,
    /// Nodes of one group are one file with several names.
    pub group: Option<usize>,
}

/// How new directories look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fresh<'a> {
    pub owner: Option<Owner>,
    pub chmod: Option<&'a Chmod>,
}

/// An upper directory in memory.
#[derive(Debug)]
pub(super) struct Upper<'a, C> {
    view: &'a View,
    nodes: BTreeMap<Key, Node<C>>,
    /// Directories of the view that were removed with all they held.
    cleared: Vec<Vec<u8>>,
    now: i64,
}

impl<'a, C> Upper<'a, C> {
    /// No changes yet; what is made or touched gets the time `now`.
    pub fn new(view: &'a View, now: i64) -> Self {
        Self { view, nodes: BTreeMap::new(), cleared: Vec::new(), now }
    }

    /// What stands at exactly this path.
    pub fn lstat(&self, path: &[u8]) -> Option<&Entry> {
        if let Some(node) = self.nodes.get(&Key(path.to_vec())) {
            return Some(&node.entry);
        }
        if self.cleared.iter().any(|gone| path == gone || is_below(path, gone)) {
            return None;
        }
        self.view.lstat(path).map(|node| &*node.entry)
    }

    /// Whether a directory stands at exactly this path.
    pub fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.lstat(path).is_some_and(Entry::is_dir)
    }

    /// Follows every link of a path; what does not exist is kept as it is. `root` bounds it: what a link
    /// calls `/` is there.
    pub fn resolve(&self, root: &[u8], path: &[u8]) -> Result<Vec<u8>, Error> {
        let inside = view::resolve::<Error>(path, |at| {
            Ok(match self.lstat(&below(root, at)) {
                Some(entry) => match &entry.kind {
                    Kind::Symlink(target) => Step::Link(target.clone()),
                    Kind::Directory | Kind::Implicit => Step::Directory,
                    _ => Step::Other,
                },
                None => Step::Missing,
            })
        })?;
        Ok(below(root, &inside))
    }

    /// Makes a directory and those above it. Only the new ones get owner and mode; `path` has no links. Below a directory
    /// with the setgid bit they have it too, and its group unless an owner is asked for.
    pub fn make_dirs(&mut self, path: &[u8], fresh: Fresh<'_>) -> Result<(), Error> {
        let mut at = Vec::new();
        for name in names(path) {
            at = join(&at, name);
            match self.lstat(&at) {
                Some(entry) if entry.is_dir() => {}
                Some(_) => return Err(view::Error::NotDirectory(show(&at)).into()),
                None => {
                    let above = self.lstat(parent(&at).unwrap_or_default()).filter(|above| above.mode & SETGID != 0);
                    let inherited = above.map(|above| Owner { uid: 0, gid: above.gid });
                    let owner = fresh.owner.or(inherited).unwrap_or_default();
                    let mode = fresh.chmod.map_or(0o755, Chmod::of_new_directory) | above.map_or(0, |_| SETGID);
                    let entry = Entry::new(at.clone(), Kind::Directory, mode);
                    let entry = Entry { uid: owner.uid, gid: owner.gid, mtime: self.now, ..entry };
                    self.insert(Node { entry, content: None, group: None });
                }
            }
        }
        Ok(())
    }

    /// Puts a node at its path, whose directory exists. What was there is gone.
    pub fn insert(&mut self, node: Node<C>) {
        self.touch_parent(&node.entry.path.clone());
        self.nodes.insert(Key(node.entry.path.clone()), node);
    }

    /// Changes what a directory says of itself, without touching the one above it.
    pub fn change_dir(&mut self, path: &[u8], change: impl FnOnce(&mut Entry)) {
        if path.is_empty() {
            return; // the root is never part of a layer
        }
        if let Some(node) = self.copied_up(path) {
            change(&mut node.entry);
        }
    }

    /// The node at a path, to add names to its file.
    pub fn node_mut(&mut self, path: &[u8]) -> Option<&mut Node<C>> {
        self.nodes.get_mut(&Key(path.to_vec()))
    }

    /// Removes what stands at a path with all that is below.
    pub fn remove(&mut self, path: &[u8]) {
        self.nodes.retain(|key, _| key.0 != path && !is_below(&key.0, path));
        if self.view.lstat(path).is_some() {
            self.cleared.push(path.to_vec());
        }
        self.touch_parent(path);
    }

    fn touch_parent(&mut self, path: &[u8]) {
        let now = self.now;
        if let Some(dir) = parent(path) {
            self.change_dir(dir, |entry| entry.mtime = now);
        }
    }

    /// A directory of the view becomes one of the upper directory before it changes.
    fn copied_up(&mut self, path: &[u8]) -> Option<&mut Node<C>> {
        let key = Key(path.to_vec());
        if !self.nodes.contains_key(&key) {
            let entry = named(self.lstat(path)?.clone());
            self.nodes.insert(key.clone(), Node { entry, content: None, group: None });
        }
        self.nodes.get_mut(&key)
    }

    /// What the layer holds, in its order: nodes that differ from the view, each after its directories,
    /// and further names of one file as links to the first.
    pub fn into_changes(self) -> Vec<(Entry, Option<C>)> {
        let mut changes: Vec<(Entry, Option<C>)> = Vec::new();
        let mut first_names: HashMap<usize, Vec<u8>> = HashMap::new();
        let mut waiting: Vec<Entry> = Vec::new();
        let Self { view, nodes, .. } = self;
        for (Key(path), mut node) in nodes {
            waiting.retain(|dir| is_below(&path, &dir.path));
            if is_unchanged(&node.entry, view) {
                if node.entry.is_dir() {
                    waiting.push(node.entry);
                }
                continue;
            }
            fill_in(&mut waiting, &changes, view, &path);
            changes.extend(waiting.drain(..).map(|dir| (dir, None)));
            if let Some(group) = node.group {
                match first_names.get(&group) {
                    Some(first) => {
                        node.entry.kind = Kind::Hardlink(first.clone());
                        node.content = None;
                    }
                    None => {
                        first_names.insert(group, path);
                    }
                }
            }
            changes.push((node.entry, node.content));
        }
        changes
    }
}

/// Adds directories above `path` that are neither waiting nor written: those that nobody touched.
fn fill_in<C>(waiting: &mut Vec<Entry>, changes: &[(Entry, Option<C>)], view: &View, path: &[u8]) {
    let mut at = parent(path);
    let mut missing = Vec::new();
    while let Some(dir) = at.filter(|dir| !dir.is_empty()) {
        if let Some(last) = changes.last() {
            // Written before: the last change is the directory itself or lies below it.
            if last.0.path == dir || is_below(&last.0.path, dir) {
                break;
            }
        }
        if !waiting.iter().any(|entry| entry.path == dir) {
            missing.extend(view.lstat(dir).map(|node| named(Entry::clone(&node.entry))));
        }
        at = parent(dir);
    }
    waiting.extend(missing);
    waiting.sort_by(|a, b| compare(&a.path, &b.path));
}

/// A directory that lower layers only imply gets a name of its own.
fn named(mut entry: Entry) -> Entry {
    if entry.kind == Kind::Implicit {
        entry.kind = Kind::Directory;
    }
    entry
}

fn below(root: &[u8], path: &[u8]) -> Vec<u8> {
    if path.is_empty() { root.to_vec() } else { join(root, path) }
}

/// BuildKit's filter: what equals the tree below is not written. Times of directories do not count.
fn is_unchanged(entry: &Entry, view: &View) -> bool {
    let capability = |entry: &Entry| entry.xattrs.iter().find(|(name, _)| name == CAPABILITY).cloned();
    view.lstat(&entry.path).is_some_and(|node| {
        let lower = &*node.entry;
        let same_type = match (&entry.kind, &lower.kind) {
            (Kind::Directory, Kind::Directory | Kind::Implicit) => true,
            (kind, other) => kind == other && entry.mtime == lower.mtime,
        };
        let owner = |entry: &Entry| (entry.mode, entry.uid, entry.gid);
        same_type && owner(entry) == owner(lower) && capability(entry) == capability(lower)
    })
}
