//! The store: content on disk, upload sessions, and the one way in which metadata changes. No HTTP
//! here; see `api`. Nobody outside this module touches a path or a row.
//!
//! ```text
//! data/
//! ├── VERSION, LOCK               format version; flock: a second process refuses to start
//! ├── blobs/<alg>/<2 hex>/<hex>   immutable content (content::place)
//! ├── access/                     robot tokens and the key of tokens (access)
//! ├── ingest/                     content on its way in that has no session
//! ├── uploads/<id>                upload sessions: what has arrived so far
//! ├── hooks/<name>.json           up to where receivers of webhooks know the journal (hooks)
//! ├── journal/<lsn>.wal           the truth for metadata (journal)
//! ├── snapshot/<lsn>.snap         all rows, so that the journal stays short
//! ├── upkeep.sock                 where the process that serves takes requests of its operator (upkeep)
//! ├── trash/<alg>-<hex>           condemned content, until it is unlinked (collect)
//! ├── quarantine/<alg>-<hex>      content that was found damaged (fsck)
//! └── index.sled/, index.state    rows for reading; deletable while stopped (index)
//! ```
//!
//! A commit goes file data, file name, journal, index, answer; in that order, each durable before the
//! next. Small blobs lie in the journal as well until the disk has their files (`ahead`). So metadata
//! never speaks of content that could vanish.

mod ahead;
mod backup;
mod collect;
mod commit;
mod error;
mod explain;
mod feed;
mod filing;
mod fsck;
mod layout;
mod lease;
mod portable;
mod pulls;
mod repository;
mod retain;
mod snapshots;
mod uploads;
mod usage;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use content::place::{Shelf, Spread};
use oci::{Descriptor, Digest, Manifest, RepoName, Selector, Tag};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::index::{Index, Left};
use crate::journal::Journal;
use crate::keeping::Keeping;
pub use crate::state::Refusal;
use crate::state::{Asked, Frozen, MountSource, RowsError, Terms, Transaction, View};
use ahead::Ahead;
pub use backup::{BackedUp, BackupError, backup};
use collect::{Collector, Progress};
pub use collect::{GcStatus, Pass};
use commit::Committer;
pub(crate) use error::blocking;
pub use error::{OpenError, StoreError};
pub use explain::{Doubt, Explanation, KeptManifest, Planned};
pub(crate) use feed::Cursor;
pub use fsck::{Checked, Finding};
use lease::Leases;
pub use portable::{Moved, PortableError};
use pulls::Pulls;
pub use repository::Repository;
pub use retain::JudgedTag;
pub(crate) use uploads::Upload;
use uploads::Uploads;

/// Manifests up to this size, in bytes, lie in journal and index; larger ones lie on disk like blobs,
/// so that neither grows by them. Typical ones have 1 to 3 kB.
const INLINE_LIMIT: usize = 64 << 10;

/// A snapshot is made after this many bytes of records at least (`snapshots`).
pub(crate) const SNAPSHOT_EVERY: usize = 64 << 20;

/// How many digests can be filed at the same time without waiting for each other.
const STRIPES: usize = 64;

/// The open store. Cheap to clone; the last clone to go closes it.
#[derive(Clone)]
pub struct Store {
    // First, so that its thread ends before everything else closes. That thread has a store of its own
    // without one.
    collector: Option<Arc<Collector>>,
    keeping: Arc<Keeping>,
    /// The request on whose behalf it is changed, if there is one.
    asked: Option<Arc<Asked>>,
    inner: Arc<Inner>,
}

struct Inner {
    data: PathBuf,
    shelf: Shelf,
    ahead: Arc<Ahead>,
    index: Arc<Index>,
    uploads: Uploads,
    journal_id: u64,
    readers: Arc<feed::Readers>,
    stripes: Vec<RwLock<()>>,
    leases: Leases,
    pulls: Pulls,
    /// What the collector did and has to do; held while a pass runs.
    progress: Progress,
    // Last, so that the lock is let go after everything else is closed.
    committer: Committer,
    _lock: File,
}

/// A manifest as it is served.
#[derive(Debug, Clone)]
pub(crate) struct StoredManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    /// The exact bytes, unless only the rest was asked for and they lie on disk.
    pub(crate) bytes: Bytes,
}

impl Store {
    /// Opens the store in `data`, making it where there is none; keeps what is kept by default.
    pub fn open(data: &Path) -> Result<Self, OpenError> {
        Self::open_keeping(data, Keeping::default())
    }

    /// The same, with policies. Garbage is collected in the background if they say so.
    pub fn open_keeping(data: &Path, keeping: Keeping) -> Result<Self, OpenError> {
        Self::open_serving(data, keeping, SNAPSHOT_EVERY)
    }

    /// The same, with a snapshot after so many bytes of journal.
    pub(crate) fn open_serving(data: &Path, keeping: Keeping, snapshot_every: usize) -> Result<Self, OpenError> {
        let lease = Some(keeping.gc.lease.duration());
        Self::open_with(data, keeping, lease, snapshot_every)
    }

    /// Opens a store that no server uses, to look after it: nobody was promised anything, and nothing
    /// is collected until that is asked for.
    pub fn open_offline(data: &Path, mut keeping: Keeping) -> Result<Self, OpenError> {
        keeping.gc.enabled = false;
        Self::open_with(data, keeping, None, SNAPSHOT_EVERY)
    }

    /// The same, with the index made again from snapshot and journal.
    pub fn open_rebuilt(data: &Path, mut keeping: Keeping) -> Result<Self, OpenError> {
        keeping.gc.enabled = false;
        let lock = layout::prepare(data)?;
        let index = data.join("index.sled");
        if index.exists() {
            std::fs::remove_dir_all(&index).map_err(OpenError::io(&index))?;
        }
        Self::open_locked(data, lock, keeping, None, SNAPSHOT_EVERY)
    }

    /// The same, with a snapshot after so many bytes of journal.
    fn open_with(
        data: &Path,
        keeping: Keeping,
        lease: Option<Duration>,
        snapshot_every: usize,
    ) -> Result<Self, OpenError> {
        let lock = layout::prepare(data)?;
        Self::open_locked(data, lock, keeping, lease, snapshot_every)
    }

    fn open_locked(
        data: &Path,
        lock: File,
        keeping: Keeping,
        lease: Option<Duration>,
        snapshot_every: usize,
    ) -> Result<Self, OpenError> {
        let shelf = Shelf::open(data, Spread::Sharded).map_err(OpenError::io(data))?;
        let journal = Journal::open(&data.join(layout::JOURNAL)).map_err(OpenError::metadata)?;
        let places = layout::places(data);
        let snapshots = places.snapshots.clone();
        let mut pending = true;
        let index = Index::open_after(places, &journal, |index, left| {
            pending = left != Left::Clean;
            let after = match left {
                Left::Clean | Left::Cached => return Ok(()),
                Left::SameBoot | Left::Unknown => ahead::durable_until(&snapshots, &journal)?,
            };
            ahead::restore(index, &journal, &shelf, after).map(drop)
        });
        let index = Arc::new(index.map_err(OpenError::metadata)?);
        let ahead = Arc::new(Ahead::open(data, pending).map_err(OpenError::io(data))?);
        let uploads = data.join(layout::UPLOADS);
        let open = View(&*index).uploads().map_err(OpenError::metadata)?;
        let uploads = Uploads::open(uploads, &open).map_err(OpenError::io(data))?;
        shelf.sweep().map_err(OpenError::io(data))?;
        let readers = Arc::<feed::Readers>::default();
        let journal_id = journal.id();
        let committer =
            Committer::start(journal, index.clone(), ahead.clone(), snapshots, readers.clone(), snapshot_every)
                .map_err(OpenError::io(data))?;
        let inner = Inner {
            data: data.to_owned(),
            journal_id,
            readers,
            shelf,
            ahead,
            index,
            uploads,
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            leases: Leases::new(lease),
            pulls: Pulls::default(),
            progress: Progress::default(),
            committer,
            _lock: lock,
        };
        let store = Self { collector: None, keeping: Arc::new(keeping), asked: None, inner: Arc::new(inner) };
        let collector = match store.keeping.gc.enabled {
            true => Some(Arc::new(Collector::start(store.clone()).map_err(OpenError::io(data))?)),
            false => None,
        };
        Ok(Self { collector, ..store })
    }

    /// Why nothing can be written, if that is so: a write could not be made durable.
    pub fn read_only(&self) -> Option<String> {
        self.inner.committer.closed()
    }

    /// What a write that failed says. A file system that takes no more writes makes the registry read-only,
    /// so that whoever asks for its readiness learns it before the next push does.
    fn unwritten<'a>(&'a self, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |error| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => self.inner.committer.go_read_only(told(path, &error)),
            _ => StoreError::io(path)(error),
        }
    }

    /// The same for what could not be made durable. The kernel tells that once and forgets what it could
    /// not write: trying again would report a success that never happened.
    fn undurable<'a>(&'a self, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |error| match StoreError::io(path)(error) {
            StoreError::Full => StoreError::Full,
            StoreError::Io { path, source } => self.inner.committer.go_read_only(told(&path, &source)),
            other => self.inner.committer.go_read_only(format!("{}: {other}", path.display())),
        }
    }

    /// One repository, as a place that images are copied from and to.
    pub fn repository(&self, name: RepoName) -> Repository {
        Repository::new(self.clone(), name)
    }

    /// Finishes what is queued and closes the index, so that the next start is quick. The store takes
    /// no more writes after this.
    pub async fn close(&self) {
        let store = self.clone();
        let stopped = blocking(move || {
            if let Some(collector) = &store.collector {
                collector.stop();
            }
            store.flush_pulls()
        });
        if let Err(error) | Ok(Err(error)) = stopped.await {
            tracing::debug!(%error, "pulls were not counted");
        }
        self.inner.committer.close().await;
    }

    /// The policies that it was opened with.
    pub fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// The same store, looked after by other policies. Whoever has it as it was is not affected.
    pub(crate) fn under(&self, keeping: Keeping) -> Self {
        Self { keeping: Arc::new(keeping), ..self.clone() }
    }

    /// Reads rows, and has the index made again if it turns out to be damaged.
    fn read<T>(&self, read: impl FnOnce(View<'_, Index>) -> Result<T, RowsError>) -> Result<T, StoreError> {
        read(View(&self.inner.index)).map_err(|error| {
            self.inner.committer.report_damage();
            StoreError::Index(Box::new(error))
        })
    }

    /// The same store, changed on behalf of a request: those who are told of the changes learn whose.
    pub(crate) fn on_behalf_of(&self, asked: Asked) -> Self {
        Self { asked: Some(Arc::new(asked)), ..self.clone() }
    }

    async fn commit(&self, transaction: Transaction) -> Result<(), StoreError> {
        let transaction = match &self.asked {
            Some(asked) if transaction.is_durable() => {
                Transaction::Asked { by: Box::new(Asked::clone(asked)), what: Box::new(transaction) }
            }
            _ => transaction,
        };
        self.inner.committer.commit(transaction).await
    }

    /// Nobody else files, names or collects this digest meanwhile.
    async fn digest_lock(&self, digest: &Digest) -> RwLockWriteGuard<'_, ()> {
        self.inner.stripes[stripe(digest)].write().await
    }

    /// Nobody files or collects this digest meanwhile. Others may name it too: whose transaction comes
    /// first is for the writer to say, which makes those durable together that come together.
    async fn naming(&self, digest: &Digest) -> RwLockReadGuard<'_, ()> {
        self.inner.stripes[stripe(digest)].read().await
    }

    /// The tags of a repository that must not change.
    fn frozen(&self, repo: &RepoName) -> Frozen {
        Frozen(self.keeping.retention.frozen(repo))
    }

    /// A manifest of a repository.
    pub(crate) async fn manifest(&self, repo: &RepoName, which: &Selector) -> Result<StoredManifest, StoreError> {
        let (mut manifest, inline) = self.find_manifest(repo, which)?;
        if !inline {
            let shelf = self.inner.shelf.clone();
            let digest = manifest.digest;
            let read = blocking(move || std::fs::read(shelf.path(&digest))).await?;
            manifest.bytes = read.map_err(StoreError::io(&self.inner.shelf.path(&digest)))?.into();
        }
        if manifest.bytes.len() as u64 != manifest.size {
            return Err(StoreError::Damaged(manifest.digest));
        }
        self.inner.pulls.count(repo, manifest.digest);
        Ok(manifest)
    }

    /// What is known of a manifest without opening a file.
    pub(crate) fn manifest_head(&self, repo: &RepoName, which: &Selector) -> Result<StoredManifest, StoreError> {
        self.find_manifest(repo, which).map(|(manifest, _)| manifest)
    }

    fn find_manifest(&self, repo: &RepoName, which: &Selector) -> Result<(StoredManifest, bool), StoreError> {
        let index = &self.inner.index;
        let found = self.read(|view| {
            let digest = match which {
                Selector::Digest(digest) => *digest,
                Selector::Tag(tag) => match index.tag(repo, tag)? {
                    Some(digest) => digest,
                    None => return Ok(None),
                },
            };
            // Clients do not send a manifest again that is there, so it has to stay for a while.
            if !self.inner.leases.renew(&digest) && !view.is_kept(repo, &digest)? {
                return Ok(None);
            }
            Ok(index.manifest(repo, &digest)?.map(|manifest| (digest, manifest)))
        })?;
        let (digest, found) = found.ok_or_else(|| StoreError::NoManifest(which.clone()))?;
        let (media_type, bytes) = (found.media_type.clone(), found.bytes.clone());
        Ok((StoredManifest { digest, media_type, size: found.size, bytes }, found.inline))
    }

    /// Stores a manifest and lets tags name it, both or nothing.
    pub(crate) async fn put_manifest(
        &self,
        repo: &RepoName,
        manifest: Manifest,
        tags: Vec<Tag>,
    ) -> Result<(), StoreError> {
        self.put_manifest_on(repo, manifest, tags, Terms::default()).await
    }

    /// The same, on some terms.
    pub(crate) async fn put_manifest_on(
        &self,
        repo: &RepoName,
        manifest: Manifest,
        tags: Vec<Tag>,
        terms: Terms,
    ) -> Result<(), StoreError> {
        self.writable()?;
        match self.try_put_manifest(repo, &manifest, &tags, &terms).await {
            Err(StoreError::Refused(Refusal::Incomplete { blobs, manifests })) => {
                // The client may have been told of a blob that was collected since.
                let mut is_back = false;
                for blob in &blobs {
                    is_back |= self.resurrect(repo, *blob).await?;
                }
                match is_back {
                    true => self.try_put_manifest(repo, &manifest, &tags, &terms).await,
                    false => Err(StoreError::Refused(Refusal::Incomplete { blobs, manifests })),
                }
            }
            done => done,
        }
    }

    async fn try_put_manifest(
        &self,
        repo: &RepoName,
        manifest: &Manifest,
        tags: &[Tag],
        terms: &Terms,
    ) -> Result<(), StoreError> {
        let inline = manifest.bytes().len() <= INLINE_LIMIT;
        let digest = manifest.digest();
        // Bytes that go to a file are filed by one at a time.
        let (_naming, _filing) = match inline {
            true => (Some(self.naming(&digest).await), None),
            false => (None, Some(self.digest_lock(&digest).await)),
        };
        self.inner.leases.renew(&digest); // under the lock, so that nobody takes it meanwhile
        if !inline {
            self.file_manifest(manifest).await?;
        }
        let (manifest, tags, frozen) = (Box::new(manifest.clone()), tags.to_vec(), self.frozen(repo));
        let (repo, terms) = (repo.clone(), terms.clone());
        self.commit(Transaction::PutManifest { repo, manifest, inline, tags, frozen, terms }).await
    }

    /// Deletes a tag, or a manifest with all tags that name it.
    pub(crate) async fn delete_manifest(&self, repo: &RepoName, which: &Selector) -> Result<(), StoreError> {
        let (frozen, repo) = (self.frozen(repo), repo.clone());
        self.commit(match which.clone() {
            Selector::Tag(tag) => Transaction::DeleteTag { repo, tag, frozen },
            Selector::Digest(digest) => Transaction::DeleteManifest { repo, digest, frozen },
        })
        .await
    }

    /// The size of a blob of a repository, in bytes, without opening a file.
    pub(crate) fn blob_size(&self, repo: &RepoName, digest: &Digest) -> Result<u64, StoreError> {
        // Clients do not send what is there, so it has to stay until they name it in a manifest.
        let promised = self.inner.leases.renew(digest);
        let size = self.read(|view| match promised || view.a_parent(repo, digest)?.is_some() {
            true => self.inner.index.blob_size(repo, digest),
            false => Ok(None),
        })?;
        size.ok_or(StoreError::NoBlob(*digest))
    }

    /// Opens a blob of a repository. The file has as many bytes as it says.
    pub(crate) async fn open_blob(&self, repo: &RepoName, digest: &Digest) -> Result<(File, u64), StoreError> {
        let size = self.blob_size(repo, digest)?;
        let shelf = self.inner.shelf.clone();
        let path = shelf.path(digest);
        let of = *digest;
        let opened = blocking(move || match shelf.open_blob(&of)? {
            Some(file) => Ok(Some((file.metadata()?.len(), file))),
            None => Ok(None),
        });
        match opened.await?.map_err(StoreError::io(&path))? {
            Some((length, file)) if length == size => Ok((file, size)),
            // It may have been collected since its row was read.
            _ if self.read(|_| self.inner.index.blob_size(repo, digest))?.is_none() => Err(StoreError::NoBlob(*digest)),
            _ => Err(StoreError::Damaged(*digest)),
        }
    }

    /// Makes a blob unreadable in a repository.
    pub(crate) async fn delete_blob(&self, repo: &RepoName, digest: Digest) -> Result<(), StoreError> {
        self.commit(Transaction::UnlinkBlob { repo: repo.clone(), digest }).await
    }

    /// Makes a blob of another repository readable in this one; false if it is not there.
    pub(crate) async fn mount(
        &self,
        repo: &RepoName,
        digest: Digest,
        from: Option<RepoName>,
    ) -> Result<bool, StoreError> {
        let ghost = from.clone();
        let naming = self.naming(&digest).await;
        self.inner.leases.renew(&digest); // under the lock, so that nobody takes it meanwhile
        let from = from.map_or(MountSource::Anywhere, MountSource::Repo);
        let mount = Transaction::MountBlob { repo: repo.clone(), digest, from };
        match self.commit(mount.clone()).await {
            Ok(()) => return Ok(true),
            Err(error) if !error.is_missing() => return Err(error),
            Err(_) => drop(naming),
        }
        // It may have been collected from there a short time ago.
        let Some(ghost) = ghost else { return Ok(false) };
        if !self.resurrect(&ghost, digest).await? {
            return Ok(false);
        }
        let _naming = self.naming(&digest).await;
        match self.commit(mount).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Up to `limit` tags behind `after`; an error if nothing was ever pushed there.
    pub(crate) async fn tags(&self, repo: &RepoName, after: String, limit: usize) -> Result<Vec<Tag>, StoreError> {
        let (store, repo) = (self.clone(), repo.clone());
        blocking(move || {
            store
                .read(|view| Ok(if view.has_repo(&repo)? { Some(view.tags(&repo, &after, limit)?) } else { None }))?
                .ok_or(StoreError::NoRepository(repo))
        })
        .await?
    }

    /// Up to `limit` repositories behind `after`.
    pub(crate) async fn repositories(&self, after: String, limit: usize) -> Result<Vec<RepoName>, StoreError> {
        let store = self.clone();
        blocking(move || store.read(|view| view.repos(&after, limit))).await?
    }

    /// Up to `limit` manifests whose subject is `subject`, of one artifact type or all, behind `after`.
    pub(crate) async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        artifact_type: Option<String>,
        after: Option<(String, Digest)>,
        limit: usize,
    ) -> Result<Vec<Descriptor>, StoreError> {
        let (store, repo) = (self.clone(), repo.clone());
        let read =
            move || store.read(|view| view.referrers(&repo, &subject, artifact_type.as_deref(), after.as_ref(), limit));
        blocking(read).await?
    }

    fn writable(&self) -> Result<(), StoreError> {
        self.read_only().map_or(Ok(()), |reason| Err(StoreError::ReadOnly(reason)))
    }
}

fn told(path: &Path, error: &io::Error) -> String {
    format!("could not write {}: {error}", path.display())
}

/// Which of the locks on digests is this one's.
fn stripe(digest: &Digest) -> usize {
    digest.as_bytes().last().map_or(0, |byte| *byte as usize % STRIPES)
}

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod keep_tests;
#[cfg(test)]
mod tests;
