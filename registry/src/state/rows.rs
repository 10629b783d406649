//! Rows: the metadata as an ordered list of keys and values. Knows their encoding and how rows are
//! read; where they lie is the business of whoever implements [`Rows`].
//!
//! | key (first byte, then parts; texts end with a zero byte where more follows) | value |
//! |---|---|
//! | `B` digest                              | [`BlobRow`]: content that lies on disk |
//! | `D` digest, kind, repository            | [`DoubtRow`]: perhaps nothing needs it, and since when (`doubt`) |
//! | `F` digest, repository                  | nothing: the bytes of a manifest there lie on disk under this digest |
//! | `H` digest, repository                  | nothing: this repository holds the blob |
//! | `L` repository, digest                  | [`LinkRow`]: the blob can be read there |
//! | `M` repository, digest                  | [`ManifestRow`], a newline, the manifest's bytes if inline |
//! | `N` repository, digest, tag             | nothing: this tag names the manifest |
//! | `P` repository, child digest, parent digest | nothing: the parent manifest names the child |
//! | `Q` kind, time, digest, repository      | the doubted thing: doubts in the order in which they are due |
//! | `R` repository                          | [`RepoRow`]: something is there         |
//! | `S` repository, subject digest, artifact type, digest | the descriptor to list as a referrer |
//! | `T` repository, tag                     | [`TagRow`] |
//! | `U` upload id                           | [`UploadRow`] |
//! | `W` repository, digest                  | [`PullRow`]: when the manifest was last pulled |
//!
//! Keys sort as the specification wants lists sorted: bytewise.

use std::collections::BTreeMap;
use std::ops::Bound;

use jiff::Timestamp;
use oci::{Digest, RepoName};
use serde::{Deserialize, Serialize};

/// Keys, by table.
pub(crate) mod key {
    use jiff::Timestamp;
    use oci::{Algorithm, Digest, RepoName, Tag};

    pub(crate) const REPO: u8 = b'R';

    fn new(table: u8) -> Vec<u8> {
        let mut key = Vec::with_capacity(96);
        key.push(table);
        key
    }

    /// Appends a text that more parts may follow. No name, tag or media type holds a zero byte
    /// (media types are header values), so the end is certain.
    fn text(key: &mut Vec<u8>, text: &str) {
        key.extend(text.bytes().filter(|&byte| byte != 0));
        key.push(0);
    }

    fn digest(key: &mut Vec<u8>, digest: &Digest) {
        key.push(match digest.algorithm() {
            Algorithm::Sha256 => 1,
            Algorithm::Sha512 => 2,
        });
        key.extend_from_slice(digest.as_bytes());
    }

    /// Reads a digest at the end of a key.
    pub(crate) fn last_digest(key: &[u8], before: usize) -> Option<Digest> {
        let (algorithm, hash) = key.get(before..)?.split_first()?;
        let algorithm = match algorithm {
            1 => Algorithm::Sha256,
            2 => Algorithm::Sha512,
            _ => return None,
        };
        Digest::from_bytes(algorithm, hash)
    }

    pub(crate) fn blob(blob: &Digest) -> Vec<u8> {
        let mut key = new(b'B');
        digest(&mut key, blob);
        key
    }

    pub(crate) fn holders(blob: &Digest) -> Vec<u8> {
        let mut key = new(b'H');
        digest(&mut key, blob);
        key
    }

    pub(crate) fn holder(blob: &Digest, repo: &RepoName) -> Vec<u8> {
        let mut key = holders(blob);
        key.extend_from_slice(repo.as_str().as_bytes());
        key
    }

    fn in_repo(table: u8, repo: &RepoName) -> Vec<u8> {
        let mut key = new(table);
        text(&mut key, repo.as_str());
        key
    }

    fn of_digest(table: u8, repo: &RepoName, of: &Digest) -> Vec<u8> {
        let mut key = in_repo(table, repo);
        digest(&mut key, of);
        key
    }

    pub(crate) fn link(repo: &RepoName, blob: &Digest) -> Vec<u8> {
        of_digest(b'L', repo, blob)
    }

    pub(crate) fn manifest(repo: &RepoName, manifest: &Digest) -> Vec<u8> {
        of_digest(b'M', repo, manifest)
    }

    pub(crate) fn names(repo: &RepoName, manifest: &Digest) -> Vec<u8> {
        of_digest(b'N', repo, manifest)
    }

    pub(crate) fn name(repo: &RepoName, manifest: &Digest, tag: &Tag) -> Vec<u8> {
        let mut key = names(repo, manifest);
        key.extend_from_slice(tag.as_str().as_bytes());
        key
    }

    pub(crate) fn parents(repo: &RepoName, child: &Digest) -> Vec<u8> {
        of_digest(b'P', repo, child)
    }

    pub(crate) fn parent(repo: &RepoName, child: &Digest, parent: &Digest) -> Vec<u8> {
        let mut key = parents(repo, child);
        digest(&mut key, parent);
        key
    }

    pub(crate) fn repo(repo: &RepoName) -> Vec<u8> {
        let mut key = new(REPO);
        key.extend_from_slice(repo.as_str().as_bytes());
        key
    }

    pub(crate) fn referrers(repo: &RepoName, subject: &Digest) -> Vec<u8> {
        of_digest(b'S', repo, subject)
    }

    pub(crate) fn referrers_of_type(repo: &RepoName, subject: &Digest, artifact_type: &str) -> Vec<u8> {
        let mut key = referrers(repo, subject);
        text(&mut key, artifact_type);
        key
    }

    pub(crate) fn referrer(repo: &RepoName, subject: &Digest, artifact_type: &str, of: &Digest) -> Vec<u8> {
        let mut key = referrers_of_type(repo, subject, artifact_type);
        digest(&mut key, of);
        key
    }

    pub(crate) fn tags(repo: &RepoName) -> Vec<u8> {
        in_repo(b'T', repo)
    }

    pub(crate) fn tag(repo: &RepoName, tag: &Tag) -> Vec<u8> {
        let mut key = tags(repo);
        key.extend_from_slice(tag.as_str().as_bytes());
        key
    }

    /// Whether a row is of the tables that pulls ask: tags, manifests, and blobs with their links.
    pub(crate) fn is_asked_by_pulls(key: &[u8]) -> bool {
        key.first().is_some_and(|table| b"TMLB".contains(table))
    }

    /// The doubt about a thing of some kind: all doubts about a digest lie together.
    pub(crate) fn doubt(kind: u8, of: &Digest, repo: Option<&RepoName>) -> Vec<u8> {
        let mut key = doubts(of);
        key.push(kind);
        key.extend_from_slice(repo.map_or("", RepoName::as_str).as_bytes());
        key
    }

    pub(crate) fn doubts(of: &Digest) -> Vec<u8> {
        let mut key = new(b'D');
        digest(&mut key, of);
        key
    }

    pub(crate) fn queue(kind: u8) -> Vec<u8> {
        vec![b'Q', kind]
    }

    /// A place in the queue of a kind. Times sort as the numbers they are.
    pub(crate) fn queued(kind: u8, since: Timestamp, of: &Digest, repo: Option<&RepoName>) -> Vec<u8> {
        let mut key = queue(kind);
        let nanoseconds = u64::try_from(since.as_nanosecond()).unwrap_or(0); // no clock of ours is before 1970
        key.extend_from_slice(&nanoseconds.to_be_bytes());
        digest(&mut key, of);
        key.extend_from_slice(repo.map_or("", RepoName::as_str).as_bytes());
        key
    }

    pub(crate) fn file_users(of: &Digest) -> Vec<u8> {
        let mut key = new(b'F');
        digest(&mut key, of);
        key
    }

    pub(crate) fn file_user(of: &Digest, repo: &RepoName) -> Vec<u8> {
        let mut key = file_users(of);
        key.extend_from_slice(repo.as_str().as_bytes());
        key
    }

    pub(crate) fn pulled(repo: &RepoName, manifest: &Digest) -> Vec<u8> {
        of_digest(b'W', repo, manifest)
    }

    pub(crate) fn manifests(repo: &RepoName) -> Vec<u8> {
        in_repo(b'M', repo)
    }

    pub(crate) fn links(repo: &RepoName) -> Vec<u8> {
        in_repo(b'L', repo)
    }

    pub(crate) const BLOBS: &[u8] = b"B";
    pub(crate) const QUEUES: &[u8] = b"Q";
    pub(crate) const UPLOADS: &[u8] = b"U";

    pub(crate) fn upload(id: &str) -> Vec<u8> {
        let mut key = UPLOADS.to_vec();
        key.extend_from_slice(id.as_bytes());
        key
    }
}

/// A blob on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobRow {
    pub(crate) size: u64,
    pub(crate) stored_at: Timestamp,
}

/// A blob in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkRow {
    pub(crate) linked_at: Timestamp,
}

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepoRow {}

/// A manifest in a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestRow {
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) pushed_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) children: Vec<Digest>,
    /// Whether the bytes follow in the row; else they lie on disk like a blob.
    pub(crate) inline: bool,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagRow {
    pub(crate) digest: Digest,
    pub(crate) set_at: Timestamp,
}

/// A doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DoubtRow {
    pub(crate) since: Timestamp,
}

/// The last pull of a manifest that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PullRow {
    pub(crate) pulled_at: Timestamp,
}

/// An upload session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadRow {
    pub(crate) repo: RepoName,
    pub(crate) algorithm: String,
    pub(crate) opened_at: Timestamp,
}

/// A row that cannot be read: the index is damaged and must be rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the row {} of the index cannot be read", String::from_utf8_lossy(key))]
pub(crate) struct Damaged {
    pub(crate) key: Vec<u8>,
}

/// Rows could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowsError {
    /// What lies there is not a row.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The place where rows lie failed.
    #[error("the index failed")]
    Index(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A key with its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// A place where rows lie, in the order of their keys.
pub(crate) trait Rows {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError>;

    /// Up to `limit` rows from `from` on whose keys start with `prefix`, in order.
    fn scan(&self, prefix: &[u8], from: Bound<&[u8]>, limit: usize) -> Result<Vec<Row>, RowsError>;
}

/// The first key behind all keys that start with `prefix`; `None` if there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Where a scan of `prefix` starts that is asked to start at `from`.
fn scan_start(prefix: &[u8], from: Bound<&[u8]>) -> Bound<Vec<u8>> {
    match from {
        Bound::Included(key) if key > prefix => Bound::Included(key.to_vec()),
        Bound::Excluded(key) if key >= prefix => Bound::Excluded(key.to_vec()),
        _ => Bound::Included(prefix.to_vec()),
    }
}

/// Rows in memory: for tests, and for serving on when the index on disk fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct MemoryRows(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl Rows for MemoryRows {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], from: Bound<&[u8]>, limit: usize) -> Result<Vec<Row>, RowsError> {
        let rows = self.0.range::<Vec<u8>, _>((scan_start(prefix, from), Bound::Unbounded));
        let matching = rows.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(matching.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

/// Changes by key: new values, and keys whose rows are gone.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Rows as they read with some changes on top.
pub(crate) struct Layer<'a, R> {
    pub(crate) below: &'a R,
    pub(crate) changes: &'a Changes,
}

impl<R: Rows> Rows for Layer<'_, R> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.below.get(key),
        }
    }

    /// Merges both sides. Only as many rows are read below as the answer still lacks, however many
    /// changes there are.
    fn scan(&self, prefix: &[u8], from: Bound<&[u8]>, limit: usize) -> Result<Vec<Row>, RowsError> {
        let changes = self.changes.range::<Vec<u8>, _>((scan_start(prefix, from), Bound::Unbounded));
        let mut changes = changes.take_while(|(key, _)| key.starts_with(prefix)).peekable();
        if changes.peek().is_none() {
            return self.below.scan(prefix, from, limit);
        }
        let (mut rows, mut read_until): (Vec<Row>, Option<Vec<u8>>) = (Vec::new(), None);
        while rows.len() < limit {
            let wanted = limit - rows.len();
            let below = self.below.scan(prefix, read_until.as_deref().map_or(from, Bound::Excluded), wanted)?;
            let more_below = below.len() == wanted;
            read_until = below.last().map(|(key, _)| key.clone()).or(read_until);
            for row in below {
                while let Some((key, value)) = changes.next_if(|(key, _)| **key < row.0) {
                    rows.extend(value.clone().map(|value| (key.clone(), value)));
                }
                match changes.next_if(|(key, _)| **key == row.0) {
                    Some((_, change)) => rows.extend(change.clone().map(|value| (row.0, value))),
                    None => rows.push(row),
                }
            }
            if !more_below {
                let rest = changes.by_ref().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
                rows.extend(rest.take(limit.saturating_sub(rows.len())));
                break;
            }
        }
        rows.truncate(limit);
        Ok(rows)
    }
}

/// Rows with changes on top that are not there yet: what a batch of transactions decides on.
pub(crate) struct Overlay<'a, R> {
    below: &'a R,
    changes: Changes,
}

impl<'a, R: Rows> Overlay<'a, R> {
    pub(crate) fn new(below: &'a R) -> Self {
        Self { below, changes: BTreeMap::new() }
    }

    pub(crate) fn apply(&mut self, writes: impl IntoIterator<Item = super::Write>) {
        self.changes.extend(writes.into_iter().map(|write| (write.key, write.value)));
    }

    fn layer(&self) -> Layer<'_, R> {
        Layer { below: self.below, changes: &self.changes }
    }
}

impl<R: Rows> Rows for Overlay<'_, R> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        self.layer().get(key)
    }

    fn scan(&self, prefix: &[u8], from: Bound<&[u8]>, limit: usize) -> Result<Vec<Row>, RowsError> {
        self.layer().scan(prefix, from, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Write;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_overlay_reads_as_if_its_changes_were_applied(
            rows in prop::collection::btree_map(prop::collection::vec(0u8..4, 1..4), prop::collection::vec(any::<u8>(), 0..2), 0..12),
            changes in prop::collection::vec((prop::collection::vec(0u8..4, 1..4), prop::option::of(prop::collection::vec(any::<u8>(), 0..2))), 0..12),
            prefix in prop::collection::vec(0u8..4, 0..3),
            from in prop::collection::vec(0u8..4, 0..4),
            included: bool,
            limit in 0usize..6,
        ) {
            let below = MemoryRows(rows);
            let mut overlay = Overlay::new(&below);
            let mut applied = below.clone();
            for (key, value) in changes {
                match value.clone() {
                    Some(value) => drop(applied.0.insert(key.clone(), value)),
                    None => drop(applied.0.remove(&key)),
                }
                overlay.apply([Write { key, value }]);
            }
            let from = if included { Bound::Included(from.as_slice()) } else { Bound::Excluded(from.as_slice()) };
            prop_assert_eq!(overlay.scan(&prefix, from, limit).unwrap(), applied.scan(&prefix, from, limit).unwrap());
            prop_assert_eq!(overlay.get(&prefix).unwrap(), applied.get(&prefix).unwrap());
        }
    }

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255, 255]), None);
    }
}
