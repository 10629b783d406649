//! Files below a directory handle: every path is opened from the handle, follows no symbolic link and
//! cannot leave. What is read or written there is the callers' business.

use super::entry::{CAPABILITY, ContentHash, Entry, Kind, name, names, parent};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fgetxattr, openat, openat2, readlinkat,
    statat,
};
use rustix::io::{Errno, Result};
use std::path::Path;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory tree, with the directory that was used last kept open: walks go from neighbour to
/// neighbour.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Tree {
    /// Opens a root. The path to it may contain symbolic links.
    pub fn open(root: &Path) -> Result<Self> {
        let root = openat(CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, last: None })
    }

    /// A directory of the tree.
    pub fn dir(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(open, _)| open != path) {
            self.last = Some((path.to_vec(), open_dir(self.root.as_fd(), path)?));
        }
        Ok(self.last.as_ref().expect("it was just put there").1.as_fd())
    }

    /// Takes a directory of the tree that is open already for the one that is used next.
    pub fn keep(&mut self, path: &[u8], dir: OwnedFd) {
        self.last = Some((path.to_vec(), dir));
    }

    /// The directory and the name of a path that is not the root.
    pub fn at<'a>(&mut self, path: &'a [u8]) -> Result<(BorrowedFd<'_>, &'a [u8])> {
        let dir = parent(path).ok_or(Errno::INVAL)?;
        Ok((self.dir(dir)?, name(path)))
    }

    /// Status of exactly this path; `None` if nothing is there.
    pub fn lstat(&mut self, path: &[u8]) -> Result<Option<Stat>> {
        let found = if path.is_empty() {
            rustix::fs::fstat(&self.root)
        } else {
            self.at(path).and_then(|(dir, name)| lstat(dir, name))
        };
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for reading.
    pub fn file(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let (dir, name) = self.at(path)?;
        open_file(dir, name)
    }

    /// Removes what stands at a path, with everything below.
    pub fn remove(&mut self, path: &[u8]) -> Result<()> {
        let (dir, name) = self.at(path)?;
        crate::sandbox::remove_at(dir, name)?;
        self.last = None; // it may be a directory that is gone
        Ok(())
    }
}

/// Opens a directory below another one.
fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, DIRECTORY, Mode::empty(), resolve) {
        // Kernels before 5.6, and seccomp filters that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => walk(root, path),
        result => result,
    }
}

fn walk(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let mut dir: Option<OwnedFd> = None;
    for name in names(path).map(|name| if name == b".." { Err(Errno::XDEV) } else { Ok(name) }) {
        let at = dir.as_ref().map_or(root, AsFd::as_fd);
        dir = Some(openat(at, name?, DIRECTORY, Mode::empty())?);
    }
    dir.ok_or(Errno::INVAL)
}

/// Opens a name of a directory as a directory.
pub fn open_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    openat(dir, name, DIRECTORY, Mode::empty())
}

/// Opens a name of a directory for reading; a pipe in its place does not block.
pub fn open_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    openat(dir, name, OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Status of a name of a directory.
pub fn lstat(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Stat> {
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The names of a directory, in byte order.
pub fn list(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for found in Dir::read_from(dir)? {
        let found = found?;
        let name = found.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What a status says, as an entry; `None` for sockets, which no layer holds. A file's hash is not known.
pub fn entry(dir: BorrowedFd<'_>, path: &[u8], stat: &Stat) -> Result<Option<Entry>> {
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File { size: stat.st_size as u64, hash: ContentHash::EMPTY },
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink(readlinkat(dir, name(path), Vec::new())?.into_bytes()),
        FileType::CharacterDevice => Kind::Char(device.0, device.1),
        FileType::BlockDevice => Kind::Block(device.0, device.1),
        FileType::Fifo => Kind::Fifo,
        _ => return Ok(None),
    };
    Ok(Some(Entry {
        path: path.to_vec(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        xattrs: Vec::new(),
    }))
}

/// An extended attribute of an open file; `None` if it is not there or the file system has none.
pub fn xattr(file: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut value = [0; 256]; // all attributes that are asked for are shorter
    match fgetxattr(file, name, &mut value) {
        Ok(size) => Ok(Some(value[..size].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The attributes that layers keep of a file.
pub fn capability(file: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    Ok(xattr(file, CAPABILITY)?.map(|value| (CAPABILITY.to_vec(), value)).into_iter().collect())
}

/// Owner and group for the chown family; -1, which means "as it is", was refused when the layer was read.
pub fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}
