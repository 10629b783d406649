//! Garbage collection while clients push and pull: looks at doubts whose time has come (`state`), and
//! moves files that nothing needs through the trash.
//!
//! ```text
//! doubt, old enough ─▶ digest locks ─▶ leased? ─▶ review (one transaction each, one sync for all)
//!                                                   └ condemned: file ─rename─▶ trash ─later─▶ unlinked
//! ```
//!
//! Why no push is hurt: whoever files, mounts or stores under a digest holds its lock, and so does a
//! review; whoever only asks renews a lease (`lease`). Only files in the trash are ever unlinked, and
//! only under the lock, so a file that was pushed again has its own place. A crash between a record
//! and its rename is made good when the trash is looked at.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use content::place::sync_directory;
use jiff::Timestamp;
use oci::{Algorithm, Digest, RepoName};
use serde::{Deserialize, Serialize};

use super::lease::Taking;
use super::{Store, StoreError, ahead, layout, stripe};
use crate::keeping::Patience;
use crate::state::{Item, Kind, Transaction, is_needed};

/// Doubts that are looked at together: their records share one sync, and pushes of the same digests
/// wait for it.
const BATCH: usize = 64;
/// Doubts are counted up to this number.
const COUNTED: usize = 100_000;

/// What the collector did since the store was opened, and what it still has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcStatus {
    /// Things that perhaps nothing needs, due or not; 100 000 means at least that many.
    pub backlog: u64,
    /// Since when the oldest thing waits that is due already.
    pub oldest_due: Option<Timestamp>,
    /// Manifests that were deleted.
    pub manifests: u64,
    /// Files that were removed.
    pub blobs: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// When the last pass ended.
    pub last_pass: Option<Timestamp>,
    /// How long it took.
    pub last_pass_took: Duration,
}

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Doubts that were looked at.
    pub reviewed: u64,
    /// Manifests that were deleted.
    pub manifests: u64,
    /// Files that went to the trash.
    pub condemned: u64,
    /// Files that were removed from the trash.
    pub blobs: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Uploads that were given up.
    pub uploads: u64,
    /// Files without a row that were taken in.
    pub adopted: u64,
    /// Tags that retention deleted.
    pub tags: u64,
}

/// What passes share.
#[derive(Default)]
pub(super) struct Progress {
    /// Held by the pass that runs, and by whoever needs files to stay.
    pass: Mutex<()>,
    status: Mutex<GcStatus>,
    stop: AtomicBool,
    /// The part of the shelf that is looked through next for files without a row.
    part: AtomicU8,
    /// When retention rules were last applied.
    retained: Mutex<Option<Instant>>,
}

/// The thread that collects. Ends when it is told to, or dropped.
pub(super) struct Collector {
    wake: Mutex<Option<mpsc::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    store: Store,
}

impl Collector {
    /// Starts to collect garbage of a store, which must have no collector of its own.
    pub(super) fn start(store: Store) -> std::io::Result<Self> {
        let (wake, woken) = mpsc::channel();
        let (interval, collected) = (store.keeping.gc.interval.duration(), store.clone());
        let work = move || {
            while woken.recv_timeout(interval.max(Duration::from_millis(1))) == Err(RecvTimeoutError::Timeout) {
                collected.collect_quietly();
            }
        };
        let thread = std::thread::Builder::new().name("registry-gc".to_owned()).spawn(work)?;
        Ok(Self { wake: Mutex::new(Some(wake)), thread: Mutex::new(Some(thread)), store })
    }

    /// Ends the thread; what it is doing ends with the batch.
    pub(super) fn stop(&self) {
        self.store.inner.progress.stop.store(true, Ordering::Release);
        drop(self.wake.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the collector panicked");
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Store {
    /// What the garbage collector did and has to do.
    pub fn gc_status(&self) -> GcStatus {
        *self.inner.progress.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect_quietly(&self) {
        match self.collect() {
            Ok(pass) if pass == (Pass { reviewed: pass.reviewed, ..Pass::default() }) => {}
            Ok(pass) => tracing::info!(
                reviewed = pass.reviewed,
                manifests = pass.manifests,
                condemned = pass.condemned,
                blobs = pass.blobs,
                freed = pass.freed_bytes,
                uploads = pass.uploads,
                tags = pass.tags,
                "garbage collected"
            ),
            Err(StoreError::Closing | StoreError::ReadOnly(_)) => {}
            Err(error) => {
                tracing::warn!(%error, cause = ?std::error::Error::source(&error), "garbage could not be collected")
            }
        }
    }

    /// Collects everything that is due now. Blocks, so it is for threads that may.
    pub fn collect(&self) -> Result<Pass, StoreError> {
        let _one_at_a_time = self.hold_files();
        self.writable()?;
        let (begun, now) = (Instant::now(), Timestamp::now());
        let mut pass = Pass::default();
        self.flush_pulls()?;
        pass.uploads = self.purge_uploads(self.keeping.gc.uploads.duration())?;
        pass.tags = self.retain_when_due()?;
        let part = self.inner.progress.part.fetch_add(1, Ordering::Relaxed);
        pass.adopted = self.adopt(part)?;
        let mut oldest_due = None;
        for kind in Kind::ALL {
            if let Some(until) = self.due_until(kind, now) {
                self.collect_kind(kind, until, &mut pass)?;
                let left = self.read(|view| view.queue(kind, until, 1))?;
                oldest_due = left.first().map(|(since, _)| *since).into_iter().chain(oldest_due).min();
            }
        }
        let backlog = self.read(|view| view.count_doubts(COUNTED))? as u64;
        let mut status = self.inner.progress.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.backlog = backlog;
        status.oldest_due = oldest_due;
        status.manifests += pass.manifests;
        status.blobs += pass.blobs;
        status.freed_bytes += pass.freed_bytes;
        status.last_pass = Some(Timestamp::now());
        status.last_pass_took = begun.elapsed();
        Ok(pass)
    }

    /// While this is held, no file goes to the trash and none is removed from it.
    pub(super) fn hold_files(&self) -> std::sync::MutexGuard<'_, ()> {
        self.inner.progress.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.inner.progress.stop.load(Ordering::Acquire)
    }

    /// Doubts of a kind that were raised until then are due; `None` if none ever is, or not yet.
    pub(super) fn due_until(&self, kind: Kind, now: Timestamp) -> Option<Timestamp> {
        let gc = &self.keeping.gc;
        let patience = match kind {
            Kind::Manifest => gc.untagged,
            Kind::Link => Patience::For(gc.blob_grace),
            Kind::Ghost | Kind::Trash => Patience::For(gc.trash_grace),
            Kind::Referrers | Kind::Content => return Some(now),
        };
        let Patience::For(period) = patience else { return None };
        // What was pushed may have been asked for until now: a grace shorter than the lease would only
        // make the same doubts come up again and again.
        let mut grace = period.duration();
        if matches!(kind, Kind::Manifest | Kind::Link) {
            if self.inner.leases.hold_everything() {
                return None;
            }
            grace = grace.max(self.inner.leases.length());
        }
        now.checked_sub(jiff::SignedDuration::try_from(grace).ok()?).ok()
    }

    fn collect_kind(&self, kind: Kind, until: Timestamp, pass: &mut Pass) -> Result<(), StoreError> {
        let mut first = None;
        while !self.is_stopping() {
            let due = self.read(|view| view.queue(kind, until, BATCH))?;
            // A clock that went back would let doubts that are raised anew come up at once.
            if due.is_empty() || due.first() == first.as_ref() {
                return Ok(());
            }
            self.review(&due, pass)?;
            first = due.into_iter().next();
        }
        Ok(())
    }

    fn review(&self, due: &[(Timestamp, Item)], pass: &mut Pass) -> Result<(), StoreError> {
        let mut stripes: Vec<usize> = due.iter().map(|(_, item)| stripe(item.digest())).collect();
        stripes.sort_unstable();
        stripes.dedup();
        // In order; everybody else holds one at a time, so nobody waits for us in a circle.
        let _locks: Vec<_> = stripes.iter().map(|&stripe| self.inner.stripes[stripe].blocking_write()).collect();
        let (mut spared, mut all_taking) = (Vec::with_capacity(due.len()), Vec::new());
        let removed_before = pass.blobs;
        for (_, item) in due {
            // What is needed is only looked at: were it announced, whoever asks would be told that it is
            // gone. Should it be needed no more a moment later, it is doubted anew.
            spared.push(
                self.read(|view| is_needed(&view, item))? || {
                    let taking = self.taking(item);
                    let leased = taking.as_ref().is_some_and(|taking| taking.leased);
                    all_taking.push(taking);
                    leased || !self.unlink(item, pass)?
                },
            );
        }
        if pass.blobs > removed_before {
            // Before it is recorded: the power could bring back what nobody would look for any more.
            let trash = self.inner.data.join(layout::TRASH);
            sync_directory(&trash).map_err(self.undurable(&trash))?;
        }
        let mut reviews = Vec::with_capacity(due.len());
        for ((since, item), spared) in due.iter().zip(spared) {
            let was_here = self.is_manifest(item)?;
            let review = Transaction::Review { item: item.clone(), since: *since, spared };
            reviews.push((item, was_here, self.inner.committer.begin_blocking(review)?));
        }
        for (item, was_here, review) in reviews {
            match review.blocking_recv().map_err(|_| StoreError::Closing)? {
                Ok(()) => {}
                Err(StoreError::Refused(refusal)) => tracing::debug!(%refusal, "a doubt was refused"),
                Err(error) => return Err(error),
            }
            pass.reviewed += 1;
            pass.manifests += u64::from(was_here && !self.is_manifest(item)?);
            if let Item::Content { digest } = item {
                pass.condemned += u64::from(self.bury(digest)?);
            }
        }
        Ok(())
    }

    /// Announces that something may be taken of which clients may have been told that it is there.
    fn taking(&self, item: &Item) -> Option<Taking<'_>> {
        match item {
            Item::Manifest { digest, .. } | Item::Link { digest, .. } => Some(self.inner.leases.take(*digest)),
            _ => None,
        }
    }

    fn is_manifest(&self, item: &Item) -> Result<bool, StoreError> {
        match item {
            Item::Manifest { repo, digest } => self.read(|view| view.has_manifest(repo, digest)),
            _ => Ok(false),
        }
    }

    /// Where condemned content lies.
    pub(super) fn trash(&self, digest: &Digest) -> PathBuf {
        self.inner.data.join(layout::TRASH).join(format!("{}-{}", digest.algorithm(), digest.hex()))
    }

    /// Moves content that was just condemned to the trash, under its lock.
    fn bury(&self, digest: &Digest) -> Result<bool, StoreError> {
        if self.read(|view| view.stored_blob(digest))?.is_some() {
            return Ok(false);
        }
        match self.inner.shelf.remove_to(digest, &self.trash(digest)) {
            Ok(moved) => Ok(moved),
            Err(error) => {
                // It is tried again when the trash is looked at.
                tracing::warn!(%error, %digest, "condemned content could not be moved to the trash");
                Ok(true)
            }
        }
    }

    /// Removes condemned content from the trash, under its lock. False if that failed.
    fn unlink(&self, item: &Item, pass: &mut Pass) -> Result<bool, StoreError> {
        let Item::Trash { digest, .. } = item else { return Ok(true) };
        let trash = self.trash(digest);
        let is_stored = self.read(|view| view.stored_blob(digest))?.is_some();
        let removed = (|| {
            if !is_stored {
                // A crash came between the record and the rename.
                self.inner.shelf.remove_to(digest, &trash)?;
            }
            match std::fs::metadata(&trash) {
                Ok(metadata) => std::fs::remove_file(&trash).map(|()| metadata.len()).map(Some),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })();
        match removed {
            Ok(size) => {
                pass.blobs += u64::from(size.is_some());
                pass.freed_bytes += size.unwrap_or(0);
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(%error, %digest, "condemned content could not be removed");
                Ok(false)
            }
        }
    }

    /// Makes a blob readable again that a review took from a repository a short time ago. Says whether
    /// it could. The caller must hold no lock on a digest.
    pub(super) async fn resurrect(&self, repo: &RepoName, digest: Digest) -> Result<bool, StoreError> {
        let ghost = Item::Ghost { repo: repo.clone(), digest };
        if self.read(|view| view.doubted(&ghost))?.is_none() {
            return Ok(false);
        }
        let _filing = self.digest_lock(&digest).await;
        self.inner.leases.renew(&digest);
        if self.read(|view| view.stored_blob(&digest))?.is_none() {
            let (shelf, trash) = (self.inner.shelf.clone(), self.trash(&digest));
            let path = shelf.path(&digest);
            let back = super::blocking(move || shelf.bring_back(&trash, &digest)).await?;
            // A crash may have come between the record and the rename: then it never left.
            if !back.map_err(StoreError::io(&path))? && self.size_on_disk(&digest)?.is_none() {
                return Ok(false);
            }
        }
        let Some(size) = self.size_on_disk(&digest)? else { return Ok(false) };
        // The power may have gone while it was on its way to the trash.
        let path = self.inner.shelf.path(&digest);
        let at = path.clone();
        if !super::blocking(move || ahead::is_whole(&at, &digest)).await?.map_err(StoreError::io(&path))? {
            return Ok(false);
        }
        match self.commit(Transaction::Resurrect { repo: repo.clone(), digest, size }).await {
            Ok(()) => {
                tracing::info!(repository = %repo, %digest, "a collected blob is needed after all");
                Ok(true)
            }
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn size_on_disk(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        self.inner.shelf.size(digest).map_err(StoreError::io(&self.inner.shelf.path(digest)))
    }

    /// Takes in the files of a part of the shelf that no row speaks of: a crash came between a file's
    /// name and its record. They are doubted, so they go unless somebody pushes them. What a power cut
    /// left only half of goes at once.
    fn adopt(&self, part: u8) -> Result<u64, StoreError> {
        let mut adopted = 0;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let found = self.inner.shelf.part(algorithm, part).map_err(StoreError::io(&self.inner.data))?;
            for digest in found {
                if self.read(|view| view.stored_blob(&digest))?.is_some() {
                    continue;
                }
                // Whoever is just filing it holds the lock.
                let _filing = self.inner.stripes[stripe(&digest)].blocking_write();
                if let (None, Some(size)) = (self.read(|view| view.stored_blob(&digest))?, self.size_on_disk(&digest)?)
                    && self.make_good(&digest)?
                {
                    self.inner.committer.commit_blocking(Transaction::Adopt { digest, size })?;
                    adopted += 1;
                }
            }
        }
        Ok(adopted)
    }

    /// Takes in all files that no row speaks of.
    pub fn adopt_all(&self) -> Result<u64, StoreError> {
        let _nothing_moves = self.hold_files();
        (0..=u8::MAX).try_fold(0, |adopted, part| Ok(adopted + self.adopt(part)?))
    }

    fn retain_when_due(&self) -> Result<u64, StoreError> {
        let Patience::For(interval) = self.keeping.retention.interval else { return Ok(0) };
        if self.keeping.retention.rules.is_empty() {
            return Ok(0);
        }
        let mut last = self.inner.progress.retained.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < interval.duration()) {
            return Ok(0);
        }
        *last = Some(Instant::now());
        drop(last);
        let retained = self.retain(false)?;
        Ok(retained.iter().filter(|judged| !judged.keeps).count() as u64)
    }
}
