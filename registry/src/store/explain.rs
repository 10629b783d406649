//! What the collector would do, and why: for operators, before they let it.

use jiff::Timestamp;
use oci::{Digest, RepoName, Tag};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::keeping::Patience;
use crate::state::{Decision, Fact, Item, Kind, Overlay, Transaction, View, decide};

/// Most doubts that a dry run looks at together.
const BATCH: usize = 256;
/// Most things that a dry run lists; what it keeps in memory meanwhile is of the same order.
const LISTED: usize = 100_000;

/// Something that a pass would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Planned {
    /// A manifest would be deleted.
    Manifest {
        /// Where.
        repo: RepoName,
        /// Which one.
        digest: Digest,
    },
    /// A blob would no longer be readable in a repository.
    Link {
        /// Where.
        repo: RepoName,
        /// Which one.
        digest: Digest,
    },
    /// A file would go to the trash.
    Content {
        /// Which one.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// A file would be removed from the trash.
    Trash {
        /// Which one.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
}

/// What is known about a digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The size of its file in bytes, if it has one.
    pub stored: Option<u64>,
    /// Where it is a manifest.
    pub manifests: Vec<KeptManifest>,
    /// Where it is a blob: the repository, and a manifest that names it.
    pub blobs: Vec<(RepoName, Option<Digest>)>,
    /// What is doubted about it.
    pub doubts: Vec<Doubt>,
}

/// A manifest in a repository, and what keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptManifest {
    /// The repository.
    pub repo: RepoName,
    /// The tags that name it.
    pub tags: Vec<Tag>,
    /// An index that names it.
    pub parent: Option<Digest>,
    /// What it refers to, which keeps it while it is there.
    pub subject: Option<Digest>,
}

/// Why something may go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// In words.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
    /// When it is looked at again, if ever.
    pub due: Option<Timestamp>,
}

impl Store {
    /// What collecting would take now, without taking it. What is only doubted by it has its own grace
    /// before it, and is not listed: the layers of a manifest that would go, say.
    pub fn plan_collection(&self) -> Result<Vec<Planned>, StoreError> {
        let failed = |error| match error {
            Decision::Refused(refusal) => StoreError::Refused(refusal),
            Decision::Rows(error) => StoreError::Index(Box::new(error)),
        };
        let now = Timestamp::now();
        let mut rows = Overlay::new(&*self.inner.index);
        let mut planned = Vec::new();
        loop {
            let mut reviewed = 0;
            for kind in Kind::ALL {
                let Some(until) = self.due_until(kind, now) else { continue };
                let due = View(&rows).queue(kind, until, BATCH).map_err(|error| failed(error.into()))?;
                reviewed += due.len();
                for (since, item) in due {
                    let review = Transaction::Review { item: item.clone(), since, spared: false };
                    // At the instant of the look: what is doubted by it may be due at once.
                    let record = decide(&rows, &review, now).map_err(failed)?;
                    planned.extend(takes(&item, &record.facts));
                    rows.apply(record.writes());
                }
            }
            if reviewed == 0 || planned.len() >= LISTED {
                return Ok(planned);
            }
        }
    }

    /// Everything that keeps a digest, or speaks against it.
    pub fn explain(&self, digest: &Digest) -> Result<Explanation, StoreError> {
        let now = Timestamp::now();
        self.read(|view| {
            let mut explained =
                Explanation { stored: view.stored_blob(digest)?.map(|row| row.size), ..Explanation::default() };
            let mut after = String::new();
            loop {
                let repos = view.repos(&after, BATCH)?;
                let Some(last) = repos.last() else { break };
                after = last.to_string();
                for repo in repos {
                    let parent = view.a_parent(&repo, digest)?;
                    if view.is_linked(&repo, digest)? {
                        explained.blobs.push((repo.clone(), parent));
                    }
                    if let Some((row, _)) = view.manifest(&repo, digest)? {
                        let tags = view.names_of(&repo, digest)?;
                        explained.manifests.push(KeptManifest { repo, tags, parent, subject: row.subject });
                    }
                }
            }
            for (item, since) in view.doubts_about(digest)? {
                let due = self.due_at(item.kind(), since, now);
                explained.doubts.push(Doubt { why: describe(&item), since, due });
            }
            Ok(explained)
        })
    }

    fn due_at(&self, kind: Kind, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let gc = &self.keeping.gc;
        let grace = match kind {
            Kind::Manifest => match gc.untagged {
                Patience::For(period) => period,
                Patience::Forever => return None,
            },
            Kind::Link => gc.blob_grace,
            Kind::Ghost | Kind::Trash => gc.trash_grace,
            Kind::Referrers | Kind::Content => return Some(now),
        };
        since.checked_add(jiff::SignedDuration::try_from(grace.duration()).ok()?).ok()
    }
}

/// What the facts of a review take away.
fn takes(item: &Item, facts: &[Fact]) -> Option<Planned> {
    let any = |is: fn(&Fact) -> bool| facts.iter().any(is);
    match item {
        Item::Manifest { repo, digest } if any(|fact| matches!(fact, Fact::ManifestDeleted { .. })) => {
            Some(Planned::Manifest { repo: repo.clone(), digest: *digest })
        }
        Item::Link { repo, digest } if any(|fact| matches!(fact, Fact::BlobUnlinked { .. })) => {
            Some(Planned::Link { repo: repo.clone(), digest: *digest })
        }
        Item::Content { digest } => facts.iter().find_map(|fact| match fact {
            Fact::Doubted { item: Item::Trash { size, .. }, .. } => {
                Some(Planned::Content { digest: *digest, size: *size })
            }
            _ => None,
        }),
        Item::Trash { digest, size } => Some(Planned::Trash { digest: *digest, size: *size }),
        _ => None,
    }
}

fn describe(item: &Item) -> String {
    match item {
        Item::Manifest { repo, .. } => format!("as a manifest of {repo}: no tag names it"),
        Item::Referrers { repo, .. } => format!("as a subject in {repo}: it is gone, its referrers are looked at"),
        Item::Link { repo, .. } => format!("as a blob of {repo}: it was pushed, or a manifest that named it went"),
        Item::Ghost { repo, .. } => format!("as a blob that {repo} had: it can still be brought back"),
        Item::Content { .. } => "as a file: no repository holds it".to_owned(),
        Item::Trash { .. } => "as a file in the trash: it was condemned".to_owned(),
    }
}
