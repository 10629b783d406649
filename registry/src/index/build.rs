//! Making the index from snapshot and journal, and remembering whether the one on disk can be trusted.

use std::ops::Bound;
use std::path::Path;

use content::place::replace_file;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::sled_rows::SledRows;
use super::{IndexError, Places};
use crate::journal::{Journal, Lsn, snapshot};
use crate::state::{Changes, MemoryRows, Record, Rows, RowsError, Write};

/// Rows are written in batches of this many changes.
const BATCH: usize = 2_000;
/// Rows are read in pages of this many; a row holds at most 4 MiB, and usually 2 KiB.
const PAGE: usize = 256;

/// Makes a new index on disk as of some record; the rest is for [`replay`].
pub(super) fn rebuild(places: &Places, journal: &Journal) -> Result<SledRows, IndexError> {
    if journal.last() > Lsn(0) {
        tracing::warn!(records = journal.last().0, "rebuilding the index from snapshot and journal");
    }
    for snapshot in candidates(places, journal)? {
        if places.sled.exists() {
            std::fs::remove_dir_all(&places.sled).map_err(IndexError::io(&places.sled))?;
        }
        let mut rows = SledRows::empty(&places.sled)?;
        match load(&snapshot, journal, |writes| rows.load(writes)) {
            Ok(lsn) => {
                rows.apply(&Changes::new(), journal.id(), lsn)?;
                rows.tidy(&places.sled)?;
                return Ok(rows);
            }
            Err(error) => tracing::error!(%error, "the snapshot cannot be used"),
        }
    }
    Err(IndexError::Lost { oldest: journal.oldest()?.0 })
}

/// Makes all rows in memory, as of the journal's last record.
pub(super) fn in_memory(places: &Places, journal: &Journal) -> Result<MemoryRows, IndexError> {
    for snapshot in candidates(places, journal)? {
        let mut rows = MemoryRows::default();
        let loaded = load(&snapshot, journal, |writes| {
            apply_to_memory(&mut rows, writes);
            Ok(())
        });
        match loaded {
            Ok(lsn) => {
                replay(journal, lsn, |writes, _| {
                    apply_to_memory(&mut rows, writes);
                    Ok(())
                })?;
                return Ok(rows);
            }
            Err(error) => tracing::error!(%error, "the snapshot cannot be used"),
        }
    }
    Err(IndexError::Lost { oldest: journal.oldest()?.0 })
}

/// What to start from, best first. No snapshot at all is good where the journal has everything.
fn candidates(places: &Places, journal: &Journal) -> Result<Vec<Option<snapshot::Snapshot>>, IndexError> {
    let oldest = journal.oldest()?;
    let usable = |snapshot: &snapshot::Snapshot| snapshot.lsn.next() >= oldest && snapshot.lsn <= journal.last();
    let found = snapshot::list(&places.snapshots)?.into_iter().filter(usable).map(Some);
    let from_the_start = (oldest == Lsn(1)).then_some(None);
    Ok(found.chain(from_the_start).collect())
}

fn load(
    snapshot: &Option<snapshot::Snapshot>,
    journal: &Journal,
    mut keep: impl FnMut(Vec<Write>) -> Result<(), RowsError>,
) -> Result<Lsn, IndexError> {
    let Some(snapshot) = snapshot else { return Ok(Lsn(0)) };
    let mut batch = Vec::new();
    snapshot::read(snapshot, journal.id(), |key, value| {
        batch.push(Write { key: key.to_vec(), value: Some(value.to_vec()) });
        if batch.len() >= BATCH { keep(std::mem::take(&mut batch)).map_err(IndexError::from) } else { Ok(()) }
    })?;
    keep(batch)?;
    Ok(snapshot.lsn)
}

/// Hands out the changes of every record after `after`, in batches that end with a whole record.
pub(super) fn replay(
    journal: &Journal,
    after: Lsn,
    mut apply: impl FnMut(Vec<Write>, Lsn) -> Result<(), RowsError>,
) -> Result<(), IndexError> {
    let (mut batch, mut last) = (Vec::new(), after);
    journal.replay(after, |lsn, payload| {
        batch.extend(Record::decode(payload)?.writes());
        last = lsn;
        if batch.len() >= BATCH {
            apply(std::mem::take(&mut batch), lsn)?;
        }
        Ok::<(), IndexError>(())
    })?;
    if !batch.is_empty() || last > after {
        apply(batch, last)?;
    }
    Ok(())
}

pub(super) fn apply_to_memory(rows: &mut MemoryRows, writes: Vec<Write>) {
    for Write { key, value } in writes {
        match value {
            Some(value) => rows.0.insert(key, value),
            None => rows.0.remove(&key),
        };
    }
}

/// Every row, page by page, so that writers are not held up.
pub(super) fn pages<R: Rows>(rows: &R) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), RowsError>> + '_ {
    let mut last: Option<Vec<u8>> = None;
    let mut page = Vec::new().into_iter();
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        if page.len() == 0 {
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            match rows.scan(&[], from, PAGE) {
                Ok(rows) => page = rows.into_iter(),
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            }
        }
        let row: (Vec<u8>, Vec<u8>) = page.next()?;
        last = Some(row.0.clone());
        Some(Ok(row))
    })
}

const CLEAN: &str = "clean";

/// How the last process left what it wrote, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Left {
    /// It was closed properly.
    Clean,
    /// The page cache has everything: neither was the machine started since, nor the file system mounted.
    Cached,
    /// The machine was not started since. But the file system may have been mounted anew, and what it had
    /// not written may be lost if it failed before.
    SameBoot,
    /// Nobody knows what of it reached the disk.
    Unknown,
}

/// How the last process left what it wrote.
pub(super) fn left(state: &Path) -> Left {
    let text = std::fs::read_to_string(state).unwrap_or_default(); // unreadable is as bad as missing
    let boot = |text: &str| text.lines().next().map(str::to_owned).filter(|line| !line.is_empty());
    match mark(state) {
        _ if text == CLEAN => Left::Clean,
        Some(now) if now == text && now.lines().count() == 2 => Left::Cached,
        Some(now) if boot(&now) == boot(&text) => Left::SameBoot,
        _ => Left::Unknown,
    }
}

/// Names the time since this machine started and the file system was mounted, as far as the kernel has
/// names for these. Without one for the boot, an index that was not closed is not trusted.
fn mark(state: &Path) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let mount = mount_of(state.parent()?).map_or(String::new(), |mount| format!("\nmount {mount}"));
    Some(format!("boot {}{mount}", boot.trim()))
}

/// The kernel's number for the mount that a directory lies on, which is never used again until the machine
/// starts anew; since Linux 6.8.
fn mount_of(directory: &Path) -> Option<u64> {
    const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let status = statx(CWD, directory, AtFlags::empty(), MNT_ID_UNIQUE).ok()?;
    (status.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(status.stx_mnt_id)
}

pub(super) fn mark_open(state: &Path) -> Result<(), IndexError> {
    let text = mark(state).unwrap_or_default();
    replace_file(state, text.as_bytes()).map_err(IndexError::io(state))
}

pub(super) fn mark_clean(state: &Path) -> Result<(), IndexError> {
    replace_file(state, CLEAN.as_bytes()).map_err(IndexError::io(state))
}

/// Makes sure that the next start does not trust the index. On a full disk only removing may work.
pub(super) fn mark_suspect(state: &Path) {
    if let Err(error) = std::fs::remove_file(state) {
        tracing::error!(%error, path = %state.display(), "could not mark the index as suspect");
    }
}
