//! The journal as a feed: records that are committed, in order, for those who want to know later. A
//! reader says up to where it has read, and what it has not read is kept for it, up to a limit.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{Store, StoreError, blocking};
pub(crate) use crate::journal::Cursor;
use crate::journal::{self, JournalError, Lsn};
use crate::state::Record;

/// How many bytes of journal are kept for slow readers beyond what the registry itself needs.
const HELD_BYTES: u64 = 1 << 30;

/// Up to where each reader has read.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<HashMap<String, Lsn>>);

impl Readers {
    /// The last record that may be forgotten, of those up to `covered`.
    pub(super) fn may_forget(&self, covered: Lsn) -> Lsn {
        let readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.values().copied().min().map_or(covered, |slowest| slowest.min(covered))
    }
}

/// Records of the journal.
pub(crate) struct Feed {
    pub(crate) records: Vec<(u64, Record)>,
    /// How many records are gone that the reader has not seen.
    pub(crate) lost: u64,
}

impl Store {
    /// The identity of the journal: numbers of records mean nothing in another one.
    pub(crate) fn journal_id(&self) -> u64 {
        self.inner.journal_id
    }

    /// Keeps what a reader has not read: everything after `lsn`.
    pub(crate) fn hold_journal(&self, reader: &str, lsn: u64) {
        let mut readers = self.inner.readers.0.lock().unwrap_or_else(PoisonError::into_inner);
        readers.insert(reader.to_owned(), Lsn(lsn));
    }

    /// Up to about `limit` committed records after `lsn`. Whoever reads on and on keeps the cursor.
    pub(crate) async fn records_after(&self, lsn: u64, limit: usize, cursor: &mut Cursor) -> Result<Feed, StoreError> {
        let (store, until) = (self.clone(), self.inner.index.applied());
        let mut moving = std::mem::take(cursor);
        let (read, moved) = blocking(move || (store.read_journal(lsn, until, limit, &mut moving), moving)).await?;
        *cursor = moved;
        read
    }

    pub(super) fn read_journal(
        &self,
        lsn: u64,
        until: Lsn,
        limit: usize,
        cursor: &mut Cursor,
    ) -> Result<Feed, StoreError> {
        let failed = |error: JournalError| StoreError::Index(Box::new(error));
        let directory = self.inner.data.join(super::layout::JOURNAL);
        let oldest = journal::oldest(&directory).map_err(failed)?;
        let after = Lsn(lsn).max(oldest.previous());
        let read = cursor.read_between(&directory, after, until, limit).map_err(failed)?;
        let decode = |(lsn, bytes): (Lsn, Vec<u8>)| Ok((lsn.0, Record::decode(&bytes)?));
        let records = read.into_iter().map(decode).collect::<Result<_, crate::state::InvalidRecord>>();
        let records = records.map_err(|error| StoreError::Index(Box::new(error)))?;
        Ok(Feed { records, lost: after.0 - lsn })
    }
}

/// The last record that a snapshot lets go of, with slow readers in mind but not for ever.
pub(super) fn forgettable(readers: &Readers, directory: &std::path::Path, covered: Lsn) -> Result<Lsn, JournalError> {
    let wanted = readers.may_forget(covered);
    if wanted < covered && journal::size_until(directory, covered)? > HELD_BYTES {
        tracing::error!("records that a webhook has not delivered are dropped: the journal grew too large");
        return Ok(covered);
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_reader_holds_the_journal() {
        let readers = Readers::default();
        let hold = |name: &str, lsn| readers.0.lock().unwrap().insert(name.to_owned(), Lsn(lsn));
        assert_eq!(readers.may_forget(Lsn(9)), Lsn(9), "nobody reads");
        hold("fast", 20);
        assert_eq!(readers.may_forget(Lsn(9)), Lsn(9));
        hold("slow", 4);
        assert_eq!(readers.may_forget(Lsn(9)), Lsn(4));
        hold("slow", 12);
        assert_eq!(readers.may_forget(Lsn(9)), Lsn(9));
    }
}
