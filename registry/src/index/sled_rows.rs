//! Rows in sled. Every call into sled is here.
//!
//! All rows lie in one tree, so that one batch is atomic without sled's transactions over several
//! trees. One more row, whose key no table uses, says which journal the rows belong to and up to
//! which record they go; it is part of every batch.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::IndexError;
use crate::journal::{Journal, Lsn};
use crate::state::{Changes, Rows, RowsError, Write, prefix_end};

/// The key of the row about the rows; tables have letters.
const APPLIED: &[u8] = &[0];
/// Memory for sled's pages, in bytes. Hot answers are kept elsewhere.
const CACHE: u64 = 32 << 20;
/// How long sled may take to write out what it buffers. Its flush was seen to wait for ever after rows
/// of some 900 kB; a registry must stop all the same, and can, since the journal has everything.
const CLOSE_TIME: Duration = Duration::from_secs(10);

pub(super) struct SledRows {
    /// `None` only while it is dropped.
    db: Option<sled::Db>,
    applied: AtomicU64,
}

impl Drop for SledRows {
    fn drop(&mut self) {
        // The last handle of sled flushes when it goes.
        let db = self.db.take();
        if bounded(move || drop(db)).is_none() {
            tracing::warn!("sled does not close; its files are left to it");
        }
    }
}

/// Does something on a thread of its own and waits for it, but not for ever.
fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, done) = std::sync::mpsc::sync_channel(1);
    let work = move || {
        // Nobody listens any more if it took too long.
        let _ = send.send(work());
    };
    std::thread::Builder::new().name("index-close".to_owned()).spawn(work).ok()?;
    done.recv_timeout(CLOSE_TIME).ok()
}

impl SledRows {
    /// Opens rows that belong to this journal; `None` if there are none or they cannot be trusted.
    pub(super) fn trusted(path: &Path, journal: &Journal) -> Result<Option<Self>, IndexError> {
        if !path.is_dir() {
            return Ok(None);
        }
        let db = match open(path) {
            Ok(db) => db,
            Err(error) => {
                tracing::warn!(%error, "the index does not open");
                return Ok(None);
            }
        };
        let Ok(Some(applied)) = db.get(APPLIED) else { return Ok(None) };
        let Some((id, lsn)) = read_applied(&applied) else { return Ok(None) };
        let fits = id == journal.id() && lsn <= journal.last() && lsn.next() >= journal.oldest()?;
        if !fits {
            tracing::warn!(applied = lsn.0, journal = journal.last().0, "the index does not belong to the journal");
            return Ok(None);
        }
        Ok(Some(Self { db: Some(db), applied: AtomicU64::new(lsn.0) }))
    }

    /// Starts with no rows; nothing may be left at `path`.
    pub(super) fn empty(path: &Path) -> Result<Self, RowsError> {
        Ok(Self { db: Some(open(path)?), applied: AtomicU64::new(0) })
    }

    /// Applies changes as one batch and remembers that they go up to `lsn`.
    pub(super) fn apply(&self, writes: Vec<Write>, journal: u64, lsn: Lsn) -> Result<(), RowsError> {
        self.apply_batch(batch(writes.iter().map(|write| (&write.key, &write.value))), journal, lsn)
    }

    /// The same with changes that others go on reading.
    pub(super) fn apply_changes(&self, changes: &Changes, journal: u64, lsn: Lsn) -> Result<(), RowsError> {
        self.apply_batch(batch(changes.iter()), journal, lsn)
    }

    fn apply_batch(&self, mut batch: sled::Batch, journal: u64, lsn: Lsn) -> Result<(), RowsError> {
        batch.insert(APPLIED, [journal.to_le_bytes(), lsn.0.to_le_bytes()].concat());
        self.db().apply_batch(batch).map_err(failed)?;
        self.applied.store(lsn.0, Ordering::Release);
        Ok(())
    }

    /// Writes rows that are not to be trusted until [`SledRows::apply`] follows.
    pub(super) fn load(&self, writes: Vec<Write>) -> Result<(), RowsError> {
        self.db().apply_batch(batch(writes.iter().map(|write| (&write.key, &write.value)))).map_err(failed)
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("sled is taken away only when the rows are dropped")
    }

    pub(super) fn applied(&self) -> Lsn {
        Lsn(self.applied.load(Ordering::Acquire))
    }

    /// Writes everything out, so that it survives the machine.
    pub(super) fn flush(&self, path: &Path) -> Result<(), IndexError> {
        let db = self.db().clone();
        let flushed = bounded(move || db.flush());
        flushed.ok_or_else(|| RowsError::Index("sled does not write out what it buffers".into()))?.map_err(failed)?;
        sync_tree(path).map_err(IndexError::io(path))
    }
}

/// Forces the files below a directory to disk, which sled's own flush does not.
fn sync_tree(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            std::fs::File::open(entry.path())?.sync_all()?;
        }
    }
    std::fs::File::open(path)?.sync_all()
}

/// Opens sled on a thread of its own, since it panics on some damaged files.
fn open(path: &Path) -> Result<sled::Db, RowsError> {
    // No flushes in the background: nothing depends on them, since what is lost here is replayed from
    // the journal, and each would cost an fsync.
    let config = sled::Config::new().path(path).cache_capacity(CACHE).flush_every_ms(None);
    let opened = std::thread::Builder::new().name("index-open".to_owned()).spawn(move || config.open());
    match opened.map_err(|error| RowsError::Index(Box::new(error)))?.join() {
        Ok(opened) => opened.map_err(failed),
        Err(_) => Err(RowsError::Index("sled panicked while it opened its files".into())),
    }
}

fn failed(error: sled::Error) -> RowsError {
    RowsError::Index(Box::new(error))
}

fn batch<'a>(changes: impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>) -> sled::Batch {
    let mut batch = sled::Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.insert(key.as_slice(), value.as_slice()),
            None => batch.remove(key.as_slice()),
        }
    }
    batch
}

fn read_applied(value: &[u8]) -> Option<(u64, Lsn)> {
    let (id, lsn) = value.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*id), Lsn(u64::from_le_bytes(lsn.try_into().ok()?))))
}

impl Rows for SledRows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        let value = self.db().get(key).map_err(failed)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], from: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, RowsError> {
        let first_row = APPLIED.len().max(prefix.len());
        let start = match from {
            Bound::Included(key) if key > prefix => Bound::Included(key.to_vec()),
            Bound::Excluded(key) if key >= prefix => Bound::Excluded(key.to_vec()),
            // No prefix means every row but the one about the rows.
            _ if prefix.is_empty() => Bound::Excluded(APPLIED[..first_row].to_vec()),
            _ => Bound::Included(prefix.to_vec()),
        };
        let end = prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        if let (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end)) = (&start, &end)
            && start >= end
        {
            return Ok(Vec::new());
        }
        let rows = self.db().range::<Vec<u8>, _>((start, end)).take(limit);
        rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(failed)).collect()
    }
}
