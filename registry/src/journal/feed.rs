//! Reading the journal beside its writer. What is asked for is committed already, so nothing here looks
//! at the end that grows.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::frame::{Frame, HEADER, PAYLOAD_LIMIT, word};
use super::{JournalError, Lsn, segment};

/// Where a reader of the journal is, so that it goes on there instead of looking for its place.
#[derive(Debug, Default)]
pub(crate) struct Cursor(Option<Place>);

#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Where the record `next` begins, or will begin.
    offset: u64,
    next: Lsn,
}

impl Cursor {
    /// Up to `limit` records after `after` and up to `until`, in order. Fewer come where a segment ends.
    pub(crate) fn read_between(
        &mut self,
        dir: &Path,
        after: Lsn,
        until: Lsn,
        limit: usize,
    ) -> Result<Vec<(Lsn, Vec<u8>)>, JournalError> {
        let mut found = Vec::new();
        if until <= after {
            return Ok(found);
        }
        let place = self.0.take().filter(|place| place.next == after.next());
        let mut place = match place {
            Some(place) => place,
            None => find(dir, after)?,
        };
        while found.is_empty() {
            place.read(until, &mut |lsn, payload| {
                if lsn > after {
                    found.push((lsn, payload));
                }
                found.len() < limit
            })?;
            if found.is_empty() {
                // Nothing was left in this segment, so the next one begins with what is missing.
                place = place.follow(dir)?;
            }
        }
        self.0 = Some(place);
        Ok(found)
    }
}

/// The segment that holds the record behind `after`, from its start.
fn find(dir: &Path, after: Lsn) -> Result<Place, JournalError> {
    let segments = segment::list(dir)?;
    let missing = || JournalError::Gap { missing: after.next().0, path: dir.to_owned() };
    let file = segments.into_iter().rev().find(|segment| segment.first <= after.next()).ok_or_else(missing)?;
    if !segment::has_header(&file)? {
        return Err(JournalError::Damaged { path: file.path, offset: 0 });
    }
    Ok(Place { path: file.path, offset: segment::offset(0), next: file.first })
}

impl Place {
    /// Hands out committed records until there are no more in this segment, or no more are wanted.
    fn read(&mut self, until: Lsn, each: &mut dyn FnMut(Lsn, Vec<u8>) -> bool) -> Result<(), JournalError> {
        let file = File::open(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => JournalError::Gap { missing: self.next.0, path: self.path.clone() },
            _ => JournalError::io("open", &self.path)(error),
        })?;
        let mut input = BufReader::with_capacity(READ, file);
        input.seek(SeekFrom::Start(self.offset)).map_err(JournalError::io("read", &self.path))?;
        while self.next <= until {
            let Some(bytes) = read_frame(&mut input).map_err(JournalError::io("read", &self.path))? else { break };
            let frame = Frame::read(&bytes).filter(|frame| frame.lsn == self.next);
            let Some(frame) = frame else {
                return Err(JournalError::Damaged { path: self.path.clone(), offset: self.offset });
            };
            self.offset += bytes.len() as u64;
            self.next = frame.lsn.next();
            if !each(frame.lsn, frame.payload.to_vec()) {
                break;
            }
        }
        Ok(())
    }

    fn follow(self, dir: &Path) -> Result<Self, JournalError> {
        let next = segment::list(dir)?.into_iter().find(|segment| segment.first == self.next);
        match next {
            Some(next) if segment::has_header(&next)? => {
                Ok(Self { path: next.path, offset: segment::offset(0), next: self.next })
            }
            // Its record is committed, so it must be somewhere.
            _ => Err(JournalError::Damaged { path: self.path, offset: self.offset }),
        }
    }
}

/// Segments are read in pieces of this size, in bytes.
const READ: usize = 64 << 10;

/// The bytes of the next frame, not yet checked; `None` where the segment ends.
fn read_frame(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; HEADER];
    let filled = |read: io::Result<()>| match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    };
    if !filled(input.read_exact(&mut bytes))? {
        return Ok(None);
    }
    let length = word(&bytes, 0).map_or(usize::MAX, |word| u32::from_le_bytes(word) as usize);
    if length <= PAYLOAD_LIMIT {
        bytes.resize(HEADER + length, 0);
        if !filled(input.read_exact(&mut bytes[HEADER..]))? {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// The first record that is still there.
pub(crate) fn oldest(dir: &Path) -> Result<Lsn, JournalError> {
    Ok(segment::list(dir)?.first().map_or(Lsn(1), |segment| segment.first))
}

/// How many bytes the segments have that hold nothing after `lsn`.
pub(crate) fn size_until(dir: &Path, lsn: Lsn) -> Result<u64, JournalError> {
    let segments = segment::list(dir)?;
    let whole = segments.windows(2).filter(|pair| pair[1].first <= lsn.next());
    // A segment that is gone meanwhile takes no room.
    Ok(whole.map(|pair| std::fs::metadata(&pair[0].path).map_or(0, |metadata| metadata.len())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, Purpose, forget_until};

    fn numbers(records: &[(Lsn, Vec<u8>)]) -> Vec<u64> {
        records.iter().map(|(lsn, _)| lsn.0).collect()
    }

    #[test]
    fn records_are_read_across_segments_up_to_where_they_are_committed() {
        let dir = tempfile::tempdir().unwrap();
        Journal::start(dir.path(), 7).unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        for _ in 0..5 {
            journal.append(&[vec![1; 3 << 19]], Purpose::Ordinary).unwrap(); // three fit into a segment
        }
        let read =
            |after, until, limit| Cursor::default().read_between(dir.path(), Lsn(after), Lsn(until), limit).unwrap();
        assert_eq!(numbers(&read(0, 5, 10)), [1, 2, 3], "a segment at a time");
        assert_eq!(numbers(&read(0, 2, 10)), [1, 2]);
        assert_eq!(numbers(&read(1, 5, 1)), [2]);
        assert_eq!(numbers(&read(3, 5, 10)), [4, 5]);
        assert_eq!(numbers(&read(5, 5, 10)), Vec::<u64>::new());
        assert_eq!(oldest(dir.path()).unwrap(), Lsn(1));
        assert!(size_until(dir.path(), Lsn(3)).unwrap() > 9 << 19);
        assert_eq!(size_until(dir.path(), Lsn(2)).unwrap(), 0);
        assert!(journal.size_after(Lsn(0)).unwrap() > 15 << 19);
        assert!((6 << 19..9 << 19).contains(&journal.size_after(Lsn(3)).unwrap()));
        journal.sync().unwrap();
        forget_until(dir.path(), Lsn(3)).unwrap();
        assert_eq!(oldest(dir.path()).unwrap(), Lsn(4));
        let gone = Cursor::default().read_between(dir.path(), Lsn(1), Lsn(5), 10).unwrap_err();
        assert!(matches!(gone, JournalError::Gap { missing: 2, .. }), "{gone}");
    }

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        Journal::start(dir.path(), 7).unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let mut cursor = Cursor::default();
        let mut seen = Vec::new();
        for round in 1..=5u64 {
            journal.append(&[vec![1; 3 << 19], vec![2; 9]], Purpose::Ordinary).unwrap();
            while (seen.len() as u64) < 2 * round {
                let after = Lsn(seen.len() as u64);
                let read = cursor.read_between(dir.path(), after, journal.last(), 1).unwrap();
                assert_eq!(read.len(), 1);
                seen.extend(numbers(&read));
            }
            let place = cursor.0.as_ref().expect("it knows its place");
            assert_eq!((place.next, place.offset > 28), (journal.last().next(), true));
            assert!(cursor.read_between(dir.path(), journal.last(), journal.last(), 9).unwrap().is_empty());
        }
        assert_eq!(seen, (1..=10).collect::<Vec<_>>());
        assert!(segment::list(dir.path()).unwrap().len() > 1, "it went from one segment to the next");
        // Elsewhere, and where something is wrong.
        assert_eq!(numbers(&cursor.read_between(dir.path(), Lsn(2), Lsn(4), 9).unwrap()), [3, 4]);
        let path = segment::list(dir.path()).unwrap()[0].path.clone();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"noise", 28 + 24).unwrap();
        let damaged = cursor.read_between(dir.path(), Lsn(0), Lsn(4), 9).unwrap_err();
        assert!(matches!(damaged, JournalError::Damaged { offset: 28, .. }), "{damaged}");
    }
}
