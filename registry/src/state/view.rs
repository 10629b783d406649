//! Typed reading of rows: every question that the registry asks about its state.

use std::ops::Bound;

use oci::{Descriptor, Digest, RepoName, Tag};
use serde::de::DeserializeOwned;

use super::rows::{BlobRow, Damaged, ManifestRow, Row, Rows, RowsError, TagRow, UploadRow, key};

/// A typed look at rows.
pub(crate) struct View<'a, R>(pub(crate) &'a R);

impl<R: Rows> View<'_, R> {
    fn row<T: DeserializeOwned>(&self, key: Vec<u8>) -> Result<Option<T>, RowsError> {
        match self.0.get(&key)? {
            Some(value) => decode(key, &value).map(Some),
            None => Ok(None),
        }
    }

    fn has(&self, key: &[u8]) -> Result<bool, RowsError> {
        Ok(self.0.get(key)?.is_some())
    }

    /// A blob on disk, whichever repositories hold it.
    pub(crate) fn stored_blob(&self, digest: &Digest) -> Result<Option<BlobRow>, RowsError> {
        self.row(key::blob(digest))
    }

    /// Whether a blob can be read in a repository.
    pub(crate) fn is_linked(&self, repo: &RepoName, digest: &Digest) -> Result<bool, RowsError> {
        self.has(&key::link(repo, digest))
    }

    /// A blob as it can be read in a repository.
    pub(crate) fn blob(&self, repo: &RepoName, digest: &Digest) -> Result<Option<BlobRow>, RowsError> {
        if self.is_linked(repo, digest)? { self.stored_blob(digest) } else { Ok(None) }
    }

    /// Whether any repository holds a blob.
    pub(crate) fn is_held(&self, digest: &Digest) -> Result<bool, RowsError> {
        self.any(&key::holders(digest))
    }

    fn any(&self, prefix: &[u8]) -> Result<bool, RowsError> {
        Ok(!self.0.scan(prefix, Bound::Unbounded, 1)?.is_empty())
    }

    /// Whether anything was ever pushed to a repository.
    pub(crate) fn has_repo(&self, repo: &RepoName) -> Result<bool, RowsError> {
        self.has(&key::repo(repo))
    }

    /// Whether a manifest is in a repository.
    pub(crate) fn has_manifest(&self, repo: &RepoName, digest: &Digest) -> Result<bool, RowsError> {
        self.has(&key::manifest(repo, digest))
    }

    /// A manifest and, if it is kept inline, its bytes.
    pub(crate) fn manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Option<(ManifestRow, Vec<u8>)>, RowsError> {
        let key = key::manifest(repo, digest);
        let Some(mut value) = self.0.get(&key)? else { return Ok(None) };
        let Some(end) = value.iter().position(|&byte| byte == b'\n') else { return Err(Damaged { key }.into()) };
        let body = value.split_off(end + 1);
        let row: ManifestRow = decode(key, &value)?;
        Ok(Some((row, body)))
    }

    /// What a tag names.
    pub(crate) fn tag(&self, repo: &RepoName, tag: &Tag) -> Result<Option<TagRow>, RowsError> {
        self.row(key::tag(repo, tag))
    }

    /// An upload session.
    pub(crate) fn upload(&self, id: &str) -> Result<Option<UploadRow>, RowsError> {
        self.row(key::upload(id))
    }

    /// The ids of all upload sessions.
    pub(crate) fn uploads(&self) -> Result<Vec<String>, RowsError> {
        self.0.scan(key::UPLOADS, Bound::Unbounded, usize::MAX)?.into_iter().map(|row| last_text(&row, 1)).collect()
    }

    /// A manifest that names `child`, if any does.
    pub(crate) fn a_parent(&self, repo: &RepoName, child: &Digest) -> Result<Option<Digest>, RowsError> {
        let prefix = key::parents(repo, child);
        let Some((key, _)) = self.0.scan(&prefix, Bound::Unbounded, 1)?.pop() else { return Ok(None) };
        match key::last_digest(&key, prefix.len()) {
            Some(parent) => Ok(Some(parent)),
            None => Err(Damaged { key }.into()),
        }
    }

    /// The tags that name a manifest.
    pub(crate) fn names_of(&self, repo: &RepoName, digest: &Digest) -> Result<Vec<Tag>, RowsError> {
        let prefix = key::names(repo, digest);
        self.texts(&prefix, Bound::Unbounded, usize::MAX)
    }

    /// Up to `limit` tags behind `after`, sorted bytewise.
    pub(crate) fn tags(&self, repo: &RepoName, after: &str, limit: usize) -> Result<Vec<Tag>, RowsError> {
        let prefix = key::tags(repo);
        let from = [prefix.as_slice(), after.as_bytes()].concat();
        self.texts(&prefix, Bound::Excluded(&from), limit)
    }

    /// Up to `limit` repositories behind `after`, sorted bytewise.
    pub(crate) fn repos(&self, after: &str, limit: usize) -> Result<Vec<RepoName>, RowsError> {
        let from = [&[key::REPO], after.as_bytes()].concat();
        self.texts(&[key::REPO], Bound::Excluded(&from), limit)
    }

    fn texts<T: std::str::FromStr>(
        &self,
        prefix: &[u8],
        from: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<T>, RowsError> {
        let rows = self.0.scan(prefix, from, limit)?;
        rows.into_iter().map(|row| last_text(&row, prefix.len())).collect()
    }

    /// Up to `limit` manifests whose subject is `subject`, of one type or all, behind `after`.
    pub(crate) fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&(String, Digest)>,
        limit: usize,
    ) -> Result<Vec<Descriptor>, RowsError> {
        let prefix = match artifact_type {
            Some(artifact_type) => key::referrers_of_type(repo, subject, artifact_type),
            None => key::referrers(repo, subject),
        };
        let after = after.map(|(artifact_type, digest)| key::referrer(repo, subject, artifact_type, digest));
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.0.scan(&prefix, from, limit)?;
        rows.into_iter().map(|(key, value)| decode(key, &value)).collect()
    }
}

fn decode<T: DeserializeOwned>(key: Vec<u8>, value: &[u8]) -> Result<T, RowsError> {
    serde_json::from_slice(value).map_err(|_| Damaged { key }.into())
}

/// The text at the end of a row's key.
pub(super) fn last_text<T: std::str::FromStr>(row: &Row, from: usize) -> Result<T, RowsError> {
    let text = row.0.get(from..).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let parsed = text.and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Damaged { key: row.0.clone() }.into())
}
