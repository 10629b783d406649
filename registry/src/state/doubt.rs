//! Doubts: what perhaps nothing needs any more, and since when. Every transaction that takes a
//! reference away, or brings something that nothing refers to yet, doubts what it leaves behind; so
//! garbage is found without ever looking at everything.
//!
//! ```text
//! tag moved, deleted ──▶ Manifest ──dead──▶ Link (its blobs), Manifest (its children), Referrers
//! blob pushed, manifest deleted ──▶ Link ──dead──▶ Ghost, Content
//! last link gone ──▶ Content ──dead──▶ condemned: the file goes to the trash ──▶ Trash ──▶ unlinked
//! ```
//!
//! A doubt is no verdict: each is looked at again (`review`) once it is as old as the policy for its
//! kind says. How old that is, is not recorded here: a changed policy holds for old doubts too.

use jiff::Timestamp;
use oci::{Algorithm, Digest, RepoName};
use serde::{Deserialize, Serialize};

use super::rows::key;

/// Something that perhaps nothing needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Item {
    /// A manifest that perhaps no tag, index or subject keeps.
    Manifest { repo: RepoName, digest: Digest },
    /// The referrers of a manifest that is gone, behind a place in their list.
    Referrers {
        repo: RepoName,
        subject: Digest,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<(String, Digest)>,
    },
    /// A blob in a repository where perhaps no manifest names it.
    Link { repo: RepoName, digest: Digest },
    /// That the repository had this blob until a review took it away: for a while, whoever was told
    /// that it is there can still have it.
    Ghost { repo: RepoName, digest: Digest },
    /// Content that perhaps no repository holds.
    Content { digest: Digest },
    /// Condemned content whose file lies in the trash.
    Trash { digest: Digest, size: u64 },
}

/// The kinds of doubts; each has a queue of its own, since each has its own patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Manifest,
    Referrers,
    Link,
    Ghost,
    Content,
    Trash,
}

impl Kind {
    /// In the order in which one review leads to the next.
    pub(crate) const ALL: [Self; 6] =
        [Self::Manifest, Self::Referrers, Self::Link, Self::Ghost, Self::Content, Self::Trash];

    /// The kind as a part of keys.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Manifest => b'm',
            Self::Referrers => b'r',
            Self::Link => b'l',
            Self::Ghost => b'g',
            Self::Content => b'c',
            Self::Trash => b't',
        }
    }
}

impl Item {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Manifest { .. } => Kind::Manifest,
            Self::Referrers { .. } => Kind::Referrers,
            Self::Link { .. } => Kind::Link,
            Self::Ghost { .. } => Kind::Ghost,
            Self::Content { .. } => Kind::Content,
            Self::Trash { .. } => Kind::Trash,
        }
    }

    pub(crate) fn digest(&self) -> &Digest {
        match self {
            Self::Manifest { digest, .. }
            | Self::Referrers { subject: digest, .. }
            | Self::Link { digest, .. }
            | Self::Ghost { digest, .. }
            | Self::Content { digest }
            | Self::Trash { digest, .. } => digest,
        }
    }

    pub(crate) fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Manifest { repo, .. }
            | Self::Referrers { repo, .. }
            | Self::Link { repo, .. }
            | Self::Ghost { repo, .. } => Some(repo),
            Self::Content { .. } | Self::Trash { .. } => None,
        }
    }

    /// The key of the doubt: there is one at most.
    pub(crate) fn key(&self) -> Vec<u8> {
        key::doubt(self.kind().byte(), self.digest(), self.repo())
    }

    /// The key of the place in the queue of a doubt, by the doubt's own key.
    pub(crate) fn queue_key_of(doubt: &[u8], since: Timestamp) -> Option<Vec<u8>> {
        let algorithm = match doubt.get(1)? {
            1 => Algorithm::Sha256,
            2 => Algorithm::Sha512,
            _ => return None,
        };
        let (digest, rest) = doubt.get(2..)?.split_at_checked(algorithm.size())?;
        let (kind, repo) = rest.split_first()?;
        let repo = std::str::from_utf8(repo).ok()?.parse().ok();
        Some(key::queued(*kind, since, &Digest::from_bytes(algorithm, digest)?, repo.as_ref()))
    }

    /// The key of its place in the queue.
    pub(crate) fn queue_key(&self, since: Timestamp) -> Vec<u8> {
        key::queued(self.kind().byte(), since, self.digest(), self.repo())
    }
}
