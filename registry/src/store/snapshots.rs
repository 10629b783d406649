//! When all rows are written down anew, so that the journal stays short, and how: beside the writer, which goes on.
//!
//! ```text
//! records since the newest snapshot:  at least `every` bytes, and at least half of what that snapshot has
//! ```
//!
//! So what snapshots write is at most a few times what records write, however many rows there are; and a start that
//! has to read everything reads at most half as much again. What a process before has written counts, too: one that
//! is often started again would otherwise never make any.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::ahead::Ahead;
use super::commit::close_for_good;
use super::feed::{self, Readers};
use crate::index::{Index, IndexError};
use crate::journal::{self, Journal, JournalError, Lsn, snapshot};

/// The files of what the index speaks of.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) ahead: Arc<Ahead>,
    pub(super) index: Arc<Index>,
    pub(super) closed: Arc<OnceLock<String>>,
}

impl Content {
    /// Makes the files of all records durable that the index has by now. If that fails nothing is written
    /// any more, and the next start has to look which of them are whole: the journal still has them all.
    pub(super) fn make_durable(&self) -> bool {
        let synced = self.ahead.sync();
        if let Err(error) = &synced {
            close_for_good(&self.closed, format!("could not sync the file system of the blobs: {error}"));
            self.index.distrust();
        }
        synced.is_ok()
    }
}

/// Makes snapshots when it is time.
pub(super) struct Snapshots {
    dir: PathBuf,
    content: Content,
    readers: Arc<Readers>,
    /// Fewest bytes of records between two.
    every: u64,
    /// Bytes of records since the newest one.
    bytes: u64,
    /// How many there have to be for the next one.
    due: Arc<AtomicU64>,
    running: Arc<AtomicBool>,
}

impl Snapshots {
    pub(super) fn new(
        dir: PathBuf,
        content: Content,
        readers: Arc<Readers>,
        every: usize,
        journal: &Journal,
    ) -> Result<Self, JournalError> {
        let newest = snapshot::list(&dir)?.into_iter().next();
        let bytes = journal.size_after(newest.map_or(Lsn(0), |newest| newest.lsn))?;
        let every = every as u64;
        let due = Arc::new(AtomicU64::new(due(&dir, every)?));
        Ok(Self { dir, content, readers, every, bytes, due, running: Arc::default() })
    }

    /// Counts what was written, and starts a snapshot when it is time.
    pub(super) fn after(&mut self, bytes: usize, journal: &Journal) {
        self.bytes += bytes as u64;
        if self.bytes < self.due.load(Ordering::Acquire) || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        self.bytes = 0;
        let (dir, content, running) = (self.dir.clone(), self.content.clone(), self.running.clone());
        let (readers, every, next) = (self.readers.clone(), self.every, self.due.clone());
        let (id, journal) = (journal.id(), journal.dir().to_owned());
        // As of now, not of when the thread gets its turn: what comes until then counts for the next one.
        let lsn = self.content.index.applied();
        let work = move || {
            let taken = take(&dir, &content, lsn, &readers, id, &journal).and_then(|()| Ok(due(&dir, every)?));
            match taken {
                Ok(due) => next.store(due, Ordering::Release),
                Err(error) => {
                    tracing::error!(%error, "no snapshot could be made; the journal grows until the next one");
                }
            }
            running.store(false, Ordering::Release);
        };
        if let Err(error) = std::thread::Builder::new().name("registry-snapshot".to_owned()).spawn(work) {
            tracing::error!(%error, "no thread for a snapshot");
            self.running.store(false, Ordering::Release);
        }
    }
}

/// How many bytes of records there have to be behind the newest snapshot for the next one.
fn due(dir: &Path, every: u64) -> Result<u64, JournalError> {
    let newest = snapshot::list(dir)?.into_iter().next();
    let size = newest.map(|newest| newest.size()).transpose()?.unwrap_or(0);
    Ok(every.max(size / 2))
}

/// Files first: a snapshot says that the disk has all that its rows and older records speak of.
/// Its rows may be newer than `lsn`; records that are read behind it say the same again.
fn take(dir: &Path, content: &Content, lsn: Lsn, readers: &Readers, id: u64, journal: &Path) -> Result<(), IndexError> {
    let index = &content.index;
    if !content.make_durable() {
        return Ok(());
    }
    snapshot::write::<IndexError>(dir, id, lsn, index.dump().map(|row| row.map_err(IndexError::from)))?;
    if let Some(covered) = snapshot::prune(dir)? {
        journal::forget_until(journal, feed::forgettable(readers, journal, covered)?)?;
    }
    tracing::info!(lsn = lsn.0, "snapshot made");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeping::Keeping;
    use crate::store::Store;
    use oci::{Manifest, RepoName};

    fn repo() -> RepoName {
        "a".parse().unwrap()
    }

    /// Manifests of this many bytes, each other than all before.
    async fn put(store: &Store, first: u64, count: u64, size: usize) {
        for number in first..first + count {
            let fill = "x".repeat(size);
            let text = format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{{"n":"{number}","fill":"{fill}"}}}}"#
            );
            let manifest = Manifest::parse(None, text.into_bytes()).unwrap();
            let tag = format!("v{number}").parse().unwrap();
            store.put_manifest(&repo(), manifest, vec![tag]).await.unwrap();
        }
    }

    async fn open(dir: &Path) -> Store {
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Store::open_with(&dir, Keeping::default(), None, 64 << 10));
        opened.await.unwrap().unwrap()
    }

    /// The newest snapshot, when none is being made any more.
    async fn newest(dir: &Path) -> Option<snapshot::Snapshot> {
        while dir.join("snapshot/next.tmp").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        snapshot::list(&dir.join("snapshot")).unwrap().into_iter().next()
    }

    #[tokio::test]
    async fn what_processes_before_have_written_counts() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).await.close().await;
        let mut first = 0;
        while newest(dir.path()).await.is_none() {
            let store = open(dir.path()).await;
            put(&store, first, 5, 4 << 10).await; // 20 KiB, of the 64 KiB for a snapshot
            store.close().await;
            first += 5;
            assert!(first < 40, "no snapshot was made");
        }
        assert!(first > 10, "one was made too early");
    }

    #[tokio::test]
    async fn the_larger_a_snapshot_the_later_the_next_one() {
        const RECORD: u64 = 5 << 10; // at most
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let mut made: Vec<(Lsn, u64)> = Vec::new();
        for number in 0..300 {
            put(&store, number, 1, 4 << 10).await;
            let Some(newest) = newest(dir.path()).await else { continue };
            match made.last() {
                Some((before, _)) if *before == newest.lsn => {}
                Some((before, size)) => {
                    let records = (newest.lsn.0 - before.0) * RECORD;
                    assert!(records >= size / 2 && records >= 64 << 10, "{before:?} {size} {newest:?}");
                    made.push((newest.lsn, newest.size().unwrap()));
                }
                None => made.push((newest.lsn, newest.size().unwrap())),
            }
        }
        store.close().await;
        // One for every 64 KiB would have been 18 or more.
        assert!((3..12).contains(&made.len()), "{made:?}");
    }
}
