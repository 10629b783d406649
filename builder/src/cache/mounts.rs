//! Cache mounts (`RUN --mount=type=cache`) as others can have them: each is a tar of its files, cut into [`chunks`] that
//! are compressed and named by their content, so that of a tree that has grown only what is new is moved. One document
//! lists the chunks of all mounts of a name; it travels like that of [`exchange`](super::exchange).
//!
//! What is read was written by somebody else: sizes are limited before anything is fetched, every chunk is checked, and
//! the tar is unpacked as a layer is, so that no path leads out of it. A mount that is not what it should be is empty.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Descriptor, Digest, media_type};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::chunks::{self, Chunks};
use super::exchange::AGE_LIMIT;
use crate::build::Blobs;
use crate::layer::unpack::{Marks, Ownership};
use crate::layer::{Compression, Pipeline, View, diff, pipeline};

/// The media type of the document; another format is another type.
pub const DOCUMENT_TYPE: &str = "application/vnd.lighter.cache-mounts.v1+json";

/// The media type of a chunk.
const CHUNK_TYPE: &str = "application/vnd.lighter.cache-chunk.v1+zstd";

/// Largest document that is read, in bytes.
pub const DOCUMENT_LIMIT: usize = 16 << 20;

/// Most chunks of a document: what fits into a manifest, which registries limit to 4 MiB.
const CHUNK_LIMIT: usize = 20_000;

/// How hard chunks are compressed: much of what is in caches is compressed already.
const LEVEL: i32 = 3;

/// The cache mounts of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// By the key of the mount: its id, owner, mode, and what it begins with.
    pub mounts: BTreeMap<Digest, Tree>,
}

/// The files of one mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// The tar, cut.
    pub chunks: Vec<Chunk>,
    /// When it was used last, in seconds since 1970.
    pub used: i64,
}

/// A part of a tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// What it is.
    pub plain: Digest,
    /// How large, in bytes.
    pub size: u64,
    /// What it is, compressed.
    pub blob: Digest,
    /// How large that is.
    pub packed: u64,
}

impl Chunk {
    /// Compresses a chunk.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn pack(plain: &[u8]) -> io::Result<(Self, Vec<u8>)> {
        let packed = zstd::bulk::compress(plain, LEVEL)?;
        let chunk = Self {
            plain: Digest::of(plain),
            size: plain.len() as u64,
            blob: Digest::of(&packed),
            packed: packed.len() as u64,
        };
        Ok((chunk, packed))
    }

    /// Its blob.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(CHUNK_TYPE, self.blob, self.packed)
    }

    fn is_sound(&self) -> bool {
        let limit = chunks::LARGEST as u64;
        (1..=limit).contains(&self.size) && (1..=limit + (limit >> 4)).contains(&self.packed)
    }

    fn read(&self, blobs: &dyn Blobs) -> io::Result<Vec<u8>> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("the chunk {} is damaged", self.blob));
        let mut packed = Vec::new();
        let blob = blobs.open(&self.descriptor()).map_err(io::Error::other)?;
        blob.take(self.packed + 1).read_to_end(&mut packed)?;
        if Digest::of_with(self.blob.algorithm(), &packed) != self.blob {
            return Err(wrong());
        }
        let plain = zstd::bulk::decompress(&packed, chunks::LARGEST)?;
        let is_right = plain.len() as u64 == self.size && Digest::of_with(self.plain.algorithm(), &plain) == self.plain;
        if is_right { Ok(plain) } else { Err(wrong()) }
    }
}

impl Tree {
    /// A name for just these files.
    pub fn name(&self) -> Digest {
        name_of(&self.chunks)
    }

    /// Bytes of the tar.
    pub fn size(&self) -> u64 {
        self.chunks.iter().fold(0, |sum, chunk| sum.saturating_add(chunk.size))
    }
}

fn name_of(chunks: &[Chunk]) -> Digest {
    let mut name = oci::Verifier::sha256();
    chunks.iter().for_each(|chunk| name.update(chunk.plain.as_bytes()));
    name.seal().digest()
}

/// What a mount was when it was last taken from others or given to them; none if it never was.
pub(crate) fn shared(place: &Path) -> Option<Digest> {
    super::read_limited(&place.with_extension("shared"), 256)
        .and_then(|text| String::from_utf8(text).ok()?.parse().ok())
}

/// Remembers that.
pub(crate) fn remember_shared(place: &Path, name: &Digest) -> io::Result<()> {
    super::replace(&place.with_extension("shared"), name.to_string().as_bytes())
}

impl Document {
    /// Reads a document whose blobs are `blobs`; a mount that does not fit to them is left out. None if it is none.
    pub fn parse(bytes: &[u8], blobs: &[Descriptor]) -> Option<Self> {
        let mut document: Self = serde_json::from_slice(bytes).ok()?;
        let there: std::collections::BTreeSet<(Digest, u64)> =
            blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
        let is_whole = |tree: &Tree| {
            let mut chunks = tree.chunks.iter();
            tree.chunks.len() <= CHUNK_LIMIT
                && chunks.all(|chunk| chunk.is_sound() && there.contains(&(chunk.blob, chunk.packed)))
        };
        document.mounts.retain(|_, tree| is_whole(tree));
        Some(document)
    }

    /// Takes in what another one knows: of one mount the one that was used last. The longest unused go when they are
    /// old, or too many.
    pub fn merge(&mut self, other: Self) {
        for (key, tree) in other.mounts {
            match self.mounts.get(&key) {
                Some(ours) if ours.used > tree.used => {}
                _ => drop(self.mounts.insert(key, tree)),
            }
        }
        let newest = self.mounts.values().map(|tree| tree.used).max().unwrap_or_default();
        self.mounts.retain(|_, tree| tree.used > newest.saturating_sub(AGE_LIMIT));
        while self.mounts.values().map(|tree| tree.chunks.len()).sum::<usize>() > CHUNK_LIMIT {
            let oldest = self.mounts.iter().min_by_key(|(key, tree)| (tree.used, key.to_string())).map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            self.mounts.remove(&oldest);
        }
    }

    /// Whether everything that another one knows is known here, or newer.
    pub fn covers(&self, other: &Self) -> bool {
        let fits = other.mounts.values().map(|tree| tree.chunks.len()).sum::<usize>() <= CHUNK_LIMIT;
        let is_here = |(key, tree): (&Digest, &Tree)| self.mounts.get(key).is_some_and(|ours| ours.used >= tree.used);
        !fits || other.mounts.iter().all(is_here)
    }

    /// All chunks, by what they are.
    pub fn chunks(&self) -> BTreeMap<Digest, Chunk> {
        self.mounts.values().flat_map(|tree| &tree.chunks).map(|chunk| (chunk.plain, chunk.clone())).collect()
    }

    /// The bytes of the document, and of the manifest under which it travels.
    pub fn written(&self) -> (Vec<u8>, Vec<u8>) {
        let json = serde_json::to_vec(self).expect("a map of texts and numbers is always JSON");
        let config = Descriptor::new(DOCUMENT_TYPE, Digest::of(&json), json.len() as u64);
        let blobs: BTreeMap<Digest, Descriptor> =
            self.chunks().into_values().map(|chunk| (chunk.blob, chunk.descriptor())).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": config,
            "layers": blobs.into_values().collect::<Vec<_>>(),
        });
        (json, serde_json::to_vec(&manifest).expect("a map of texts and numbers is always JSON"))
    }
}

/// A cache mount that a build has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Where it lies.
    pub place: PathBuf,
    /// How owners are kept in it.
    pub ownership: Ownership,
    /// How marks are.
    pub marks: Marks,
}

impl Used {
    /// The chunks of its files, by way of an unnamed file in `work`. Other builds do not write to it meanwhile, unless
    /// they share it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn chunks(&self, work: &Path) -> io::Result<Chunks<File>> {
        use rustix::fs::{FlockOperation, flock};
        let lock = File::create(self.place.with_extension("lock"))?;
        flock(&lock, FlockOperation::LockShared)?;
        Ok(Chunks::new(self.tar(work)?))
    }

    /// Remembers what others have got of it.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn given(&self, chunks: &[Chunk]) -> io::Result<()> {
        remember_shared(&self.place, &name_of(chunks))
    }

    /// Its files, in an unnamed file in `work`, to be read from the beginning.
    pub(crate) fn tar(&self, work: &Path) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let out = File::from(rustix::fs::open(work, flags, Mode::from_raw_mode(0o600))?);
        let options = pipeline::Options { compression: Compression::None, ..pipeline::Options::default() };
        let mut tar = Pipeline::new(out, options).map_err(io::Error::other)?;
        let how = diff::Options { ownership: self.ownership, marks: self.marks };
        diff::diff(&self.place, &View::empty(), &how, &mut tar).map_err(io::Error::other)?;
        let (_, mut out) = tar.finish().map_err(io::Error::other)?;
        out.seek(SeekFrom::Start(0))?;
        Ok(out)
    }
}

/// Cache mounts that somebody else keeps.
#[derive(Clone)]
pub struct Import {
    /// What there is.
    pub document: Document,
    /// Gives the chunks.
    pub blobs: Arc<dyn Blobs>,
    /// What it is called in messages.
    pub name: String,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("name", &self.name).field("mounts", &self.document.mounts.len()).finish()
    }
}

impl Import {
    /// The tar of a mount, if there is one. What is in `local`, too, is not fetched.
    pub fn open(&self, key: &Digest, local: Option<Local>) -> Option<impl Read + use<'_>> {
        let tree = self.document.mounts.get(key)?;
        Some(Tar { chunks: tree.chunks.iter(), blobs: &*self.blobs, local, chunk: Cursor::default() })
    }
}

/// The chunks of a mount as it is here.
#[derive(Debug)]
pub struct Local {
    tar: File,
    /// Where each is, and how large.
    places: HashMap<Digest, (u64, usize)>,
}

impl Local {
    /// Cuts a tar.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn new(tar: File) -> io::Result<Self> {
        let (mut places, mut at) = (HashMap::new(), 0);
        for chunk in Chunks::new(tar.try_clone()?) {
            let chunk = chunk?;
            places.insert(Digest::of(&chunk), (at, chunk.len()));
            at += chunk.len() as u64;
        }
        Ok(Self { tar, places })
    }

    fn read(&self, chunk: &Chunk) -> io::Result<Option<Vec<u8>>> {
        let Some((at, size)) = self.places.get(&chunk.plain) else { return Ok(None) };
        let mut plain = vec![0; *size];
        self.tar.read_exact_at(&mut plain, *at)?;
        Ok(Some(plain))
    }
}

/// A tar that is fetched chunk by chunk.
struct Tar<'a> {
    chunks: std::slice::Iter<'a, Chunk>,
    blobs: &'a dyn Blobs,
    local: Option<Local>,
    chunk: Cursor<Vec<u8>>,
}

impl Tar<'_> {
    fn chunk(&self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        match self.local.as_ref().map(|local| local.read(chunk)).transpose()?.flatten() {
            Some(plain) => Ok(plain),
            None => chunk.read(self.blobs),
        }
    }
}

impl Read for Tar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.chunk.read(buffer)? {
                0 if !buffer.is_empty() => match self.chunks.next() {
                    Some(next) => self.chunk = Cursor::new(self.chunk(next)?),
                    None => return Ok(0),
                },
                read => return Ok(read),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody(Vec<u8>);

    impl Blobs for Nobody {
        fn open(&self, _: &Descriptor) -> content::Result<Box<dyn Read + Send>> {
            Ok(Box::new(Cursor::new(self.0.clone())))
        }
    }

    fn tree(text: &str, used: i64) -> (Tree, Vec<u8>) {
        let (chunk, packed) = Chunk::pack(text.as_bytes()).unwrap();
        (Tree { chunks: vec![chunk], used }, packed)
    }

    #[test]
    fn a_chunk_that_is_not_what_it_says_is_an_error() {
        let (tree, packed) = tree("files", 1);
        let key = Digest::of(b"pip");
        let document = Document { mounts: [(key, tree)].into() };
        let with = |bytes: Vec<u8>, document: Document| {
            let import = Import { document, blobs: Arc::new(Nobody(bytes)), name: String::new() };
            let mut text = String::new();
            import.open(&key, None).unwrap().read_to_string(&mut text).map(|_| text)
        };
        assert_eq!(with(packed.clone(), document.clone()).unwrap(), "files");
        let mut broken = packed.clone();
        broken[5] ^= 1;
        assert!(with(broken, document.clone()).is_err());
        // A bomb: small, and more than it says.
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        let mut lying = document;
        let chunk = &mut lying.mounts.get_mut(&key).unwrap().chunks[0];
        (chunk.blob, chunk.packed) = (Digest::of(&bomb), bomb.len() as u64);
        assert!(with(bomb, lying).is_err());
    }

    #[test]
    fn documents_are_merged_by_use_and_limited() {
        let (old, _) = tree("old", 5);
        let (new, _) = tree("new", 9);
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let mut all = Document { mounts: [(one, new.clone()), (other, old.clone())].into() };
        all.merge(Document { mounts: [(one, old.clone())].into() });
        assert_eq!(all.mounts[&one], new);
        let (later, _) = tree("later", 9 + AGE_LIMIT);
        let ours = Document { mounts: [(Digest::of(b"third"), later)].into() };
        all.merge(ours.clone());
        assert!(all.covers(&ours) && all.mounts.len() == 1, "{all:?}");
        let blobs: Vec<Descriptor> = all.chunks().values().map(Chunk::descriptor).collect();
        assert_eq!(Document::parse(&all.written().0, &blobs), Some(all.clone()));
        assert_eq!(Document::parse(&all.written().0, &[]), Some(Document::default()));
    }
}
