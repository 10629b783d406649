//! Questions about whole repositories and about blobs wherever they are. They look at many rows, in
//! pages, so that none holds much memory.

use std::ops::Bound;

use oci::{Digest, RepoName};

use super::rows::{Damaged, Row, Rows, RowsError, key};
use super::view::{View, last_text};

/// How many rows are looked at in one go.
const PAGE: usize = 256;

/// What a repository holds. A blob counts once in each repository that can read it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) tags: u64,
    pub(crate) manifests: u64,
    pub(crate) manifest_bytes: u64,
    pub(crate) blobs: u64,
    pub(crate) blob_bytes: u64,
}

impl<R: Rows> View<'_, R> {
    /// Counts everything in a repository.
    pub(crate) fn usage(&self, repo: &RepoName) -> Result<Usage, RowsError> {
        let mut usage = Usage::default();
        self.each(&key::tags(repo), |_| {
            usage.tags += 1;
            Ok(())
        })?;
        let links = key::links(repo);
        self.each(&links, |(key, _)| {
            let digest = digest_of(key, links.len())?;
            usage.blobs += 1;
            usage.blob_bytes += self.stored_blob(&digest)?.map_or(0, |row| row.size);
            Ok(())
        })?;
        let manifests = key::manifests(repo);
        self.each(&manifests, |(key, _)| {
            let digest = digest_of(key, manifests.len())?;
            usage.manifests += 1;
            usage.manifest_bytes += self.manifest(repo, &digest)?.map_or(0, |(row, _)| row.size);
            Ok(())
        })?;
        Ok(usage)
    }

    fn each(&self, prefix: &[u8], mut each: impl FnMut(&Row) -> Result<(), RowsError>) -> Result<(), RowsError> {
        let mut from: Option<Vec<u8>> = None;
        loop {
            let start = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let rows = self.0.scan(prefix, start, PAGE)?;
            rows.iter().try_for_each(&mut each)?;
            let Some((last, _)) = rows.into_iter().last() else { return Ok(()) };
            from = Some(last);
        }
    }

    /// Up to `limit` repositories that hold a blob.
    pub(crate) fn some_holders(&self, digest: &Digest, limit: usize) -> Result<Vec<RepoName>, RowsError> {
        let prefix = key::holders(digest);
        let rows = self.0.scan(&prefix, Bound::Unbounded, limit)?;
        rows.into_iter().map(|row| last_text(&row, prefix.len())).collect()
    }
}

fn digest_of(key: &[u8], from: usize) -> Result<Digest, RowsError> {
    key::last_digest(key, from).ok_or_else(|| Damaged { key: key.to_vec() }.into())
}
