//! Reviews: what becomes of a doubt when its time has come. Runs in the one writer like every other
//! transaction, so nothing can come to need the thing between the look and the verdict.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oci::{Digest, RepoName};

use super::transaction::{delete_manifest_facts, doubt};
use super::{Decision, Fact, Item, Rows, RowsError, View};

/// Referrers that are doubted by one review; the rest by the next, so no record grows without bound.
const REFERRERS: usize = 256;

/// Decides a doubt that was raised at `since`. What is `spared` (a client was told lately that it is
/// there) is doubted anew instead of being taken.
pub(super) fn review(
    view: &View<'_, impl Rows>,
    item: &Item,
    since: Timestamp,
    spared: bool,
) -> Result<Vec<Fact>, Decision> {
    if view.doubted(item)? != Some(since) {
        return Ok(Vec::new()); // settled or raised anew meanwhile
    }
    let settled = Fact::Settled { item: item.clone(), since };
    if is_needed(view, item)? {
        return Ok(vec![settled]);
    }
    if spared {
        return Ok(vec![Fact::Doubted { item: item.clone(), previous: Some(since) }]);
    }
    let mut facts = vec![settled];
    match item {
        Item::Manifest { repo, digest } => facts.extend(delete_manifest_facts(view, repo, digest)?),
        Item::Referrers { repo, subject, after } => {
            let page = view.referrers(repo, subject, None, after.as_ref(), REFERRERS)?;
            for referrer in &page {
                doubt(view, &mut facts, Item::Manifest { repo: repo.clone(), digest: referrer.digest })?;
            }
            if let (REFERRERS, Some(last)) = (page.len(), page.last()) {
                let after = Some((last.artifact_type.clone().unwrap_or_default(), last.digest));
                let next = Item::Referrers { repo: repo.clone(), subject: *subject, after };
                // In place of the settled one, whose key it shares.
                facts[0] = Fact::Doubted { item: next, previous: Some(since) };
            }
        }
        Item::Link { repo, digest } => {
            facts.extend(unlink(view, repo, digest)?);
            doubt(view, &mut facts, Item::Ghost { repo: repo.clone(), digest: *digest })?;
        }
        Item::Content { digest } => {
            if let Some(row) = view.stored_blob(digest)? {
                facts.push(Fact::BlobCondemned { digest: *digest });
                doubt(view, &mut facts, Item::Trash { digest: *digest, size: row.size })?;
            }
        }
        Item::Ghost { .. } | Item::Trash { .. } => {}
    }
    Ok(facts)
}

/// Whether something needs the thing, or it is gone already: then there is nothing to doubt.
pub(crate) fn is_needed(view: &View<'_, impl Rows>, item: &Item) -> Result<bool, RowsError> {
    Ok(match item {
        Item::Manifest { repo, digest } => !view.has_manifest(repo, digest)? || view.is_kept(repo, digest)?,
        Item::Referrers { repo, subject, .. } => view.has_manifest(repo, subject)?,
        Item::Link { repo, digest } => !view.is_linked(repo, digest)? || view.a_parent(repo, digest)?.is_some(),
        Item::Content { digest } => view.is_in_use(digest)?,
        Item::Ghost { .. } | Item::Trash { .. } => false,
    })
}

/// Takes a blob from a repository; its content is doubted with its last link.
pub(super) fn unlink(view: &View<'_, impl Rows>, repo: &RepoName, digest: &Digest) -> Result<Vec<Fact>, RowsError> {
    let mut facts = vec![Fact::BlobUnlinked { repo: repo.clone(), digest: *digest }];
    if !view.is_in_use_beside(digest, repo)? {
        doubt(view, &mut facts, Item::Content { digest: *digest })?;
    }
    Ok(facts)
}

/// Repositories in which nothing is left after some facts. Nobody finds anything there, so nobody is told of them.
pub(super) fn emptied(view: &View<'_, impl Rows>, facts: &[Fact]) -> Result<Vec<Fact>, RowsError> {
    let mut gone = BTreeMap::<&RepoName, (Vec<Digest>, Vec<Digest>)>::new();
    for fact in facts {
        match fact {
            Fact::ManifestDeleted { repo, digest, .. } => gone.entry(repo).or_default().0.push(*digest),
            Fact::BlobUnlinked { repo, digest } => gone.entry(repo).or_default().1.push(*digest),
            _ => {}
        }
    }
    let mut emptied = Vec::new();
    for (repo, (manifests, links)) in gone {
        let all = |there: Vec<Digest>, gone: &[Digest]| there.iter().all(|digest| gone.contains(digest));
        if all(view.manifests(repo, None, manifests.len() + 1)?, &manifests)
            && all(view.links(repo, None, links.len() + 1)?, &links)
        {
            emptied.push(Fact::RepoEmptied { repo: repo.clone() });
        }
    }
    Ok(emptied)
}

/// Makes a blob readable again that a review took from a repository a short time ago. Its file is in
/// its place already.
pub(super) fn resurrect(
    view: &View<'_, impl Rows>,
    repo: &RepoName,
    digest: &Digest,
    size: u64,
) -> Result<Vec<Fact>, Decision> {
    let ghost = Item::Ghost { repo: repo.clone(), digest: *digest };
    let Some(since) = view.doubted(&ghost)? else { return Err(super::Refusal::BlobUnknown(*digest).into()) };
    let mut facts = vec![Fact::Settled { item: ghost, since }];
    if view.stored_blob(digest)?.is_none() {
        facts.push(Fact::BlobStored { digest: *digest, size, ahead: false });
    }
    facts.push(Fact::BlobLinked { repo: repo.clone(), digest: *digest });
    doubt(view, &mut facts, Item::Link { repo: repo.clone(), digest: *digest })?;
    Ok(facts)
}
