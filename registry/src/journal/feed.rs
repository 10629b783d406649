//! Reading the journal beside its writer. What is asked for is committed already, so nothing here looks
//! at the end that grows.

use std::path::Path;

use super::{JournalError, Lsn, segment};

/// Up to `limit` records after `after` and up to `until`, in order. Fewer come where a segment ends.
pub(crate) fn read_between(
    dir: &Path,
    after: Lsn,
    until: Lsn,
    limit: usize,
) -> Result<Vec<(Lsn, Vec<u8>)>, JournalError> {
    let segments = segment::list(dir)?;
    let missing = || JournalError::Gap { missing: after.next().0, path: dir.to_owned() };
    let file = segments.iter().rev().find(|segment| segment.first <= after.next()).ok_or_else(missing)?;
    let read = segment::read(file)?.ok_or_else(|| JournalError::Damaged { path: file.path.clone(), offset: 0 })?;
    let mut found = Vec::new();
    // How the segment ends does not matter: the writer may be in the middle of a record.
    let _ = read.walk(|frame| {
        if frame.lsn > after && frame.lsn <= until && found.len() < limit {
            found.push((frame.lsn, frame.payload.to_vec()));
        }
    });
    match found.first() {
        Some((first, _)) if *first != after.next() => Err(missing()),
        _ => Ok(found),
    }
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
            journal.append(&[vec![1; 6 << 20]], Purpose::Ordinary).unwrap(); // three fit into a segment
        }
        let read = |after, until, limit| read_between(dir.path(), Lsn(after), Lsn(until), limit).unwrap();
        assert_eq!(numbers(&read(0, 5, 10)), [1, 2, 3], "a segment at a time");
        assert_eq!(numbers(&read(0, 2, 10)), [1, 2]);
        assert_eq!(numbers(&read(1, 5, 1)), [2]);
        assert_eq!(numbers(&read(3, 5, 10)), [4, 5]);
        assert_eq!(numbers(&read(5, 5, 10)), Vec::<u64>::new());
        assert_eq!(oldest(dir.path()).unwrap(), Lsn(1));
        assert!(size_until(dir.path(), Lsn(3)).unwrap() > 18 << 20);
        assert_eq!(size_until(dir.path(), Lsn(2)).unwrap(), 0);
        journal.sync().unwrap();
        forget_until(dir.path(), Lsn(3)).unwrap();
        assert_eq!(oldest(dir.path()).unwrap(), Lsn(4));
        let gone = read_between(dir.path(), Lsn(1), Lsn(5), 10).unwrap_err();
        assert!(matches!(gone, JournalError::Gap { missing: 2, .. }), "{gone}");
    }
}
