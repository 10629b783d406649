//! Where files come from: a directory on disk (the build context, a named context), the tree of a stage
//! or image, and texts in the Dockerfile. Each shows what BuildKit's would: files of a context belong to
//! root and have no attributes; ignored ones do not exist.

use super::digest::Known;
use super::error::Error;
use crate::layer::beneath::{self, Tree};
use crate::layer::entry::{CAPABILITY, ContentHash, Entry, Kind, join, name, show};
use crate::layer::view::{self, FileId, Step, View};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is left out of a context, or of a copy.
pub trait Ignore: Sync {
    /// Whether a path, relative to the root without leading slash, is left out.
    fn excludes(&self, path: &[u8]) -> bool;
    /// Whether something below a directory that is left out may be taken again.
    fn may_include_below(&self, dir: &[u8]) -> bool;
}

/// Leaves nothing out.
impl Ignore for () {
    fn excludes(&self, _: &[u8]) -> bool {
        false
    }
    fn may_include_below(&self, _: &[u8]) -> bool {
        false
    }
}

/// Which names are one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Inode {
    /// Device and inode on disk.
    Disk(u64, u64),
    /// A file of layers.
    Layer(FileId),
}

/// One file of a source.
#[derive(Debug, Clone)]
pub struct Item {
    /// What it is; the path is that in the source, and a file's hash may not be known yet.
    pub entry: Entry,
    /// Set if the file may have other names.
    pub inode: Option<Inode>,
}

/// A tree that can be copied from.
pub trait Source: Sync {
    /// What stands at exactly this path. The root is always a directory.
    fn lstat(&self, path: &[u8]) -> Result<Option<Item>, Error>;
    /// What stands in a directory, in byte order of the names.
    fn read_dir(&self, dir: &[u8]) -> Result<Vec<Item>, Error>;
    /// Reads a file.
    fn open(&self, item: &Item) -> Result<Box<dyn Read + '_>, Error>;
    /// The hash of a file's content.
    fn hash(&self, item: &Item) -> Result<ContentHash, Error>;

    /// Whether archives in it are extracted by an ADD that extracts archives.
    fn holds_archives(&self) -> bool {
        true
    }

    /// Whether it is a directory of this machine, of which BuildKit's client sends what the sources name, and nothing
    /// else.
    fn sends_what_is_named(&self) -> bool {
        false
    }

    /// Follows every symbolic link of a path inside this source.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        view::resolve(path, |at| {
            Ok(match self.lstat(at)?.map(|item| item.entry.kind) {
                Some(Kind::Symlink(target)) => Step::Link(target),
                Some(Kind::Directory | Kind::Implicit) => Step::Directory,
                Some(_) => Step::Other,
                None => Step::Missing,
            })
        })
    }
}

/// A directory on disk. Nothing outside of it is ever read, whatever links it holds.
pub struct Context<'a> {
    tree: Mutex<Tree>,
    ignore: &'a dyn Ignore,
    known: Option<&'a Known>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    /// Opens a context. Hashes are looked up in, and added to, `known`.
    pub fn open(root: &Path, ignore: &'a dyn Ignore, known: Option<&'a Known>) -> Result<Self, Error> {
        let tree =
            Tree::open(root).map_err(|errno| Error::Read { path: root.display().to_string(), source: errno.into() })?;
        Ok(Self { tree: Mutex::new(tree), ignore, known })
    }

    /// The tree holds handles only, which a panic elsewhere leaves whole.
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Status and item of a path, ignored or not.
    fn found(&self, path: &[u8]) -> Result<Option<(rustix::fs::Stat, Item)>, Error> {
        let read = |errno: rustix::io::Errno| Error::Read { path: show(path), source: errno.into() };
        let mut tree = self.tree();
        let Some(stat) = tree.lstat(path).map_err(read)? else { return Ok(None) };
        if path.is_empty() {
            return Ok(Some((stat, root())));
        }
        let (dir, _) = tree.at(path).map_err(read)?;
        let entry = beneath::entry(dir, path, &stat).map_err(read)?;
        let mut entry = entry.ok_or_else(|| Error::Socket(show(path)))?;
        (entry.uid, entry.gid) = (0, 0);
        if let Kind::File { hash, .. } = &mut entry.kind
            && let Some(known) = self.known.and_then(|known| known.find(&stat))
        {
            *hash = known;
        }
        let linked = stat.st_nlink > 1 && !entry.is_dir();
        let inode = linked.then_some(Inode::Disk(stat.st_dev, stat.st_ino));
        Ok(Some((stat, Item { entry, inode })))
    }

    /// Whether a path exists for the build: not ignored, or a directory of something that is not.
    fn is_visible(&self, path: &[u8], is_dir: bool) -> Result<bool, Error> {
        let is_shown = |path: &[u8]| path.is_empty() || !self.ignore.excludes(path);
        if is_shown(path) {
            return Ok(true);
        }
        let mut waiting = if is_dir { vec![path.to_vec()] } else { Vec::new() };
        while let Some(dir) = waiting.pop() {
            if !self.ignore.may_include_below(&dir) {
                continue;
            }
            for name in self.list(&dir)? {
                let child = join(&dir, &name);
                if is_shown(&child) {
                    return Ok(true);
                }
                let stat = self.tree().lstat(&child).map_err(|errno| unreadable(&child, errno.into()))?;
                let kind = stat.map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
                if kind == Some(rustix::fs::FileType::Directory) {
                    waiting.push(child);
                }
            }
        }
        Ok(false)
    }

    fn list(&self, dir: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut tree = self.tree();
        tree.dir(dir).and_then(beneath::list).map_err(|errno| unreadable(dir, errno.into()))
    }

    fn file(&self, path: &[u8]) -> Result<File, Error> {
        self.tree().file(path).map(File::from).map_err(|errno| unreadable(path, errno.into()))
    }
}

fn unreadable(path: &[u8], source: io::Error) -> Error {
    Error::Read { path: show(path), source }
}

/// The root of a source. Contexts are not sent with their root's own mode and time, so it has none.
fn root() -> Item {
    Item { entry: Entry::new(b"", Kind::Directory, 0o755), inode: None }
}

impl Source for Context<'_> {
    fn sends_what_is_named(&self) -> bool {
        true
    }

    fn lstat(&self, path: &[u8]) -> Result<Option<Item>, Error> {
        // Ignored first: an unreadable or impossible file that is ignored disturbs nobody.
        if self.ignore.excludes(path) && !self.ignore.may_include_below(path) {
            return Ok(None);
        }
        let Some((_, item)) = self.found(path)? else { return Ok(None) };
        Ok(self.is_visible(path, item.entry.is_dir())?.then_some(item))
    }

    fn read_dir(&self, dir: &[u8]) -> Result<Vec<Item>, Error> {
        let names = self.list(dir)?;
        let items = names.iter().map(|name| self.lstat(&join(dir, name)));
        items.filter_map(Result::transpose).collect()
    }

    fn open(&self, item: &Item) -> Result<Box<dyn Read + '_>, Error> {
        Ok(Box::new(self.file(&item.entry.path)?))
    }

    fn hash(&self, item: &Item) -> Result<ContentHash, Error> {
        let path = &item.entry.path;
        if let Kind::File { hash, .. } = item.entry.kind
            && hash != ContentHash::EMPTY
        {
            return Ok(hash); // it was known when the file was found
        }
        let mut file = self.file(path)?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| unreadable(path, errno.into()))?;
        if stat.st_size as u64 != item.entry.size() {
            return Err(Error::Changed(show(path)));
        }
        let hash = crate::layer::read::hash_content(&mut file).map_err(|source| unreadable(path, source))?;
        let after = rustix::fs::fstat(&file).map_err(|errno| unreadable(path, errno.into()))?;
        if let Some(known) = self.known {
            known.remember(&stat, &after, hash);
        }
        Ok(hash)
    }
}

/// Reads files out of the layers of a stage, wherever they are kept.
pub trait Contents: Sync {
    /// The content of the file that a layer, counted from the bottom, holds under a path.
    fn open(&self, layer: usize, path: &[u8]) -> io::Result<Box<dyn Read + '_>>;
}

/// The tree of a stage or an image.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    view: &'a View,
    contents: &'a dyn Contents,
}

impl std::fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("layers", &self.view.layers()).finish_non_exhaustive()
    }
}

impl<'a> Stage<'a> {
    /// A stage whose tree is known, and whose contents can be asked for.
    pub fn new(view: &'a View, contents: &'a dyn Contents) -> Self {
        Self { view, contents }
    }

    /// Reads a whole small file, links followed, such as /etc/passwd; `None` if it is not there.
    pub fn read(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(node) = self.view.stat(path)? else { return Ok(None) };
        if !matches!(node.entry.kind, Kind::File { .. }) {
            return Err(Error::Unsupported { path: show(path), what: "is not a regular file" });
        }
        if node.entry.size() > limit {
            return Err(Error::Unsupported { path: show(path), what: "is too large for what it is" });
        }
        let mut bytes = Vec::new();
        let content = self.contents.open(node.layer, &node.origin);
        let done = content.and_then(|content| content.take(limit).read_to_end(&mut bytes));
        done.map_err(|source| unreadable(path, source))?;
        Ok(Some(bytes))
    }
}

fn item(node: &view::Node) -> Item {
    let mut entry = Entry::clone(&node.entry);
    if entry.kind == Kind::Implicit {
        entry.kind = Kind::Directory;
    }
    entry.xattrs.retain(|(name, _)| name == CAPABILITY);
    let inode = (!entry.is_dir()).then(|| Inode::Layer(node.file()));
    Item { entry, inode }
}

impl Source for Stage<'_> {
    fn lstat(&self, path: &[u8]) -> Result<Option<Item>, Error> {
        if path.is_empty() {
            return Ok(Some(root()));
        }
        Ok(self.view.lstat(path).map(item))
    }

    fn read_dir(&self, dir: &[u8]) -> Result<Vec<Item>, Error> {
        Ok(self.view.read_dir(dir).map(item).collect())
    }

    fn open(&self, item: &Item) -> Result<Box<dyn Read + '_>, Error> {
        let Some(Inode::Layer((layer, origin, _))) = &item.inode else {
            return Err(Error::NotFound(show(&item.entry.path)));
        };
        self.contents.open(*layer, origin).map_err(|source| unreadable(&item.entry.path, source))
    }

    fn hash(&self, item: &Item) -> Result<ContentHash, Error> {
        match item.entry.kind {
            Kind::File { hash, .. } => Ok(hash),
            _ => Err(Error::NotFound(show(&item.entry.path))),
        }
    }
}

/// Texts given in the Dockerfile itself: heredocs, by their names.
#[derive(Debug, Clone, Default)]
pub struct Inline {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    mtime: i64,
}

impl Inline {
    /// Files with mode 0644 and this time, in seconds since 1970.
    pub fn new(files: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>, mtime: i64) -> Self {
        Self { files: files.into_iter().collect(), mtime }
    }

    fn item(&self, path: &[u8], text: &[u8]) -> Item {
        let kind = Kind::File { size: text.len() as u64, hash: ContentHash::of(text) };
        Item { entry: Entry { mtime: self.mtime, ..Entry::new(path, kind, 0o644) }, inode: None }
    }
}

impl Source for Inline {
    fn lstat(&self, path: &[u8]) -> Result<Option<Item>, Error> {
        if path.is_empty() {
            return Ok(Some(root()));
        }
        Ok(self.files.get(path).map(|text| self.item(path, text)))
    }

    fn read_dir(&self, dir: &[u8]) -> Result<Vec<Item>, Error> {
        let here = self.files.iter().filter(|(path, _)| dir.is_empty() && name(path) == path.as_slice());
        Ok(here.map(|(path, text)| self.item(path, text)).collect())
    }

    fn open(&self, item: &Item) -> Result<Box<dyn Read + '_>, Error> {
        let text = self.files.get(&item.entry.path).ok_or_else(|| Error::NotFound(show(&item.entry.path)))?;
        Ok(Box::new(text.as_slice()))
    }

    fn hash(&self, item: &Item) -> Result<ContentHash, Error> {
        Ok(ContentHash::of(self.files.get(&item.entry.path).ok_or_else(|| Error::NotFound(show(&item.entry.path)))?))
    }
}
