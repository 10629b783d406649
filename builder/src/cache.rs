//! What earlier builds left behind, by content: which step made which layer, what is in a layer, and
//! layers unpacked for RUN. Losing any of it costs time, never correctness. Blobs lie in the store.
//!
//! ```text
//! CACHE/v1/steps/<key>              what a step made: diff ID, blob, time, residue (JSON)
//! CACHE/v1/indexes/<diff id>        what is in a layer (layer::Index)
//! CACHE/v1/roots/<boot>/<kind>/<diff id>/  a layer unpacked for overlayfs; kind says how owners are kept
//! CACHE/v1/mounts/<kind>/<key>/     a cache mount; <key>.lock says who uses it, <key>.shared what others have of it
//! CACHE/v1/known                    hashes of files of build contexts, by inode and times
//! CACHE/v1/urls                     files that were fetched: their versions and contents' hashes (JSON)
//! CACHE/v1/blocks                   where in blobs the compressed blocks of layers are (layer::blocks)
//! CACHE/v1/work/                    changes of running steps
//! CACHE/v1/in-use                   locked: shared by builds, alone by who makes room (stock)
//! ```

mod boot;
pub mod chunks;
pub mod exchange;
pub(crate) mod merge;
pub mod mounts;
pub mod stock;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci::{Descriptor, DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::copy::Known;
use crate::layer::unpack::{Marks, Ownership};
use crate::layer::{Blocks, Index, Residue};
use crate::remote::Seen;

/// Largest record of a step that is read, in bytes.
const RECORD_LIMIT: u64 = 64 << 20;
/// Largest table of known files that is read, in bytes: some two million files.
const KNOWN_LIMIT: u64 = 256 << 20;
/// Largest table of blocks that is read, in bytes.
const BLOCKS_LIMIT: u64 = 64 << 20;
/// The most URLs that are remembered, and the largest table of them that is read, in bytes.
const URL_LIMIT: usize = 2_000;
const URLS_SIZE_LIMIT: u64 = 16 << 20;
/// Largest index that is read, in bytes.
const INDEX_LIMIT: u64 = 2 << 30;

/// The cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the build cache at {}: {source}", path.display())]
pub struct Error {
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error { path, source }
}

/// What a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer.
    pub diff_id: DiffId,
    /// Its blob.
    pub blob: Descriptor,
    /// When (RFC 3339).
    pub created: String,
    /// What the layer is to the steps above it, whenever it was made (`layer::likeness`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likeness: Option<Digest>,
    /// What the step has left beside the layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residue: Option<Residue>,
}

/// A cache directory.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    boot: Arc<boot::Boot>,
    _held: Arc<fs::File>,
}

impl Cache {
    /// Opens the cache below `directory`, making what is missing.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let root = directory.join("v1");
        for name in ["steps", "indexes", "roots", "work"] {
            let path = root.join(name);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let held = stock::hold(&root, rustix::fs::FlockOperation::LockShared).map_err(at(&root))?;
        let roots = root.join("roots");
        let boot = boot::Boot::open(&roots, &boot::name()).map_err(at(&roots))?;
        Ok(Self { root, boot: Arc::new(boot), _held: Arc::new(held) })
    }

    /// The directory in which running steps keep their changes; the sandbox is entered with it.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// What the step with this key made; `None` if that is not known (any more).
    pub fn step(&self, key: &Digest) -> Option<Record> {
        let path = self.root.join("steps").join(key.hex());
        let bytes = read_limited(&path, RECORD_LIMIT)?;
        touch(&path);
        serde_json::from_slice(&bytes).ok() // a damaged record is no record
    }

    /// Remembers what a step made.
    pub fn remember_step(&self, key: &Digest, record: &Record) -> Result<(), Error> {
        let path = self.root.join("steps").join(key.hex());
        let bytes = serde_json::to_vec(record).map_err(|error| at(&path)(error.into()))?;
        replace(&path, &bytes).map_err(at(&path))
    }

    /// What is in a layer.
    pub fn index(&self, layer: &DiffId) -> Option<Index> {
        let path = self.root.join("indexes").join(layer.hex());
        let bytes = read_limited(&path, INDEX_LIMIT)?;
        touch(&path);
        Index::from_bytes(&bytes).ok() // a damaged index is made again
    }

    /// Remembers what is in a layer.
    pub fn remember_index(&self, layer: &DiffId, index: &Index) -> Result<(), Error> {
        let path = self.root.join("indexes").join(layer.hex());
        replace(&path, &index.to_bytes()).map_err(at(&path))
    }

    /// Where a layer is unpacked, or will be.
    pub fn root(&self, layer: &DiffId, ownership: Ownership, marks: Marks) -> Result<PathBuf, Error> {
        let directory = self.boot.path().join(kind(ownership, marks));
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        let place = directory.join(layer.hex());
        touch(&place);
        Ok(place)
    }

    /// Removes unpacked layers of other boots that nobody has used for a week. Must be called where steps
    /// run, since others cannot remove the files of all owners.
    pub(crate) fn sweep(&self) {
        self.boot.sweep();
    }

    /// Where a cache mount lies; its parent exists.
    pub fn mount(&self, key: &Digest, ownership: Ownership, marks: Marks) -> Result<PathBuf, Error> {
        let directory = self.root.join("mounts").join(kind(ownership, marks));
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        Ok(directory.join(key.hex()))
    }

    /// The hashes of files that were read before.
    pub fn known(&self) -> Known {
        read_limited(&self.root.join("known"), KNOWN_LIMIT).map(|bytes| Known::from_bytes(&bytes)).unwrap_or_default()
    }

    /// The compressed blocks of earlier layers, whose blobs `open` opens.
    pub fn blocks(&self, open: impl Fn(&Digest) -> Option<fs::File> + Send + Sync + 'static) -> Blocks {
        let bytes = read_limited(&self.root.join("blocks"), BLOCKS_LIMIT).unwrap_or_default();
        Blocks::new(&bytes, open)
    }

    /// Keeps what is known of blocks for the next build.
    pub fn keep_blocks(&self, blocks: &Blocks) -> Result<(), Error> {
        let path = self.root.join("blocks");
        replace(&path, &blocks.to_bytes()).map_err(at(&path))
    }

    /// What was behind a URL when it was fetched last.
    pub fn seen(&self, url: &str) -> Option<Seen> {
        self.all_seen().into_iter().find(|(known, _)| *known == url_key(url)).map(|(_, seen)| seen)
    }

    /// Remembers what is behind a URL. Of two builds that do so at once one may be forgotten: that file is fetched again.
    pub fn remember_seen(&self, url: &str, seen: &Seen) -> Result<(), Error> {
        let path = self.root.join("urls");
        let others = self.all_seen().into_iter().filter(|(known, _)| *known != url_key(url));
        let all: Vec<(String, Seen)> =
            [(url_key(url), seen.clone())].into_iter().chain(others).take(URL_LIMIT).collect();
        let bytes = serde_json::to_vec(&all).map_err(|error| at(&path)(error.into()))?;
        replace(&path, &bytes).map_err(at(&path))
    }

    /// The last first; damage is nothing.
    fn all_seen(&self) -> Vec<(String, Seen)> {
        let bytes = read_limited(&self.root.join("urls"), URLS_SIZE_LIMIT);
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Keeps the hashes for the next build.
    pub fn keep_known(&self, known: &Known) -> Result<(), Error> {
        let path = self.root.join("known");
        replace(&path, &known.to_bytes()).map_err(at(&path))
    }
}

/// A URL may carry a login, which is not kept.
fn url_key(url: &str) -> String {
    Digest::of(url.as_bytes()).hex().to_string()
}

/// How files are kept where steps run; who sees them otherwise would see other owners.
fn kind(ownership: Ownership, marks: Marks) -> &'static str {
    match (ownership, marks) {
        (Ownership::Real, Marks::Trusted) => "root",
        (Ownership::Real, Marks::User) => "mapped",
        (Ownership::Recorded, Marks::Trusted) => "recorded",
        (Ownership::Recorded, Marks::User) => "single",
    }
}

/// Remembers that something is used, for when room has to be made.
fn touch(path: &Path) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    // It may not be there yet, or be somebody else's: then it only seems older than it is.
    let _ = rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty());
}

/// Puts a file in its place whole. Nothing is forced to the disk: what a crash of the machine damages is
/// noticed when it is read, and only costs time.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let aside = path.with_extension(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let written = fs::write(&aside, content).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside); // the first error is the one to tell
    }
    written
}

/// The whole file, if it is there, readable and not absurdly large: otherwise the cache has nothing.
fn read_limited(path: &Path, limit: u64) -> Option<Vec<u8>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() <= limit => fs::read(path).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Entry, Kind};

    #[test]
    fn records_survive_and_damage_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path()).unwrap();
        let key = Digest::of(b"key");
        assert_eq!(cache.step(&key), None);
        let record = Record {
            diff_id: Digest::of(b"tar").to_string().parse().unwrap(),
            blob: Descriptor::new("t", Digest::of(b"blob"), 4),
            created: "2026-01-01T00:00:00Z".into(),
            likeness: Some(Digest::of(b"likeness")),
            residue: Residue::of(vec![Entry::new("tmp", Kind::Directory, 0o755)], None),
        };
        cache.remember_step(&key, &record).unwrap();
        assert_eq!(Cache::open(directory.path()).unwrap().step(&key), Some(record));
        fs::write(directory.path().join("v1/steps").join(key.hex()), b"{").unwrap();
        assert_eq!(cache.step(&key), None);
    }
}
