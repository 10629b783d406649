//! The index: rows of metadata, ordered, for fast reads. The only module that knows sled.
//!
//! ```text
//! index.sled/    rows, and up to which journal record they go
//! index.state    `clean`, or the boot and the mount during which the data was last written
//! ```
//!
//! The index is never the only copy: it can be deleted while the registry is stopped, and is made
//! again from snapshot and journal. That also happens by itself whenever it cannot be trusted:
//!
//! * sled does not open it, or panics;
//! * it belongs to another journal, or is ahead of the journal, or behind what the journal still has;
//! * it was written before an unclean shutdown *of the machine*: sled's flush forces neither file
//!   sizes nor the disk's cache, so after a power cut it may be anything. After `kill -9` the page
//!   cache still has every write, so the index is trusted and only its tail is replayed.
//!
//! When sled fails at run time (disk full, a damaged page), rows move into memory and the registry
//! goes on; the next start makes a new index.

mod blocks;
mod build;
mod hot;
mod layers;
mod sled_rows;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::journal::{Journal, JournalError, Lsn};
use crate::state::{InvalidRecord, MemoryRows, Rows, RowsError, Write};
pub(crate) use build::Left;
use hot::Hot;
use layers::Layers;
use sled_rows::SledRows;

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// The truth cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record of the journal is of a newer version.
    #[error(transparent)]
    Record(#[from] InvalidRecord),
    /// The rows cannot be written or read.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A file beside the index cannot be written.
    #[error("could not write {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No snapshot can be read, and the journal does not start at the beginning.
    #[error(
        "the metadata cannot be rebuilt: no snapshot can be read and the journal starts at record {oldest}; restore the data directory from a backup"
    )]
    Lost {
        /// The first record that the journal still has.
        oldest: u64,
    },
}

impl IndexError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Where things lie that the index is made from and kept in.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) sled: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) snapshots: PathBuf,
}

/// The open index. Reads go on while one writer applies changes.
pub(crate) struct Index {
    places: Places,
    /// The identity of the journal that the rows are made from.
    journal: u64,
    rows: RwLock<Backend>,
    hot: Hot,
    /// The thread that writes to sled. Only the one writer starts it and waits for it.
    writing: Mutex<Option<JoinHandle<Result<(), RowsError>>>>,
}

enum Backend {
    Sled(Layers),
    Memory { rows: MemoryRows, applied: Lsn },
}

impl Index {
    /// Opens the index as of the journal's last record, making it again where it cannot be trusted.
    pub(crate) fn open(places: Places, journal: &Journal) -> Result<Self, IndexError> {
        Self::open_after(places, journal, |_, _| Ok(()))
    }

    /// The same, with something done before the data counts as being written to: it hears how the last
    /// process left it, and is done again at the next start if it does not get to its end.
    pub(crate) fn open_after(
        places: Places,
        journal: &Journal,
        first: impl FnOnce(&Self, Left) -> Result<(), IndexError>,
    ) -> Result<Self, IndexError> {
        let left = build::left(&places.state);
        let trusted = if left < Left::Unknown { SledRows::trusted(&places.sled, journal)? } else { None };
        let rows = match trusted {
            Some(rows) => rows,
            None => build::rebuild(&places, journal)?,
        };
        let mut layers = Layers::new(rows);
        build::replay(journal, layers.applied(), |writes, lsn| {
            layers.apply(writes, lsn);
            if layers.is_full() { layers.age().write(journal.id()) } else { Ok(()) }
        })?;
        let index = Self {
            places,
            journal: journal.id(),
            rows: RwLock::new(Backend::Sled(layers)),
            hot: Hot::default(),
            writing: Mutex::default(),
        };
        first(&index, left)?;
        build::mark_open(&index.places.state)?;
        Ok(index)
    }

    /// Makes sure that the next start takes nothing for granted of what was written.
    pub(crate) fn distrust(&self) {
        build::mark_suspect(&self.places.state);
    }

    /// Applies changes that are durable in the journal up to `lsn`.
    pub(crate) fn apply(&self, writes: Vec<Write>, journal: &Journal, lsn: Lsn) -> Result<(), IndexError> {
        let touched = Hot::touched(&writes);
        let applied = self.apply_to_rows(writes, journal, lsn);
        self.hot.forget(&touched);
        applied
    }

    fn apply_to_rows(&self, writes: Vec<Write>, journal: &Journal, lsn: Lsn) -> Result<(), IndexError> {
        match &mut *self.rows.write().unwrap_or_else(PoisonError::into_inner) {
            Backend::Sled(layers) => {
                layers.apply(writes, lsn);
                if !layers.is_full() || (self.is_writing() && !layers.is_overfull()) {
                    return Ok(());
                }
            }
            Backend::Memory { rows, applied } => {
                build::apply_to_memory(rows, writes);
                *applied = lsn;
                return Ok(());
            }
        }
        match self.written().and_then(|()| self.begin_writing()) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::error!(%error, "the index failed");
                self.move_to_memory(journal)
            }
        }
    }

    /// Whether sled is still being given something.
    fn is_writing(&self) -> bool {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.as_ref().is_some_and(|writing| !writing.is_finished())
    }

    /// Waits until sled has what it was given.
    fn written(&self) -> Result<(), RowsError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner).take();
        match writing.map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written,
            Some(Err(_)) => Err(RowsError::Index("sled panicked while it wrote".into())),
        }
    }

    /// Has sled given the latest changes, beside what goes on.
    fn begin_writing(&self) -> Result<(), RowsError> {
        let outgoing = match &mut *self.rows.write().unwrap_or_else(PoisonError::into_inner) {
            Backend::Sled(layers) => layers.age(),
            Backend::Memory { .. } => return Ok(()),
        };
        let thread = std::thread::Builder::new().name("index-writer".to_owned());
        let journal = self.journal;
        let writing = thread.spawn(move || outgoing.write(journal));
        let writing = writing.map_err(|error| RowsError::Index(Box::new(error)))?;
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = Some(writing);
        Ok(())
    }

    /// Gives sled up and serves rows from memory, made from snapshot and journal.
    pub(crate) fn move_to_memory(&self, journal: &Journal) -> Result<(), IndexError> {
        if matches!(&*self.rows.read().unwrap_or_else(PoisonError::into_inner), Backend::Memory { .. }) {
            return Ok(());
        }
        tracing::error!("the index on disk is given up until restart; rows are served from memory");
        build::mark_suspect(&self.places.state);
        let rows = build::in_memory(&self.places, journal)?;
        *self.rows.write().unwrap_or_else(PoisonError::into_inner) = Backend::Memory { rows, applied: journal.last() };
        Ok(())
    }

    /// The last record whose changes are in the rows.
    pub(crate) fn applied(&self) -> Lsn {
        match &*self.rows.read().unwrap_or_else(PoisonError::into_inner) {
            Backend::Sled(layers) => layers.applied(),
            Backend::Memory { applied, .. } => *applied,
        }
    }

    /// All rows, in pages: what a snapshot holds.
    pub(crate) fn dump(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), RowsError>> + '_ {
        build::pages(self)
    }

    /// Closes the index so that the next start can trust it.
    pub(crate) fn close(&self) -> Result<(), IndexError> {
        self.written()?;
        self.begin_writing()?;
        self.written()?;
        let mut backend = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if let Backend::Sled(layers) = &mut *backend {
            layers.tidy(&self.places.sled)?;
            layers.below().flush(&self.places.sled)?;
            build::mark_clean(&self.places.state)?;
        }
        Ok(())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // Sled lets nobody else open its files while the thread has them.
        if let Err(error) = self.written() {
            tracing::debug!(%error, "the next start replays what sled did not take");
        }
    }
}

impl Rows for Index {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        match &*self.rows.read().unwrap_or_else(PoisonError::into_inner) {
            Backend::Sled(rows) => rows.get(key),
            Backend::Memory { rows, .. } => rows.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], from: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, RowsError> {
        match &*self.rows.read().unwrap_or_else(PoisonError::into_inner) {
            Backend::Sled(rows) => rows.scan(prefix, from, limit),
            Backend::Memory { rows, .. } => rows.scan(prefix, from, limit),
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
