//! Which blocks of compressed layers are here already, by what they are compressed from. A layer that is made again
//! with one file changed takes the others' blocks as they lie in its predecessor's blob, instead of compressing them.
//!
//! No bytes are kept twice: a block is a place in a blob of the store, with the hash of what must stand there. One
//! that is gone or damaged is simply compressed again, and the same block always compresses to the same bytes, so a
//! layer does not depend on what was found.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::{Digest, Verifier};

use super::compress::Compression;
use super::entry::ContentHash;

/// The most blocks that are remembered: about 100 bytes each, for some 100 GB of layers.
const BLOCK_LIMIT: usize = 100_000;
/// Compressed blocks are smaller than this, in bytes; what claims more is damage.
const SIZE_LIMIT: u32 = 32 << 20;
/// The most blobs that are open at once.
const OPEN_LIMIT: usize = 64;

const MAGIC: &[u8; 8] = b"LBLOCK01";
const RECORD: usize = 32 + 32 + 8 + 4 + 32;

/// What a block is compressed from, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name([u8; 32]);

/// A name in the making: the bytes of the block, or for the contents of whole files their hashes.
#[derive(Debug)]
pub(super) struct Naming(Verifier);

impl Naming {
    /// Of a block of entries whose files are named by their hashes.
    pub fn of_entries(method: Compression) -> Self {
        Self::start("entries", method)
    }

    /// Of a block of bytes.
    pub fn of_bytes(method: Compression) -> Self {
        Self::start("bytes", method)
    }

    /// Another version may compress in another way, and then has names of its own.
    fn start(kind: &str, method: Compression) -> Self {
        let mut hash = Verifier::sha256();
        hash.update(format!("block 1 {} {method:?} {kind}\n", env!("CARGO_PKG_VERSION")).as_bytes());
        Self(hash)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Name {
        Name(ContentHash::sealed(self.0).0)
    }
}

/// A block of a layer that was just made: where it is in the blob.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub(super) name: Name,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) hash: ContentHash,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    blob: [u8; 32],
    offset: u64,
    size: u32,
    hash: ContentHash,
}

/// Opens a blob of the store, if it is there.
type Open = dyn Fn(&Digest) -> Option<File> + Send + Sync;

/// The blocks that are known.
pub struct Blocks {
    before: HashMap<Name, Place>,
    now: Mutex<HashMap<Name, Place>>,
    files: Mutex<HashMap<[u8; 32], Option<Arc<File>>>>,
    open: Box<Open>,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks").field("before", &self.before.len()).finish_non_exhaustive()
    }
}

impl Blocks {
    /// Reads what [`Blocks::to_bytes`] wrote. Damaged or foreign bytes are an empty memory.
    pub fn new(bytes: &[u8], open: impl Fn(&Digest) -> Option<File> + Send + Sync + 'static) -> Self {
        let before = parse(bytes).unwrap_or_default();
        Self { before, now: Mutex::default(), files: Mutex::default(), open: Box::new(open) }
    }

    /// Remembers the blocks of a layer that lies in the store now.
    pub fn learn(&self, blob: &Digest, pieces: &[Piece]) {
        let Ok(blob) = <[u8; 32]>::try_from(blob.as_bytes()) else { return };
        let mut now = lock(&self.now);
        for &Piece { name, offset, size, hash } in pieces {
            now.insert(name, Place { blob, offset, size, hash });
        }
    }

    /// The compressed form of a block, with its hash.
    pub(super) fn find(&self, name: &Name) -> Option<(Vec<u8>, ContentHash)> {
        let place = lock(&self.now).get(name).or_else(|| self.before.get(name)).copied()?;
        let file = self.file(&place.blob)?;
        let mut packed = vec![0; place.size as usize];
        file.read_exact_at(&mut packed, place.offset).ok()?;
        if ContentHash::of(&packed) != place.hash {
            tracing::debug!("a block is not what it was");
            return None;
        }
        Some((packed, place.hash))
    }

    fn file(&self, blob: &[u8; 32]) -> Option<Arc<File>> {
        let mut files = lock(&self.files);
        if files.len() >= OPEN_LIMIT && !files.contains_key(blob) {
            files.clear();
        }
        files.entry(*blob).or_insert_with(|| (self.open)(&digest(blob)?).map(Arc::new)).clone()
    }

    /// Whether anything was learned, so that it is worth keeping.
    pub fn has_news(&self) -> bool {
        !lock(&self.now).is_empty()
    }

    /// Serialises what was learned since, and as much of the rest as the limit allows.
    pub fn to_bytes(&self) -> Vec<u8> {
        let now = lock(&self.now);
        let older = self.before.iter().filter(|(name, _)| !now.contains_key(*name));
        let mut bytes = MAGIC.to_vec();
        for (name, place) in now.iter().chain(older).take(BLOCK_LIMIT) {
            bytes.extend_from_slice(&name.0);
            bytes.extend_from_slice(&place.blob);
            bytes.extend_from_slice(&place.offset.to_le_bytes());
            bytes.extend_from_slice(&place.size.to_le_bytes());
            bytes.extend_from_slice(&place.hash.0);
        }
        let crc = libdeflater::crc32(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // maps of finished values stay whole
}

fn digest(blob: &[u8; 32]) -> Option<Digest> {
    let hex: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}").parse().ok()
}

fn parse(bytes: &[u8]) -> Option<HashMap<Name, Place>> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if libdeflater::crc32(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let records = body.strip_prefix(MAGIC)?.chunks_exact(RECORD).take(BLOCK_LIMIT);
    records.map(record).collect()
}

fn record(bytes: &[u8]) -> Option<(Name, Place)> {
    let (name, rest) = bytes.split_first_chunk::<32>()?;
    let (blob, rest) = rest.split_first_chunk::<32>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (size, rest) = rest.split_first_chunk::<4>()?;
    let (offset, size) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*size));
    let hash = ContentHash(*rest.first_chunk::<32>()?);
    (size <= SIZE_LIMIT).then_some((Name(*name), Place { blob: *blob, offset, size, hash }))
}
