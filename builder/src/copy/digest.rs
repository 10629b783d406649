//! What a COPY reads, as one digest for the cache key: names, types, modes, owners, link targets,
//! capabilities and contents; never times. And the memory that makes it cheap: hashes of files by
//! device, inode, size and both times, which is trusted on this machine only.

use super::error::Error;
use super::select::{Pick, Selection};
use super::source::Item;
use crate::layer::entry::{ContentHash, Entry, Kind};
use oci::{Digest, Verifier};
use rustix::fs::Stat;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A selection whose files were all hashed.
#[derive(Debug)]
pub struct Hashed<'a> {
    pub(super) picks: Vec<Pick<'a>>,
}

impl<'a> Selection<'a> {
    /// Hashes all selected files whose hash is not known yet, on `threads` threads.
    pub fn hash(mut self, threads: usize) -> Result<Hashed<'a>, Error> {
        for pick in &mut self.picks {
            hash_files(pick, threads)?;
        }
        Ok(Hashed { picks: self.picks })
    }
}

impl Hashed<'_> {
    /// Whether nothing was selected, as by a pattern that matches nothing.
    pub fn is_empty(&self) -> bool {
        self.picks.is_empty()
    }

    /// The name of the selected file, if it is one and no directory.
    pub fn single_file(&self) -> Option<&[u8]> {
        match self.picks.as_slice() {
            [pick] if !pick.top.entry.is_dir() => Some(&pick.base),
            _ => None,
        }
    }

    /// The selected directory, if it is one and not all of its source.
    pub fn single_dir(&self) -> Option<&Entry> {
        match self.picks.as_slice() {
            [pick] if pick.top.entry.is_dir() && !pick.top.entry.path.is_empty() => Some(&pick.top.entry),
            _ => None,
        }
    }

    /// The digest of everything that was selected, for the cache key.
    pub fn digest(&self) -> Digest {
        let mut text = Text(Verifier::sha256());
        text.bytes(b"lighter copy 1");
        for pick in &self.picks {
            text.bytes(&pick.base);
            text.entry(b"", &pick.top.entry, true);
            text.number(pick.below.len() as u64);
            for part in &pick.below {
                text.entry(part.path(), &part.item.entry, part.whole);
            }
        }
        text.0.seal().digest()
    }
}

/// Hashes the files of one source. Threads take the next file each, so one large file delays nobody.
fn hash_files(pick: &mut Pick<'_>, threads: usize) -> Result<(), Error> {
    let source = pick.source;
    let items = pick.below.iter_mut().map(|part| &mut part.item).chain([&mut pick.top]);
    let mut files: Vec<&mut Item> = items.filter(|item| item.entry.size() > 0).collect();
    let next = AtomicUsize::new(0);
    let hash_some = |files: &[&mut Item]| -> Result<Vec<(usize, ContentHash)>, Error> {
        let mut hashes = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = files.get(at) else { return Ok(hashes) };
            hashes.push((at, source.hash(item)?));
        }
    };
    let threads = threads.clamp(1, files.len().div_ceil(64).max(1));
    let shared = &files[..];
    let hashed: Vec<Result<Vec<_>, Error>> = if threads == 1 {
        vec![hash_some(shared)]
    } else {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| hash_some(shared))).collect();
            // A worker that panicked hands its panic on.
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    };
    for (at, hash) in hashed.into_iter().collect::<Result<Vec<_>, _>>()?.concat() {
        let size = files[at].entry.size();
        files[at].entry.kind = Kind::File { size, hash };
    }
    Ok(())
}

/// Unambiguous: every text with its length in front, every number with its width.
struct Text(Verifier);

impl Text {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn entry(&mut self, path: &[u8], entry: &Entry, whole: bool) {
        self.bytes(path);
        self.number(u64::from(whole));
        for number in [entry.mode, entry.uid, entry.gid] {
            self.number(number.into());
        }
        self.number(entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            self.bytes(name);
            self.bytes(value);
        }
        match &entry.kind {
            Kind::File { size, hash } => {
                self.bytes(b"file");
                self.number(*size);
                self.0.update(&hash.0);
            }
            Kind::Symlink(target) => {
                self.bytes(b"symlink");
                self.bytes(target);
            }
            Kind::Hardlink(target) => {
                self.bytes(b"hardlink");
                self.bytes(target);
            }
            Kind::Char(major, minor) | Kind::Block(major, minor) => {
                let character = matches!(entry.kind, Kind::Char(..));
                self.bytes(if character { b"char" } else { b"block" });
                self.number((*major).into());
                self.number((*minor).into());
            }
            Kind::Directory | Kind::Implicit => self.bytes(b"directory"),
            Kind::Fifo => self.bytes(b"fifo"),
            Kind::Whiteout | Kind::Opaque => self.bytes(b"nothing"),
        }
    }
}

/// What identifies a version of a file on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl Key {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn numbers(&self) -> [u64; 7] {
        [self.device, self.inode, self.size, self.mtime.0 as u64, self.mtime.1, self.ctime.0 as u64, self.ctime.1]
    }
}

/// A file written again within the clock's grain could keep all its times: such young ones are not
/// remembered.
const RACY: Duration = Duration::from_secs(2);

/// The most files that are remembered: 100 bytes each.
const KNOWN_LIMIT: usize = 2_000_000;

const MAGIC: &[u8; 8] = b"LKNOWN01";
const RECORD: usize = 7 * 8 + 32;

/// Hashes of files that were read before.
#[derive(Debug)]
pub struct Known {
    before: HashMap<Key, ContentHash>,
    now: Mutex<HashMap<Key, ContentHash>>,
    clock: fn() -> SystemTime,
}

impl Default for Known {
    fn default() -> Self {
        Self { before: HashMap::new(), now: Mutex::default(), clock: SystemTime::now }
    }
}

impl Known {
    /// Reads what [`Known::to_bytes`] wrote. Damaged or foreign bytes are an empty memory: everything is
    /// simply hashed again.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { before: parse(bytes).unwrap_or_default(), ..Self::default() }
    }

    /// The same, with another clock to tell which files are too young to be remembered.
    #[must_use]
    pub fn with_clock(self, clock: fn() -> SystemTime) -> Self {
        Self { clock, ..self }
    }

    /// Serialises what was used or learned since, and as much of the rest as the limit allows.
    pub fn to_bytes(&self) -> Vec<u8> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let older = self.before.iter().filter(|(key, _)| !now.contains_key(key));
        let mut bytes = MAGIC.to_vec();
        for (key, hash) in now.iter().chain(older).take(KNOWN_LIMIT) {
            key.numbers().iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
            bytes.extend_from_slice(&hash.0);
        }
        let crc = libdeflater::crc32(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether anything was learned since it was read, so that it is worth keeping again.
    pub fn has_news(&self) -> bool {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.keys().any(|key| !self.before.contains_key(key))
    }

    /// How many files were used or learned since it was read.
    pub fn used(&self) -> usize {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub(super) fn find(&self, stat: &Stat) -> Option<ContentHash> {
        let key = Key::of(stat);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = now.get(&key).or_else(|| self.before.get(&key)).copied()?;
        now.insert(key, hash);
        Some(hash)
    }

    /// Remembers a hash, if the file was the same before and after it was read, and is not too young.
    pub(super) fn remember(&self, before: &Stat, after: &Stat, hash: ContentHash) {
        let key = Key::of(after);
        let young = |seconds: i64| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64);
            // A time in the future is an error here, and as young as can be.
            (self.clock)().duration_since(time).map_or(true, |age| age < RACY)
        };
        if key == Key::of(before) && !young(key.mtime.0) && !young(key.ctime.0) {
            self.now.lock().unwrap_or_else(PoisonError::into_inner).insert(key, hash);
        }
    }
}

fn parse(bytes: &[u8]) -> Option<HashMap<Key, ContentHash>> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if libdeflater::crc32(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let records = body.strip_prefix(MAGIC)?.chunks_exact(RECORD);
    Some(records.take(KNOWN_LIMIT).map(record).collect())
}

fn record(bytes: &[u8]) -> (Key, ContentHash) {
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[8 * at..8 * at + 8]);
        u64::from_le_bytes(number)
    };
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[56..]);
    let key = Key {
        device: number(0),
        inode: number(1),
        size: number(2),
        mtime: (number(3) as i64, number(4)),
        ctime: (number(5) as i64, number(6)),
    };
    (key, ContentHash(hash))
}
