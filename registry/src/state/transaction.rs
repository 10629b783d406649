//! Transactions: what clients want, and whether they may have it.

use jiff::Timestamp;
use oci::{Algorithm, Digest, Manifest, RepoName, Tag, Verified, media_type};

use super::fact::Referrer;
use super::{Fact, Record, Rows, RowsError, View};

/// A change that somebody wants. Content it speaks of is durable on disk already.
#[derive(Debug, Clone)]
pub(crate) enum Transaction {
    /// Start an upload session.
    OpenUpload { id: String, repo: RepoName, algorithm: Algorithm },
    /// End an upload session without a result.
    CloseUpload { id: String },
    /// Make a blob that lies on disk readable in a repository, and end the session it came by.
    StoreBlob { repo: RepoName, blob: Verified, upload: Option<String> },
    /// Make a blob of another repository readable in this one.
    MountBlob { repo: RepoName, digest: Digest, from: MountSource },
    /// Make a blob unreadable in a repository.
    UnlinkBlob { repo: RepoName, digest: Digest },
    /// Store a manifest and let tags name it: both or nothing.
    ///
    /// Of the tags, those in `fixed` may be new but must not change.
    PutManifest { repo: RepoName, manifest: Box<Manifest>, inline: bool, tags: Vec<Tag>, fixed: Vec<Tag> },
    /// Delete a tag; what it named stays.
    DeleteTag { repo: RepoName, tag: Tag },
    /// Delete a manifest and the tags that name it.
    DeleteManifest { repo: RepoName, digest: Digest },
}

/// Where a blob may be mounted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountSource {
    /// This repository.
    Repo(RepoName),
    /// Whichever repository has it (distribution-spec, "automatic content discovery").
    Anywhere,
}

/// Why a transaction is refused. Nothing changes then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The repository does not hold this blob.
    #[error("the blob {0} is not in this repository")]
    BlobUnknown(Digest),
    /// The repository does not hold this manifest.
    #[error("the manifest {0} is not in this repository")]
    ManifestUnknown(Digest),
    /// The repository does not have this tag.
    #[error("the tag {0} is not in this repository")]
    TagUnknown(Tag),
    /// There is no such upload session (any more).
    #[error("the upload session is unknown: it ended, was cancelled, or never began")]
    UploadUnknown,
    /// The manifest names content that the repository does not hold.
    #[error("the manifest names content that is not in this repository: push it first")]
    Incomplete {
        /// Config and layers that are missing.
        blobs: Vec<Digest>,
        /// Children of an index that are missing.
        manifests: Vec<Digest>,
    },
    /// The tag names something else, and may not be changed by whoever wants to.
    #[error("the tag {0} exists, and may not be changed to name something else")]
    TagFixed(Tag),
    /// Something still names what is to be deleted.
    #[error("the manifest {parent} still names this content: delete that first")]
    Referenced {
        /// The manifest that names it.
        parent: Digest,
    },
}

/// Why there is no decision to act on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Decision {
    /// The state forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The state could not be read.
    #[error(transparent)]
    Rows(#[from] RowsError),
}

/// Decides a transaction on the rows as they are: the record to keep, whose facts may be none where
/// everything is as wanted already.
pub(crate) fn decide(rows: &impl Rows, transaction: &Transaction, now: Timestamp) -> Result<Record, Decision> {
    let view = View(rows);
    let mut body = Vec::new();
    let facts = match transaction {
        Transaction::OpenUpload { id, repo, algorithm } => {
            vec![Fact::UploadOpened { id: id.clone(), repo: repo.clone(), algorithm: algorithm.to_string() }]
        }
        Transaction::CloseUpload { id } => close_upload(&view, id)?,
        Transaction::StoreBlob { repo, blob, upload } => store_blob(&view, repo, blob, upload.as_deref())?,
        Transaction::MountBlob { repo, digest, from } => mount_blob(&view, repo, digest, from)?,
        Transaction::UnlinkBlob { repo, digest } => unlink_blob(&view, repo, digest)?,
        Transaction::PutManifest { repo, manifest, inline, tags, fixed } => {
            check_fixed(&view, repo, manifest, tags, fixed)?;
            let facts = put_manifest(&view, repo, manifest, *inline, tags)?;
            if *inline && facts.iter().any(|fact| matches!(fact, Fact::ManifestStored { .. })) {
                body = manifest.bytes().to_vec();
            }
            facts
        }
        Transaction::DeleteTag { repo, tag } => delete_tag(&view, repo, tag)?,
        Transaction::DeleteManifest { repo, digest } => delete_manifest(&view, repo, digest)?,
    };
    Ok(Record { at: now, facts, body })
}

fn close_upload(view: &View<'_, impl Rows>, id: &str) -> Result<Vec<Fact>, Decision> {
    view.upload(id)?.ok_or(Refusal::UploadUnknown)?;
    Ok(vec![Fact::UploadClosed { id: id.to_owned() }])
}

fn store_blob(
    view: &View<'_, impl Rows>,
    repo: &RepoName,
    blob: &Verified,
    upload: Option<&str>,
) -> Result<Vec<Fact>, Decision> {
    let mut facts = match upload {
        Some(id) => close_upload(view, id)?,
        None => Vec::new(),
    };
    if view.stored_blob(&blob.digest())?.is_none() {
        facts.push(Fact::BlobStored { digest: blob.digest(), size: blob.size() });
    }
    if !view.is_linked(repo, &blob.digest())? {
        facts.push(Fact::BlobLinked { repo: repo.clone(), digest: blob.digest() });
    }
    Ok(facts)
}

fn mount_blob(
    view: &View<'_, impl Rows>,
    repo: &RepoName,
    digest: &Digest,
    from: &MountSource,
) -> Result<Vec<Fact>, Decision> {
    if view.is_linked(repo, digest)? {
        return Ok(Vec::new());
    }
    let found = match from {
        MountSource::Repo(from) => view.is_linked(from, digest)?,
        MountSource::Anywhere => view.is_held(digest)?,
    };
    if !found {
        return Err(Refusal::BlobUnknown(*digest).into());
    }
    Ok(vec![Fact::BlobLinked { repo: repo.clone(), digest: *digest }])
}

fn unlink_blob(view: &View<'_, impl Rows>, repo: &RepoName, digest: &Digest) -> Result<Vec<Fact>, Decision> {
    if !view.is_linked(repo, digest)? {
        return Err(Refusal::BlobUnknown(*digest).into());
    }
    if let Some(parent) = view.a_parent(repo, digest)? {
        return Err(Refusal::Referenced { parent }.into());
    }
    Ok(vec![Fact::BlobUnlinked { repo: repo.clone(), digest: *digest }])
}

fn check_fixed(
    view: &View<'_, impl Rows>,
    repo: &RepoName,
    manifest: &Manifest,
    tags: &[Tag],
    fixed: &[Tag],
) -> Result<(), Decision> {
    for tag in fixed.iter().filter(|tag| tags.contains(tag)) {
        if view.tag(repo, tag)?.is_some_and(|row| row.digest != manifest.digest()) {
            return Err(Refusal::TagFixed(tag.clone()).into());
        }
    }
    Ok(())
}

fn put_manifest(
    view: &View<'_, impl Rows>,
    repo: &RepoName,
    manifest: &Manifest,
    inline: bool,
    tags: &[Tag],
) -> Result<Vec<Fact>, Decision> {
    let digest = manifest.digest();
    let mut facts = Vec::new();
    let known = view.manifest(repo, &digest)?;
    if known.is_none_or(|(row, _)| row.media_type != manifest.media_type()) {
        check_complete(view, repo, manifest)?;
        facts.push(Fact::ManifestStored {
            repo: repo.clone(),
            digest,
            media_type: manifest.media_type().to_owned(),
            size: manifest.bytes().len() as u64,
            inline,
            children: children(manifest),
            referrer: referrer(manifest),
        });
    }
    for tag in tags {
        let previous = view.tag(repo, tag)?.map(|row| row.digest);
        if previous != Some(digest) {
            facts.push(Fact::TagSet { repo: repo.clone(), tag: tag.clone(), digest, previous });
        }
    }
    Ok(facts)
}

/// Whether everything that a manifest names is in its repository. A subject may come later, and
/// foreign layers never come.
fn check_complete(view: &View<'_, impl Rows>, repo: &RepoName, manifest: &Manifest) -> Result<(), Decision> {
    let (mut blobs, mut manifests) = (Vec::new(), Vec::new());
    for blob in manifest.blobs().filter(|blob| !media_type::is_foreign_layer(&blob.media_type)) {
        if !view.is_linked(repo, &blob.digest)? {
            blobs.push(blob.digest);
        }
    }
    for child in manifest.children() {
        // An index of artifacts may name plain blobs as well (distribution-spec, "Pushing manifests").
        if !view.has_manifest(repo, &child.digest)? && !view.is_linked(repo, &child.digest)? {
            manifests.push(child.digest);
        }
    }
    if blobs.is_empty() && manifests.is_empty() {
        return Ok(());
    }
    Err(Refusal::Incomplete { blobs, manifests }.into())
}

fn children(manifest: &Manifest) -> Vec<Digest> {
    let named = manifest.blobs().chain(manifest.children()).map(|descriptor| descriptor.digest);
    let mut children: Vec<_> = named.collect();
    children.sort_unstable();
    children.dedup();
    children
}

fn referrer(manifest: &Manifest) -> Option<Referrer> {
    let subject = manifest.subject()?.digest;
    let artifact_type = manifest.artifact_type().unwrap_or_default().to_owned();
    let mut descriptor = manifest.descriptor();
    descriptor.artifact_type = Some(artifact_type.clone()).filter(|kind| !kind.is_empty());
    descriptor.annotations = manifest.annotations().clone();
    Some(Referrer { subject, artifact_type, descriptor })
}

fn delete_tag(view: &View<'_, impl Rows>, repo: &RepoName, tag: &Tag) -> Result<Vec<Fact>, Decision> {
    let row = view.tag(repo, tag)?.ok_or_else(|| Refusal::TagUnknown(tag.clone()))?;
    Ok(vec![Fact::TagDeleted { repo: repo.clone(), tag: tag.clone(), digest: row.digest }])
}

fn delete_manifest(view: &View<'_, impl Rows>, repo: &RepoName, digest: &Digest) -> Result<Vec<Fact>, Decision> {
    let (row, _) = view.manifest(repo, digest)?.ok_or(Refusal::ManifestUnknown(*digest))?;
    if let Some(parent) = view.a_parent(repo, digest)? {
        return Err(Refusal::Referenced { parent }.into());
    }
    let names = view.names_of(repo, digest)?.into_iter();
    let mut facts: Vec<_> = names.map(|tag| Fact::TagDeleted { repo: repo.clone(), tag, digest: *digest }).collect();
    let subject = row.subject.map(|subject| (subject, row.artifact_type.unwrap_or_default()));
    facts.push(Fact::ManifestDeleted { repo: repo.clone(), digest: *digest, children: row.children, subject });
    Ok(facts)
}
