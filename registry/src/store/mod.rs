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
//! └── index.sled/, index.state    rows for reading; deletable while stopped (index)
//! ```
//!
//! A commit goes file data, file name, journal, index, answer; in that order, each durable before the
//! next. So metadata never speaks of content that could vanish.

mod commit;
mod error;
mod feed;
mod layout;
mod repository;
mod uploads;
mod usage;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use content::place::{Shelf, Spread, sync_directory};
use oci::{Descriptor, Digest, Manifest, RepoName, Selector, Tag, Verified};
use tokio::sync::{Mutex, MutexGuard};

use crate::index::{Index, Places};
use crate::journal::Journal;
pub use crate::state::Refusal;
use crate::state::{MountSource, RowsError, Transaction, View};
use commit::Committer;
pub(crate) use error::blocking;
pub use error::{OpenError, StoreError};
pub use repository::Repository;
pub(crate) use uploads::Upload;
use uploads::Uploads;

/// Manifests up to this size, in bytes, lie in journal and index; larger ones lie on disk like blobs,
/// so that neither grows by them. Typical ones have 1 to 3 kB.
const INLINE_LIMIT: usize = 64 << 10;

/// A snapshot is made after this many bytes of records.
const SNAPSHOT_EVERY: usize = 64 << 20;

/// How many digests can be filed at the same time without waiting for each other.
const STRIPES: usize = 64;

/// The open store. Cheap to clone; the last clone to go closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shelf: Shelf,
    index: Arc<Index>,
    uploads: Uploads,
    data: PathBuf,
    journal_id: u64,
    readers: Arc<feed::Readers>,
    stripes: Vec<Mutex<()>>,
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
    /// Opens the store in `data`, making it where there is none.
    pub fn open(data: &Path) -> Result<Self, OpenError> {
        Self::open_with(data, SNAPSHOT_EVERY)
    }

    /// The same, with a snapshot after so many bytes of journal.
    fn open_with(data: &Path, snapshot_every: usize) -> Result<Self, OpenError> {
        let lock = layout::prepare(data)?;
        let shelf = Shelf::open(data, Spread::Sharded).map_err(OpenError::io(data))?;
        let journal = Journal::open(&data.join(layout::JOURNAL)).map_err(OpenError::metadata)?;
        let places = Places {
            sled: data.join("index.sled"),
            state: data.join("index.state"),
            snapshots: data.join(layout::SNAPSHOTS),
        };
        let snapshots = places.snapshots.clone();
        let index = Arc::new(Index::open(places, &journal).map_err(OpenError::metadata)?);
        let uploads = data.join(layout::UPLOADS);
        let open = View(&*index).uploads().map_err(OpenError::metadata)?;
        let uploads = Uploads::open(uploads, &open).map_err(OpenError::io(data))?;
        shelf.sweep().map_err(OpenError::io(data))?;
        let readers = Arc::<feed::Readers>::default();
        let journal_id = journal.id();
        let committer = Committer::start(journal, index.clone(), snapshots, readers.clone(), snapshot_every)
            .map_err(OpenError::io(data))?;
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        let data = data.to_owned();
        Ok(Self {
            inner: Arc::new(Inner {
                shelf,
                index,
                uploads,
                data,
                journal_id,
                readers,
                stripes,
                committer,
                _lock: lock,
            }),
        })
    }

    /// Why nothing can be written, if that is so: a write could not be made durable.
    pub fn read_only(&self) -> Option<String> {
        self.inner.committer.closed()
    }

    /// One repository, as a place that images are copied from and to.
    pub fn repository(&self, name: RepoName) -> Repository {
        Repository::new(self.clone(), name)
    }

    /// Finishes what is queued and closes the index, so that the next start is quick. The store takes
    /// no more writes after this.
    pub async fn close(&self) {
        self.inner.committer.close().await;
    }

    /// Reads rows, and has the index made again if it turns out to be damaged.
    fn read<T>(&self, read: impl FnOnce(View<'_, Index>) -> Result<T, RowsError>) -> Result<T, StoreError> {
        read(View(&self.inner.index)).map_err(|error| {
            self.inner.committer.report_damage();
            StoreError::Index(Box::new(error))
        })
    }

    async fn commit(&self, transaction: Transaction) -> Result<(), StoreError> {
        self.inner.committer.commit(transaction).await
    }

    /// Nobody else files or mounts this digest meanwhile.
    async fn digest_lock(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        let stripe = digest.as_bytes().last().map_or(0, |byte| *byte as usize % STRIPES);
        self.inner.stripes[stripe].lock().await
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
        Ok(manifest)
    }

    /// What is known of a manifest without opening a file.
    pub(crate) fn manifest_head(&self, repo: &RepoName, which: &Selector) -> Result<StoredManifest, StoreError> {
        self.find_manifest(repo, which).map(|(manifest, _)| manifest)
    }

    fn find_manifest(&self, repo: &RepoName, which: &Selector) -> Result<(StoredManifest, bool), StoreError> {
        let found = self.read(|view| {
            let digest = match which {
                Selector::Digest(digest) => *digest,
                Selector::Tag(tag) => match view.tag(repo, tag)? {
                    Some(row) => row.digest,
                    None => return Ok(None),
                },
            };
            Ok(view.manifest(repo, &digest)?.map(|(row, bytes)| (digest, row, bytes)))
        })?;
        let (digest, row, bytes) = found.ok_or_else(|| StoreError::NoManifest(which.clone()))?;
        let manifest = StoredManifest { digest, media_type: row.media_type, size: row.size, bytes: bytes.into() };
        Ok((manifest, row.inline))
    }

    /// Stores a manifest and lets tags name it, both or nothing. Tags in `fixed` may be new but not change.
    pub(crate) async fn put_manifest(
        &self,
        repo: &RepoName,
        manifest: Manifest,
        tags: Vec<Tag>,
        fixed: Vec<Tag>,
    ) -> Result<(), StoreError> {
        self.writable()?;
        let inline = manifest.bytes().len() <= INLINE_LIMIT;
        let digest = manifest.digest();
        let _filing = self.digest_lock(&digest).await;
        if !inline {
            self.file_manifest(&manifest).await?;
        }
        let manifest = Box::new(manifest);
        self.commit(Transaction::PutManifest { repo: repo.clone(), manifest, inline, tags, fixed }).await
    }

    async fn file_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let shelf = self.inner.shelf.clone();
        let (bytes, digest) = (manifest.bytes().to_vec(), manifest.digest());
        let path = shelf.path(&digest);
        let filed = blocking(move || {
            let mut incoming = shelf.incoming(digest.algorithm())?;
            std::io::Write::write_all(&mut incoming, &bytes)?;
            let finished = incoming.finish(digest).expect("the manifest's digest is that of its bytes");
            shelf.keep(finished)?;
            sync_parent(&shelf.path(&digest))
        });
        filed.await?.map_err(StoreError::io(&path))
    }

    /// Deletes a tag, or a manifest with all tags that name it.
    pub(crate) async fn delete_manifest(&self, repo: &RepoName, which: &Selector) -> Result<(), StoreError> {
        let repo = repo.clone();
        self.commit(match which.clone() {
            Selector::Tag(tag) => Transaction::DeleteTag { repo, tag },
            Selector::Digest(digest) => Transaction::DeleteManifest { repo, digest },
        })
        .await
    }

    /// The size of a blob of a repository, in bytes, without opening a file.
    pub(crate) fn blob_size(&self, repo: &RepoName, digest: &Digest) -> Result<u64, StoreError> {
        let row = self.read(|view| view.blob(repo, digest))?;
        Ok(row.ok_or(StoreError::NoBlob(*digest))?.size)
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
        let _filing = self.digest_lock(&digest).await;
        let from = from.map_or(MountSource::Anywhere, MountSource::Repo);
        let mounted = self.commit(Transaction::MountBlob { repo: repo.clone(), digest, from }).await;
        match mounted {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Files a blob that lies whole in `path` and makes it readable in a repository.
    async fn file_blob(
        &self,
        repo: &RepoName,
        path: PathBuf,
        file: Arc<File>,
        blob: Verified,
        upload: Option<String>,
    ) -> Result<(), StoreError> {
        let _filing = self.digest_lock(&blob.digest()).await;
        let known = self.read(|view| view.stored_blob(&blob.digest()))?.is_some();
        let shelf = self.inner.shelf.clone();
        let target = shelf.path(&blob.digest());
        let filed = blocking(move || {
            let is_here = shelf.size(&blob.digest())? == Some(blob.size());
            shelf.place(&path, &file, &blob)?;
            // A crash may have left content that has its name, but whose name is not durable.
            if is_here && !known { sync_parent(&shelf.path(&blob.digest())) } else { Ok(()) }
        });
        filed.await?.map_err(StoreError::io(&target))?;
        self.commit(Transaction::StoreBlob { repo: repo.clone(), blob, upload }).await
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

fn sync_parent(path: &Path) -> std::io::Result<()> {
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

#[cfg(test)]
mod tests;
