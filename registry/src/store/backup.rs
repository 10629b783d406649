//! Backup: a copy of a data directory, made while a server uses it and without asking it. Restoring is
//! using the copy.
//!
//! ```text
//! DEST/BACKUP             that this is a backup, so that nothing else is overwritten
//! DEST/next/              metadata on its way in: snapshots first, then the journal
//! DEST/blobs/             hard links where both are on one file system, else copies
//! DEST/VERSION            there while the copy is whole; the rest is that of a data directory
//! ```
//!
//! Why it is consistent: snapshots and closed segments never change, and the journal that is copied
//! after the snapshots has every record that they contain. Its last segment may end in the middle of a
//! record, like after a crash. Every file that the copied metadata speaks of was there before its record,
//! and stays in its place or, for a grace longer than a copy takes, in the trash. Small blobs of which the
//! source's disk may not have the file yet are in the journal, and are written from that.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use content::place::{Shelf, Spread, replace_file, sync_directory};
use oci::{Algorithm, Digest};
use rustix::fs::{FlockOperation, flock};

use super::ahead;
use super::layout::{self, JOURNAL, SNAPSHOTS, TRASH};
use crate::index::{Index, IndexError};
use crate::journal::{Journal, JournalError};
use crate::state::View;

/// How often a copy of the metadata is begun anew because the server dropped a part of it meanwhile.
const ATTEMPTS: usize = 10;
/// Rows are read in pages of this many.
const PAGE: usize = 512;
const MARKER: &str = "BACKUP";
const NEXT: &str = "next";

/// What a backup did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackedUp {
    /// Files that the copy holds.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were linked or copied this time.
    pub new: u64,
    /// Files that were removed since the registry needs them no more.
    pub removed: u64,
    /// Up to which record of the journal it goes.
    pub record: u64,
    /// Files that are in neither place: lost before, or removed while the copy was made. The rest of the
    /// copy is good all the same.
    pub missing: u64,
    /// The first of them.
    pub first_missing: Option<Digest>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The source is no data directory of this version.
    #[error("{} is not a registry's data directory of this version", .0.display())]
    Source(PathBuf),
    /// The destination holds something else.
    #[error("{} is not empty and is no backup: choose another directory", .0.display())]
    Foreign(PathBuf),
    /// Another backup writes to the destination.
    #[error("another backup writes to {}", .0.display())]
    Busy(PathBuf),
    /// The server dropped parts of its journal faster than they could be copied.
    #[error("the journal changes faster than it can be copied; try again")]
    Restless,
    /// The system refused a file operation.
    #[error("could not copy {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The copied metadata cannot be read.
    #[error("the copied metadata cannot be read")]
    Metadata(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl BackupError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

impl From<IndexError> for BackupError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Io { path, source } => Self::Io { path, source },
            error => Self::Metadata(Box::new(error)),
        }
    }
}

impl From<JournalError> for BackupError {
    fn from(error: JournalError) -> Self {
        Self::Metadata(Box::new(error))
    }
}

/// Makes `dest` a copy of the data directory `data`, or brings it up to date. A server may use `data`
/// meanwhile. `copy` has files copied even where a hard link would do.
pub fn backup(data: &Path, dest: &Path, copy: bool) -> Result<BackedUp, BackupError> {
    let version = std::fs::read_to_string(data.join("VERSION")).unwrap_or_default(); // missing is as wrong as another
    if !layout::is_known(&version) {
        return Err(BackupError::Source(data.to_owned()));
    }
    let _lock = prepare(dest)?;
    let next = dest.join(NEXT);
    copy_metadata(data, &next)?;
    let journal = Journal::open(&next.join(JOURNAL))?;
    let record = journal.last().0;
    let places = layout::places(&next);
    let durable = ahead::durable_until(&places.snapshots, &journal)?;
    let index = Index::open(places, &journal)?;
    let mut done = BackedUp { record, ..BackedUp::default() };
    let copier = Copier {
        from: Shelf::existing(data, Spread::Sharded),
        trash: data.join(TRASH),
        to: Shelf::open(dest, Spread::Sharded).map_err(BackupError::io(dest))?,
        aside: dest.join("next-blob"),
        copy,
    };
    // What the disk may not have yet is not linked but taken from the journal.
    done.new += ahead::restore(&index, &journal, &copier.to, durable)?;
    copier.all(&index, &mut done)?;
    File::open(dest).and_then(|dest| ahead::sync(&dest)).map_err(BackupError::io(dest))?;
    index.close()?;
    drop((index, journal));
    swap(dest, &next, &version)?;
    let index = Index::open(layout::places(dest), &Journal::open(&dest.join(JOURNAL))?)?;
    copier.remove_needless(&index, &mut done)?;
    index.close()?;
    Ok(done)
}

/// Makes sure that the destination is ours alone, and for a backup.
fn prepare(dest: &Path) -> Result<File, BackupError> {
    std::fs::create_dir_all(dest).map_err(BackupError::io(dest))?;
    let marker = dest.join(MARKER);
    let is_empty = std::fs::read_dir(dest).map_err(BackupError::io(dest))?.next().is_none();
    if !marker.exists() && !is_empty {
        return Err(BackupError::Foreign(dest.to_owned()));
    }
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o640).open(&marker);
    let lock = lock.map_err(BackupError::io(&marker))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(BackupError::Busy(dest.to_owned())),
        Err(error) => return Err(BackupError::io(&marker)(error.into())),
    }
    // A server on the backup itself would be surprised.
    let used = dest.join("LOCK");
    if let Ok(file) = File::open(&used)
        && flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Err(BackupError::Busy(dest.to_owned()));
    }
    Ok(lock)
}

/// Copies snapshots, then the journal. The server may drop files of both once it has newer ones.
fn copy_metadata(data: &Path, next: &Path) -> Result<(), BackupError> {
    for _ in 0..ATTEMPTS {
        if next.exists() {
            std::fs::remove_dir_all(next).map_err(BackupError::io(next))?;
        }
        let copied =
            [SNAPSHOTS, JOURNAL].into_iter().try_for_each(|name| copy_files(&data.join(name), &next.join(name)));
        match copied {
            Ok(()) => return Ok(()),
            Err(BackupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(BackupError::Restless)
}

/// Copies the finished files of a directory, in the order of their names.
fn copy_files(from: &Path, to: &Path) -> Result<(), BackupError> {
    std::fs::create_dir_all(to).map_err(BackupError::io(to))?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(from).map_err(BackupError::io(from))? {
        let path = entry.map_err(BackupError::io(from))?.path();
        if path.extension().is_some_and(|extension| extension == "wal" || extension == "snap") {
            names.push(path);
        }
    }
    names.sort();
    for path in names {
        let target = to.join(path.file_name().unwrap_or_default());
        copy_durably(&path, &target).map_err(BackupError::io(&path))?;
    }
    sync_directory(to).map_err(BackupError::io(to))
}

fn copy_durably(from: &Path, to: &Path) -> io::Result<()> {
    let (mut source, mut target) = (File::open(from)?, File::create(to)?);
    io::copy(&mut source, &mut target)?;
    target.sync_all()
}

struct Copier {
    from: Shelf,
    trash: PathBuf,
    to: Shelf,
    /// Where a copy is made before it gets its name.
    aside: PathBuf,
    copy: bool,
}

impl Copier {
    /// Brings over every file that the metadata speaks of.
    fn all(&self, index: &Index, done: &mut BackedUp) -> Result<(), BackupError> {
        let mut after = None;
        loop {
            let page = View(index).stored_blobs(after.as_ref(), PAGE);
            let page = page.map_err(|error| BackupError::Metadata(Box::new(error)))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (digest, row) in page {
                let target = self.to.path(&digest);
                let here = self.to.size(&digest).map_err(BackupError::io(&target))?;
                if here != Some(row.size) {
                    if !self.one(&digest, &target)? {
                        done.missing += 1;
                        done.first_missing.get_or_insert(digest);
                        continue;
                    }
                    done.new += 1;
                }
                done.blobs += 1;
                done.bytes += row.size;
            }
        }
    }

    /// Brings over one file; false if it is nowhere.
    fn one(&self, digest: &Digest, target: &Path) -> Result<bool, BackupError> {
        let trash = self.trash.join(format!("{}-{}", digest.algorithm(), digest.hex()));
        // Twice: it may come back from the trash between the two looks.
        for source in [self.from.path(digest), trash.clone(), self.from.path(digest), trash] {
            match self.bring(&source, digest) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(BackupError::io(target)(error)),
            }
        }
        Ok(false)
    }

    fn bring(&self, source: &Path, digest: &Digest) -> io::Result<()> {
        if let Err(error) = std::fs::remove_file(&self.aside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let linked = if self.copy { None } else { Some(std::fs::hard_link(source, &self.aside)) };
        match linked {
            Some(Ok(())) => {}
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            // Another file system, or one without links.
            _ => copy_durably(source, &self.aside)?,
        }
        self.to.bring_back(&self.aside, digest).map(drop)
    }

    /// Removes what the new metadata does not speak of.
    fn remove_needless(&self, index: &Index, done: &mut BackedUp) -> Result<(), BackupError> {
        for part in 0..=u8::MAX {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                for digest in self.to.part(algorithm, part).map_err(BackupError::io(&self.aside))? {
                    let row = View(index).stored_blob(&digest);
                    if row.map_err(|error| BackupError::Metadata(Box::new(error)))?.is_none() {
                        let path = self.to.path(&digest);
                        std::fs::remove_file(&path).map_err(BackupError::io(&path))?;
                        done.removed += 1;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Puts the new metadata in place of the old. Without `VERSION` nobody takes a half of each for whole.
fn swap(dest: &Path, next: &Path, found: &str) -> Result<(), BackupError> {
    let failed = BackupError::io(dest);
    let swapped = (|| {
        let version = dest.join("VERSION");
        if version.exists() {
            std::fs::remove_file(&version)?;
            sync_directory(dest)?;
        }
        for name in [JOURNAL, SNAPSHOTS, "index.sled"] {
            let path = dest.join(name);
            if path.exists() {
                std::fs::remove_dir_all(&path)?;
            }
            std::fs::rename(next.join(name), path)?;
        }
        std::fs::rename(next.join("index.state"), dest.join("index.state"))?;
        std::fs::remove_dir_all(next)?;
        layout::make_directories(dest)?;
        sync_directory(dest)?;
        replace_file(&version, found.as_bytes())
    })();
    swapped.map_err(failed)
}
