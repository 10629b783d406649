//! An OCI image layout on disk: the local store, and the `oci:` directories that others exchange.
//!
//! ```text
//! ROOT/oci-layout                 {"imageLayoutVersion":"1.0.0"}
//! ROOT/index.json                 which image names mean which manifests
//! ROOT/index.lock                 one writer of index.json at a time
//! ROOT/blobs/<algorithm>/<hex>    manifests, configs and layers alike
//! ROOT/origins/<hex>              registries that a blob which is not here can be had from
//! ROOT/ingest/                    what has not been hashed to its end
//! ```
//!
//! A name is the annotation `org.opencontainers.image.ref.name`. In a layout that is exchanged it is
//! a tag; in the local store it is a whole reference, so that one layout holds many repositories.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::StreamExt;
use oci::{Algorithm, Descriptor, Digest, MANIFEST_LIMIT, Manifest, Selector, Tag, Verified};
use serde::{Deserialize, Serialize};

use crate::place::{Finished, Incoming, Shelf, Spread, named_in, replace_file};
use crate::store::{Body, OpenBlob, Origin, Sink, Source};
use crate::{Error, Result};

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Largest index.json that is read, in bytes: some 100 000 images.
const INDEX_LIMIT: u64 = 64 << 20;
/// Bytes per read from disk.
const CHUNK: usize = 256 << 10;

/// An OCI image layout.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
    shelf: Shelf,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Disk {
    /// Opens the layout in `root`, making it if there is none.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let shelf = Shelf::open(&root, Spread::Flat).map_err(Error::disk(&root))?;
        let marker = root.join("oci-layout");
        if !marker.exists() {
            replace_file(&marker, LAYOUT.as_bytes()).map_err(Error::disk(&marker))?;
        }
        let disk = Self { root, shelf };
        if !disk.index_path().exists() {
            disk.update(|_| {})?;
        }
        Ok(disk)
    }

    /// Opens a layout that must be there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        std::fs::metadata(&root).map_err(Error::disk(&root))?;
        let marker = root.join("oci-layout");
        let text = std::fs::read_to_string(&marker).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Error::Format {
                path: root.clone(),
                reason: "this is not an OCI image layout: it has no file `oci-layout`".to_owned(),
            },
            _ => Error::Disk { path: marker.clone(), source: error },
        })?;
        let version = serde_json::from_str::<serde_json::Value>(&text).ok();
        let version = version.as_ref().and_then(|layout| layout["imageLayoutVersion"].as_str());
        if !version.is_some_and(|version| version.starts_with("1.")) {
            return Err(Error::Format {
                path: marker,
                reason: "only version 1 of the OCI image layout is known".to_owned(),
            });
        }
        let shelf = Shelf::existing(&root, Spread::Flat);
        Ok(Self { root, shelf })
    }

    /// The directory of the layout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The repository of all names that are `prefix:TAG`; without a prefix, names are plain tags.
    pub fn repository(&self, prefix: Option<String>) -> DiskRepository {
        DiskRepository { disk: self.clone(), prefix }
    }

    /// Every named image: its name and its manifest's descriptor.
    pub fn images(&self) -> Result<Vec<(String, Descriptor)>> {
        let named = |entry: Descriptor| entry.annotations.get(REF_NAME).cloned().map(|name| (name, entry));
        Ok(self.index()?.manifests.into_iter().filter_map(named).collect())
    }

    /// The images of the layout whether they have a name or not.
    pub fn entries(&self) -> Result<Vec<Descriptor>> {
        Ok(self.index()?.manifests)
    }

    /// Takes a name away; its content stays until it is collected. Says whether there was one.
    pub fn unname(&self, name: &str) -> Result<bool> {
        let mut found = false;
        self.update(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|entry| entry.annotations.get(REF_NAME).map(String::as_str) != Some(name));
            found = index.manifests.len() < before;
        })?;
        Ok(found)
    }

    /// Opens a blob; `None` if it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>> {
        self.shelf.open_blob(digest).map_err(Error::disk(self.shelf.path(digest)))
    }

    /// The size of a blob in bytes; `None` if it is not here.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        self.shelf.size(digest).map_err(Error::disk(self.shelf.path(digest)))
    }

    /// Every blob that is here or that is known to be had from a registry, whether an image names it or not.
    pub fn blobs(&self) -> Result<Vec<Digest>> {
        let mut found = HashSet::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            found.extend(self.shelf.flat(algorithm).map_err(Error::disk(&self.root))?);
            found.extend(named_in(&self.origins(), algorithm).map_err(Error::disk(self.origins()))?);
        }
        Ok(found.into_iter().collect())
    }

    /// When a blob was used last, as far as that is known: see [`Disk::touch`].
    pub fn used(&self, digest: &Digest) -> Option<SystemTime> {
        let of = |path: PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).ok();
        of(self.shelf.path(digest)).or_else(|| of(self.origins_path(digest)))
    }

    /// Notes that a blob is of use now. If that cannot be noted it looks older than it is.
    pub fn touch(&self, digest: &Digest) {
        let now = |file: File| file.set_modified(SystemTime::now());
        if let Err(error) = File::open(self.shelf.path(digest)).and_then(now) {
            tracing::debug!(%error, %digest, "it looks older than it is");
        }
    }

    /// Removes a blob and what is known of it. Whoever does so has seen to it that nobody needs it.
    pub fn remove_blob(&self, digest: &Digest) -> Result<()> {
        for path in [self.shelf.path(digest), self.origins_path(digest)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::disk(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Where a blob lies, if it is here.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.shelf.path(digest)
    }

    /// Starts to take a blob in.
    pub fn incoming(&self) -> Result<Incoming> {
        self.shelf.incoming(Algorithm::Sha256).map_err(Error::disk(&self.root))
    }

    pub(crate) fn incoming_with(&self, algorithm: Algorithm) -> Result<Incoming> {
        self.shelf.incoming(algorithm).map_err(Error::disk(&self.root))
    }

    /// Files a blob that was hashed while it came in.
    pub fn keep(&self, finished: Finished) -> Result<Verified> {
        self.shelf.keep(finished).map_err(Error::disk(&self.root))
    }

    /// Files a blob that is in memory, and names it.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Verified> {
        let mut incoming = self.incoming()?;
        incoming.write_all(bytes).map_err(Error::disk(&self.root))?;
        self.keep(incoming.seal())
    }

    /// Remembers that a blob can be had from a registry, so that it need not be kept here.
    pub fn remember_origin(&self, digest: &Digest, origin: &Origin) -> Result<()> {
        let path = self.origins_path(digest);
        let mut origins = self.read_origins(digest);
        if origins.contains(origin) {
            return Ok(());
        }
        origins.push(origin.clone());
        let lines: String = origins.iter().map(|origin| format!("{} {}\n", origin.host, origin.name)).collect();
        std::fs::create_dir_all(self.origins()).map_err(Error::disk(&path))?;
        replace_file(&path, lines.as_bytes()).map_err(Error::disk(&path))
    }

    fn read_origins(&self, digest: &Digest) -> Vec<Origin> {
        let text = std::fs::read_to_string(self.origins_path(digest)).unwrap_or_default(); // a hint: losing it costs a transfer
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(host, name)| Some(Origin { host: host.parse().ok()?, name: name.parse().ok()? }))
            .collect()
    }

    fn origins_path(&self, digest: &Digest) -> PathBuf {
        self.origins().join(digest.hex())
    }

    fn origins(&self) -> PathBuf {
        self.root.join("origins")
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn index(&self) -> Result<Index> {
        let path = self.index_path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Index { schema_version: 2, ..Index::default() });
            }
            Err(source) => return Err(Error::Disk { path, source }),
        };
        let mut text = Vec::new();
        file.take(INDEX_LIMIT).read_to_end(&mut text).map_err(Error::disk(&path))?;
        serde_json::from_slice(&text).map_err(|error| Error::Format { path, reason: error.to_string() })
    }

    /// Changes index.json, one process and thread at a time.
    fn update(&self, change: impl FnOnce(&mut Index)) -> Result<()> {
        let lock_path = self.root.join("index.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(Error::disk(&lock_path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|error| Error::disk(&lock_path)(error.into()))?;
        let mut index = self.index()?;
        change(&mut index);
        index.schema_version = 2;
        index.media_type.get_or_insert_with(|| oci::media_type::OCI_INDEX.to_owned());
        let path = self.index_path();
        let text = serde_json::to_vec_pretty(&index).map_err(|error| Error::disk(&path)(error.into()))?;
        replace_file(&path, &text).map_err(Error::disk(&path))
    }

    /// A manifest that is here, by its digest.
    pub fn manifest(&self, digest: &Digest) -> Result<Option<Manifest>> {
        match self.blob_size(digest)? {
            Some(_) => self.read_manifest(&Descriptor::new("", *digest, 0), &Selector::Digest(*digest)).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn read_manifest(&self, descriptor: &Descriptor, which: &Selector) -> Result<Manifest> {
        let place = || self.root.display().to_string();
        let missing = || Error::NoManifest { place: place(), which: which.clone() };
        let file = self.open_blob(&descriptor.digest)?.ok_or_else(missing)?;
        let mut bytes = Vec::new();
        let path = self.shelf.path(&descriptor.digest);
        file.take(MANIFEST_LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(Error::disk(&path))?;
        let declared = Some(descriptor.media_type.as_str());
        let manifest = Manifest::parse_named(declared, bytes, descriptor.digest.algorithm())
            .map_err(|source| Error::Manifest { place: place(), source })?;
        if manifest.digest() == descriptor.digest {
            return Ok(manifest);
        }
        let size = manifest.bytes().len() as u64;
        let mismatch = oci::Mismatch { expected: descriptor.digest, actual: manifest.digest(), size };
        Err(Error::Wrong { place: place(), mismatch })
    }
}

/// The images of a layout that share a name prefix.
#[derive(Debug, Clone)]
pub struct DiskRepository {
    disk: Disk,
    prefix: Option<String>,
}

impl DiskRepository {
    /// The layout that this is a part of.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    fn name(&self, tag: &Tag) -> String {
        match &self.prefix {
            Some(prefix) => format!("{prefix}:{tag}"),
            None => tag.to_string(),
        }
    }

    fn describe(&self, which: &Selector) -> Result<Descriptor> {
        let missing = || Error::NoManifest { place: self.disk.root.display().to_string(), which: which.clone() };
        match which {
            Selector::Digest(digest) => Ok(Descriptor::new("", *digest, 0)),
            Selector::Tag(tag) => {
                let name = self.name(tag);
                let is_named = |entry: &Descriptor| entry.annotations.get(REF_NAME) == Some(&name);
                self.disk.index()?.manifests.into_iter().rev().find(is_named).ok_or_else(missing)
            }
        }
    }
}

impl Source for DiskRepository {
    async fn manifest(&self, which: &Selector) -> Result<Manifest> {
        let this = self.clone();
        let which = which.clone();
        blocking(move || this.disk.read_manifest(&this.describe(&which)?, &which)).await
    }

    async fn blob(&self, blob: &Descriptor, from: u64) -> Result<Body> {
        let missing = || Error::NoBlob { place: self.disk.root.display().to_string(), digest: blob.digest };
        let mut file = self.disk.open_blob(&blob.digest)?.ok_or_else(missing)?;
        let path = self.disk.blob_path(&blob.digest);
        file.seek(SeekFrom::Start(from)).map_err(Error::disk(&path))?;
        Ok(Box::pin(futures_util::stream::unfold(Some(file), move |file| read_chunk(file, path.clone()))))
    }

    fn origins(&self, blob: Digest) -> Vec<Origin> {
        self.disk.read_origins(&blob)
    }

    async fn went_to(&self, blob: Digest, origin: &Origin) -> Result<()> {
        self.learn(blob, origin).await
    }
}

impl DiskRepository {
    /// A layout without repositories is somebody's export, and gets no files that the format does not know.
    async fn learn(&self, blob: Digest, origin: &Origin) -> Result<()> {
        if self.prefix.is_none() {
            return Ok(());
        }
        let (this, origin) = (self.clone(), origin.clone());
        blocking(move || this.disk.remember_origin(&blob, &origin)).await
    }
}

async fn read_chunk(file: Option<File>, path: PathBuf) -> Option<(Result<Bytes>, Option<File>)> {
    let mut file = file?;
    let read = blocking(move || {
        let mut chunk = vec![0; CHUNK];
        let size = file.read(&mut chunk).map_err(Error::disk(&path))?;
        chunk.truncate(size);
        Ok((Bytes::from(chunk), file))
    });
    match read.await {
        Ok((chunk, _)) if chunk.is_empty() => None,
        Ok((chunk, file)) => Some((Ok(chunk), Some(file))),
        Err(error) => Some((Err(error), None)),
    }
}

impl Sink for DiskRepository {
    async fn has_blob(&self, digest: Digest) -> Result<bool> {
        Ok(self.disk.blob_size(&digest)?.is_some())
    }

    async fn has_manifest(&self, digest: Digest) -> Result<bool> {
        Ok(self.disk.blob_size(&digest)?.is_some())
    }

    async fn put_blob(&self, blob: &Descriptor, content: &dyn OpenBlob) -> Result<Verified> {
        let shelf = self.disk.shelf.clone();
        let mut incoming = shelf.incoming(blob.digest.algorithm()).map_err(Error::disk(&self.disk.root))?;
        let mut body = content.open(0).await?;
        while let Some(part) = body.next().await {
            let (part, path) = (part?, self.disk.root.clone());
            incoming = blocking(move || {
                incoming.write_all(&part).map_err(Error::disk(path))?;
                Ok(incoming)
            })
            .await?;
        }
        let (root, expected) = (self.disk.root.clone(), blob.digest);
        blocking(move || {
            let wrong = |mismatch| Error::Wrong { place: "the source".to_owned(), mismatch };
            let finished = incoming.finish(expected).map_err(wrong)?;
            shelf.keep(finished).map_err(Error::disk(root))
        })
        .await
    }

    async fn came_from(&self, blob: Digest, origin: &Origin) -> Result<()> {
        self.learn(blob, origin).await
    }

    async fn put_manifest(&self, manifest: &Manifest, tag: Option<&Tag>) -> Result<()> {
        let (this, manifest, name) = (self.clone(), manifest.clone(), tag.map(|tag| self.name(tag)));
        blocking(move || this.disk.put_manifest(&manifest, name)).await
    }
}

impl Disk {
    /// Files a manifest whose content is here, or has an origin, and names it.
    pub fn put_manifest(&self, manifest: &Manifest, name: Option<String>) -> Result<()> {
        let place = || self.root.display().to_string();
        for blob in manifest.blobs().filter(|blob| blob.urls.is_empty()) {
            if self.blob_size(&blob.digest)?.is_none() && self.read_origins(&blob.digest).is_empty() {
                return Err(Error::NoBlob { place: place(), digest: blob.digest });
            }
        }
        for child in manifest.children() {
            if self.blob_size(&child.digest)?.is_none() {
                return Err(Error::NoManifest { place: place(), which: Selector::Digest(child.digest) });
            }
        }
        let mut incoming = self.shelf.incoming(manifest.digest().algorithm()).map_err(Error::disk(&self.root))?;
        incoming.write_all(manifest.bytes()).map_err(Error::disk(&self.root))?;
        let finished = incoming.finish(manifest.digest());
        self.keep(finished.map_err(|mismatch| Error::Wrong { place: place(), mismatch })?)?;
        let Some(name) = name else { return Ok(()) };
        let mut entry = manifest.descriptor();
        entry.annotations.insert(REF_NAME.to_owned(), name.clone());
        self.update(|index| {
            index.manifests.retain(|old| old.annotations.get(REF_NAME) != Some(&name));
            index.manifests.push(entry);
        })
    }
}

/// Runs file-system work where it holds up no other task.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
