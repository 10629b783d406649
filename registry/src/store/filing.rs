//! Putting what has arrived in its place, durably or with its bytes in the journal.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use content::place::{protect, seal, sync_directory};
use oci::{Digest, Manifest, Mismatch, RepoName, Verified, Verifier};

use super::uploads::hash_file;
use super::{Store, StoreError, ahead, blocking};
use crate::state::Transaction;

/// A blob that has arrived whole and lies in a file of its own.
pub(super) struct Arrived {
    pub(super) path: PathBuf,
    pub(super) blob: Verified,
    /// The bytes of a blob that is small enough to be written ahead. Otherwise the file is durable.
    pub(super) bytes: Option<Vec<u8>>,
}

impl Store {
    /// Files a blob and makes it readable in a repository.
    pub(super) async fn file_blob(
        &self,
        repo: &RepoName,
        arrived: Arrived,
        upload: Option<String>,
    ) -> Result<(), StoreError> {
        let blob = arrived.blob;
        let _filing = self.digest_lock(&blob.digest()).await;
        self.inner.leases.renew(&blob.digest()); // under the lock, so that nobody takes it meanwhile
        let known = self.read(|view| view.stored_blob(&blob.digest()))?.is_some();
        let store = self.clone();
        let filed = blocking(move || store.place(arrived, known));
        let path = self.inner.shelf.path(&blob.digest());
        let bytes = filed.await?.map_err(self.undurable(&path))?;
        self.commit(Transaction::StoreBlob { repo: repo.clone(), blob, upload, bytes }).await
    }

    /// Puts a blob in its place; gives its bytes if the disk may not have it yet. What lies there already is
    /// whole if a row speaks of it; otherwise a crash left it, and it may be anything.
    fn place(&self, Arrived { path, blob, bytes }: Arrived, known: bool) -> io::Result<Option<Vec<u8>>> {
        let shelf = &self.inner.shelf;
        match (bytes, known) {
            (Some(bytes), false) => {
                shelf.place_unsynced(&path, &blob)?;
                self.inner.ahead.note();
                return Ok(Some(bytes));
            }
            (None, false) => shelf.replace_sealed(&path, &blob)?,
            (bytes, true) => {
                // Its record is there already, so the journal does not take the bytes.
                if bytes.is_some() && shelf.size(&blob.digest())? != Some(blob.size()) {
                    seal(&File::open(&path)?)?;
                }
                shelf.place_sealed(&path, &blob)?;
            }
        }
        Ok(None)
    }

    /// Makes a file and its name durable that a crash left in its place; false if it is not whole, and gone.
    /// The caller holds the lock of the digest, and no row speaks of it.
    pub(super) fn make_good(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.inner.shelf.path(digest);
        if !ahead::is_whole(&path, digest).map_err(StoreError::io(&path))? {
            std::fs::remove_file(&path).map_err(StoreError::io(&path))?;
            tracing::info!(%digest, "removed what a power cut left of a push that did not end");
            return Ok(false);
        }
        ahead::sync_one(&path).map_err(self.undurable(&path))?;
        Ok(true)
    }

    /// Files a manifest that is too large for the journal.
    pub(super) async fn file_manifest(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let shelf = self.inner.shelf.clone();
        let (bytes, digest) = (manifest.bytes().to_vec(), manifest.digest());
        let path = shelf.path(&digest);
        let filed = blocking(move || {
            let mut incoming = shelf.incoming(digest.algorithm())?;
            std::io::Write::write_all(&mut incoming, &bytes)?;
            let finished = incoming.finish(digest).expect("the manifest's digest is that of its bytes");
            shelf.keep(finished)?;
            sync_directory(shelf.path(&digest).parent().unwrap_or(Path::new("/")))
        });
        filed.await?.map_err(self.undurable(&path))
    }
}

/// Why what arrived cannot be filed.
pub(super) enum Unfit {
    /// It is something else.
    Other(Mismatch),
    /// It could not be made durable.
    Undurable(io::Error),
}

/// Compares what arrived with its claim, hashing again if the claim is by another algorithm, and makes it
/// durable. Nobody else waits for that: no lock is held yet. Of what is `small` the bytes are given instead.
pub(super) async fn verify(
    verifier: Verifier,
    file: &Arc<File>,
    digest: Digest,
    small: bool,
) -> Result<Result<(Verified, Option<Vec<u8>>), Unfit>, StoreError> {
    let (file, size) = (file.clone(), verifier.size());
    let verified = blocking(move || {
        // A write that failed may have left more than was hashed, if taking it back failed too.
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        if small {
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, 0)?;
            // What the journal takes is hashed, not only what the file was given.
            let mut verifier = Verifier::new(digest.algorithm());
            verifier.update(&bytes);
            protect(&file)?;
            return Ok(verifier.finish(digest).map(|verified| (verified, Some(bytes))).map_err(Unfit::Other));
        }
        let running = verifier.clone().seal().digest().algorithm();
        let verifier = match running == digest.algorithm() {
            true => verifier,
            false => hash_file(&file, digest.algorithm())?,
        };
        let verified = verifier.finish(digest).map_err(Unfit::Other);
        Ok(verified.and_then(|verified| seal(&file).map(|()| (verified, None)).map_err(Unfit::Undurable)))
    });
    verified.await?.map_err(StoreError::io(Path::new("an upload")))
}
