//! The index: rows of metadata, ordered, for fast reads. The only module that knows sled.
//!
//! ```text
//! index.sled/    rows, and up to which journal record they go
//! index.state    `clean`, or the boot during which the index was last written
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

mod build;
mod hot;
mod sled_rows;

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crate::journal::{Journal, JournalError, Lsn};
use crate::state::{InvalidRecord, MemoryRows, Rows, RowsError, Write};
use hot::Hot;
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
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
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
    rows: RwLock<Backend>,
    hot: Hot,
}

enum Backend {
    Sled(SledRows),
    Memory { rows: MemoryRows, applied: Lsn },
}

impl Index {
    /// Opens the index as of the journal's last record, making it again where it cannot be trusted.
    pub(crate) fn open(places: Places, journal: &Journal) -> Result<Self, IndexError> {
        let trusted =
            if build::written_safely(&places.state) { SledRows::trusted(&places.sled, journal)? } else { None };
        let rows = match trusted {
            Some(rows) => rows,
            None => build::rebuild(&places, journal)?,
        };
        build::replay(journal, rows.applied(), |writes, lsn| rows.apply(writes, journal.id(), lsn))?;
        build::mark_open(&places.state)?;
        Ok(Self { places, rows: RwLock::new(Backend::Sled(rows)), hot: Hot::default() })
    }

    /// Applies changes that are durable in the journal up to `lsn`.
    pub(crate) fn apply(&self, writes: Vec<Write>, journal: &Journal, lsn: Lsn) -> Result<(), IndexError> {
        let touched = Hot::touched(&writes);
        let applied = self.apply_to_rows(writes, journal, lsn);
        self.hot.forget(&touched);
        applied
    }

    fn apply_to_rows(&self, writes: Vec<Write>, journal: &Journal, lsn: Lsn) -> Result<(), IndexError> {
        {
            let backend = self.rows.read().unwrap_or_else(PoisonError::into_inner);
            if let Backend::Sled(rows) = &*backend {
                match rows.apply(writes, journal.id(), lsn) {
                    Ok(()) => return Ok(()),
                    Err(error) => tracing::error!(%error, "the index failed"),
                }
                drop(backend);
                return self.move_to_memory(journal);
            }
        }
        let mut backend = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if let Backend::Memory { rows, applied } = &mut *backend {
            build::apply_to_memory(rows, writes);
            *applied = lsn;
        }
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
            Backend::Sled(rows) => rows.applied(),
            Backend::Memory { applied, .. } => *applied,
        }
    }

    /// All rows, in pages: what a snapshot holds.
    pub(crate) fn dump(&self) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), RowsError>> + '_ {
        build::pages(self)
    }

    /// Closes the index so that the next start can trust it.
    pub(crate) fn close(&self) -> Result<(), IndexError> {
        let backend = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        if let Backend::Sled(rows) = &*backend {
            rows.flush(&self.places.sled)?;
            build::mark_clean(&self.places.state)?;
        }
        Ok(())
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
