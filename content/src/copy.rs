//! Moving an image from any place to any other.
//!
//! Blobs travel in parallel and are skipped where they already are, or mounted where both ends are
//! one registry; a manifest is written only after everything that it names. So a copy that breaks
//! leaves nothing visible, and the next one goes on where it stopped.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use oci::{Descriptor, Digest, Manifest, ManifestKind, Platform, Selector, Tag};

use crate::store::{Body, OpenBlob, Origin, Sink, Source};
use crate::{Error, Result};

/// How deep indexes may lie in indexes.
const DEPTH_LIMIT: usize = 4;

/// What is known while a copy runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A blob is about to be sent.
    Sending {
        /// Which one.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A blob has been sent.
    Sent {
        /// Which one.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A blob was there already.
    Present {
        /// Which one.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A blob was mounted from another repository of the same registry.
    Mounted {
        /// Which one.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
}

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Of an index, only the image for this platform.
    pub platform: Option<Platform>,
    /// How many blobs travel at once.
    pub parallel: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { platform: None, parallel: 4 }
    }
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// The digest that the image now has at the other end.
    pub digest: Option<Digest>,
    /// Blobs sent, and their bytes.
    pub sent: (usize, u64),
    /// Blobs that were there already, and their bytes.
    pub present: (usize, u64),
    /// Blobs mounted, and their bytes.
    pub mounted: (usize, u64),
    /// Whether the manifest itself was there already.
    pub unchanged: bool,
}

/// Copies the image that `which` names, and names it `tags` at the other end.
pub async fn copy<S: Source, K: Sink>(
    source: &S,
    which: &Selector,
    sink: &K,
    tags: &[Tag],
    options: &CopyOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Copied> {
    let mut manifest = source.manifest(which).await?;
    if let Some(platform) = &options.platform {
        manifest = select_platform(source, manifest, platform).await?;
    }
    let mut copied = Copied { digest: Some(manifest.digest()), ..Copied::default() };
    copied.unchanged = sink.has_manifest(manifest.digest()).await?;
    let order = with_children(source, manifest).await?;
    copy_blobs(source, sink, &order, options.parallel.max(1), progress, &mut copied).await?;
    let (top, children) = order.split_last().expect("a manifest is at least its own tree");
    for child in children {
        sink.put_manifest(child, None).await?;
    }
    if tags.is_empty() {
        sink.put_manifest(top, None).await?;
    }
    for tag in tags {
        sink.put_manifest(top, Some(tag)).await?;
    }
    Ok(copied)
}

/// The image for a platform: the manifest itself, or the entry of the index that fits.
pub async fn select_platform<S: Source>(source: &S, manifest: Manifest, wanted: &Platform) -> Result<Manifest> {
    let mut manifest = manifest;
    for _ in 0..DEPTH_LIMIT {
        let ManifestKind::Index { manifests } = manifest.kind() else { return Ok(manifest) };
        let rank = |entry: &Descriptor| wanted.rank(entry.platform.as_ref()?);
        let best = manifests.iter().filter(|entry| rank(entry).is_some()).min_by_key(|entry| rank(entry));
        let only = |entry: &&Descriptor| manifests.len() == 1 && entry.platform.is_none();
        let Some(entry) = best.or_else(|| manifests.iter().find(only)) else {
            let offered = manifests.iter().filter_map(|entry| entry.platform.as_ref());
            // BuildKit puts its attestations beside the images, for a platform that there is not.
            let offered = offered.filter(|platform| platform.os != "unknown").map(Platform::to_string).collect();
            return Err(Error::NoPlatform {
                place: manifest.digest().to_string(),
                wanted: wanted.to_string(),
                offered,
            });
        };
        manifest = source.manifest(&Selector::Digest(entry.digest)).await?;
    }
    Ok(manifest)
}

/// The manifest and everything below it, children before parents.
async fn with_children<S: Source>(source: &S, top: Manifest) -> Result<Vec<Manifest>> {
    let mut order = vec![top];
    let mut seen = HashSet::new();
    let mut level: Vec<Descriptor> = order[0].children().to_vec();
    for _ in 0..DEPTH_LIMIT {
        let mut next = Vec::new();
        for child in level.drain(..).filter(|child| seen.insert(child.digest)) {
            let manifest = source.manifest(&Selector::Digest(child.digest)).await?;
            next.extend(manifest.children().iter().cloned());
            order.push(manifest);
        }
        level = next;
    }
    order.reverse();
    Ok(order)
}

async fn copy_blobs<S: Source, K: Sink>(
    source: &S,
    sink: &K,
    manifests: &[Manifest],
    parallel: usize,
    progress: &(dyn Fn(Progress) + Sync),
    copied: &mut Copied,
) -> Result<()> {
    let mut seen = HashSet::new();
    let blobs: Vec<Descriptor> =
        manifests.iter().flat_map(Manifest::blobs).filter(|blob| blob.urls.is_empty()).cloned().collect();
    let blobs = blobs.into_iter().filter(|blob| seen.insert(blob.digest));
    let transfers = blobs.map(|blob| async move { copy_blob(source, sink, &blob, progress).await });
    let mut transfers = futures_util::stream::iter(transfers).buffer_unordered(parallel);
    while let Some(outcome) = transfers.next().await {
        let (count, size) = match outcome? {
            Progress::Sent { size, .. } | Progress::Sending { size, .. } => (&mut copied.sent, size),
            Progress::Present { size, .. } => (&mut copied.present, size),
            Progress::Mounted { size, .. } => (&mut copied.mounted, size),
        };
        *count = (count.0 + 1, count.1 + size);
    }
    Ok(())
}

async fn copy_blob<S: Source, K: Sink>(
    source: &S,
    sink: &K,
    blob: &Descriptor,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Progress> {
    let (digest, size) = (blob.digest, blob.size);
    let outcome = if sink.has_blob(digest).await? {
        Progress::Present { digest, size }
    } else if mounted(source, sink, digest).await? {
        Progress::Mounted { digest, size }
    } else {
        progress(Progress::Sending { digest, size });
        sink.put_blob(blob, &FromSource { source, blob }).await?;
        Progress::Sent { digest, size }
    };
    remember(source, sink, digest).await?;
    progress(outcome);
    Ok(outcome)
}

/// Lets both ends know where else the blob is, for the mounts of later copies.
async fn remember<S: Source, K: Sink>(source: &S, sink: &K, digest: Digest) -> Result<()> {
    for origin in source.origins(digest) {
        sink.came_from(digest, &origin).await?;
    }
    match sink.origin() {
        Some(origin) => source.went_to(digest, &origin).await,
        None => Ok(()),
    }
}

/// Tries the repositories of the sink's own registry that are known to have the blob.
async fn mounted<S: Source, K: Sink>(source: &S, sink: &K, digest: Digest) -> Result<bool> {
    let Some(target) = sink.origin() else { return Ok(false) };
    let same_registry = |origin: &Origin| origin.host == target.host && origin.name != target.name;
    for origin in source.origins(digest).into_iter().filter(same_registry) {
        if sink.mount(digest, &origin.name).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

struct FromSource<'a, S> {
    source: &'a S,
    blob: &'a Descriptor,
}

impl<S: Source> OpenBlob for FromSource<'_, S> {
    fn open(&self, from: u64) -> Pin<Box<dyn Future<Output = Result<Body>> + Send + '_>> {
        Box::pin(self.source.blob(self.blob, from))
    }
}
