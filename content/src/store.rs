//! The two traits that every place of content has, and the streams between them.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use oci::{Descriptor, Digest, Host, Manifest, RepoName, Selector, Tag, Verified};

use crate::Result;

/// The bytes of a blob as they arrive.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Opens a blob from an offset in bytes on, so that a broken transfer can be taken up again.
pub trait OpenBlob: Send + Sync {
    /// Opens the blob.
    fn open(&self, from: u64) -> Pin<Box<dyn Future<Output = Result<Body>> + Send + '_>>;
}

/// The registry and repository behind a source or sink, where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The registry.
    pub host: Host,
    /// The repository in it.
    pub name: RepoName,
}

/// A repository that images are read from.
pub trait Source: Send + Sync {
    /// Reads a manifest, checked against its digest.
    fn manifest(&self, which: &Selector) -> impl Future<Output = Result<Manifest>> + Send;

    /// Reads a blob from an offset on. The bytes are *not* checked here: whoever keeps them does.
    fn blob(&self, blob: &Descriptor, from: u64) -> impl Future<Output = Result<Body>> + Send;

    /// Registries from which a blob of this source could be mounted instead of sent.
    fn origins(&self, _blob: Digest) -> Vec<Origin> {
        Vec::new()
    }

    /// Learns that a repository of a registry has the blob now: a later copy there may be a mount.
    fn went_to(&self, _blob: Digest, _origin: &Origin) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }
}

/// What became of a name that was to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// It stands for the new manifest.
    Named,
    /// It stands for something else than was thought, and was left alone.
    Lost,
}

/// A repository that images are written to.
pub trait Sink: Send + Sync {
    /// Whether the blob is already there, so that it need not be sent.
    fn has_blob(&self, digest: Digest) -> impl Future<Output = Result<bool>> + Send;

    /// Whether the manifest is already there.
    fn has_manifest(&self, digest: Digest) -> impl Future<Output = Result<bool>> + Send;

    /// Takes a blob; it is kept only if it hashes to its descriptor's digest.
    fn put_blob(&self, blob: &Descriptor, content: &dyn OpenBlob) -> impl Future<Output = Result<Verified>> + Send;

    /// Takes a manifest whose blobs are all there, and names it.
    fn put_manifest(&self, manifest: &Manifest, tag: Option<&Tag>) -> impl Future<Output = Result<()>> + Send;

    /// Names a manifest if the name still stands for `there`, or for nothing: what lies between reading a name and
    /// writing it is then nobody else's. Places that know no conditions name it in any case; to find that out, ask
    /// with a digest that nothing can have.
    fn swap_manifest(
        &self,
        manifest: &Manifest,
        tag: &Tag,
        _there: Option<Digest>,
    ) -> impl Future<Output = Result<Swap>> + Send {
        async move { self.put_manifest(manifest, Some(tag)).await.map(|()| Swap::Named) }
    }

    /// Makes a blob of another repository of the same registry visible here, without sending it.
    fn mount(&self, _blob: Digest, _from: &RepoName) -> impl Future<Output = Result<bool>> + Send {
        std::future::ready(Ok(false))
    }

    /// Learns that a blob which is here now came from a registry: a later copy back may be a mount.
    fn came_from(&self, _blob: Digest, _origin: &Origin) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// The registry that this sink writes to.
    fn origin(&self) -> Option<Origin> {
        None
    }
}

/// A body that is already in memory.
pub fn body_of(bytes: impl Into<Bytes>) -> Body {
    let bytes = bytes.into();
    Box::pin(futures_util::stream::once(std::future::ready(Ok(bytes))))
}

/// Reads a body into memory, up to `limit` bytes; `None` if there are more.
pub async fn collect(mut body: Body, limit: usize) -> Result<Option<Vec<u8>>> {
    let mut all = Vec::new();
    while let Some(part) = body.next().await {
        let part = part?;
        if all.len() + part.len() > limit {
            return Ok(None);
        }
        all.extend_from_slice(&part);
    }
    Ok(Some(all))
}
