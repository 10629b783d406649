//! A process that waits for an answer: its memory, its umask, and the files that its paths name, resolved inside its
//! own root directory so that nothing outside of the step's root file system is ever touched.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat, openat2};
use rustix::io::Errno;

use super::super::sys::{self, Notification};

/// The kernel's own limit of a path, in bytes.
const PATH_LIMIT: usize = 4096;

/// Links of /proc lead out of the root and are left to the kernel.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// The process of a notification.
pub(super) struct Tracee<'a> {
    listener: BorrowedFd<'a>,
    notification: &'a Notification,
    directory: String,
}

/// Where a new name would stand: its directory, and the name.
pub(super) struct Spot {
    pub directory: OwnedFd,
    pub name: Vec<u8>,
}

impl<'a> Tracee<'a> {
    pub fn new(listener: BorrowedFd<'a>, notification: &'a Notification) -> Self {
        Self { listener, notification, directory: format!("/proc/{}", notification.pid) }
    }

    /// The process may have died, and its number be another's: what was opened before this says so is right.
    fn check(&self) -> io::Result<()> {
        sys::notification_is_valid(self.listener, self.notification.id)
    }

    fn memory(&self, writable: bool) -> io::Result<File> {
        let memory = File::options().read(true).write(writable).open(format!("{}/mem", self.directory))?;
        self.check()?;
        Ok(memory)
    }

    pub fn read(&self, address: u64, size: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; size];
        self.memory(false)?.read_exact_at(&mut bytes, address)?;
        Ok(bytes)
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory(true)?.write_all_at(bytes, address)
    }

    /// A path, as the process gave it.
    fn path(&self, address: u64) -> io::Result<Vec<u8>> {
        let memory = self.memory(false)?;
        let mut path = Vec::new();
        while path.len() < PATH_LIMIT {
            // Never across a page that may not be there.
            let at = address + path.len() as u64;
            let mut part = vec![0; 256.min(4096 - (at % 4096) as usize)];
            memory.read_exact_at(&mut part, at)?;
            match part.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    path.extend_from_slice(&part[..end]);
                    return Ok(path);
                }
                None => path.extend_from_slice(&part),
            }
        }
        Err(Errno::NAMETOOLONG.into())
    }

    /// The file behind a descriptor of the process.
    pub fn descriptor(&self, number: u64) -> io::Result<OwnedFd> {
        let link = format!("{}/fd/{}", self.directory, number as i32);
        let file = open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        self.check()?;
        Ok(file)
    }

    fn root(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(format!("{}/root", self.directory), flags, Mode::empty())?;
        self.check()?;
        Ok(root)
    }

    /// The path of a directory of the process, seen from its root.
    fn directory_path(&self, link: &str) -> io::Result<Vec<u8>> {
        let path = fs::read_link(format!("{}/{link}", self.directory))?.into_os_string().into_vec();
        let root = fs::read_link(format!("{}/root", self.directory))?.into_os_string().into_vec();
        let inside = if root == b"/" { Some(path.as_slice()) } else { path.strip_prefix(root.as_slice()) };
        let inside = inside.filter(|inside| inside.is_empty() || inside.starts_with(b"/"));
        inside.map(<[u8]>::to_vec).ok_or_else(|| Errno::NOENT.into())
    }

    /// A path from the root of the process: relative ones start at a directory of it.
    fn absolute(&self, at: u64, path: Vec<u8>) -> io::Result<Vec<u8>> {
        if path.starts_with(b"/") {
            return Ok(path);
        }
        let mut start = match at as i32 {
            libc::AT_FDCWD => self.directory_path("cwd")?,
            number => self.directory_path(&format!("fd/{number}"))?,
        };
        start.push(b'/');
        start.extend(path);
        Ok(start)
    }

    /// The file that a path means, and whether it is a descriptor's with an empty path.
    pub fn file(&self, at: u64, address: u64, follow: bool, may_be_empty: bool) -> io::Result<OwnedFd> {
        let path = self.path(address)?;
        if path.is_empty() {
            return match (may_be_empty, at as i32) {
                (true, libc::AT_FDCWD) => {
                    let cwd = open(format!("{}/cwd", self.directory), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                    self.check()?;
                    Ok(cwd)
                }
                (true, _) => self.descriptor(at),
                (false, _) => Err(Errno::NOENT.into()),
            };
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC | if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        Ok(openat2(self.root()?, self.absolute(at, path)?, flags, Mode::empty(), INSIDE)?)
    }

    /// Where a path would make a new name. Names that need more thought are an error, and left to the kernel.
    pub fn spot(&self, at: u64, address: u64) -> io::Result<Spot> {
        let mut path = self.absolute(at, self.path(address)?)?;
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        let slash = path.iter().rposition(|byte| *byte == b'/').ok_or(Errno::NOENT)?;
        let name = path.split_off(slash + 1);
        if name.is_empty() || name == b"." || name == b".." {
            return Err(Errno::EXIST.into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Spot { directory: openat2(self.root()?, path, flags, Mode::empty(), INSIDE)?, name })
    }

    /// The text of a symbolic link that is to be made.
    pub fn text(&self, address: u64) -> io::Result<Vec<u8>> {
        self.path(address)
    }

    pub fn umask(&self) -> io::Result<u32> {
        let status = fs::read_to_string(format!("{}/status", self.directory))?;
        self.check()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let mask = line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok());
        mask.ok_or_else(|| Errno::NOSYS.into())
    }

    /// Where an open file lies, from the root of the process.
    pub fn place(&self, file: impl AsFd) -> io::Result<Vec<u8>> {
        let path = fs::read_link(through(&file))?.into_os_string().into_vec();
        let root = fs::read_link(format!("{}/root", self.directory))?.into_os_string().into_vec();
        let inside = if root == b"/" { Some(path.as_slice()) } else { path.strip_prefix(root.as_slice()) };
        inside.map(<[u8]>::to_vec).ok_or_else(|| Errno::NOENT.into())
    }
}

/// A path to what a descriptor without rights (O_PATH) stands for.
pub(super) fn through(file: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// Opens a name of a directory itself, not what it points to.
pub(super) fn look(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, std::ffi::OsStr::from_bytes(name), flags, Mode::empty())
}
