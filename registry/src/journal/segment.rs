//! Segment files: a header and frames. Knows names, headers and durability of the files; what the
//! frames mean is not known here.
//!
//! ```text
//! 0           8         16           24       28
//! ├ LTRWAL\0\1┼ id      ┼ first lsn  ┼ crc32  ┼ frames … ┤
//! ```

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::frame::{self, Frame, Tail, word};
use super::{JournalError, Lsn};

/// First bytes of every segment; the last one is the version of the format.
const MAGIC: &[u8; 8] = b"LTRWAL\0\x01";
const HEADER: usize = 28;
const EXTENSION: &str = "wal";

/// A segment by its name.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first: Lsn,
}

/// A segment in memory, its header checked.
pub(super) struct Contents {
    bytes: Vec<u8>,
    id: u64,
    first: Lsn,
}

impl Contents {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn walk<'a>(&'a self, each: impl FnMut(Frame<'a>)) -> Tail {
        frame::walk(&self.bytes[HEADER..], self.first, each)
    }
}

/// The segments of a journal, oldest first. Files with other names are not ours and left alone.
pub(super) fn list(dir: &Path) -> Result<Vec<Segment>, JournalError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(JournalError::io("list", dir))? {
        let path = entry.map_err(JournalError::io("list", dir))?.path();
        if let Some(first) = number(&path, EXTENSION) {
            found.push(Segment { path, first });
        }
    }
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// The number in a file's name, if the name is `<20 digits>.<extension>`.
pub(super) fn number(path: &Path, extension: &str) -> Option<Lsn> {
    let digits = path.file_name()?.to_str()?.strip_suffix(extension)?.strip_suffix('.')?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Lsn)).flatten()
}

/// Reads a segment; `None` if its header is not whole.
pub(super) fn read(segment: &Segment) -> Result<Option<Contents>, JournalError> {
    let bytes = std::fs::read(&segment.path).map_err(JournalError::io("read", &segment.path))?;
    let id = header(&bytes, segment);
    Ok(id.map(|id| Contents { bytes, id, first: segment.first }))
}

/// Whether the header of a segment is whole, which says nothing about the rest.
pub(super) fn has_header(segment: &Segment) -> Result<bool, JournalError> {
    let file = File::open(&segment.path).map_err(JournalError::io("open", &segment.path))?;
    let mut bytes = Vec::with_capacity(HEADER);
    file.take(HEADER as u64).read_to_end(&mut bytes).map_err(JournalError::io("read", &segment.path))?;
    Ok(header(&bytes, segment).is_some())
}

/// Whether a segment was created and never got its header, so that no record can ever have been in it.
pub(super) fn is_unborn(segment: &Segment) -> Result<bool, JournalError> {
    let length = std::fs::metadata(&segment.path).map_err(JournalError::io("look at", &segment.path))?.len();
    Ok(length <= HEADER as u64 && !has_header(segment)?)
}

/// The identity of the journal in a whole header that belongs to this segment.
fn header(bytes: &[u8], segment: &Segment) -> Option<u64> {
    let crc = u32::from_le_bytes(word(bytes, 24)?);
    let id = u64::from_le_bytes(word(bytes, 8)?);
    let first = Lsn(u64::from_le_bytes(word(bytes, 16)?));
    let whole = bytes.starts_with(MAGIC) && crc32fast::hash(&bytes[..24]) == crc && first == segment.first;
    whole.then_some(id)
}

/// Creates a segment: its header and its name are durable when this returns.
pub(super) fn create(dir: &Path, id: u64, first: Lsn) -> Result<(PathBuf, File, u64), JournalError> {
    let path = dir.join(format!("{:020}.{EXTENSION}", first.0));
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&id.to_le_bytes());
    header.extend_from_slice(&first.0.to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    // No `create_new`: a rotation that failed half-way (disk full) leaves an empty file behind.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o640).open(&path);
    let file = file.map_err(JournalError::io("create", &path))?;
    file.write_all_at(&header, 0).map_err(JournalError::io("write", &path))?;
    file.sync_all().map_err(JournalError::io("sync", &path))?;
    sync_dir(dir)?;
    Ok((path, file, HEADER as u64))
}

/// Opens an existing segment for appending.
pub(super) fn reopen(path: &Path) -> Result<File, JournalError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(JournalError::io("open", path))
}

/// Cuts a torn tail off behind `at` bytes of frames and says how long the file is now.
pub(super) fn cut(path: &Path, at: usize) -> Result<u64, JournalError> {
    let length = offset(at);
    let file = reopen(path)?;
    file.set_len(length).map_err(JournalError::io("truncate", path))?;
    file.sync_all().map_err(JournalError::io("sync", path))?;
    tracing::warn!(path = %path.display(), length, "cut a torn, unacknowledged tail off the journal");
    Ok(length)
}

/// The offset in the file of an offset among the frames.
pub(super) fn offset(at: usize) -> u64 {
    (HEADER + at) as u64
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    let handle = File::open(dir).map_err(JournalError::io("open", dir))?;
    handle.sync_all().map_err(JournalError::io("sync", dir))
}
