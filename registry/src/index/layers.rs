//! Rows in sled with the latest changes in front of it, in memory. A change costs sled some system calls
//! and wakes its threads; thousands of changes at a time cost little more. So a commit only adds to
//! the young changes; once there are enough of them they become the old ones, which one thread writes
//! to sled while new young ones come together.
//!
//! ```text
//! commit ──▶ young ──(full)──▶ old ──(a thread)──────────▶ sled
//! read   ──▶ young,     then   old,           then            sled
//! ```
//!
//! Nothing depends on when sled gets what: the row about the rows is written last, and the next
//! start replays from the journal what came after it.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::sled_rows::SledRows;
use crate::journal::Lsn;
use crate::state::{Changes, Layer, Rows, RowsError, Write};

/// So many changes are written to sled at a time: the more come together, the more of them share a block.
/// But the next start has to read them from the journal. Tests want to see them written.
const FULL: usize = if cfg!(test) { 16 } else { 8 << 10 };
/// The same in bytes of keys and values.
const FULL_BYTES: usize = 1 << 20;
/// So many times as much may come together while sled is slow; then whoever commits waits for it.
const PATIENCE: usize = 4;

/// Sled below, changes above.
pub(super) struct Layers {
    below: Arc<SledRows>,
    old: Arc<Changes>,
    young: Changes,
    /// How many changes came since the young ones began, also of the same row: the journal must not
    /// run away from sled.
    count: usize,
    bytes: usize,
    applied: Lsn,
}

/// Changes that are to be written to sled.
pub(super) struct Outgoing {
    below: Arc<SledRows>,
    changes: Arc<Changes>,
    until: Lsn,
}

impl Outgoing {
    /// Writes them.
    pub(super) fn write(&self, journal: u64) -> Result<(), RowsError> {
        self.below.apply(&self.changes, journal, self.until)
    }
}

impl Layers {
    pub(super) fn new(below: SledRows) -> Self {
        let applied = below.applied();
        Self { below: Arc::new(below), old: Arc::default(), young: Changes::new(), count: 0, bytes: 0, applied }
    }

    pub(super) fn apply(&mut self, writes: Vec<Write>, lsn: Lsn) {
        self.count += writes.len();
        for Write { key, value } in writes {
            self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            self.young.insert(key, value);
        }
        self.applied = lsn;
    }

    /// Whether it is time to write out.
    pub(super) fn is_full(&self) -> bool {
        self.count >= FULL || self.bytes >= FULL_BYTES
    }

    /// Whether it cannot wait any more.
    pub(super) fn is_overfull(&self) -> bool {
        self.count >= PATIENCE * FULL || self.bytes >= PATIENCE * FULL_BYTES
    }

    /// Takes the young changes to be written. What was taken before must be written by now.
    pub(super) fn age(&mut self) -> Outgoing {
        self.old = Arc::new(std::mem::take(&mut self.young));
        (self.count, self.bytes) = (0, 0);
        Outgoing { below: self.below.clone(), changes: self.old.clone(), until: self.applied }
    }

    /// Opens sled anew if that makes the next start quicker. Nothing may be on its way to it.
    pub(super) fn tidy(&mut self, path: &Path) -> Result<(), RowsError> {
        Arc::get_mut(&mut self.below).map_or(Ok(()), |below| below.tidy(path))
    }

    /// The last record whose changes are here.
    pub(super) fn applied(&self) -> Lsn {
        self.applied
    }

    pub(super) fn below(&self) -> &SledRows {
        &self.below
    }
}

impl Rows for Layers {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        match self.young.get(key).or_else(|| self.old.get(key)) {
            Some(change) => Ok(change.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], from: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, RowsError> {
        let old = Layer { below: &*self.below, changes: &self.old };
        Layer { below: &old, changes: &self.young }.scan(prefix, from, limit)
    }
}
