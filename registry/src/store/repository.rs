//! One repository of the store as a [`Source`] and [`Sink`], so that images are copied into and out of
//! the store without HTTP, and the one contract of all stores is tested on it too.

use bytes::Bytes;
use content::{Body, Error, OpenBlob, Result, Sink, Source};
use futures_util::StreamExt;
use oci::{Descriptor, Digest, Manifest, RepoName, Selector, Tag, Verified};

use super::{Store, StoreError, blocking};

/// Blobs are read in pieces of this size, in bytes.
const READ: usize = 256 << 10;

/// A repository of the store.
#[derive(Clone)]
pub struct Repository {
    store: Store,
    name: RepoName,
}

impl Repository {
    pub(super) fn new(store: Store, name: RepoName) -> Self {
        Self { store, name }
    }

    fn place(&self) -> String {
        format!("the registry's repository {}", self.name)
    }

    fn error(&self, error: StoreError) -> Error {
        let place = self.place();
        match error {
            StoreError::NoManifest(which) => Error::NoManifest { place, which },
            StoreError::NoBlob(digest) => Error::NoBlob { place, digest },
            StoreError::Mismatch(mismatch) => Error::Wrong { place, mismatch },
            other => Error::Broken { place, reason: other.to_string() },
        }
    }

    async fn receive(&self, blob: &Descriptor, content: &dyn OpenBlob) -> Result<Verified> {
        let told = |error| self.error(error);
        let id = self.store.open_upload(&self.name, blob.digest.algorithm()).await.map_err(told)?;
        // One byte more than announced is enough to know that the content is wrong.
        let limit = blob.size.saturating_add(1);
        let upload = self.store.resume_upload(&self.name, &id, None, None, limit).await;
        let mut upload = upload.map_err(told)?;
        match fill(&mut upload, content).await {
            Ok(()) => upload.finish(blob.digest).await.map_err(told),
            Err(Stopped::Sender(error)) => {
                upload.discard().await;
                Err(error)
            }
            Err(Stopped::Store(error)) => {
                upload.discard().await;
                Err(told(error))
            }
        }
    }
}

enum Stopped {
    Sender(Error),
    Store(StoreError),
}

async fn fill(upload: &mut super::Upload, content: &dyn OpenBlob) -> std::result::Result<(), Stopped> {
    let mut body = content.open(0).await.map_err(Stopped::Sender)?;
    while let Some(part) = body.next().await {
        let part = part.map_err(Stopped::Sender)?;
        upload.append(vec![part]).await.map_err(Stopped::Store)?;
    }
    Ok(())
}

impl Source for Repository {
    async fn manifest(&self, which: &Selector) -> Result<Manifest> {
        let stored = self.store.manifest(&self.name, which).await.map_err(|error| self.error(error))?;
        let (bytes, algorithm) = (stored.bytes.to_vec(), stored.digest.algorithm());
        Manifest::parse_named(Some(&stored.media_type), bytes, algorithm)
            .map_err(|source| Error::Manifest { place: self.place(), source })
    }

    async fn blob(&self, blob: &Descriptor, from: u64) -> Result<Body> {
        let opened = self.store.open_blob(&self.name, &blob.digest).await;
        let (file, size) = opened.map_err(|error| self.error(error))?;
        let (file, place) = (std::sync::Arc::new(file), self.place());
        let pieces = futures_util::stream::try_unfold(from.min(size), move |at| {
            let (file, place) = (file.clone(), place.clone());
            async move {
                let length = (size - at).min(READ as u64) as usize;
                if length == 0 {
                    return Ok(None);
                }
                let broken = |reason: String| Error::Broken { place, reason };
                match blocking(move || read_at(&file, at, length)).await {
                    Ok(Ok(bytes)) => Ok(Some((bytes, at + length as u64))),
                    Ok(Err(error)) => Err(broken(error.to_string())),
                    Err(error) => Err(broken(error.to_string())),
                }
            }
        });
        Ok(Box::pin(pieces))
    }
}

fn read_at(file: &std::fs::File, at: u64, length: usize) -> std::io::Result<Bytes> {
    let mut buffer = vec![0; length];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut buffer, at)?;
    Ok(buffer.into())
}

impl Sink for Repository {
    async fn has_blob(&self, digest: Digest) -> Result<bool> {
        match self.store.blob_size(&self.name, &digest) {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(self.error(error)),
        }
    }

    async fn has_manifest(&self, digest: Digest) -> Result<bool> {
        match self.store.manifest_head(&self.name, &Selector::Digest(digest)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(self.error(error)),
        }
    }

    async fn put_blob(&self, blob: &Descriptor, content: &dyn OpenBlob) -> Result<Verified> {
        self.receive(blob, content).await
    }

    async fn put_manifest(&self, manifest: &Manifest, tag: Option<&Tag>) -> Result<()> {
        let tags = tag.cloned().into_iter().collect();
        self.store.put_manifest(&self.name, manifest.clone(), tags).await.map_err(|error| self.error(error))
    }

    async fn mount(&self, blob: Digest, from: &RepoName) -> Result<bool> {
        self.store.mount(&self.name, blob, Some(from.clone())).await.map_err(|error| self.error(error))
    }
}
