//! Transactions: what clients want, and whether they may have it.

use jiff::Timestamp;
use oci::{Algorithm, Digest, Manifest, RepoName, Tag, Verified, media_type};

use super::fact::{Asked, Pull, Referrer};
use super::{Fact, Item, Record, Rows, RowsError, View, review};
use crate::keeping::TagPattern;

/// A change that somebody wants. Content it speaks of is durable on disk already, or comes with it.
#[derive(Debug, Clone)]
pub(crate) enum Transaction {
    /// Start an upload session.
    OpenUpload { id: String, repo: RepoName, algorithm: Algorithm },
    /// End an upload session without a result.
    CloseUpload { id: String },
    /// Make a blob that lies on disk readable in a repository, and end the session it came by. With its
    /// bytes, its file need not be durable.
    StoreBlob { repo: RepoName, blob: Verified, upload: Option<String>, bytes: Option<Vec<u8>> },
    /// Make a blob of another repository readable in this one.
    MountBlob { repo: RepoName, digest: Digest, from: MountSource },
    /// Make a blob unreadable in a repository.
    UnlinkBlob { repo: RepoName, digest: Digest },
    /// Store a manifest and let tags name it: both or nothing.
    PutManifest { repo: RepoName, manifest: Box<Manifest>, inline: bool, tags: Vec<Tag>, frozen: Frozen, terms: Terms },
    /// Delete a tag; what it named stays for a while.
    DeleteTag { repo: RepoName, tag: Tag, frozen: Frozen },
    /// Delete a manifest and the tags that name it.
    DeleteManifest { repo: RepoName, digest: Digest, frozen: Frozen },
    /// Delete a tag that retention does not keep, if it still names what was looked at.
    ExpireTag { repo: RepoName, tag: Tag, digest: Digest },
    /// Look at a doubt whose time has come. What is spared is doubted anew instead of being taken.
    Review { item: Item, since: Timestamp, spared: bool },
    /// Make a blob readable again that a review took a short time ago; its file is back in its place.
    Resurrect { repo: RepoName, digest: Digest, size: u64 },
    /// Take in a file that no row speaks of: a crash came between its name and its record.
    Adopt { digest: Digest, size: u64 },
    /// Forget content whose file is lost, so that clients send it again.
    Lose { digest: Digest },
    /// Doubt something that is not doubted yet.
    Suspect { item: Item },
    /// Keep when manifests were pulled.
    CountPulls { pulls: Vec<Pull> },
    /// Any of the others, with who wants it.
    Asked { by: Box<Asked>, what: Box<Transaction> },
}

impl Transaction {
    /// The same, whoever wants it.
    fn asked_for(&self) -> &Self {
        match self {
            Self::Asked { what, .. } => what.asked_for(),
            what => what,
        }
    }

    /// Whether somebody waits for its durability. Upload sessions and pull counts are only remembered:
    /// a crash may lose them.
    pub(crate) fn is_durable(&self) -> bool {
        !matches!(self.asked_for(), Self::OpenUpload { .. } | Self::CloseUpload { .. } | Self::CountPulls { .. })
    }

    /// Whether it only takes away: it may use the reserve of a full disk, since it makes room.
    pub(crate) fn makes_room(&self) -> bool {
        matches!(
            self.asked_for(),
            Self::CloseUpload { .. }
                | Self::UnlinkBlob { .. }
                | Self::DeleteTag { .. }
                | Self::DeleteManifest { .. }
                | Self::ExpireTag { .. }
                | Self::Review { .. }
                | Self::Lose { .. }
        )
    }
}

/// The tags of a repository that may be set once and never changed or deleted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frozen(pub(crate) Vec<TagPattern>);

impl Frozen {
    /// Refuses to touch a tag that is there and frozen.
    fn check(&self, tag: &Tag, current: &Digest) -> Result<(), Refusal> {
        match self.0.iter().find(|pattern| pattern.matches(tag)) {
            Some(pattern) => {
                Err(Refusal::Immutable { tag: tag.clone(), digest: *current, pattern: pattern.to_string() })
            }
            None => Ok(()),
        }
    }
}

/// On what terms a manifest is pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether it may name what is not there.
    pub(crate) sparse: bool,
    /// What must hold before.
    pub(crate) condition: Condition,
    /// Tags that may be new but must not change.
    pub(crate) fixed: Vec<Tag>,
}

/// What must hold of the first tag, or of the manifest itself if it gets none, before a push.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing.
    #[default]
    None,
    /// It is there.
    There,
    /// It is not there.
    Missing,
    /// It is one of these.
    OneOf(Vec<Digest>),
    /// It is none of these; it may be missing.
    NoneOf(Vec<Digest>),
}

impl Condition {
    fn check(
        &self,
        view: &View<'_, impl Rows>,
        repo: &RepoName,
        manifest: &Digest,
        tags: &[Tag],
    ) -> Result<(), Decision> {
        if *self == Self::None {
            return Ok(());
        }
        let actual = match tags.first() {
            Some(tag) => view.tag(repo, tag)?.map(|row| row.digest),
            None => view.has_manifest(repo, manifest)?.then_some(*manifest),
        };
        let holds = match self {
            Self::None => true,
            Self::There => actual.is_some(),
            Self::Missing => actual.is_none(),
            Self::OneOf(digests) => actual.is_some_and(|actual| digests.contains(&actual)),
            Self::NoneOf(digests) => actual.is_none_or(|actual| !digests.contains(&actual)),
        };
        if holds { Ok(()) } else { Err(Refusal::Changed { actual }.into()) }
    }
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
    /// A tag or manifest is not what the client said it must be.
    #[error("the condition of the push does not hold any more")]
    Changed {
        /// What it is, if it is there.
        actual: Option<Digest>,
    },
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
    /// The tag may be set once and never changed or deleted.
    #[error("the tag {tag} is immutable here (it matches `{pattern}`) and stays on {digest}: push under another tag")]
    Immutable {
        /// The tag.
        tag: Tag,
        /// What it names.
        digest: Digest,
        /// The pattern that makes it immutable.
        pattern: String,
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
        Transaction::StoreBlob { repo, blob, upload, bytes } => {
            let facts = store_blob(&view, repo, blob, upload.as_deref(), bytes.is_some())?;
            if facts.iter().any(|fact| matches!(fact, Fact::BlobStored { ahead: true, .. })) {
                body = bytes.clone().unwrap_or_default();
            }
            facts
        }
        Transaction::MountBlob { repo, digest, from } => mount_blob(&view, repo, digest, from)?,
        Transaction::UnlinkBlob { repo, digest } => unlink_blob(&view, repo, digest)?,
        Transaction::PutManifest { repo, manifest, inline, tags, frozen, terms } => {
            terms.condition.check(&view, repo, &manifest.digest(), tags)?;
            check_fixed(&view, repo, manifest, tags, &terms.fixed)?;
            let facts = put_manifest(&view, repo, manifest, *inline, terms.sparse, tags, frozen)?;
            if *inline && facts.iter().any(|fact| matches!(fact, Fact::ManifestStored { .. })) {
                body = manifest.bytes().to_vec();
            }
            facts
        }
        Transaction::DeleteTag { repo, tag, frozen } => delete_tag(&view, repo, tag, frozen)?,
        Transaction::DeleteManifest { repo, digest, frozen } => delete_manifest(&view, repo, digest, frozen)?,
        Transaction::ExpireTag { repo, tag, digest } => expire_tag(&view, repo, tag, digest)?,
        Transaction::Review { item, since, spared } => review::review(&view, item, *since, *spared)?,
        Transaction::Resurrect { repo, digest, size } => review::resurrect(&view, repo, digest, *size)?,
        Transaction::Adopt { digest, size } => adopt(&view, digest, *size)?,
        Transaction::Lose { digest } => lose(&view, digest)?,
        Transaction::Suspect { item } => suspect(&view, item)?,
        Transaction::CountPulls { pulls } => count_pulls(&view, pulls)?,
        Transaction::Asked { by, what } => {
            let mut record = decide(rows, what, now)?;
            if !record.facts.is_empty() {
                record.facts.push(Fact::Asked { by: by.clone() });
            }
            return Ok(record);
        }
    };
    let emptied = review::emptied(&view, &facts)?;
    let facts = facts.into_iter().chain(emptied).collect();
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
    ahead: bool,
) -> Result<Vec<Fact>, Decision> {
    let mut facts = match upload {
        Some(id) => close_upload(view, id)?,
        None => Vec::new(),
    };
    if view.stored_blob(&blob.digest())?.is_none() {
        facts.push(Fact::BlobStored { digest: blob.digest(), size: blob.size(), ahead });
    }
    if !view.is_linked(repo, &blob.digest())? {
        link(view, &mut facts, repo, blob.digest())?;
    }
    Ok(facts)
}

/// Makes a blob readable. No manifest names it yet, so it is doubted from the start.
fn link(view: &View<'_, impl Rows>, facts: &mut Vec<Fact>, repo: &RepoName, digest: Digest) -> Result<(), RowsError> {
    facts.push(Fact::BlobLinked { repo: repo.clone(), digest });
    doubt(view, facts, Item::Link { repo: repo.clone(), digest })
}

/// Doubts something from now on, in place of an older doubt about it. Doubting the same thing twice
/// in one record does no harm.
pub(super) fn doubt(view: &View<'_, impl Rows>, facts: &mut Vec<Fact>, item: Item) -> Result<(), RowsError> {
    let previous = view.doubted(&item)?;
    facts.push(Fact::Doubted { item, previous });
    Ok(())
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
    let mut facts = Vec::new();
    link(view, &mut facts, repo, *digest)?;
    Ok(facts)
}

fn unlink_blob(view: &View<'_, impl Rows>, repo: &RepoName, digest: &Digest) -> Result<Vec<Fact>, Decision> {
    if !view.is_linked(repo, digest)? {
        return Err(Refusal::BlobUnknown(*digest).into());
    }
    if let Some(parent) = view.a_parent(repo, digest)? {
        return Err(Refusal::Referenced { parent }.into());
    }
    let mut facts = review::unlink(view, repo, digest)?;
    // What somebody deletes by name does not come back, though a review took it before.
    let ghost = Item::Ghost { repo: repo.clone(), digest: *digest };
    if let Some(since) = view.doubted(&ghost)? {
        facts.push(Fact::Settled { item: ghost, since });
    }
    Ok(facts)
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
    sparse: bool,
    tags: &[Tag],
    frozen: &Frozen,
) -> Result<Vec<Fact>, Decision> {
    let digest = manifest.digest();
    let mut facts = Vec::new();
    let known = view.manifest(repo, &digest)?;
    if known.is_none_or(|(row, _)| row.media_type != manifest.media_type()) {
        if !sparse {
            check_complete(view, repo, manifest)?;
        }
        if !inline && view.stored_blob(&digest)?.is_none() {
            facts.push(Fact::BlobStored { digest, size: manifest.bytes().len() as u64, ahead: false });
        }
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
            if let Some(previous) = previous {
                frozen.check(tag, &previous)?;
                doubt(view, &mut facts, Item::Manifest { repo: repo.clone(), digest: previous })?;
            }
            facts.push(Fact::TagSet { repo: repo.clone(), tag: tag.clone(), digest, previous });
        }
    }
    if tags.is_empty() {
        doubt(view, &mut facts, Item::Manifest { repo: repo.clone(), digest })?;
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

fn delete_tag(view: &View<'_, impl Rows>, repo: &RepoName, tag: &Tag, frozen: &Frozen) -> Result<Vec<Fact>, Decision> {
    let row = view.tag(repo, tag)?.ok_or_else(|| Refusal::TagUnknown(tag.clone()))?;
    frozen.check(tag, &row.digest)?;
    expire_tag(view, repo, tag, &row.digest)
}

fn expire_tag(view: &View<'_, impl Rows>, repo: &RepoName, tag: &Tag, digest: &Digest) -> Result<Vec<Fact>, Decision> {
    let row = view.tag(repo, tag)?.filter(|row| row.digest == *digest);
    row.ok_or_else(|| Refusal::TagUnknown(tag.clone()))?;
    let mut facts = vec![Fact::TagDeleted { repo: repo.clone(), tag: tag.clone(), digest: *digest }];
    doubt(view, &mut facts, Item::Manifest { repo: repo.clone(), digest: *digest })?;
    Ok(facts)
}

fn delete_manifest(
    view: &View<'_, impl Rows>,
    repo: &RepoName,
    digest: &Digest,
    frozen: &Frozen,
) -> Result<Vec<Fact>, Decision> {
    if !view.has_manifest(repo, digest)? {
        return Err(Refusal::ManifestUnknown(*digest).into());
    }
    if let Some(parent) = view.a_parent(repo, digest)? {
        return Err(Refusal::Referenced { parent }.into());
    }
    for tag in view.names_of(repo, digest)? {
        frozen.check(&tag, digest)?;
    }
    delete_manifest_facts(view, repo, digest)
}

/// Deletes a manifest with its tags, and doubts what it named and what refers to it.
pub(super) fn delete_manifest_facts(
    view: &View<'_, impl Rows>,
    repo: &RepoName,
    digest: &Digest,
) -> Result<Vec<Fact>, Decision> {
    let (row, _) = view.manifest(repo, digest)?.ok_or(Refusal::ManifestUnknown(*digest))?;
    let names = view.names_of(repo, digest)?.into_iter();
    let mut facts: Vec<_> = names.map(|tag| Fact::TagDeleted { repo: repo.clone(), tag, digest: *digest }).collect();
    for child in &row.children {
        // A child is a manifest or a blob, and may be both.
        if view.has_manifest(repo, child)? {
            doubt(view, &mut facts, Item::Manifest { repo: repo.clone(), digest: *child })?;
        }
        if view.is_linked(repo, child)? {
            doubt(view, &mut facts, Item::Link { repo: repo.clone(), digest: *child })?;
        }
    }
    if !view.referrers(repo, digest, None, None, 1)?.is_empty() {
        doubt(view, &mut facts, Item::Referrers { repo: repo.clone(), subject: *digest, after: None })?;
    }
    if !row.inline {
        doubt(view, &mut facts, Item::Content { digest: *digest })?;
    }
    let subject = row.subject.map(|subject| (subject, row.artifact_type.unwrap_or_default()));
    facts.push(Fact::ManifestDeleted { repo: repo.clone(), digest: *digest, children: row.children, subject });
    Ok(facts)
}

fn adopt(view: &View<'_, impl Rows>, digest: &Digest, size: u64) -> Result<Vec<Fact>, Decision> {
    if view.stored_blob(digest)?.is_some() {
        return Ok(Vec::new());
    }
    let mut facts = vec![Fact::BlobStored { digest: *digest, size, ahead: false }];
    doubt(view, &mut facts, Item::Content { digest: *digest })?;
    Ok(facts)
}

/// Manifests whose bytes lay there go with their tags: clients that are told of one do not send it again.
fn lose(view: &View<'_, impl Rows>, digest: &Digest) -> Result<Vec<Fact>, Decision> {
    let unlinked = view.holders(digest)?.into_iter().map(|repo| Fact::BlobUnlinked { repo, digest: *digest });
    let mut facts: Vec<_> = unlinked.collect();
    for repo in view.file_users(digest)? {
        facts.extend(delete_manifest_facts(view, &repo, digest)?);
    }
    if view.stored_blob(digest)?.is_some() {
        facts.push(Fact::BlobCondemned { digest: *digest });
    }
    Ok(facts)
}

fn suspect(view: &View<'_, impl Rows>, item: &Item) -> Result<Vec<Fact>, Decision> {
    let mut facts = Vec::new();
    if view.doubted(item)?.is_none() {
        doubt(view, &mut facts, item.clone())?;
    }
    Ok(facts)
}

/// Only what is still there is counted: a row of a manifest that is gone would never be removed.
fn count_pulls(view: &View<'_, impl Rows>, pulls: &[Pull]) -> Result<Vec<Fact>, Decision> {
    let mut known = Vec::with_capacity(pulls.len());
    for pull in pulls {
        if view.has_manifest(&pull.repo, &pull.digest)? {
            known.push(pull.clone());
        }
    }
    Ok(if known.is_empty() { Vec::new() } else { vec![Fact::Pulled { pulls: known }] })
}
