//! The record of owners and devices: attributes of regular files and directories, a table for everything else. Reads
//! and writes it; who may do so is decided elsewhere.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, StatxFlags, XattrFlags, statx};
use rustix::io::Errno;

use super::tracee::through;
use crate::layer::unpack::{DEVICE, OWNER};

/// Owners of what can carry no attribute, by inode number and time of birth in nanoseconds.
pub type LinkOwners = HashMap<(u64, i128), (u32, u32)>;

/// What a status must say differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub owner: (u32, u32),
    /// Type bits, major and minor of a device node.
    pub device: Option<(u32, u32, u32)>,
}

/// What kind of file it is, and what tells it from others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub kind: FileType,
    pub mode: u32,
    pub size: u64,
    pub mtime: i64,
    pub key: (u64, i128),
}

pub(super) fn find(file: impl AsFd) -> io::Result<Found> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = statx(file, c"", AtFlags::EMPTY_PATH, wanted)?;
    let born = i128::from(found.stx_btime.tv_sec) * 1_000_000_000 + i128::from(found.stx_btime.tv_nsec);
    Ok(Found {
        kind: FileType::from_raw_mode(found.stx_mode.into()),
        mode: found.stx_mode.into(),
        size: found.stx_size,
        mtime: found.stx_mtime.tv_sec,
        key: (found.stx_ino, born),
    })
}

impl Found {
    pub fn has_attributes(&self) -> bool {
        matches!(self.kind, FileType::RegularFile | FileType::Directory)
    }
}

/// What is recorded of a file; none if it is what it seems to be.
pub(super) fn record(file: &OwnedFd, found: &Found, links: &LinkOwners) -> io::Result<Option<Record>> {
    if !found.has_attributes() {
        return Ok(links.get(&found.key).map(|owner| Record { owner: *owner, device: None }));
    }
    let owner = attribute(file, OWNER)?.and_then(|value| crate::layer::diff::parse_owner(&value));
    let may_be_device = found.kind == FileType::RegularFile && found.size == 0;
    let device = if may_be_device { attribute(file, DEVICE)?.and_then(|value| device(&value)) } else { None };
    Ok((owner.is_some() || device.is_some()).then(|| Record { owner: owner.unwrap_or_default(), device }))
}

fn device(value: &[u8]) -> Option<(u32, u32, u32)> {
    use crate::layer::Kind;
    match crate::layer::unpack::device_of(value)? {
        Kind::Char(major, minor) => Some((libc::S_IFCHR, major, minor)),
        Kind::Block(major, minor) => Some((libc::S_IFBLK, major, minor)),
        _ => None,
    }
}

fn attribute(file: &OwnedFd, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = [0; 64];
    match rustix::fs::getxattr(through(file), name, &mut value[..]) {
        Ok(size) => Ok(Some(value[..size].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Records an owner; 0:0 is what everything has without a record.
pub(super) fn own(file: &OwnedFd, found: &Found, owner: (u32, u32), links: &mut LinkOwners) -> io::Result<()> {
    if !found.has_attributes() {
        links.insert(found.key, owner);
        return Ok(());
    }
    if owner == (0, 0) {
        return match rustix::fs::removexattr(through(file), OWNER) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
    }
    let value = format!("{}:{}", owner.0, owner.1);
    Ok(rustix::fs::setxattr(through(file), OWNER, value.as_bytes(), XattrFlags::empty())?)
}

/// Makes an empty file stand for a device.
pub(super) fn stand_for(file: &OwnedFd, value: &str) -> io::Result<()> {
    Ok(rustix::fs::setxattr(through(file), DEVICE, value.as_bytes(), XattrFlags::empty())?)
}
