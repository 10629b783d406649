//! Typed reading of rows: every question that the registry asks about its state.

use std::collections::HashSet;
use std::ops::Bound;

use jiff::Timestamp;
use oci::{Descriptor, Digest, RepoName, Tag};
use serde::de::DeserializeOwned;

use super::rows::{BlobRow, Damaged, DoubtRow, ManifestRow, PullRow, Row, Rows, RowsError, TagRow, UploadRow, key};
use super::{Item, Kind};

/// Rows are counted in pages of this many.
const COUNT_PAGE: usize = 1_000;
/// So many manifests that keep each other are looked at.
const KEEPERS: usize = 256;

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
    #[cfg(test)] // pulls ask `index::hot`
    pub(crate) fn blob(&self, repo: &RepoName, digest: &Digest) -> Result<Option<BlobRow>, RowsError> {
        if self.is_linked(repo, digest)? { self.stored_blob(digest) } else { Ok(None) }
    }

    /// Whether any repository holds a blob.
    pub(crate) fn is_held(&self, digest: &Digest) -> Result<bool, RowsError> {
        self.any(&key::holders(digest))
    }

    /// Whether any repository needs a file: as a blob, or as the bytes of a manifest.
    pub(crate) fn is_in_use(&self, digest: &Digest) -> Result<bool, RowsError> {
        Ok(self.is_held(digest)? || self.any(&key::file_users(digest))?)
    }

    /// Whether a file is needed by anything but the blob of one repository.
    pub(crate) fn is_in_use_beside(&self, digest: &Digest, repo: &RepoName) -> Result<bool, RowsError> {
        let holders = self.0.scan(&key::holders(digest), Bound::Unbounded, 2)?;
        let own = key::holder(digest, repo);
        Ok(holders.iter().any(|(key, _)| *key != own) || self.any(&key::file_users(digest))?)
    }

    /// The repositories that hold a blob.
    pub(crate) fn holders(&self, digest: &Digest) -> Result<Vec<RepoName>, RowsError> {
        self.texts(&key::holders(digest), Bound::Unbounded, usize::MAX)
    }

    /// The repositories in which the bytes of a manifest lie on disk.
    pub(crate) fn file_users(&self, digest: &Digest) -> Result<Vec<RepoName>, RowsError> {
        self.texts(&key::file_users(digest), Bound::Unbounded, usize::MAX)
    }

    /// Since when something is doubted, if it is.
    pub(crate) fn doubted(&self, item: &Item) -> Result<Option<Timestamp>, RowsError> {
        Ok(self.row::<DoubtRow>(item.key())?.map(|row| row.since))
    }

    /// Up to `limit` doubts of a kind, oldest first, that were raised at or before `until`.
    pub(crate) fn queue(
        &self,
        kind: Kind,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, Item)>, RowsError> {
        let rows = self.0.scan(&key::queue(kind.byte()), Bound::Unbounded, limit)?;
        let doubts = rows.into_iter().map(|(key, value)| {
            let item: Item = decode(key.clone(), &value)?;
            let since = self.doubted(&item)?.ok_or(Damaged { key })?;
            Ok((since, item))
        });
        let due = |doubt: &Result<(Timestamp, Item), RowsError>| match doubt {
            Ok((since, _)) => *since <= until,
            Err(_) => true,
        };
        doubts.take_while(due).collect()
    }

    /// How many doubts there are, counted up to `most`.
    pub(crate) fn count_doubts(&self, most: usize) -> Result<usize, RowsError> {
        let (mut count, mut last): (usize, Option<Vec<u8>>) = (0, None);
        while count < most {
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = self.0.scan(key::QUEUES, from, COUNT_PAGE)?;
            count += page.len();
            match page.into_iter().next_back() {
                Some((key, _)) => last = Some(key),
                None => break,
            }
        }
        Ok(count.min(most))
    }

    /// When a manifest was last pulled, as far as that was kept.
    pub(crate) fn pulled_at(&self, repo: &RepoName, digest: &Digest) -> Result<Option<Timestamp>, RowsError> {
        Ok(self.row::<PullRow>(key::pulled(repo, digest))?.map(|row| row.pulled_at))
    }

    /// Up to `limit` manifests of a repository behind `after`.
    pub(crate) fn manifests(
        &self,
        repo: &RepoName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, RowsError> {
        let (prefix, after) = (key::manifests(repo), after.map(|after| key::manifest(repo, after)));
        self.digests(&prefix, after.as_deref(), limit)
    }

    /// Up to `limit` blobs of a repository behind `after`.
    pub(crate) fn links(
        &self,
        repo: &RepoName,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Digest>, RowsError> {
        let (prefix, after) = (key::links(repo), after.map(|after| key::link(repo, after)));
        self.digests(&prefix, after.as_deref(), limit)
    }

    /// All doubts about a digest.
    pub(crate) fn doubts_about(&self, digest: &Digest) -> Result<Vec<(Item, Timestamp)>, RowsError> {
        let doubts = self.0.scan(&key::doubts(digest), Bound::Unbounded, usize::MAX)?.into_iter();
        doubts
            .map(|(key, value)| {
                let row: DoubtRow = decode(key.clone(), &value)?;
                let queued = Item::queue_key_of(&key, row.since).and_then(|queued| self.0.get(&queued).transpose());
                let value = queued.ok_or_else(|| Damaged { key: key.clone() })??;
                Ok((decode(key, &value)?, row.since))
            })
            .collect()
    }

    /// Up to `limit` blobs on disk behind `after`, with their sizes.
    pub(crate) fn stored_blobs(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, BlobRow)>, RowsError> {
        let after = after.map(key::blob);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = self.0.scan(key::BLOBS, from, limit)?;
        let blobs = rows.into_iter().map(|(key, value)| match key::last_digest(&key, key::BLOBS.len()) {
            Some(digest) => Ok((digest, decode(key, &value)?)),
            None => Err(Damaged { key }.into()),
        });
        blobs.collect()
    }

    fn digests(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Digest>, RowsError> {
        let rows = self.0.scan(prefix, after.map_or(Bound::Unbounded, Bound::Excluded), limit)?;
        let digest = |(key, _): Row| key::last_digest(&key, prefix.len()).ok_or_else(|| Damaged { key }.into());
        rows.into_iter().map(digest).collect()
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

    /// Whether any tag names a manifest.
    pub(crate) fn is_tagged(&self, repo: &RepoName, digest: &Digest) -> Result<bool, RowsError> {
        self.any(&key::names(repo, digest))
    }

    /// Whether a manifest is there and a tag, an index or its subject keeps it. An index may name its own
    /// subject, so those that keep it may be kept by nothing but itself: then it is not kept.
    pub(crate) fn is_kept(&self, repo: &RepoName, digest: &Digest) -> Result<bool, RowsError> {
        if !self.has_manifest(repo, digest)? {
            return Ok(false);
        }
        if self.is_tagged(repo, digest)? {
            return Ok(true);
        }
        let (mut seen, mut open) = (HashSet::from([*digest]), self.keepers(repo, digest)?);
        while let Some(keeper) = open.pop() {
            if !seen.insert(keeper) {
                continue;
            }
            // Nobody builds circles as long as that; garbage that is kept too long does no harm.
            if seen.len() > KEEPERS || self.is_tagged(repo, &keeper)? {
                return Ok(true);
            }
            let above = self.keepers(repo, &keeper)?;
            if above.is_empty() {
                return Ok(true); // whether that one stays is for its own review to say
            }
            open.extend(above);
        }
        Ok(false)
    }

    /// The indexes that name a manifest, and its subject, as far as they are there.
    fn keepers(&self, repo: &RepoName, digest: &Digest) -> Result<Vec<Digest>, RowsError> {
        let mut keepers = self.digests(&key::parents(repo, digest), None, KEEPERS)?;
        let subject = self.manifest(repo, digest)?.and_then(|(row, _)| row.subject);
        if let Some(subject) = subject
            && self.has_manifest(repo, &subject)?
        {
            keepers.push(subject);
        }
        Ok(keepers)
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
