//! An overlay's upper directory becomes the entries of a new layer, by BuildKit's rules
//! (util/overlay/overlay_linux.go and containerd's archive writer), read once:
//!
//! - names in byte order, depth first; the root itself never;
//! - what equals the layers below is left out: same type, mode, owner, device, capability, and unless it
//!   is a directory size, time and, as times are whole seconds, content;
//! - before every entry its directories, once, as they are now, even unchanged ones;
//! - deletions become whiteouts, but only of what is there below; opaque directories are spelled out as
//!   whiteouts of what vanished;
//! - hard links within the layer stay links, the first name carries the data; sockets are left out.
//!
//! A plain tree ([`super::tree`]) is read by the same rules as an upper directory that is opaque from the root on.
//!
//! It must run where the step ran (inside its user namespace), so that owners and capabilities read right.

use super::beneath::{self, Tree, entry, list, lstat, open_child, open_file, xattr};
use super::entry::{ContentHash, Entry, Kind, PATH_LIMIT, join, name, show};
use super::pipeline::{self, Pipeline};
use super::tree::Before;
use super::unpack::{self, DEVICE, Marks, OWNER, Ownership};
use super::view::{FileId, Node, View};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::Stat;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// How the upper directory is read.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether owners are the files' own or recorded beside them.
    pub ownership: Ownership,
    /// How the overlay was mounted.
    pub marks: Marks,
}

/// Why the changes of a step cannot become a layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("cannot read {path} of the step's changes: {source}")]
    Read {
        /// The path in the root file system.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A path that no other program could use.
    #[error("{0}: the path is longer than {PATH_LIMIT} bytes; a layer cannot hold it")]
    Long(String),
    /// The layer could not be written.
    #[error(transparent)]
    Write(#[from] pipeline::Error),
}

/// Writes what `upper` changes of `lower` into a layer; gives what the layer does not tell of it.
pub fn diff<W: Write + Send + 'static>(
    upper: &Path,
    lower: &View,
    options: &Options,
    layer: &mut Pipeline<W>,
) -> Result<Untold, Error> {
    diff_recorded(upper, lower, options, &LinkOwners::new(), layer)
}

/// What a [`Residue`](super::Residue) is made of, in walk order.
pub type Untold = Vec<Entry>;

/// Owners of symbolic links, which have no attributes that could carry them, by inode number and time of birth.
pub type LinkOwners = HashMap<(u64, i128), (u32, u32)>;

/// What a plain tree differs in from the layers that it was made of.
#[derive(Debug, Clone, Copy)]
pub struct Grown<'a> {
    /// The tree.
    pub root: &'a Path,
    /// Its files before the step.
    pub before: &'a Before,
}

/// Writes into a layer what a step has changed of a tree that showed `lower`; gives what the layer does not tell, and
/// whether the tree now shows `lower` with both on top, so that it can be used for the next step.
pub fn diff_tree<W: Write + Send + 'static>(
    tree: Grown<'_>,
    lower: &View,
    options: &Options,
    links: &LinkOwners,
    layer: &mut Pipeline<W>,
) -> Result<(Untold, bool), Error> {
    let mut root = open_root(tree.root)?;
    let mut walk = Walk::new(lower, options, layer, Some(tree.before), links);
    walk.all(&mut root, true)?;
    let is_exact = walk.is_exact && walk.names_left.values().all(|left| *left == 0);
    Ok((walk.untold(), is_exact))
}

/// As [`diff`], for an upper directory beside which owners of symbolic links were recorded.
pub fn diff_recorded<W: Write + Send + 'static>(
    upper: &Path,
    lower: &View,
    options: &Options,
    links: &LinkOwners,
    layer: &mut Pipeline<W>,
) -> Result<Untold, Error> {
    let mut root = open_root(upper)?;
    let mut walk = Walk::new(lower, options, layer, None, links);
    let opaque = root.dir(b"").and_then(|dir| walk.is_opaque(dir)).map_err(|errno| failed(b"", errno))?;
    walk.all(&mut root, opaque)?;
    Ok(walk.untold())
}

fn open_root(path: &Path) -> Result<Tree, Error> {
    Tree::open(path).map_err(|errno| failed(b"", errno))
}

fn failed(path: &[u8], errno: Errno) -> Error {
    Error::Read { path: show(path), source: errno.into() }
}

/// A directory, and what is still to come of it.
struct Level {
    path: Vec<u8>,
    opaque: bool,
    names: std::vec::IntoIter<(Vec<u8>, There)>,
}

/// Where a name of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    /// Only in the layers below, of which nothing is seen.
    Below,
    /// In the upper directory, and nothing else counts.
    Here,
    /// In both.
    Both,
}

/// What stands at a name of the upper directory.
enum Found {
    Nothing,
    Something,
    /// A directory to go into, and whether nothing is seen of what lies below it.
    Directory(Entry, OwnedFd, bool),
}

/// A directory of the path at hand.
struct Parent {
    entry: Entry,
    /// Whether it is in the layer.
    written: bool,
    /// Whether something in it is to be told beside the layer.
    needed: bool,
}

struct Walk<'a, W: Write + Send + 'static> {
    lower: &'a View,
    options: &'a Options,
    layer: &'a mut Pipeline<W>,
    /// The directories of the path at hand, outermost first.
    parents: Vec<Parent>,
    /// The name under which an inode was written first.
    first_names: HashMap<(u64, u64), Vec<u8>>,
    /// Of a plain tree: what it held before.
    before: Option<&'a Before>,
    links: &'a LinkOwners,
    /// How many names of an inode were not seen.
    names_left: HashMap<(u64, u64), u64>,
    /// Whether nothing was seen that is told nowhere.
    is_exact: bool,
    /// What is not in the layer; for names of files that have several, with the inode.
    untold: Vec<(Entry, Option<(u64, u64)>)>,
    /// The files of the layers below that have several names, looked up when that counts.
    shared: Option<HashMap<FileId, usize>>,
}

impl<'a, W: Write + Send + 'static> Walk<'a, W> {
    fn new(
        lower: &'a View,
        options: &'a Options,
        layer: &'a mut Pipeline<W>,
        before: Option<&'a Before>,
        links: &'a LinkOwners,
    ) -> Self {
        Self {
            lower,
            options,
            layer,
            parents: Vec::new(),
            first_names: HashMap::new(),
            before,
            links,
            names_left: HashMap::new(),
            is_exact: true,
            untold: Vec::new(),
            shared: None,
        }
    }

    /// The whole tree. What is still to come of the directories at hand stands in a list, and none but the last of them
    /// is open: a tree may be as deep as a path is long.
    fn all(&mut self, tree: &mut Tree, opaque: bool) -> Result<(), Error> {
        let mut levels = vec![self.level(tree, Vec::new(), opaque)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, there)) = level.names.next() else {
                let path = levels.pop().map(|level| level.path).unwrap_or_default();
                if !path.is_empty() {
                    self.leave();
                }
                continue;
            };
            let (path, opaque) = (join(&level.path, &name), level.opaque);
            let found = match there {
                There::Below => Found::Nothing,
                There::Here | There::Both => {
                    let dir = tree.dir(&level.path).map_err(|errno| failed(&level.path, errno))?;
                    self.child(dir, &path, opaque)?
                }
            };
            match found {
                Found::Nothing if there != There::Here => self.whiteout(&path)?,
                Found::Nothing | Found::Something => {}
                Found::Directory(entry, dir, opaque) => {
                    tree.keep(&path, dir);
                    self.enter(entry)?;
                    levels.push(self.level(tree, path, opaque)?);
                }
            }
        }
        Ok(())
    }

    /// The names of a directory. In an opaque one, what lies below it and is not in it has vanished.
    fn level(&self, tree: &mut Tree, path: Vec<u8>, opaque: bool) -> Result<Level, Error> {
        let here = tree.dir(&path).and_then(list).map_err(|errno| failed(&path, errno))?;
        let mut below = self.lower.read_dir(&path).filter(|_| opaque).map(|node| name(node.path())).peekable();
        let mut names = Vec::with_capacity(here.len());
        for name in here {
            while let Some(gone) = below.next_if(|gone| *gone < name.as_slice()) {
                names.push((gone.to_vec(), There::Below));
            }
            let is_both = below.next_if(|gone| *gone == name).is_some();
            names.push((name, if is_both { There::Both } else { There::Here }));
        }
        names.extend(below.map(|gone| (gone.to_vec(), There::Below)));
        Ok(Level { path, opaque, names: names.into_iter() })
    }

    /// One name of the upper directory, and what stands there for the merged tree.
    fn child(&mut self, dir: BorrowedFd<'_>, path: &[u8], opaque: bool) -> Result<Found, Error> {
        if path.len() >= PATH_LIMIT {
            return Err(Error::Long(show(path)));
        }
        let fail = |errno| failed(path, errno);
        let stat = lstat(dir, name(path)).map_err(fail)?;
        if self.before.is_some_and(|before| before.is_same(path, &stat)) {
            return Ok(Found::Something);
        }
        let Some(mut entry) = entry(dir, path, &stat).map_err(fail)? else {
            self.is_exact = false;
            return Ok(Found::Something);
        };
        if entry.kind == Kind::Char(0, 0) {
            if !opaque && self.lower.lstat(path).is_some() {
                self.whiteout(path)?;
            }
            return Ok(if opaque { Found::Nothing } else { Found::Something });
        }
        match entry.kind {
            Kind::Directory => {
                let child = open_child(dir, name(path)).map_err(fail)?;
                self.complete(&mut entry, child.as_fd()).map_err(fail)?;
                let opaque = opaque || self.is_opaque(child.as_fd()).map_err(fail)?;
                return Ok(Found::Directory(entry, child, opaque));
            }
            Kind::File { .. } => {
                let file = open_file(dir, name(path)).map_err(fail)?;
                self.complete(&mut entry, file.as_fd()).map_err(fail)?;
                self.file(File::from(file), entry, &stat)?;
            }
            _ => {
                if !self.links.is_empty() {
                    self.own_link(dir, &mut entry).map_err(fail)?;
                }
                if self.is_unchanged(&entry) {
                    self.pass(entry, &stat);
                } else {
                    self.write(entry, &stat, &mut std::io::empty())?;
                }
            }
        }
        Ok(Found::Something)
    }

    fn enter(&mut self, entry: Entry) -> Result<(), Error> {
        let changed = !self.is_unchanged(&entry);
        self.parents.push(Parent { entry, written: false, needed: false });
        if changed { self.write_parents() } else { Ok(()) }
    }

    /// A directory of which only the time has changed is in no layer.
    fn leave(&mut self) {
        let Some(Parent { entry, written: false, needed }) = self.parents.pop() else { return };
        let is_touched = self.lower.lstat(&entry.path).is_some_and(|node| node.entry.mtime != entry.mtime);
        if is_touched || needed {
            self.tell(entry, None);
        }
    }

    /// A name that the layers below show as it is. What it shares its file with may be another.
    fn pass(&mut self, entry: Entry, stat: &Stat) {
        if stat.st_nlink > 1 {
            self.count_name(stat);
            self.tell(entry, Some((stat.st_dev, stat.st_ino)));
        } else if let Some(node) = self.lower.lstat(&entry.path)
            && self.shared.get_or_insert_with(|| self.lower.shared()).contains_key(&node.file())
        {
            self.tell(entry, None);
        }
    }

    fn tell(&mut self, entry: Entry, inode: Option<(u64, u64)>) {
        for parent in self.parents.iter_mut().rev() {
            if std::mem::replace(&mut parent.needed, true) {
                break;
            }
        }
        self.untold.push((entry, inode));
    }

    /// What was not written, and to which files that belongs. Names that have one file as they had below are nothing new.
    fn untold(self) -> Untold {
        let file_below = |path: &[u8]| self.lower.lstat(path).map(Node::file);
        let mut groups: HashMap<(u64, u64), (Option<FileId>, usize)> = HashMap::new();
        for (entry, inode) in &self.untold {
            let Some(inode) = inode.filter(|inode| !self.first_names.contains_key(inode)) else { continue };
            let file = file_below(&entry.path);
            let (below, names) = groups.entry(inode).or_insert_with(|| (file.clone(), 0));
            *names += 1;
            if *below != file {
                *below = None;
            }
        }
        if groups.is_empty() && self.untold.iter().all(|(_, inode)| inode.is_none()) {
            return self.untold.into_iter().map(|(entry, _)| entry).collect();
        }
        let shared = self.shared.unwrap_or_else(|| self.lower.shared());
        groups.retain(|_, (below, names)| below.as_ref().and_then(|file| shared.get(file)) == Some(names));
        let mut first_names = self.first_names;
        let mut told = Vec::with_capacity(self.untold.len());
        for (mut entry, inode) in self.untold {
            if let Some(inode) = inode {
                if groups.contains_key(&inode) {
                    continue;
                }
                match first_names.get(&inode) {
                    Some(first) => entry.kind = Kind::Hardlink(first.clone()),
                    None => drop(first_names.insert(inode, entry.path.clone())),
                }
            }
            told.push(entry);
        }
        told
    }

    fn own_link(&self, dir: BorrowedFd<'_>, entry: &mut Entry) -> rustix::io::Result<()> {
        if let Some((uid, gid)) = self.links.get(&birth(dir, name(&entry.path))?) {
            (entry.uid, entry.gid) = (*uid, *gid);
        }
        Ok(())
    }

    fn file(&mut self, mut file: File, mut entry: Entry, stat: &Stat) -> Result<(), Error> {
        if entry.kind == (Kind::File { size: 0, hash: ContentHash::EMPTY })
            && let Some(device) = xattr(file.as_fd(), DEVICE).map_err(|errno| failed(&entry.path, errno))?
            && let Some(kind) = unpack::device_of(&device)
        {
            entry.kind = kind;
            if self.is_unchanged(&entry) {
                self.pass(entry, stat);
                return Ok(());
            }
            return self.write(entry, stat, &mut std::io::empty());
        }
        let is_written = self.before.is_none() && is_written(file.as_fd());
        if !is_written && self.may_be_unchanged(&entry) {
            let read = |source| Error::Read { path: show(&entry.path), source };
            let hash = super::read::hash_content(&mut file).map_err(read)?;
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(|errno| failed(&entry.path, errno))?;
            entry.kind = Kind::File { size: entry.size(), hash };
            if self.is_unchanged(&entry) {
                self.pass(entry, stat);
                return Ok(());
            }
        }
        self.write(entry, stat, &mut file)
    }

    /// Owner and capability, which an open file knows.
    fn complete(&self, entry: &mut Entry, file: BorrowedFd<'_>) -> rustix::io::Result<()> {
        if entry.kind != Kind::Directory {
            entry.xattrs = beneath::capability(file)?;
        }
        if self.options.ownership == Ownership::Recorded
            && let Some((uid, gid)) = xattr(file, OWNER)?.and_then(|value| parse_owner(&value))
        {
            (entry.uid, entry.gid) = (uid, gid);
        }
        Ok(())
    }

    fn is_opaque(&self, dir: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        Ok(xattr(dir, self.options.marks.opaque())?.is_some_and(|value| value == b"y"))
    }

    /// Whether the layers below show the same.
    fn is_unchanged(&self, entry: &Entry) -> bool {
        self.lower.lstat(&entry.path).is_some_and(|node| {
            let below = &node.entry;
            match (&entry.kind, &below.kind) {
                (Kind::Directory, Kind::Directory | Kind::Implicit) => same_owner(entry, below),
                (kind, other) => kind == other && same_owner(entry, below) && entry.mtime == below.mtime,
            }
        })
    }

    /// Whether a file differs from the layers below in its content at most.
    fn may_be_unchanged(&self, entry: &Entry) -> bool {
        self.lower.lstat(&entry.path).is_some_and(|node| {
            let below = &node.entry;
            let both_files = matches!(below.kind, Kind::File { .. });
            both_files && entry.size() == below.size() && same_owner(entry, below) && entry.mtime == below.mtime
        })
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), Error> {
        self.write_parents()?;
        Ok(self.layer.add_plain(Entry::whiteout(path))?)
    }

    fn write(&mut self, mut entry: Entry, stat: &Stat, content: &mut dyn std::io::Read) -> Result<(), Error> {
        self.write_parents()?;
        if stat.st_nlink > 1 {
            self.count_name(stat);
            match self.first_names.get(&(stat.st_dev, stat.st_ino)) {
                Some(first) => entry.kind = Kind::Hardlink(first.clone()),
                None => {
                    self.first_names.insert((stat.st_dev, stat.st_ino), entry.path.clone());
                }
            }
        }
        self.layer.add(entry, content)?;
        Ok(())
    }

    /// One name less that is still to be seen of a file that has several.
    fn count_name(&mut self, stat: &Stat) {
        #[allow(clippy::unnecessary_cast)] // the type differs between architectures
        let left = self.names_left.entry((stat.st_dev, stat.st_ino)).or_insert(stat.st_nlink as u64);
        *left = left.saturating_sub(1);
    }

    fn write_parents(&mut self) -> Result<(), Error> {
        for parent in &mut self.parents {
            if !std::mem::replace(&mut parent.written, true) {
                self.layer.add_plain(parent.entry.clone())?;
            }
        }
        Ok(())
    }
}

/// What tells an inode from a later one of the same number: its time of birth in nanoseconds, where that is kept.
pub fn birth(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<(u64, i128)> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let found = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO | StatxFlags::BTIME)?;
    let born = i128::from(found.stx_btime.tv_sec) * 1_000_000_000 + i128::from(found.stx_btime.tv_nsec);
    Ok((found.stx_ino, born))
}

/// Whether the file of an upper directory was written after it came there. One that was copied up, and left as it was or
/// given another mode, is older than its inode. Layers know whole seconds only, and many a command writes a file again
/// within one.
fn is_written(file: BorrowedFd<'_>) -> bool {
    use rustix::fs::{AtFlags, StatxFlags, StatxTimestamp, statx};
    let wanted = StatxFlags::BTIME | StatxFlags::MTIME;
    let Ok(found) = statx(file, c"", AtFlags::EMPTY_PATH, wanted) else { return false };
    let is_known = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let at = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
    is_known && at(found.stx_mtime) >= at(found.stx_btime)
}

fn same_owner(entry: &Entry, below: &Entry) -> bool {
    let capability = |entry: &Entry| {
        entry.xattrs.iter().find(|(name, _)| name == super::entry::CAPABILITY).map(|(_, value)| value.clone())
    };
    (entry.mode, entry.uid, entry.gid) == (below.mode, below.uid, below.gid) && capability(entry) == capability(below)
}

pub(crate) fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}
