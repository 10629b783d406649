//! Rows in sled. Every call into sled is here.
//!
//! ```text
//! 0            which journal the rows belong to, and up to which record they go
//! 1 bound      a block (`blocks`): all rows from this bound on, up to the bound of the next block
//! ```
//!
//! Everything lies in one tree, so that one batch is atomic without sled's transactions over several
//! trees. Many changes are several batches, of which the last says up to which record the rows go: rows
//! that are newer than that do no harm, since changes are absolute values. But what a block becomes when
//! it is split is always in one batch.
//!
//! Sled notes where its pages lie only when it is opened; until then its next start reads its whole log.
//! So after much was written it is opened anew when it is closed.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sled::IVec;

use super::{IndexError, blocks};
use crate::journal::{Journal, Lsn};
use crate::state::{Changes, Damaged, Rows, RowsError, Write, prefix_end};

/// The key of the row about the rows.
const APPLIED: &[u8] = &[0];
/// What the keys of blocks begin with.
const BLOCK: u8 = 1;
/// The last part of the row about the rows. Another way to lay rows out has another number.
const FORMAT: u8 = 2;
/// Memory for sled's pages, in bytes; it takes some times as much. Hot answers are kept elsewhere, and the
/// system keeps the file.
const CACHE: u64 = 8 << 20;
/// Most bytes in one batch, unless one block needs more: half of sled's buffer.
const BATCH_BYTES: usize = 256 << 10;
/// After so many bytes sled is opened anew when it is closed: it reads hundreds of megabytes in a second.
const TIDY: usize = if cfg!(test) { 4 << 10 } else { 4 << 20 };
/// How long sled may take to write out what it buffers when it is closed. Where one of its threads panicked it
/// waits for ever (others report such waits in spacejam/sled#1308 and #1412); a registry must stop all the same,
/// and can, since the journal has everything.
const CLOSE_TIME: Duration = Duration::from_secs(10);
/// The same for one batch while the registry serves: a disk that is busy is not a reason to give the index up.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// After how long it is asked again, at first.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often it is tried to open sled again, and how long to wait in between.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

pub(super) struct SledRows {
    /// `None` while it is dropped, or if it did not open again.
    db: Option<sled::Db>,
    applied: AtomicU64,
    /// How many bytes it was given since it was opened.
    given: AtomicUsize,
    /// Whether it did not take something. What it holds back then for want of space it waits for, without end
    /// (`Log::reserve_inner` counts a writer that is gone).
    failed: AtomicBool,
}

impl Drop for SledRows {
    fn drop(&mut self) {
        if self.db.is_some() && self.let_go().is_none() {
            tracing::warn!("sled does not close; its files are left to it");
        }
    }
}

/// Does something on a thread of its own and waits for it, but not for ever.
fn bounded<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, done) = mpsc::sync_channel(1);
    aside(send, work)?;
    done.recv_timeout(limit).ok()
}

fn aside<T: Send + 'static>(tell: mpsc::SyncSender<T>, work: impl FnOnce() -> T + Send + 'static) -> Option<()> {
    // Nobody listens any more if it took too long.
    let work = move || drop(tell.send(work()));
    std::thread::Builder::new().name("index-flush".to_owned()).spawn(work).ok().map(drop)
}

/// Has sled write out what it buffers; `None` if that takes too long.
///
/// Where a write fails after a batch, sled does not wake those who wait for it (`Log::exit_reservation`). But it
/// tells whoever asks next, and wakes the others then; so it is asked again, after pauses that double.
fn flush(db: &sled::Db, limit: Duration) -> Option<sled::Result<()>> {
    let (tell, told) = mpsc::sync_channel(1);
    let (begun, mut pause) = (Instant::now(), ASK_AGAIN);
    while begun.elapsed() < limit {
        let db = db.clone();
        aside(tell.clone(), move || db.flush().map(drop))?;
        match told.recv_timeout(pause.min(limit)) {
            Ok(flushed) => return Some(flushed),
            Err(_) => pause *= 2,
        }
    }
    None
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
        // Where it is not wanted it is closed like any other, and not waited for without end.
        let mut rows = Self::of(db);
        let Ok(Some(applied)) = rows.db()?.get(APPLIED) else { return Ok(None) };
        let Some((id, lsn)) = read_applied(&applied) else { return Ok(None) };
        let fits = id == journal.id() && lsn <= journal.last() && lsn.next() >= journal.oldest()?;
        if !fits {
            tracing::warn!(applied = lsn.0, journal = journal.last().0, "the index does not belong to the journal");
            return Ok(None);
        }
        *rows.applied.get_mut() = lsn.0;
        Ok(Some(rows))
    }

    /// Starts with no rows; nothing may be left at `path`.
    pub(super) fn empty(path: &Path) -> Result<Self, RowsError> {
        open(path).map(Self::of)
    }

    fn of(db: sled::Db) -> Self {
        let (applied, given, failed) = Default::default();
        Self { db: Some(db), applied, given, failed }
    }

    /// Applies changes and remembers that the rows go up to `lsn`.
    pub(super) fn apply(&self, changes: &Changes, journal: u64, lsn: Lsn) -> Result<(), RowsError> {
        let mut last = self.write(changes)?;
        last.insert(APPLIED, [&journal.to_le_bytes()[..], &lsn.0.to_le_bytes(), &[FORMAT]].concat());
        self.give(last)?;
        self.applied.store(lsn.0, Ordering::Release);
        Ok(())
    }

    /// Writes rows that are not to be trusted until [`SledRows::apply`] follows.
    pub(super) fn load(&self, writes: Vec<Write>) -> Result<(), RowsError> {
        let changes = writes.into_iter().map(|write| (write.key, write.value)).collect();
        let last = self.write(&changes)?;
        self.give(last)
    }

    /// Gives sled a batch and waits until its file has it.
    ///
    /// More than that must never be on its way. Sled writes with seven threads, each of which takes the lock on
    /// the list of segments at the end. Whoever starts a segment has that lock, and waits for the file to be
    /// shortened first if that is to happen, which is work for the same threads: with seven writes before it in
    /// their queue, which a slow disk and some batches suffice for, all wait for each other for ever, and every
    /// reader for them (`SegmentAccountant::bump_tip`; more threads are meant to be started where all are busy,
    /// but the count of those that are not goes below zero then, which is a large number). One batch is fewer.
    fn give(&self, batch: sled::Batch) -> Result<(), RowsError> {
        let given = self.db()?.apply_batch(batch).map_err(failed).and_then(|()| self.write_out(WRITE_TIME));
        given.inspect_err(|_| self.failed.store(true, Ordering::Relaxed))
    }

    fn write_out(&self, limit: Duration) -> Result<(), RowsError> {
        let flushed = flush(self.db()?, limit);
        flushed.ok_or_else(|| RowsError::Index("sled does not write out what it buffers".into()))?.map_err(failed)
    }

    /// Writes all of some changes but the batch that it returns.
    fn write(&self, changes: &Changes) -> Result<sled::Batch, RowsError> {
        let (mut batch, mut size) = (sled::Batch::default(), 0);
        let mut changes = changes.iter().peekable();
        while let Some(&(first, _)) = changes.peek() {
            let (bound, block) = self.block(first)?;
            let end = self.block_behind(&block_key(first))?.map(|(bound, _)| bound);
            let is_here = |key: &[u8]| end.as_ref().is_none_or(|end| key < &end[1..]);
            let mine = std::iter::from_fn(|| changes.next_if(|(key, _)| is_here(key)));
            let mine = mine.map(|(key, value)| (key.as_slice(), value.as_deref()));
            let mut blocks = blocks::change(&block, mine).map_err(|_| damaged(&bound))?.into_iter();
            match blocks.next() {
                // What the first block begins with may change; where it begins may not.
                Some((_, block)) => {
                    size += block.len();
                    batch.insert(bound, block);
                }
                None => batch.remove(bound),
            }
            for (first, block) in blocks {
                size += block.len();
                batch.insert(block_key(first), block);
            }
            if size >= BATCH_BYTES {
                self.give(std::mem::take(&mut batch))?;
                self.given.fetch_add(std::mem::take(&mut size), Ordering::Relaxed);
            }
        }
        self.given.fetch_add(size, Ordering::Relaxed);
        Ok(batch)
    }

    /// The block where a row lies, if it is there, with its key; an empty one where there is none.
    fn block(&self, row: &[u8]) -> Result<(IVec, IVec), RowsError> {
        let found = self.db()?.range(vec![BLOCK]..=block_key(row)).next_back();
        Ok(found.transpose().map_err(failed)?.unwrap_or_else(|| (IVec::from(&[BLOCK]), IVec::default())))
    }

    /// The next block, by their keys.
    fn block_behind(&self, key: &[u8]) -> Result<Option<(IVec, IVec)>, RowsError> {
        let behind = (Bound::Excluded(key), Bound::Unbounded);
        self.db()?.range::<&[u8], _>(behind).next().transpose().map_err(failed)
    }

    fn db(&self) -> Result<&sled::Db, RowsError> {
        self.db.as_ref().ok_or_else(|| RowsError::Index("sled did not open again".into()))
    }

    /// Closes sled; `None` if it does not close. Its last handle flushes when it goes, and waits for that without
    /// end. There is nothing to wait for where it failed: its rows are made again.
    fn let_go(&mut self) -> Option<()> {
        let db = self.db.take()?;
        if self.failed.load(Ordering::Relaxed) {
            return bounded(ASK_AGAIN, move || drop(db));
        }
        if let Some(Err(error)) = flush(&db, CLOSE_TIME) {
            tracing::debug!(%error, "sled is closed without what it did not write");
        }
        bounded(CLOSE_TIME, move || drop(db))
    }

    /// Opens sled anew if much was written, so that the next start need not read all of that.
    pub(super) fn tidy(&mut self, path: &Path) -> Result<(), RowsError> {
        if self.given.load(Ordering::Relaxed) < TIDY {
            return Ok(());
        }
        self.let_go().ok_or_else(|| RowsError::Index("sled does not close".into()))?;
        // Its threads may hold on to its files for an instant longer, and with them to the lock.
        let mut opened = open(path);
        for _ in 0..ATTEMPTS {
            if opened.is_ok() {
                break;
            }
            std::thread::sleep(PAUSE);
            opened = open(path);
        }
        self.db = Some(opened?);
        self.given.store(0, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn applied(&self) -> Lsn {
        Lsn(self.applied.load(Ordering::Acquire))
    }

    /// Writes everything out, so that it survives the machine.
    pub(super) fn flush(&self, path: &Path) -> Result<(), IndexError> {
        self.write_out(CLOSE_TIME)?;
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

fn block_key(first: &[u8]) -> Vec<u8> {
    [&[BLOCK], first].concat()
}

fn damaged(key: &[u8]) -> RowsError {
    Damaged { key: key.to_vec() }.into()
}

fn read_applied(value: &[u8]) -> Option<(u64, Lsn)> {
    let (id, rest) = value.split_first_chunk::<8>()?;
    let (lsn, format) = rest.split_first_chunk::<8>()?;
    (format == [FORMAT]).then(|| (u64::from_le_bytes(*id), Lsn(u64::from_le_bytes(*lsn))))
}

impl Rows for SledRows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        let (bound, block) = self.block(key)?;
        let value = blocks::find(&block, key).map_err(|_| damaged(&bound))?;
        Ok(value.map(<[u8]>::to_vec))
    }

    /// Blocks may be split meanwhile, so the same row may be met twice; but only one that was not changed,
    /// since changes that are being written are read above.
    fn scan(&self, prefix: &[u8], from: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, RowsError> {
        let (start, start_too) = match from {
            Bound::Included(key) if key > prefix => (key, true),
            Bound::Excluded(key) if key >= prefix => (key, false),
            _ => (prefix, true),
        };
        let end = prefix_end(prefix);
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut next = Some(self.block(start)?);
        while let Some((bound, block)) = next {
            for row in blocks::rows(&block) {
                let (key, value) = row.map_err(|_| damaged(&bound))?;
                if found.len() >= limit || end.as_deref().is_some_and(|end| key >= end) {
                    return Ok(found);
                }
                let is_new = match found.last() {
                    Some((last, _)) => key > last.as_slice(),
                    None => key > start || start_too && key == start,
                };
                if is_new {
                    found.push((key.to_vec(), value.to_vec()));
                }
            }
            next = self.block_behind(&bound)?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::MemoryRows;

    /// Few keys in some tables, so that changes meet; values of which two to a hundred fill a block, and some
    /// that none holds.
    fn changes() -> impl Strategy<Value = Changes> {
        let key = (prop::sample::select(vec!["T", "Ta", "U", "B"]), 0u8..60).prop_map(|(table, number)| {
            let mut key = table.as_bytes().to_vec();
            key.push(number);
            key
        });
        let size = prop_oneof![6 => 0usize..60, 6 => 500usize..3_000, 1 => 7_000usize..300_000];
        let value =
            prop_oneof![3 => (size, any::<u8>()).prop_map(|(size, byte)| Some(vec![byte; size])), 2 => Just(None)];
        prop::collection::btree_map(key, value, 0..80)
    }

    #[test]
    fn nothing_is_on_its_way_to_the_file_after_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let rows = SledRows::empty(&dir.path().join("sled")).unwrap();
        let writes = |from: u32| {
            let write = |n: u32| Write { key: n.to_be_bytes().to_vec(), value: Some(vec![n as u8; 3_000]) };
            (from..from + 300).map(write).collect::<Vec<_>>()
        };
        let left = || rows.db().unwrap().flush().unwrap();
        rows.load(writes(0)).unwrap();
        assert_eq!(left(), 0, "bytes after rows were loaded");
        let changes = writes(100).into_iter().map(|write| (write.key, write.value)).collect();
        rows.apply(&changes, 7, Lsn(1)).unwrap();
        assert_eq!(left(), 0, "bytes after rows were changed");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn rows_in_blocks_read_as_rows(
            rounds in prop::collection::vec(changes(), 1..6),
            from in prop::collection::vec(prop::sample::select(b"TaUB\x00\x1f".to_vec()), 0..3),
            included: bool,
            limit in prop_oneof![0usize..9, Just(usize::MAX)],
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sled");
            let mut rows = SledRows::empty(&path).unwrap();
            let mut wanted = MemoryRows::default();
            for (round, changes) in rounds.iter().enumerate() {
                rows.apply(changes, 7, Lsn(round as u64)).unwrap();
                for (key, value) in changes.clone() {
                    match value {
                        Some(value) => wanted.0.insert(key, value),
                        None => wanted.0.remove(&key),
                    };
                }
                let from = if included { Bound::Included(from.as_slice()) } else { Bound::Excluded(from.as_slice()) };
                for prefix in [&b""[..], b"T", b"Ta", b"B", b"U\x07", b"V"] {
                    prop_assert_eq!(rows.scan(prefix, from, limit).unwrap(), wanted.scan(prefix, from, limit).unwrap());
                }
                for key in changes.keys() {
                    prop_assert_eq!(rows.get(key).unwrap(), wanted.get(key).unwrap());
                }
                rows.tidy(&path).unwrap();
            }
        }
    }
}
