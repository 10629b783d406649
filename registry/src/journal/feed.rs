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
