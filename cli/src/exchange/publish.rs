//! Writing what several machines write under one name, so that nobody's work is lost: each takes in what is there,
//! and puts the whole in its place.
//!
//! Where the registry takes a manifest only if the name still stands for what was read (`If-Match`, as `lighter registry`
//! does), writers cannot come between each other. The Distribution API does not ask for that; elsewhere a writer looks
//! again whether what it wrote is still there.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::time::{Duration, Instant};

use content::{Body, Error, OpenBlob, Sink, Source, Swap, collect};
use oci::{Descriptor, Digest, Manifest, ManifestKind, Selector, Tag, Verifier};

/// So often a writer begins again; each time another one has written.
const ATTEMPTS: u32 = 100;

/// The longest that a writer waits before it begins again.
const PAUSE: Duration = Duration::from_millis(200);

/// What is written: a document, and the blobs that it names.
pub trait Shared: Clone + Default {
    /// The media type of the document.
    const TYPE: &'static str;
    /// Largest document that is read, in bytes.
    const LIMIT: usize;
    /// Reads a document whose blobs are `blobs`. None if it is none.
    fn read(bytes: &[u8], blobs: &[Descriptor]) -> Option<Self>;
    /// Takes in what another one knows.
    fn take_in(&mut self, other: Self);
    /// Whether everything that another one knows is known here, or newer.
    fn holds(&self, other: &Self) -> bool;
    /// The bytes of the document, and of the manifest under which it travels.
    fn written(&self) -> (Vec<u8>, Vec<u8>);
}

/// What a name stands for now.
pub enum Current<D> {
    /// Nothing.
    Nothing,
    /// A document.
    Document(Digest, D),
    /// Something that cannot be read, and is replaced.
    Strange,
}

impl<D: Shared> Current<D> {
    /// The document, or an empty one.
    pub fn document(self) -> D {
        match self {
            Self::Document(_, document) => document,
            Self::Nothing | Self::Strange => D::default(),
        }
    }
}

/// Reads what a name stands for. What is there and no document is replaced; what cannot be asked for is an error, since
/// replacing it would lose what others have written.
pub async fn current<P: Source, D: Shared>(place: &P, name: &Tag) -> content::Result<Current<D>> {
    let manifest = match place.manifest(&Selector::Tag(name.clone())).await {
        Err(Error::NoManifest { .. }) => return Ok(Current::Nothing),
        Err(error) if is_damage(&error) => return Ok(Current::Strange),
        manifest => manifest?,
    };
    match document(place, &manifest).await {
        Ok(Some(document)) => Ok(Current::Document(manifest.digest(), document)),
        Ok(None) => Ok(Current::Strange),
        Err(error) if is_damage(&error) => Ok(Current::Strange),
        Err(error) => Err(error),
    }
}

fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Wrong { .. } | Error::Manifest { .. } | Error::NoBlob { .. })
}

async fn document<P: Source, D: Shared>(place: &P, manifest: &Manifest) -> content::Result<Option<D>> {
    let ManifestKind::Image { config, layers } = manifest.kind() else { return Ok(None) };
    if config.media_type != D::TYPE {
        return Ok(None);
    }
    let bytes = collect(place.blob(config, 0).await?, D::LIMIT).await?;
    let Some(bytes) = bytes else { return Ok(None) };
    let mut verifier = Verifier::new(config.digest.algorithm());
    verifier.update(&bytes);
    let wrong = |mismatch| Error::Wrong { place: "the cache".to_owned(), mismatch };
    verifier.finish(config.digest).map_err(wrong)?;
    Ok(D::read(&bytes, layers))
}

/// Makes a document, whose blobs are there, part of what a name stands for. `settle` is how long to wait before looking
/// again, where writers are not kept apart; none where the caller keeps them apart.
pub async fn publish<P: Source + Sink, D: Shared>(
    place: &P,
    name: &Tag,
    ours: &D,
    settle: Option<Duration>,
) -> content::Result<()> {
    // No manifest is empty: who takes one under this condition knows no conditions.
    let never = Digest::of(b"");
    let mut keeps_apart = None;
    for attempt in 0..ATTEMPTS {
        let begun = Instant::now();
        let there = current::<P, D>(place, name).await?;
        let (digest, is_known) = match &there {
            Current::Document(digest, _) => (Some(*digest), true),
            Current::Nothing => (None, true),
            Current::Strange => (None, false),
        };
        let mut all = there.document();
        if attempt > 0 && all.holds(ours) {
            return Ok(());
        }
        all.take_in(ours.clone());
        let manifest = prepare(place, &all).await?;
        if is_known && settle.is_some() && keeps_apart.is_none() {
            keeps_apart = Some(place.swap_manifest(&manifest, name, Some(never)).await? == Swap::Lost);
        } else if keeps_apart != Some(true) || !is_known {
            place.put_manifest(&manifest, Some(name)).await?;
        }
        if keeps_apart == Some(true) && is_known {
            match place.swap_manifest(&manifest, name, digest).await? {
                Swap::Named => return Ok(()),
                Swap::Lost => tracing::info!("another build has written the same cache; merging again"),
            }
        } else if let Some(settle) = settle {
            // The others are as slow as we are, or somewhat slower.
            tokio::time::sleep(settle.max(begun.elapsed() * 4)).await;
            if current::<P, D>(place, name).await?.document().holds(ours) {
                return Ok(());
            }
            tracing::info!("another build has overwritten the same cache; merging again");
        } else {
            return Ok(());
        }
        tokio::time::sleep(part_of(PAUSE)).await;
    }
    Err(Error::Broken { place: "the cache".to_owned(), reason: "other builds overwrite it all the time".to_owned() })
}

/// Sends the document; gives the manifest.
async fn prepare<P: Sink, D: Shared>(place: &P, all: &D) -> content::Result<Manifest> {
    let (json, manifest) = all.written();
    let config = Descriptor::new(D::TYPE, Digest::of(&json), json.len() as u64);
    place.put_blob(&config, &InMemory(json)).await?;
    let wrong = |source| Error::Manifest { place: "the cache".to_owned(), source };
    Manifest::parse(Some(oci::media_type::OCI_MANIFEST), manifest).map_err(wrong)
}

/// Some part of a time, another one for each writer, so that they do not meet again.
fn part_of(time: Duration) -> Duration {
    time.mul_f64((RandomState::new().hash_one(0) % 1000) as f64 / 1000.0)
}

/// A blob that is at hand.
pub struct InMemory(pub Vec<u8>);

impl OpenBlob for InMemory {
    fn open(&self, from: u64) -> Pin<Box<dyn Future<Output = content::Result<Body>> + Send + '_>> {
        let rest = self.0.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default().to_vec();
        Box::pin(std::future::ready(Ok(content::body_of(rest))))
    }
}
