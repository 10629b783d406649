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
//! It must run where the step ran (inside its user namespace), so that owners and capabilities read right.

use super::beneath::{self, entry, list, lstat, open_child, open_file, xattr};
use super::entry::{Entry, Kind, PATH_LIMIT, join, name, show};
use super::pipeline::{self, Pipeline};
use super::unpack::{Marks, OWNER, Ownership};
use super::view::View;
use rustix::fd::{AsFd, BorrowedFd};
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

/// Writes what `upper` changes of `lower` into a layer.
pub fn diff<W: Write + Send + 'static>(
    upper: &Path,
    lower: &View,
    options: &Options,
    layer: &mut Pipeline<W>,
) -> Result<(), Error> {
    let root = beneath::Tree::open(upper).and_then(|mut tree| Ok(tree.dir(b"")?.try_clone_to_owned()));
    let root = root.map_err(|errno| failed(b"", errno))?.map_err(|source| Error::Read { path: "/".into(), source })?;
    let mut walk = Walk { lower, options, layer, parents: Vec::new(), first_names: HashMap::new() };
    let opaque = walk.is_opaque(root.as_fd()).map_err(|errno| failed(b"", errno))?;
    walk.directory(root.as_fd(), b"", opaque)
}

fn failed(path: &[u8], errno: Errno) -> Error {
    Error::Read { path: show(path), source: errno.into() }
}

struct Walk<'a, W: Write + Send + 'static> {
    lower: &'a View,
    options: &'a Options,
    layer: &'a mut Pipeline<W>,
    /// The directories of the path at hand, outermost first, and whether they were written.
    parents: Vec<(Entry, bool)>,
    /// The name under which an inode was written first.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write + Send + 'static> Walk<'_, W> {
    /// Everything below a directory. In an opaque one, what lies below it and is not in it has vanished.
    fn directory(&mut self, dir: BorrowedFd<'_>, path: &[u8], opaque: bool) -> Result<(), Error> {
        let names = list(dir).map_err(|errno| failed(path, errno))?;
        let lower = self.lower;
        let mut vanished = lower.read_dir(path).filter(|_| opaque).map(|node| name(node.path())).peekable();
        for name in &names {
            while let Some(gone) = vanished.next_if(|gone| *gone < name.as_slice()) {
                self.whiteout(&join(path, gone))?;
            }
            let kept = vanished.next_if(|gone| gone == name).is_some();
            let written = self.child(dir, &join(path, name), opaque)?;
            if kept && !written {
                self.whiteout(&join(path, name))?;
            }
        }
        vanished.try_for_each(|gone| self.whiteout(&join(path, gone)))
    }

    /// One name of the upper directory; `false` if nothing stands there for the merged tree.
    fn child(&mut self, dir: BorrowedFd<'_>, path: &[u8], opaque: bool) -> Result<bool, Error> {
        if path.len() >= PATH_LIMIT {
            return Err(Error::Long(show(path)));
        }
        let fail = |errno| failed(path, errno);
        let stat = lstat(dir, name(path)).map_err(fail)?;
        let Some(mut entry) = entry(dir, path, &stat).map_err(fail)? else { return Ok(true) };
        if entry.kind == Kind::Char(0, 0) {
            if !opaque && self.lower.lstat(path).is_some() {
                self.whiteout(path)?;
            }
            return Ok(!opaque);
        }
        match entry.kind {
            Kind::Directory => {
                let child = open_child(dir, name(path)).map_err(fail)?;
                self.complete(&mut entry, child.as_fd()).map_err(fail)?;
                let opaque = opaque || self.is_opaque(child.as_fd()).map_err(fail)?;
                self.enter(child.as_fd(), entry, opaque)?;
            }
            Kind::File { .. } => {
                let file = open_file(dir, name(path)).map_err(fail)?;
                self.complete(&mut entry, file.as_fd()).map_err(fail)?;
                self.file(File::from(file), entry, &stat)?;
            }
            _ => {
                if !self.is_unchanged(&entry) {
                    self.write(entry, &stat, &mut std::io::empty())?;
                }
            }
        }
        Ok(true)
    }

    fn enter(&mut self, dir: BorrowedFd<'_>, entry: Entry, opaque: bool) -> Result<(), Error> {
        let path = entry.path.clone();
        let changed = !self.is_unchanged(&entry);
        self.parents.push((entry, false));
        if changed {
            self.write_parents()?;
        }
        self.directory(dir, &path, opaque)?;
        self.parents.pop();
        Ok(())
    }

    fn file(&mut self, mut file: File, mut entry: Entry, stat: &Stat) -> Result<(), Error> {
        if self.may_be_unchanged(&entry) {
            let read = |source| Error::Read { path: show(&entry.path), source };
            let hash = super::read::hash_content(&mut file).map_err(read)?;
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(|errno| failed(&entry.path, errno))?;
            entry.kind = Kind::File { size: entry.size(), hash };
            if self.is_unchanged(&entry) {
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

    fn write_parents(&mut self) -> Result<(), Error> {
        for (parent, written) in &mut self.parents {
            if !std::mem::replace(written, true) {
                self.layer.add_plain(parent.clone())?;
            }
        }
        Ok(())
    }
}

fn same_owner(entry: &Entry, below: &Entry) -> bool {
    let capability = |entry: &Entry| {
        entry.xattrs.iter().find(|(name, _)| name == super::entry::CAPABILITY).map(|(_, value)| value.clone())
    };
    (entry.mode, entry.uid, entry.gid) == (below.mode, below.uid, below.gid) && capability(entry) == capability(below)
}

fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}
