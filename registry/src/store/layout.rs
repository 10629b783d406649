//! The data directory: who may open it, and that it is ours.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use content::place::{replace_file, sync_directory};
use rustix::fs::{FlockOperation, flock};

use super::OpenError;
use crate::index::Places;
use crate::journal::Journal;

pub(super) const JOURNAL: &str = "journal";
pub(super) const SNAPSHOTS: &str = "snapshot";
pub(super) const UPLOADS: &str = "uploads";
pub(super) const TRASH: &str = "trash";
pub(super) const QUARANTINE: &str = "quarantine";
/// Directories that every store has.
const DIRECTORIES: [&str; 5] = [JOURNAL, SNAPSHOTS, UPLOADS, TRASH, QUARANTINE];

/// What `VERSION` says. Another format is another version, never a change in place.
pub(super) const VERSION: &str = "lighter registry 3\n";
/// A version that is read as well, and becomes this one when it is opened: all that differs is that records
/// may carry small blobs, which a program of then would not write again after a power cut.
const OLDER: &str = "lighter registry 2\n";
/// Longest `VERSION` that is looked at, in bytes.
const VERSION_LIMIT: usize = 64;

/// Locks the data directory for this process, and makes it if it is new.
pub(super) fn prepare(data: &Path) -> Result<File, OpenError> {
    DirBuilder::new().recursive(true).mode(0o750).create(data).map_err(OpenError::io(data))?;
    let version = data.join("VERSION");
    let found = match std::fs::read(&version) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes[..bytes.len().min(VERSION_LIMIT)]).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(OpenError::io(&version)(error)),
    };
    match found.as_deref() {
        None if is_foreign(data)? => return Err(OpenError::Foreign { data: data.to_owned() }),
        Some(other) if !is_known(other) => {
            return Err(OpenError::Version { data: data.to_owned(), found: other.trim().to_owned() });
        }
        _ => {}
    }
    let lock = lock(data)?;
    match found.as_deref() {
        None => create(data, &version)?,
        Some(OLDER) => replace_file(&version, VERSION.as_bytes()).map_err(OpenError::io(&version))?,
        Some(_) => {}
    }
    Ok(lock)
}

/// Whether a data directory of this version can be read.
pub(super) fn is_known(version: &str) -> bool {
    [VERSION, OLDER].contains(&version)
}

/// Whether a directory without `VERSION` holds anything that a first start does not leave behind.
fn is_foreign(data: &Path) -> Result<bool, OpenError> {
    for entry in std::fs::read_dir(data).map_err(OpenError::io(data))? {
        let name = entry.map_err(OpenError::io(data))?.file_name();
        let name = name.to_string_lossy();
        let ours = DIRECTORIES.contains(&&*name)
            || ["LOCK", "access", "lost+found"].contains(&&*name)
            || name.starts_with(".VERSION");
        if !ours {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lock(data: &Path) -> Result<File, OpenError> {
    let path = data.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o640).open(&path);
    let file = file.map_err(OpenError::io(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { data: data.to_owned() }),
        Err(error) => Err(OpenError::io(&path)(error.into())),
    }
}

/// Makes a new store; `VERSION` comes last, so a first start that was interrupted is done again.
fn create(data: &Path, version: &Path) -> Result<(), OpenError> {
    make_directories(data).map_err(OpenError::io(data))?;
    sync_directory(data).map_err(OpenError::io(data))?;
    let id = uuid::Uuid::now_v7().as_u128() as u64; // the low half of the UUID is random
    Journal::start(&data.join(JOURNAL), id).map_err(OpenError::metadata)?;
    replace_file(version, VERSION.as_bytes()).map_err(OpenError::io(version))
}

/// Where the index lies, and what it is made from.
pub(super) fn places(data: &Path) -> Places {
    Places { sled: data.join("index.sled"), state: data.join("index.state"), snapshots: data.join(SNAPSHOTS) }
}

/// Makes the directories that every store has, where they are missing.
pub(super) fn make_directories(data: &Path) -> std::io::Result<()> {
    DIRECTORIES.iter().try_for_each(|name| DirBuilder::new().recursive(true).mode(0o750).create(data.join(name)))
}
