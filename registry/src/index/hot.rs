//! What pulls ask for again and again, kept as it is answered: what a tag names, a manifest, the size of
//! a blob. The rows stay the truth here: a change of a row takes its answer away before the change is
//! acknowledged, so that nobody who knows of the change is told the old state.
//!
//! ```text
//! look(key):   under the shard's lock: the answer, or the shard's version
//!              read the row
//!              under the lock again: kept if the version is still the same
//! forget(key): after the row has changed: version + 1, answer away
//! ```
//!
//! So an answer that was read before a change cannot be kept after it. The memory is bounded: each shard
//! has a young and an old half; answers that are asked for move to the young one, and when that is full
//! the old one is dropped.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use oci::{Digest, RepoName, Tag};

use super::Index;
use crate::state::{RowsError, View, Write, key};

/// How many parts are locked separately.
const SHARDS: usize = 16;
/// Most bytes of answers, in all shards and both halves together.
const CAPACITY: usize = 32 << 20;
/// What an answer costs besides its content, in bytes.
const OVERHEAD: usize = 200;

/// A manifest as it is answered.
#[derive(Debug)]
pub(crate) struct HotManifest {
    pub(crate) media_type: String,
    pub(crate) size: u64,
    /// Whether `bytes` is all of it; else it lies on disk.
    pub(crate) inline: bool,
    pub(crate) bytes: Bytes,
}

/// An answer.
#[derive(Clone)]
enum Answer {
    Tag(Digest),
    Manifest(Arc<HotManifest>),
    /// A blob is in a repository.
    Linked,
    /// The size of a blob, whichever repository it is in.
    Size(u64),
}

impl Answer {
    fn weight(&self, key: &[u8]) -> usize {
        let content = match self {
            Self::Manifest(manifest) => manifest.bytes.len() + manifest.media_type.len(),
            Self::Tag(_) | Self::Linked | Self::Size(_) => 0,
        };
        OVERHEAD + key.len() + content
    }
}

/// The answers that are kept.
#[derive(Default)]
pub(super) struct Hot {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    version: u64,
    young: HashMap<Vec<u8>, Answer>,
    old: HashMap<Vec<u8>, Answer>,
    /// Of the young half, in bytes.
    weight: usize,
}

impl Shard {
    fn get(&mut self, key: &[u8]) -> Option<Answer> {
        if let Some(answer) = self.young.get(key) {
            return Some(answer.clone());
        }
        let (key, answer) = self.old.remove_entry(key)?;
        self.keep(key, answer.clone());
        Some(answer)
    }

    fn keep(&mut self, key: Vec<u8>, answer: Answer) {
        self.weight += answer.weight(&key);
        if let Some(replaced) = self.young.insert(key, answer) {
            // Two readers at once kept the same.
            self.weight = self.weight.saturating_sub(replaced.weight(&[]));
        }
        if self.weight > CAPACITY / SHARDS / 2 {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
    }

    fn forget(&mut self, key: &[u8]) {
        self.version += 1;
        self.old.remove(key);
        if let Some(answer) = self.young.remove(key) {
            self.weight = self.weight.saturating_sub(answer.weight(key));
        }
    }
}

impl Hot {
    fn with<T>(&self, key: &[u8], work: impl FnOnce(&mut Shard) -> T) -> T {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        work(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn look(
        &self,
        key: Vec<u8>,
        read: impl FnOnce() -> Result<Option<Answer>, RowsError>,
    ) -> Result<Option<Answer>, RowsError> {
        let version = match self.with(&key, |shard| shard.get(&key).ok_or(shard.version)) {
            Ok(answer) => return Ok(Some(answer)),
            Err(version) => version,
        };
        let Some(answer) = read()? else { return Ok(None) };
        self.with(&key, |shard| {
            if shard.version == version {
                shard.keep(key.clone(), answer.clone());
            }
        });
        Ok(Some(answer))
    }

    /// The keys among some changes whose answers may be kept here.
    pub(super) fn touched(writes: &[Write]) -> Vec<Vec<u8>> {
        writes.iter().filter(|write| key::is_asked_by_pulls(&write.key)).map(|write| write.key.clone()).collect()
    }

    /// Takes answers away whose rows have changed.
    pub(super) fn forget(&self, keys: &[Vec<u8>]) {
        for key in keys {
            self.with(key, |shard| shard.forget(key));
        }
    }
}

impl Index {
    /// What a tag names.
    pub(crate) fn tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<Digest>, RowsError> {
        let read = || Ok(View(self).tag(repo, tag)?.map(|row| Answer::Tag(row.digest)));
        Ok(match self.hot.look(key::tag(repo, tag), read)? {
            Some(Answer::Tag(digest)) => Some(digest),
            _ => None,
        })
    }

    /// A manifest, with its bytes if they are kept inline.
    pub(crate) fn manifest(&self, repo: &RepoName, digest: &Digest) -> Result<Option<Arc<HotManifest>>, RowsError> {
        let read = || {
            let Some((row, bytes)) = View(self).manifest(repo, digest)? else { return Ok(None) };
            let (media_type, size, inline) = (row.media_type, row.size, row.inline);
            Ok(Some(Answer::Manifest(Arc::new(HotManifest { media_type, size, inline, bytes: bytes.into() }))))
        };
        Ok(match self.hot.look(key::manifest(repo, digest), read)? {
            Some(Answer::Manifest(manifest)) => Some(manifest),
            _ => None,
        })
    }

    /// The size of a blob of a repository.
    pub(crate) fn blob_size(&self, repo: &RepoName, digest: &Digest) -> Result<Option<u64>, RowsError> {
        let linked = || Ok(View(self).is_linked(repo, digest)?.then_some(Answer::Linked));
        if self.hot.look(key::link(repo, digest), linked)?.is_none() {
            return Ok(None);
        }
        let size = || Ok(View(self).stored_blob(digest)?.map(|row| Answer::Size(row.size)));
        Ok(match self.hot.look(key::blob(digest), size)? {
            Some(Answer::Size(size)) => Some(size),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(hot: &Hot, key: &str, size: u64) -> Option<u64> {
        match hot.look(key.into(), || Ok(Some(Answer::Size(size)))).unwrap() {
            Some(Answer::Size(size)) => Some(size),
            _ => None,
        }
    }

    #[test]
    fn an_answer_is_kept_until_its_row_changes() {
        let hot = Hot::default();
        assert_eq!(look(&hot, "a", 1), Some(1));
        assert_eq!(look(&hot, "a", 2), Some(1), "kept");
        hot.forget(&[b"a".to_vec()]);
        assert_eq!(look(&hot, "a", 3), Some(3));
        assert!(hot.look(b"b".to_vec(), || Ok(None)).unwrap().is_none());
        assert_eq!(look(&hot, "b", 4), Some(4), "that something is missing is not kept");
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let hot = Hot::default();
        let read = || {
            hot.forget(&[b"a".to_vec()]); // the row changes while it is read
            Ok(Some(Answer::Size(1)))
        };
        assert!(hot.look(b"a".to_vec(), read).unwrap().is_some());
        assert_eq!(look(&hot, "a", 2), Some(2));
    }

    #[test]
    fn memory_is_bounded_and_what_is_asked_for_stays() {
        let hot = Hot::default();
        let large = |number: u64| {
            let manifest =
                HotManifest { media_type: String::new(), size: number, inline: true, bytes: vec![0; 60_000].into() };
            Ok(Some(Answer::Manifest(Arc::new(manifest))))
        };
        for number in 0..5_000u64 {
            hot.look(number.to_le_bytes().to_vec(), || large(number)).unwrap();
            assert_eq!(look(&hot, "asked for", number), Some(0), "{number}");
        }
        let kept = |half: &HashMap<Vec<u8>, Answer>| half.iter().map(|(key, answer)| answer.weight(key)).sum::<usize>();
        let kept: usize = hot
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap())
            .map(|shard| kept(&shard.young) + kept(&shard.old))
            .sum();
        assert!((CAPACITY / 2..CAPACITY + SHARDS * 61_000).contains(&kept), "{kept}");
    }
}
