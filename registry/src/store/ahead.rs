//! Small blobs are written ahead: the record that stores one carries its bytes, so one sync of the
//! journal acknowledges it, together with all that come at the same time. Its file is put in place as
//! always, but nobody waits until the disk has it. What that asks for afterwards is here.
//!
//! ```text
//! push      file in place ─▶ record with the bytes ─▶ sync of the journal ─▶ answer
//! snapshot  sync of the whole file system ─▶ snapshot ─▶ old segments forgotten
//! stop      sync of the whole file system ─▶ `clean`
//! start     not clean, and perhaps not all in the page cache ─▶ what newer records carry is written again
//! ```
//!
//! So a snapshot says that the disk has every file that records up to it speak of, as `clean` says it of
//! all; and what is behind a snapshot, the journal has. A file without a row may be anything after a power
//! cut, if it is small: whoever takes one in looks at it first ([`is_whole`]).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use content::place::{Shelf, sync_directory};
use oci::{Digest, Verifier};
use rustix::fs::{StatVfsMountFlags, fstatfs, fstatvfs, syncfs};

use crate::index::{Index, IndexError};
use crate::journal::{Journal, Lsn, snapshot};
use crate::state::{Record, View};

/// Largest blob that is written ahead, in bytes. Configs have 1 to 10 kB, and are in every push; above
/// this, writing the bytes twice costs about as much as the syncs that it spares, and the journal would
/// mostly consist of layers.
pub(super) const LIMIT: u64 = 16 << 10;

/// Since this version of the kernel `syncfs` tells that something could not be written.
const TELLS: (u32, u32) = (5, 8);
/// File systems (`f_type`) whose `syncfs` makes everything durable, names too: ext4, XFS, Btrfs, ZFS, F2FS,
/// bcachefs, tmpfs and overlayfs. Those of networks and of other processes (NFS, SMB, 9p, FUSE) only pass
/// data on.
const TRUSTED: [u64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e, 0x0102_1994, 0x794c_7630];

/// What the disk may not have yet.
pub(super) struct Ahead {
    /// Open from the start: errors are told to those who had the file system open when they happened.
    file_system: File,
    works: bool,
    pending: AtomicBool,
    failed: OnceLock<String>,
}

impl Ahead {
    /// Looks at the file system that content lies on. `pending` says whether there may be files that an
    /// earlier process left to the page cache.
    pub(super) fn open(data: &Path, pending: bool) -> io::Result<Self> {
        // Content is renamed from here to its place, so it is the same file system.
        let file_system = File::open(data.join(super::layout::UPLOADS))?;
        let works = is_trusted(fstatfs(&file_system)?.f_type as u64)
            && tells(&rustix::system::uname().release().to_string_lossy());
        if !works {
            tracing::info!("syncs of this file system cannot be relied on: each blob is made durable on its own");
        }
        Ok(Self { file_system, works, pending: pending.into(), failed: OnceLock::new() })
    }

    /// Whether a blob of this size is written ahead.
    pub(super) fn takes(&self, size: u64) -> bool {
        self.works && size <= LIMIT
    }

    /// Notes that a file was put in place and not synced. Afterwards, so that a sync that runs meanwhile is
    /// not mistaken for one that has it; and before its record.
    pub(super) fn note(&self) {
        self.pending.store(true, Ordering::SeqCst);
    }

    /// Makes everything durable that was noted. Once that failed it fails for ever: the kernel tells it once.
    pub(super) fn sync(&self) -> io::Result<()> {
        if let Some(failed) = self.failed.get() {
            return Err(io::Error::other(failed.clone()));
        }
        if !self.pending.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        sync(&self.file_system).inspect_err(|error| drop(self.failed.set(error.to_string())))
    }

    /// Lets every sync fail from now on, as a broken disk does.
    #[cfg(test)]
    pub(super) fn break_sync(&self) {
        self.failed.set("broken".to_owned()).expect("it is broken once");
    }
}

/// Makes everything on the file system of an open file or directory durable.
pub(super) fn sync(file: &File) -> io::Result<()> {
    syncfs(file)?;
    // On a file system that went read-only after an error, it does nothing and says that all is well.
    match fstatvfs(file)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        true => Err(rustix::io::Errno::ROFS.into()),
        false => Ok(()),
    }
}

fn is_trusted(kind: u64) -> bool {
    TRUSTED.contains(&kind)
}

/// Whether a kernel of this release has `syncfs` tell errors.
fn tells(release: &str) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|number| number.parse().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= TELLS,
        _ => false,
    }
}

/// Up to which record the disk has every file: as of the newest snapshot.
pub(super) fn durable_until(snapshots: &Path, journal: &Journal) -> Result<Lsn, IndexError> {
    let found = snapshot::list(snapshots)?.into_iter().map(|snapshot| snapshot.lsn);
    Ok(found.filter(|lsn| *lsn <= journal.last()).max().unwrap_or(Lsn(0)))
}

/// Writes every small blob again that records after `after` carry, that is still stored, and whose file is
/// not whole; says how many those were. They are durable when this returns.
pub(super) fn restore(index: &Index, journal: &Journal, shelf: &Shelf, after: Lsn) -> Result<u64, IndexError> {
    let blobs = shelf.path(&Digest::of(b""));
    let blobs = blobs.parent().unwrap_or(Path::new("/"));
    let blobs = File::open(blobs).map_err(IndexError::io(blobs))?;
    let at_once = fstatfs(&blobs).is_ok_and(|status| is_trusted(status.f_type as u64));
    let mut restored = 0;
    let after = after.max(journal.oldest()?.previous());
    journal.replay(after, |_, payload| {
        if !Record::may_carry(payload) {
            return Ok(());
        }
        let record = Record::decode(payload)?;
        let Some((digest, bytes)) = record.carried() else { return Ok(()) };
        // What was collected since must not come back.
        if View(index).stored_blob(&digest)?.is_none() {
            return Ok(());
        }
        let path = shelf.path(&digest);
        // What cannot be read is no better than what is not there.
        if !is_whole(&path, &digest).unwrap_or(false) && write(shelf, &digest, bytes).map_err(IndexError::io(&path))? {
            restored += 1;
            if !at_once {
                sync_one(&path).map_err(IndexError::io(&path))?;
            }
        }
        Ok::<(), IndexError>(())
    })?;
    if restored > 0 {
        sync(&blobs).map_err(IndexError::io(&shelf.path(&Digest::of(b""))))?;
        tracing::warn!(blobs = restored, "wrote small blobs again that the disk did not have yet");
    }
    Ok(restored)
}

/// Puts a small blob in its place that a record carries, not durably. False if it is something else.
pub(super) fn write(shelf: &Shelf, digest: &Digest, bytes: &[u8]) -> io::Result<bool> {
    let mut incoming = shelf.incoming(digest.algorithm())?;
    io::Write::write_all(&mut incoming, bytes)?;
    match incoming.finish(*digest) {
        Ok(finished) => shelf.keep_unsynced(finished).map(|_| true),
        Err(error) => {
            tracing::error!(%error, "a record carries something else than it says");
            Ok(false)
        }
    }
}

/// Makes a file and its name durable.
pub(super) fn sync_one(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_data()?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// Whether a file is what its digest says, as far as that is in doubt: what is too large to be written ahead
/// was durable before it had its name.
pub(super) fn is_whole(path: &Path, digest: &Digest) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    if file.take(LIMIT + 1).read_to_end(&mut bytes)? as u64 > LIMIT {
        return Ok(true);
    }
    let mut verifier = Verifier::new(digest.algorithm());
    verifier.update(&bytes);
    Ok(verifier.finish(*digest).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_kernels_tell_errors() {
        for release in ["5.8.0", "5.10.0-21-amd64", "6.1", "6.18.44-x", "10.0.1"] {
            assert!(tells(release), "{release}");
        }
        for release in ["4.4.0", "5.7.19-generic", "5", "", "gVisor", "5.x"] {
            assert!(!tells(release), "{release}");
        }
        assert!(is_trusted(0xef53) && !is_trusted(0x6969) && !is_trusted(0x6573_5546));
    }

    #[test]
    fn a_sync_that_failed_fails_for_ever_and_nothing_is_synced_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("uploads")).unwrap();
        let ahead = Ahead::open(dir.path(), true).unwrap();
        ahead.sync().unwrap();
        assert!(!ahead.pending.load(Ordering::SeqCst));
        ahead.note();
        assert!(ahead.pending.load(Ordering::SeqCst));
        // On a descriptor that only names a file, the kernel refuses.
        let named = rustix::fs::open(dir.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        let broken = Ahead { file_system: named.into(), ..ahead };
        assert!(broken.sync().is_err());
        assert!(broken.sync().is_err(), "though nothing is pending");
    }
}
