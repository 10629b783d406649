//! Snapshots: all rows of the metadata in one file, so that old journal segments can be dropped.
//! Which rows there are and what they mean is not known here.
//!
//! A snapshot is written aside, made durable, renamed and its name made durable; so a file called
//! `<lsn>.snap` is whole, unless the disk damaged it later, which its checksums show.
//!
//! ```text
//! ├ LTRSNAP\1 ┼ journal id ┼ lsn ┼ frames of rows (key length, value length, key, value) … ┼ end frame ┤
//! ```
//!
//! A snapshot may be *fuzzy*: rows are read while newer records arrive. That is sound because rows
//! are absolute values: replaying every record after `lsn` over it gives each row its last value.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::frame::{Frame, HEADER, PAYLOAD_LIMIT, word};
use super::segment::{number, sync_dir};
use super::{JournalError, Lsn};

const MAGIC: &[u8; 8] = b"LTRSNAP\x01";
const EXTENSION: &str = "snap";
/// Rows are gathered into frames of about this size, in bytes.
const CHUNK: usize = 256 << 10;
/// The frame that ends a snapshot carries this number.
const END: Lsn = Lsn(u64::MAX);

/// A snapshot by its name.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    path: PathBuf,
    pub(crate) lsn: Lsn,
}

impl Snapshot {
    /// How many bytes it has.
    pub(crate) fn size(&self) -> Result<u64, JournalError> {
        std::fs::metadata(&self.path).map(|found| found.len()).map_err(JournalError::io("look at", &self.path))
    }
}

/// The snapshots in a directory, newest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<Snapshot>, JournalError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(JournalError::io("list", dir))? {
        let path = entry.map_err(JournalError::io("list", dir))?.path();
        if let Some(lsn) = number(&path, EXTENSION) {
            found.push(Snapshot { path, lsn });
        }
    }
    found.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.lsn));
    Ok(found)
}

/// Writes a snapshot of `rows`, which hold at least every record up to `lsn`.
pub(crate) fn write<E: From<JournalError>>(
    dir: &Path,
    id: u64,
    lsn: Lsn,
    rows: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), E>>,
) -> Result<(), E> {
    let aside = dir.join("next.tmp");
    let path = dir.join(format!("{:020}.{EXTENSION}", lsn.0));
    let file = File::create(&aside).map_err(JournalError::io("create", &aside))?;
    let mut writer = Writer { out: BufWriter::new(file), path: &aside, chunk: Vec::new(), frames: 0, rows: 0 };
    writer.raw(MAGIC)?;
    writer.raw(&id.to_le_bytes())?;
    writer.raw(&lsn.0.to_le_bytes())?;
    for row in rows {
        let (key, value) = row?;
        writer.row(&key, &value)?;
    }
    writer.end()?;
    std::fs::rename(&aside, &path).map_err(JournalError::io("rename", &aside))?;
    Ok(sync_dir(dir)?)
}

struct Writer<'a> {
    out: BufWriter<File>,
    path: &'a Path,
    chunk: Vec<u8>,
    frames: u64,
    rows: u64,
}

impl Writer<'_> {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        self.out.write_all(bytes).map_err(JournalError::io("write", self.path))
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), JournalError> {
        for length in [key.len(), value.len()] {
            let length = u32::try_from(length).map_err(|_| JournalError::TooLarge { size: length })?;
            self.chunk.extend_from_slice(&length.to_le_bytes());
        }
        self.chunk.extend_from_slice(key);
        self.chunk.extend_from_slice(value);
        self.rows += 1;
        if self.chunk.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), JournalError> {
        if self.chunk.len() > PAYLOAD_LIMIT {
            return Err(JournalError::TooLarge { size: self.chunk.len() });
        }
        let mut bytes = Vec::with_capacity(HEADER + self.chunk.len());
        Frame { lsn: Lsn(self.frames), synced: Lsn(0), payload: &self.chunk }.write(&mut bytes);
        self.frames += 1;
        self.chunk.clear();
        self.raw(&bytes)
    }

    fn end(mut self) -> Result<(), JournalError> {
        self.flush()?;
        let mut bytes = Vec::new();
        Frame { lsn: END, synced: Lsn(self.rows), payload: &[] }.write(&mut bytes);
        self.raw(&bytes)?;
        let file = self.out.into_inner().map_err(|error| error.into_error());
        let file = file.map_err(JournalError::io("write", self.path))?;
        file.sync_all().map_err(JournalError::io("sync", self.path))
    }
}

/// Reads a snapshot of journal `id`, row by row. An error may come after rows were handed out.
pub(crate) fn read<E: From<JournalError>>(
    snapshot: &Snapshot,
    id: u64,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let path = &snapshot.path;
    let file = File::open(path).map_err(JournalError::io("open", path))?;
    let mut input = Reader { input: BufReader::new(file), path, at: 0 };
    let header: [u8; 24] = input.take()?;
    let of_this_journal = header.starts_with(MAGIC)
        && word(&header, 8) == Some(id.to_le_bytes())
        && word(&header, 16) == Some(snapshot.lsn.0.to_le_bytes());
    if !of_this_journal {
        return Err(input.damaged().into());
    }
    let mut rows = 0;
    for expected in 0.. {
        let bytes = input.frame()?;
        let frame = Frame::read(&bytes).ok_or_else(|| input.damaged())?;
        if frame.lsn == END && frame.synced == Lsn(rows) {
            break;
        }
        if frame.lsn != Lsn(expected) {
            return Err(input.damaged().into());
        }
        let mut rest = frame.payload;
        while !rest.is_empty() {
            let (key, value, behind) = split_row(rest).ok_or_else(|| input.damaged())?;
            each(key, value)?;
            rows += 1;
            rest = behind;
        }
    }
    Ok(())
}

fn split_row(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let key = u32::from_le_bytes(word(bytes, 0)?) as usize;
    let value = u32::from_le_bytes(word(bytes, 4)?) as usize;
    let (key, rest) = bytes.get(8..)?.split_at_checked(key)?;
    let (value, rest) = rest.split_at_checked(value)?;
    Some((key, value, rest))
}

struct Reader<'a> {
    input: BufReader<File>,
    path: &'a Path,
    at: u64,
}

impl Reader<'_> {
    fn damaged(&self) -> JournalError {
        JournalError::Damaged { path: self.path.to_owned(), offset: self.at }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), JournalError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.damaged(),
            _ => JournalError::io("read", self.path)(error),
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], JournalError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// One whole frame, header included, not yet checked.
    fn frame(&mut self) -> Result<Vec<u8>, JournalError> {
        let mut bytes = vec![0; HEADER];
        self.fill(&mut bytes)?;
        let length = word(&bytes, 0).map_or(usize::MAX, |word| u32::from_le_bytes(word) as usize);
        if length > PAYLOAD_LIMIT {
            return Err(self.damaged());
        }
        bytes.resize(HEADER + length, 0);
        self.fill(&mut bytes[HEADER..])?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

/// Removes snapshots beyond the newest two, and says up to which record the journal may forget:
/// the older of the two, so that one damaged snapshot never loses anything.
pub(crate) fn prune(dir: &Path) -> Result<Option<Lsn>, JournalError> {
    let found = list(dir)?;
    for old in found.iter().skip(2) {
        std::fs::remove_file(&old.path).map_err(JournalError::io("remove", &old.path))?;
    }
    Ok(found.get(1).map(|snapshot| snapshot.lsn))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    fn sample() -> Rows {
        (0..3000u32).map(|number| (number.to_be_bytes().to_vec(), vec![7; number as usize % 300])).collect()
    }

    fn load(snapshot: &Snapshot, id: u64) -> Result<Rows, JournalError> {
        let mut rows = Vec::new();
        read(snapshot, id, |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok::<(), JournalError>(())
        })?;
        Ok(rows)
    }

    #[test]
    fn rows_come_back_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 9, Lsn(12), sample().into_iter().map(Ok::<_, JournalError>)).unwrap();
        let found = list(dir.path()).unwrap();
        assert_eq!((found.len(), found[0].lsn), (1, Lsn(12)));
        assert_eq!(load(&found[0], 9).unwrap(), sample());
        assert!(load(&found[0], 8).is_err(), "another journal's snapshot is not ours");
    }

    #[test]
    fn a_cut_or_changed_snapshot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 9, Lsn(1), sample().into_iter().take(40).map(Ok::<_, JournalError>)).unwrap();
        let snapshot = list(dir.path()).unwrap().remove(0);
        let whole = std::fs::read(&snapshot.path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&snapshot.path, &whole[..cut]).unwrap();
            assert!(load(&snapshot, 9).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&snapshot.path, &bytes).unwrap();
            assert!(load(&snapshot, 9).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn two_snapshots_are_kept_and_the_older_bounds_what_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        for lsn in [3, 5, 9] {
            write(dir.path(), 9, Lsn(lsn), std::iter::empty::<Result<_, JournalError>>()).unwrap();
        }
        assert_eq!(prune(dir.path()).unwrap(), Some(Lsn(5)));
        assert_eq!(list(dir.path()).unwrap().len(), 2);
    }
}
