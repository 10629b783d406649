//! A repository in memory: for tests, and for images that are made and sent at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::StreamExt;
use oci::{Descriptor, Digest, Manifest, Selector, Tag, Verified, Verifier};

use crate::store::{Body, OpenBlob, Sink, Source, Swap, body_of};
use crate::{Error, Result};

/// A repository in memory.
#[derive(Debug, Default)]
pub struct Memory {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    blobs: BTreeMap<Digest, Bytes>,
    manifests: BTreeMap<Digest, Manifest>,
    tags: BTreeMap<Tag, Digest>,
}

const PLACE: &str = "memory";

impl Memory {
    /// An empty repository.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a blob that is at hand, and describes it.
    pub fn add_blob(&self, media_type: &str, content: impl Into<Bytes>) -> Descriptor {
        let content = content.into();
        let descriptor = Descriptor::new(media_type, Digest::of(&content), content.len() as u64);
        self.held().blobs.insert(descriptor.digest, content);
        descriptor
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Source for Memory {
    async fn manifest(&self, which: &Selector) -> Result<Manifest> {
        let held = self.held();
        let digest = match which {
            Selector::Digest(digest) => Some(digest),
            Selector::Tag(tag) => held.tags.get(tag),
        };
        let missing = || Error::NoManifest { place: PLACE.to_owned(), which: which.clone() };
        digest.and_then(|digest| held.manifests.get(digest)).cloned().ok_or_else(missing)
    }

    async fn blob(&self, blob: &Descriptor, from: u64) -> Result<Body> {
        let missing = || Error::NoBlob { place: PLACE.to_owned(), digest: blob.digest };
        let content = self.held().blobs.get(&blob.digest).cloned().ok_or_else(missing)?;
        let from = usize::try_from(from).map_or(content.len(), |from| from.min(content.len()));
        Ok(body_of(content.slice(from..)))
    }
}

impl Sink for Memory {
    async fn has_blob(&self, digest: Digest) -> Result<bool> {
        Ok(self.held().blobs.contains_key(&digest))
    }

    async fn has_manifest(&self, digest: Digest) -> Result<bool> {
        Ok(self.held().manifests.contains_key(&digest))
    }

    async fn put_blob(&self, blob: &Descriptor, content: &dyn OpenBlob) -> Result<Verified> {
        let mut body = content.open(0).await?;
        let mut verifier = Verifier::new(blob.digest.algorithm());
        let mut all = Vec::new();
        while let Some(part) = body.next().await {
            let part = part?;
            verifier.update(&part);
            all.extend_from_slice(&part);
        }
        let wrong = |mismatch| Error::Wrong { place: PLACE.to_owned(), mismatch };
        let verified = verifier.finish(blob.digest).map_err(wrong)?;
        self.held().blobs.insert(verified.digest(), all.into());
        Ok(verified)
    }

    async fn put_manifest(&self, manifest: &Manifest, tag: Option<&Tag>) -> Result<()> {
        self.held().put(manifest, tag)
    }

    async fn swap_manifest(&self, manifest: &Manifest, tag: &Tag, there: Option<Digest>) -> Result<Swap> {
        let mut held = self.held();
        if held.tags.get(tag).copied() != there {
            return Ok(Swap::Lost);
        }
        held.put(manifest, Some(tag)).map(|()| Swap::Named)
    }
}

impl Held {
    fn put(&mut self, manifest: &Manifest, tag: Option<&Tag>) -> Result<()> {
        let missing_blob = manifest.blobs().find(|blob| blob.urls.is_empty() && !self.blobs.contains_key(&blob.digest));
        if let Some(missing) = missing_blob {
            return Err(Error::NoBlob { place: PLACE.to_owned(), digest: missing.digest });
        }
        if let Some(missing) = manifest.children().iter().find(|child| !self.manifests.contains_key(&child.digest)) {
            return Err(Error::NoManifest { place: PLACE.to_owned(), which: Selector::Digest(missing.digest) });
        }
        self.manifests.insert(manifest.digest(), manifest.clone());
        if let Some(tag) = tag {
            self.tags.insert(tag.clone(), manifest.digest());
        }
        Ok(())
    }
}
