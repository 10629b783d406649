//! Build caches that machines share: read before a build, written after it.
//!
//! Writers merge (see `publish`). Whatever is wrong with a cache that is read is told,
//! and the build goes on without it.

mod mounts;
mod publish;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use builder::Built;
use builder::build::{Blobs, Import};
use builder::cache::Cache;
use builder::cache::exchange::{self, DOCUMENT_LIMIT, DOCUMENT_TYPE, Document, INDEX_TYPE, INLINE_KEY, Step};
use builder::dockerfile::{fields, size};
use content::remote::{Client, Repository};
use content::{Body, Disk, Error, OpenBlob, Origin, Sink, Source, WithOrigins, collect, select_platform};
use oci::{Descriptor, Digest, ManifestKind, Platform, Reference, Selector, Tag, Verifier};
use tokio::runtime::Handle;

pub use self::mounts::SharedMounts;
use self::publish::{Shared, current, publish};
use crate::args::ExchangeArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::images::reader;
use crate::terminal::tell;

/// The name of a cache in a directory.
const LOCAL_TAG: &str = "cache";

/// How long a writer waits before it looks whether another one has overwritten it: longer than what lies between the
/// reading and the writing of that one, which are two requests.
const SETTLE: Duration = Duration::from_millis(300);

/// How often a directory that somebody else writes is asked for again.
const PATIENCE: Duration = Duration::from_millis(50);

/// How much of what was built goes into a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The steps whose layers the image has.
    Min,
    /// The steps of all stages.
    Max,
}

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Registry(Reference),
    Directory(PathBuf),
    /// The image itself.
    Inline,
}

/// One place, as it was typed.
struct Typed {
    place: Place,
    mode: Mode,
    /// `max` of cache mounts, in bytes.
    limit: Option<u64>,
}

/// What was typed, understood.
#[derive(Debug, Default)]
pub struct Exchange {
    from: Vec<Place>,
    to: Vec<(Place, Mode)>,
}

impl Exchange {
    /// Reads what was typed.
    pub fn parse(args: &ExchangeArgs) -> Outcome<Self> {
        let mut exchange = Self::default();
        for text in &args.cache_from {
            exchange.from.push(place(text, "cache-from", "src")?.place);
        }
        for text in &args.cache_to {
            let typed = place(text, "cache-to", "dest")?;
            exchange.to.push((typed.place, typed.mode));
        }
        if args.cache.unwrap_or(false) {
            let repository = args.cache_repo.as_deref().ok_or_else(|| {
                Failure::new(Exit::Usage, "--cache needs a --cache-repo").hint("--cache --cache-repo HOST/NAME")
            })?;
            let place = Place::Registry(reference(&tagged(repository), "cache-repo")?);
            exchange.from.push(place.clone());
            exchange.to.push((place, Mode::Max));
        }
        Ok(exchange)
    }

    /// Whether the image is to carry its own cache.
    pub fn is_inline(&self) -> bool {
        self.to.iter().any(|(place, _)| *place == Place::Inline)
    }

    /// Reads the caches that are to be looked into.
    pub async fn import(&self, client: &Client, platform: &Platform) -> Vec<Arc<Import>> {
        let mut imports = Vec::new();
        for place in &self.from {
            match read(place, client, platform).await {
                Ok(Some(import)) => imports.push(Arc::new(import)),
                Ok(None) => tracing::info!(cache = %name(place), "there is no cache yet"),
                Err(error) => tell(&format!("warning: the cache {} cannot be used: {error}", name(place))),
            }
        }
        imports
    }

    /// Writes the caches that others are to find.
    pub async fn export(&self, built: &Built, cache: &Cache, local: &Disk, client: &Client) -> Outcome<()> {
        for (place, mode) in &self.to {
            let written = match place {
                Place::Inline => continue, // it went with the image
                Place::Registry(reference) => {
                    let repository = client.repository(reference.host(), reference.name());
                    let tag = reference.tag().cloned().unwrap_or_else(|| tag("latest"));
                    write(&repository, &tag, Some(SETTLE), *mode, built, cache, local, client).await
                }
                Place::Directory(path) => {
                    let within = async {
                        let disk = Disk::create(path)?;
                        let _held = hold(path).await?;
                        write(&disk.repository(None), &tag(LOCAL_TAG), None, *mode, built, cache, local, client).await
                    };
                    within.await
                }
            };
            written.map_err(|error| Failure::content(format!("cannot write the cache {}", name(place)), &error))?;
        }
        Ok(())
    }
}

fn name(place: &Place) -> String {
    match place {
        Place::Registry(reference) => reference.to_string(),
        Place::Directory(path) => path.display().to_string(),
        Place::Inline => "of the image".to_owned(),
    }
}

fn tag(text: &str) -> Tag {
    text.parse().expect("our own tags are tags")
}

/// kaniko names a repository; ours is one tag in it.
fn tagged(repository: &str) -> String {
    let last = repository.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { repository.to_owned() } else { format!("{repository}:cache") }
}

fn reference(text: &str, flag: &str) -> Outcome<Reference> {
    text.parse().map_err(|error| Failure::because(Exit::Usage, format!("--{flag} `{text}`"), &error))
}

/// `type=registry,ref=…[,mode=…]`, `type=local,src=…` or `dest=…`, `type=inline`, or the name of an image alone.
fn place(text: &str, flag: &str, directory: &str) -> Outcome<Typed> {
    let hint = format!("--{flag} type=registry,ref=HOST/NAME:TAG or --{flag} type=local,{directory}=DIR");
    let wrong = |why: &str| Failure::new(Exit::Usage, format!("--{flag} `{text}` {why}")).hint(hint.clone());
    if !text.contains('=') && flag == "cache-from" {
        return Ok(Typed { place: Place::Registry(reference(text, flag)?), mode: Mode::Min, limit: None });
    }
    let (mut kind, mut name, mut path, mut mode, mut limit) = (None, None, None, Mode::Min, None);
    for field in fields(text).map_err(|error| wrong(&format!("cannot be read: {error}")))? {
        let (key, value) = field.split_once('=').ok_or_else(|| wrong(&format!("has the field `{field}` without =")))?;
        match key {
            "type" => kind = Some(value.to_owned()),
            "ref" => name = Some(value.to_owned()),
            _ if key == directory => path = Some(PathBuf::from(value)),
            "mode" if flag == "cache-to" => {
                mode = match value {
                    "min" => Mode::Min,
                    "max" => Mode::Max,
                    _ => return Err(wrong("has a mode that is neither min nor max")),
                }
            }
            "max" if flag == "cache-mounts" => {
                limit = Some(size(value).ok_or_else(|| wrong("has a max that is not a size, like 500m or 2g"))?);
            }
            // What other builders ask for is what we do anyway.
            "oci-mediatypes" | "image-manifest" if value == "true" && flag != "cache-mounts" => {}
            _ => return Err(wrong(&format!("has the unknown field `{key}`"))),
        }
    }
    let place = match (kind.as_deref(), name, path) {
        (Some("registry"), Some(name), None) => Place::Registry(reference(&name, flag)?),
        (Some("registry"), ..) => return Err(wrong("needs ref=NAME and no directory")),
        (Some("local"), None, Some(path)) => Place::Directory(path),
        (Some("local"), ..) => return Err(wrong(&format!("needs {directory}=DIR and no ref"))),
        (Some("inline"), None, None) if flag == "cache-to" => Place::Inline,
        (Some("inline"), ..) if flag == "cache-mounts" => {
            return Err(wrong("is of the type inline; there are registry and local"));
        }
        (Some("inline"), ..) => return Err(wrong("is inline; an image with such a cache is named with type=registry")),
        (Some(kind), ..) => return Err(wrong(&format!("is of the type {kind}; there are registry, local and inline"))),
        (None, ..) => return Err(wrong("has no type")),
    };
    Ok(Typed { place, mode, limit })
}

async fn read(place: &Place, client: &Client, platform: &Platform) -> content::Result<Option<Import>> {
    match place {
        Place::Registry(reference) => {
            let repository = client.repository(reference.host(), reference.name());
            let origin = Origin { host: reference.host().clone(), name: reference.name().clone() };
            let document = find(&repository, &reference.selector(), platform).await?;
            let blobs = Arc::new(Remote { runtime: Handle::current(), repository });
            Ok(document.map(|document| Import { document, blobs, origin: Some(origin), name: name(place) }))
        }
        Place::Directory(path) => {
            if !path.join("oci-layout").exists() {
                return Ok(None);
            }
            let disk = Disk::open(path)?;
            let document = find(&disk.repository(None), &Selector::Tag(tag(LOCAL_TAG)), platform).await?;
            Ok(document.map(|document| Import {
                document,
                blobs: Arc::new(Directory(disk)),
                origin: None,
                name: name(place),
            }))
        }
        Place::Inline => Ok(None),
    }
}

/// The document behind a name: a cache, or an image that carries one. None if there is nothing of that name.
async fn find<S: Source>(source: &S, which: &Selector, platform: &Platform) -> content::Result<Option<Document>> {
    let manifest = match source.manifest(which).await {
        Err(Error::NoManifest { .. }) => return Ok(None),
        manifest => select_platform(source, manifest?, platform).await?,
    };
    let ManifestKind::Image { config, layers } = manifest.kind() else { return Ok(None) };
    let place = || "the cache".to_owned();
    let bytes = collect(source.blob(config, 0).await?, DOCUMENT_LIMIT).await?;
    let bytes =
        bytes.ok_or_else(|| Error::Protocol { host: place(), reason: "it is too large for a cache".to_owned() })?;
    let mut verifier = Verifier::new(config.digest.algorithm());
    verifier.update(&bytes);
    verifier.finish(config.digest).map_err(|mismatch| Error::Wrong { place: place(), mismatch })?;
    let document = if config.media_type == DOCUMENT_TYPE {
        Document::parse(&bytes, layers)
    } else {
        let image: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
        let inline = image.and_then(|mut image| image.get_mut(INLINE_KEY).map(serde_json::Value::take));
        inline.and_then(|inline| Document::parse(inline.to_string().as_bytes(), layers))
    };
    let strange =
        || Error::Protocol { host: place(), reason: "it is no cache, and no image that carries one".to_owned() };
    document.map(Some).ok_or_else(strange)
}

/// Blobs of a registry, read by threads that wait.
struct Remote {
    runtime: Handle,
    repository: Repository,
}

impl Blobs for Remote {
    fn open(&self, blob: &Descriptor) -> content::Result<Box<dyn Read + Send>> {
        let body = self.runtime.block_on(self.repository.blob(blob, 0))?;
        Ok(reader(&self.runtime, body))
    }
}

struct Directory(Disk);

impl Blobs for Directory {
    fn open(&self, blob: &Descriptor) -> content::Result<Box<dyn Read + Send>> {
        let missing = || Error::NoBlob { place: self.0.root().display().to_string(), digest: blob.digest };
        Ok(Box::new(self.0.open_blob(&blob.digest)?.ok_or_else(missing)?))
    }
}

/// A blob of the local store, or from where that knows it to be.
struct FromStore<'a> {
    source: &'a WithOrigins,
    blob: &'a Descriptor,
}

impl OpenBlob for FromStore<'_> {
    fn open(&self, from: u64) -> Pin<Box<dyn Future<Output = content::Result<Body>> + Send + '_>> {
        Box::pin(self.source.blob(self.blob, from))
    }
}

#[allow(clippy::too_many_arguments)] // one job: what, from where, to where
async fn write<P: Source + Sink>(
    place: &P,
    name: &Tag,
    settle: Option<Duration>,
    mode: Mode,
    built: &Built,
    cache: &Cache,
    local: &Disk,
    client: &Client,
) -> content::Result<()> {
    let source = WithOrigins::new(local.repository(None), client.clone());
    let there: Document = current(place, name).await?.document();
    let ours = document(mode, built, cache, local, &there)?;
    if is_news_of_nothing(&ours, &there) {
        return Ok(());
    }
    let known: HashSet<Digest> = there.blobs().into_iter().map(|blob| blob.digest).collect();
    for blob in ours.blobs().iter().filter(|blob| !known.contains(&blob.digest)) {
        send(place, &source, blob).await?;
    }
    publish(place, name, &ours, settle).await
}

impl Shared for Document {
    const TYPE: &'static str = DOCUMENT_TYPE;
    const LIMIT: usize = DOCUMENT_LIMIT;

    fn read(bytes: &[u8], blobs: &[Descriptor]) -> Option<Self> {
        Self::parse(bytes, blobs)
    }

    fn take_in(&mut self, other: Self) {
        self.merge(other);
    }

    fn holds(&self, other: &Self) -> bool {
        self.covers(other)
    }

    fn written(&self) -> (Vec<u8>, Vec<u8>) {
        (self.to_json(), self.manifest())
    }
}

/// Keeps other writers of a directory away, who lock it as well.
async fn hold(path: &Path) -> content::Result<File> {
    let place = path.join("cache.lock");
    let failed = |source| Error::Disk { path: place.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&place).map_err(failed)?;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => tokio::time::sleep(PATIENCE).await,
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Whether everything is there already, and was used lately.
fn is_news_of_nothing(ours: &Document, there: &Document) -> bool {
    const LATELY: i64 = 24 * 3600;
    let lately = |key: &Digest, step: &Step| there.steps.get(key).is_some_and(|known| known.used > step.used - LATELY);
    ours.steps.iter().all(|(key, step)| lately(key, step))
        && ours.indexes.keys().all(|layer| there.indexes.contains_key(layer))
}

/// What this build knows. Indexes that are there already are not made again.
fn document(mode: Mode, built: &Built, cache: &Cache, local: &Disk, there: &Document) -> content::Result<Document> {
    let used = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
    let mut document = Document::default();
    for step in built.steps.iter().filter(|step| mode == Mode::Max || step.in_image) {
        let layer = step.record.blob.digest;
        if let Some(origin) = &step.origin {
            local.remember_origin(&layer, origin)?; // to be had from there, if the other cache has it not
        }
        // A layer that was only promised by a directory, and that nobody needed, cannot be promised again.
        if step.origin.is_some() || there.steps.contains_key(&step.key) || local.blob_size(&layer)?.is_some() {
            document.steps.insert(step.key, Step { record: step.record.clone(), used });
        }
    }
    for layer in &built.seen {
        // A layer that no step has made is one of a base image: whoever builds upon it need not read it.
        let is_base = !built.steps.iter().any(|step| step.record.diff_id == *layer);
        let is_sent = document.steps.values().any(|step| step.record.diff_id == *layer);
        let is_wanted = mode == Mode::Max || is_base || is_sent;
        if let Some(index) = there.indexes.get(layer) {
            document.indexes.insert(*layer, index.clone());
        } else if let Some(index) = cache.index(layer).filter(|_| is_wanted) {
            let packed =
                exchange::pack_index(&index).map_err(|source| Error::Disk { path: local.root().into(), source })?;
            let stored = local.put_bytes(&packed)?;
            document.indexes.insert(*layer, Descriptor::new(INDEX_TYPE, stored.digest(), stored.size()));
        }
    }
    Ok(document)
}

/// A blob that may be there, may be mounted, or is sent.
async fn send<P: Sink>(place: &P, source: &WithOrigins, blob: &Descriptor) -> content::Result<()> {
    if place.has_blob(blob.digest).await? {
        return Ok(());
    }
    if let Some(target) = place.origin() {
        for origin in source.origins(blob.digest) {
            if origin.host == target.host
                && origin.name != target.name
                && place.mount(blob.digest, &origin.name).await?
            {
                return Ok(());
            }
        }
    }
    place.put_blob(blob, &FromStore { source, blob }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use oci::Manifest;

    use super::publish::InMemory;
    use super::*;

    /// A registry in which somebody else writes right after our first write, having read before it.
    struct Contested {
        inner: content::Memory,
        other: std::sync::Mutex<Option<Document>>,
    }

    impl Source for Contested {
        async fn manifest(&self, which: &Selector) -> content::Result<Manifest> {
            self.inner.manifest(which).await
        }
        async fn blob(&self, blob: &Descriptor, from: u64) -> content::Result<Body> {
            self.inner.blob(blob, from).await
        }
    }

    impl Sink for Contested {
        async fn has_blob(&self, digest: Digest) -> content::Result<bool> {
            self.inner.has_blob(digest).await
        }
        async fn has_manifest(&self, digest: Digest) -> content::Result<bool> {
            self.inner.has_manifest(digest).await
        }
        async fn put_blob(&self, blob: &Descriptor, content: &dyn OpenBlob) -> content::Result<oci::Verified> {
            self.inner.put_blob(blob, content).await
        }
        async fn put_manifest(&self, manifest: &Manifest, tag: Option<&Tag>) -> content::Result<()> {
            self.inner.put_manifest(manifest, tag).await?;
            let other = self.other.lock().unwrap().take();
            let Some(other) = other else { return Ok(()) };
            publish(&self.inner, tag.unwrap(), &other, None).await?; // puts back what we have overwritten …
            let overwritten = Manifest::parse(None, other.manifest()).unwrap();
            self.inner.put_manifest(&overwritten, tag).await // … and forgets us
        }
    }

    fn document(name: &str) -> Document {
        let blob = Descriptor::new(oci::media_type::OCI_LAYER_GZIP, Digest::of(name.as_bytes()), name.len() as u64);
        let record = builder::cache::Record {
            diff_id: Digest::of(b"tar").to_string().parse().unwrap(),
            blob,
            created: String::new(),
            likeness: None,
            residue: None,
        };
        Document {
            steps: [(Digest::of(format!("key {name}").as_bytes()), Step { record, used: 5 })].into(),
            ..Document::default()
        }
    }

    #[tokio::test]
    async fn who_is_overwritten_merges_again() {
        let (ours, theirs) = (document("ours"), document("theirs!"));
        let place = Contested { inner: content::Memory::default(), other: Some(theirs.clone()).into() };
        for (name, document) in [("ours", &ours), ("theirs!", &theirs)] {
            place.put_blob(&document.blobs()[0], &InMemory(name.into())).await.unwrap();
            let json = document.to_json();
            let config = Descriptor::new(DOCUMENT_TYPE, Digest::of(&json), json.len() as u64);
            place.put_blob(&config, &InMemory(json)).await.unwrap();
        }
        publish(&place, &tag("cache"), &ours, Some(Duration::ZERO)).await.unwrap();
        let now: Document = current(&place, &tag("cache")).await.unwrap().document();
        assert!(now.covers(&ours) && now.covers(&theirs) && now.steps.len() == 2, "{now:?}");
    }

    #[tokio::test]
    async fn writers_are_kept_apart_where_the_place_can() {
        let place = content::Memory::default();
        let name = tag("cache");
        for (text, used) in [("one", 5), ("other", 6)] {
            let document = document(text);
            place.put_blob(&document.blobs()[0], &InMemory(text.into())).await.unwrap();
            // A place that keeps writers apart is not looked at again: waiting for an hour would be noticed.
            publish(&place, &name, &document, Some(Duration::from_secs(3600))).await.unwrap();
            let now: Document = current(&place, &name).await.unwrap().document();
            assert!(now.covers(&document) && now.steps.len() == used - 4, "{now:?}");
        }
    }

    #[test]
    fn caches_are_named_as_with_docker_and_kaniko() {
        let registry = |text: &str| Place::Registry(text.parse().unwrap());
        let from = |text| place(text, "cache-from", "src").ok().map(|typed| typed.place);
        assert_eq!(from("vm2:5000/shop/api:cache"), Some(registry("vm2:5000/shop/api:cache")));
        assert_eq!(from("type=registry,ref=vm2:5000/a:b"), Some(registry("vm2:5000/a:b")));
        assert_eq!(from("type=local,src=/c"), Some(Place::Directory("/c".into())));
        for text in
            ["type=local", "type=local,dest=/c", "type=gha", "ref=a", "type=inline", "type=registry,ref=a,mode=max"]
        {
            assert!(from(text).is_none(), "{text}");
        }
        let to = |text| place(text, "cache-to", "dest").ok().map(|typed| (typed.place, typed.mode));
        assert_eq!(to("type=inline"), Some((Place::Inline, Mode::Min)));
        assert_eq!(to("type=registry,ref=vm2:5000/a:b,mode=max"), Some((registry("vm2:5000/a:b"), Mode::Max)));
        assert_eq!(to("type=local,dest=/c,mode=all"), None);
        assert_eq!(tagged("vm2:5000/a"), "vm2:5000/a:cache");
        assert_eq!(tagged("vm2:5000/a:b"), "vm2:5000/a:b");
        let both = ExchangeArgs { cache: Some(true), cache_repo: Some("vm2:5000/a".into()), ..ExchangeArgs::default() };
        let both = Exchange::parse(&both).ok().unwrap();
        assert_eq!((both.from.len(), both.to.len()), (1, 1));
        assert!(Exchange::parse(&ExchangeArgs { cache: Some(true), ..ExchangeArgs::default() }).is_err());
    }
}
