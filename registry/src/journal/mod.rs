//! The journal: the truth about all metadata, as an append-only list of records. What a record
//! means is not known here; see `state`. That it is durable is.
//!
//! ```text
//! journal/00000000000000000001.wal    segments, named by their first record; the last one grows
//! journal/00000000000000004711.wal
//! snapshot/00000000000000004710.snap  all rows as of that record; older segments are dropped
//! ```
//!
//! The rules that make it the truth:
//!
//! * a record counts once `fdatasync` returned after it, and not before;
//! * a failed `fdatasync` is final: the kernel may have dropped the pages, so trying again would
//!   report a success that never happened. The journal is then closed for writing until restart;
//! * a full disk is not final: the half-written record is cut off again and the next one may fit;
//! * room for some thousand more records is always taken from the disk in advance. Only records that
//!   make room may use it, so deleting and collecting go on when the disk is full;
//! * a torn tail is cut off at start, damage to acknowledged records is an error (`frame`).

mod feed;
mod frame;
mod segment;
pub(crate) mod snapshot;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) use feed::{Cursor, oldest, size_until};
use frame::Frame;
pub(crate) use frame::PAYLOAD_LIMIT;
use rustix::fs::{FallocateFlags, fallocate};

/// A segment is closed once it is this long, in bytes; small enough to be read into memory. Each start reads
/// the last one and checks it.
const SEGMENT_LIMIT: u64 = 4 << 20;
/// Room behind the last record that only records which make room may use, in bytes.
const RESERVE: u64 = 1 << 20;
/// Room is taken from the disk in pieces of this size, in bytes.
const RESERVE_STEP: u64 = 128 << 10;

/// What records are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Anything.
    Ordinary,
    /// They take things away: on a full disk they may use the reserve.
    MakeRoom,
}

/// Log sequence number: the place of a record in the journal. The first record is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    /// The number after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number before this one; nothing lies before 0.
    pub(crate) fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused a file operation.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Acknowledged records cannot be read any more.
    #[error("the journal {} is damaged at byte {offset}: restore it from a backup; nothing was changed", path.display())]
    Damaged {
        /// The damaged segment or snapshot.
        path: PathBuf,
        /// Where the damage starts.
        offset: u64,
    },
    /// A segment is missing, so records would be lost.
    #[error("the journal has no record {missing}: a file is missing from {}", path.display())]
    Gap {
        /// The first record that is nowhere.
        missing: u64,
        /// The directory of the journal.
        path: PathBuf,
    },
    /// A record is larger than any that this journal takes.
    #[error("a record of {size} bytes does not fit into the journal")]
    TooLarge {
        /// The size of the record in bytes.
        size: usize,
    },
    /// An earlier write could not be made durable; only a restart helps.
    #[error("the journal is read-only since a write could not be made durable; check the disk and restart")]
    Closed,
}

impl JournalError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether there is no room left on the disk, which may change without a restart.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// The open journal: one writer, who is the owner of this value.
pub(crate) struct Journal {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    id: u64,
    length: u64,
    /// Up to which byte the disk has room set aside for this segment.
    reserved: u64,
    next: Lsn,
    synced: Lsn,
    closed: bool,
}

impl Journal {
    /// Starts a journal with a random identity where there is none yet, or only the beginning of one: the
    /// power may go while it is started.
    pub(crate) fn start(dir: &Path, id: u64) -> Result<(), JournalError> {
        match &segment::list(dir)?[..] {
            [] => {}
            [only] if only.first == Lsn(1) && segment::is_unborn(only)? => {}
            _ => return Ok(()),
        }
        segment::create(dir, id, Lsn(1)).map(drop)
    }

    /// Opens the journal in `dir`. Cuts off a torn tail.
    pub(crate) fn open(dir: &Path) -> Result<Self, JournalError> {
        let mut segments = segment::list(dir)?;
        let Some(last) = segments.pop() else {
            return Err(JournalError::Gap { missing: 1, path: dir.to_owned() });
        };
        let Some(read) = segment::read(&last)? else {
            if segments.is_empty() {
                return Err(JournalError::Damaged { path: last.path, offset: 0 });
            }
            // Its header never became durable, so no record in it was acknowledged.
            std::fs::remove_file(&last.path).map_err(JournalError::io("remove", &last.path))?;
            return Self::open(dir);
        };
        let mut next = last.first;
        let length = match read.walk(|frame| next = frame.lsn.next()) {
            frame::Tail::Clean => read.length(),
            frame::Tail::Torn { at } => segment::cut(&last.path, at)?,
            frame::Tail::Damaged { at } => {
                return Err(JournalError::Damaged { path: last.path, offset: segment::offset(at) });
            }
        };
        let file = segment::reopen(&last.path)?;
        // What was read back may lie in the page cache only: make it durable before building on it.
        file.sync_data().map_err(JournalError::io("sync", &last.path))?;
        Ok(Self {
            dir: dir.to_owned(),
            path: last.path,
            file,
            id: read.id(),
            length,
            reserved: length,
            next,
            synced: next.previous(),
            closed: false,
        })
    }

    /// The random identity of this journal: an index of another one must not be mistaken for its.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The last record, durable or not; 0 if there is none.
    pub(crate) fn last(&self) -> Lsn {
        self.next.previous()
    }

    /// Writes records in one piece, not yet durable. All of them or none are kept.
    pub(crate) fn append(&mut self, payloads: &[Vec<u8>], purpose: Purpose) -> Result<Lsn, JournalError> {
        if self.closed {
            return Err(JournalError::Closed);
        }
        if let Some(large) = payloads.iter().find(|payload| payload.len() > PAYLOAD_LIMIT) {
            return Err(JournalError::TooLarge { size: large.len() });
        }
        if self.length >= SEGMENT_LIMIT {
            match self.rotate() {
                // The reserve lies in the old segment, which may grow by it.
                Err(error) if error.is_full() && purpose == Purpose::MakeRoom => {}
                rotated => rotated?,
            }
        }
        let mut bytes = Vec::new();
        let mut lsn = self.next;
        for payload in payloads {
            Frame { lsn, synced: self.synced, payload }.write(&mut bytes);
            lsn = lsn.next();
        }
        if purpose == Purpose::Ordinary {
            self.reserve(bytes.len() as u64)?;
        }
        if let Err(source) = self.file.write_all_at(&bytes, self.length) {
            // Take the half-written frames back; if even that fails, nothing may follow them.
            self.closed = self.file.set_len(self.length).is_err();
            return Err(JournalError::Io { action: "write", path: self.path.clone(), source });
        }
        self.length += bytes.len() as u64;
        self.next = lsn;
        Ok(self.last())
    }

    /// Sets room aside so that the reserve is still there after `size` more bytes.
    fn reserve(&mut self, size: u64) -> Result<(), JournalError> {
        let needed = self.length + size + RESERVE;
        if needed <= self.reserved {
            return Ok(());
        }
        let end = needed + RESERVE_STEP;
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, end) {
            Ok(()) => self.reserved = end,
            Err(error @ (rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => {
                return Err(JournalError::io("reserve room for", &self.path)(error.into()));
            }
            // This file system sets nothing aside; its next write says whether there is room.
            Err(error) => {
                tracing::debug!(%error, "no reserve for the journal");
                self.reserved = u64::MAX;
            }
        }
        Ok(())
    }

    /// Makes everything appended so far durable. After an error the journal is closed.
    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        if self.closed {
            return Err(JournalError::Closed);
        }
        if self.synced == self.last() {
            return Ok(());
        }
        if let Err(source) = self.file.sync_data() {
            self.closed = true;
            return Err(JournalError::Io { action: "sync", path: self.path.clone(), source });
        }
        self.synced = self.last();
        Ok(())
    }

    /// Starts the next segment. The old one is durable first, so only a last segment can be torn.
    fn rotate(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        let (path, file, length) = segment::create(&self.dir, self.id, self.next)?;
        (self.path, self.file, self.length, self.reserved) = (path, file, length, length);
        Ok(())
    }

    /// Lets every sync fail from now on, as a broken disk does: this device takes writes and syncs nothing.
    #[cfg(test)]
    pub(crate) fn break_sync(&mut self) {
        self.file = File::options().write(true).open("/dev/null").expect("every machine has it");
    }

    /// Lets every write fail from now on, as a full disk does.
    #[cfg(test)]
    pub(crate) fn fill_disk(&mut self) {
        self.file = File::options().write(true).open("/dev/full").expect("every machine has it");
    }

    /// Hands out every record after `after`, in order.
    pub(crate) fn replay<E: From<JournalError>>(
        &self,
        after: Lsn,
        mut each: impl FnMut(Lsn, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if after >= self.last() {
            return Ok(());
        }
        let segments = segment::list(&self.dir)?;
        let mut next = after.next();
        let follows = |index: usize| segments.get(index + 1).is_some_and(|later| later.first <= next);
        let start = (0..segments.len()).find(|&index| !follows(index)).unwrap_or(0);
        for file in &segments[start..] {
            if file.first > next {
                return Err(JournalError::Gap { missing: next.0, path: self.dir.clone() }.into());
            }
            let read = segment::read(file)?;
            let read = read.ok_or_else(|| JournalError::Damaged { path: file.path.clone(), offset: 0 })?;
            let mut outcome = Ok(());
            let tail = read.walk(|frame| {
                if outcome.is_ok() && frame.lsn >= next {
                    next = frame.lsn.next();
                    outcome = each(frame.lsn, frame.payload);
                }
            });
            outcome?;
            if let frame::Tail::Torn { at } | frame::Tail::Damaged { at } = tail {
                return Err(JournalError::Damaged { path: file.path.clone(), offset: segment::offset(at) }.into());
            }
        }
        if next != self.next {
            return Err(JournalError::Gap { missing: next.0, path: self.dir.clone() }.into());
        }
        Ok(())
    }

    /// The first record that is still there.
    pub(crate) fn oldest(&self) -> Result<Lsn, JournalError> {
        Ok(segment::list(&self.dir)?.first().map_or(self.next, |segment| segment.first))
    }

    /// How many bytes the segments have that hold something after `lsn`.
    pub(crate) fn size_after(&self, lsn: Lsn) -> Result<u64, JournalError> {
        let segments = segment::list(&self.dir)?;
        let ended = segments.windows(2).filter(|pair| pair[1].first > lsn.next());
        // A segment that is gone meanwhile takes no room.
        let ended: u64 = ended.map(|pair| std::fs::metadata(&pair[0].path).map_or(0, |found| found.len())).sum();
        Ok(ended + self.length)
    }

    /// The directory of the segments.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Drops segments of which a durable snapshot at `lsn` holds every record. The segment that grows is
/// never among them, so this may run beside the writer.
pub(crate) fn forget_until(dir: &Path, lsn: Lsn) -> Result<(), JournalError> {
    let segments = segment::list(dir)?;
    for pair in segments.windows(2) {
        if pair[1].first <= lsn.next() {
            std::fs::remove_file(&pair[0].path).map_err(JournalError::io("remove", &pair[0].path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    fn start(dir: &Path) -> Journal {
        Journal::start(dir, 7).expect("start");
        Journal::open(dir).expect("open")
    }

    fn records(journal: &Journal, after: Lsn) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let keep = |_, payload: &[u8]| {
            found.push(payload.to_vec());
            Ok::<(), JournalError>(())
        };
        journal.replay(after, keep).expect("replay");
        found
    }

    #[test]
    fn what_was_appended_comes_back_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = start(dir.path());
        journal.append(&[b"one".to_vec(), b"two".to_vec()], Purpose::Ordinary).unwrap();
        journal.sync().unwrap();
        drop(journal);
        let mut journal = Journal::open(dir.path()).unwrap();
        assert_eq!((journal.id(), journal.last()), (7, Lsn(2)));
        journal.append(&[b"three".to_vec()], Purpose::Ordinary).unwrap();
        assert_eq!(records(&journal, Lsn(0)), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
        assert_eq!(records(&journal, Lsn(2)), [b"three".to_vec()]);
        assert!(records(&journal, Lsn(3)).is_empty());
    }

    #[test]
    fn segments_rotate_and_old_ones_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = start(dir.path());
        for _ in 0..5 {
            journal.append(&[vec![1; 3 << 19]], Purpose::Ordinary).unwrap();
        }
        journal.sync().unwrap();
        assert_eq!(segment::list(dir.path()).unwrap().len(), 2);
        assert_eq!(records(&journal, Lsn(0)).len(), 5);
        assert_eq!(records(&journal, Lsn(3)).len(), 2);
        forget_until(dir.path(), Lsn(4)).unwrap();
        assert_eq!(journal.oldest().unwrap(), Lsn(4));
        let refused = journal.replay(Lsn(1), |_, _| Ok::<(), JournalError>(())).unwrap_err();
        assert!(matches!(refused, JournalError::Gap { missing: 2, .. }), "{refused}");
    }

    #[test]
    fn a_torn_tail_is_cut_at_every_byte_and_writing_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = start(dir.path());
        journal.append(&[b"kept".to_vec()], Purpose::Ordinary).unwrap();
        journal.sync().unwrap();
        let kept = journal.length as usize;
        journal.append(&[b"torn".to_vec()], Purpose::Ordinary).unwrap();
        let whole = std::fs::read(&journal.path).unwrap();
        for cut in kept..whole.len() {
            std::fs::write(&journal.path, &whole[..cut]).unwrap();
            let mut again = Journal::open(dir.path()).unwrap();
            assert_eq!(again.last(), Lsn(1), "cut at {cut}");
            again.append(&[b"new".to_vec()], Purpose::Ordinary).unwrap();
            assert_eq!(records(&again, Lsn(0)), [b"kept".to_vec(), b"new".to_vec()]);
        }
    }

    #[test]
    fn a_segment_whose_header_is_torn_at_any_byte_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = start(dir.path());
        journal.append(&[b"kept".to_vec()], Purpose::Ordinary).unwrap();
        journal.sync().unwrap();
        let (path, _, length) = segment::create(dir.path(), 7, Lsn(2)).unwrap();
        let header = std::fs::read(&path).unwrap();
        for cut in 0..length as usize {
            std::fs::write(&path, &header[..cut]).unwrap();
            let again = Journal::open(dir.path()).unwrap();
            assert_eq!((again.id(), again.last()), (7, Lsn(1)), "cut at {cut}");
        }
    }

    #[test]
    fn damage_to_acknowledged_records_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = start(dir.path());
        for record in [b"one", b"two"] {
            journal.append(&[record.to_vec()], Purpose::Ordinary).unwrap();
            journal.sync().unwrap();
        }
        let path = journal.path.clone();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(3).position(|window| window == b"one").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_failed_write_leaves_no_trace_and_a_journal_that_cannot_be_cut_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = start(dir.path());
        journal.append(&[b"one".to_vec()], Purpose::Ordinary).unwrap();
        // A read-only handle makes both the write and the cut fail.
        journal.file = std::fs::OpenOptions::new().read(true).custom_flags(0).open(&journal.path).unwrap();
        assert!(journal.append(&[b"two".to_vec()], Purpose::Ordinary).is_err());
        assert!(matches!(journal.append(&[b"three".to_vec()], Purpose::Ordinary), Err(JournalError::Closed)));
        assert!(matches!(journal.sync(), Err(JournalError::Closed)));
        assert_eq!(records(&journal, Lsn(0)), [b"one".to_vec()]);
    }
}
