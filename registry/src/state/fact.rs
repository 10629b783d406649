//! Facts: what happened, as the journal keeps it, and the row changes that follow.
//!
//! A record is `length of the JSON (u32) | JSON | body`, so that it can be read by people. The body is
//! a small manifest, exactly as it was pushed, or a small blob whose file the disk may not have yet.

use std::net::IpAddr;

use jiff::Timestamp;
use oci::{Algorithm, Descriptor, Digest, RepoName, Tag};
use serde::{Deserialize, Serialize};

use super::Item;
use super::rows::{self, BlobRow, DoubtRow, ManifestRow, PullRow, TagRow, UploadRow, key};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(crate) enum Fact {
    /// An upload session was opened.
    UploadOpened { id: String, repo: RepoName, algorithm: String },
    /// An upload session ended, by success, cancel or failure.
    UploadClosed { id: String },
    /// A blob lies on disk, whole.
    BlobStored {
        digest: Digest,
        size: u64,
        /// Whether the record's body holds its bytes: then its file may not be durable yet, else it is.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ahead: bool,
    },
    /// A blob can be read in a repository.
    BlobLinked { repo: RepoName, digest: Digest },
    /// A blob can no longer be read in a repository.
    BlobUnlinked { repo: RepoName, digest: Digest },
    /// A manifest was stored. The record's body holds its bytes, if `inline`.
    ManifestStored {
        repo: RepoName,
        digest: Digest,
        media_type: String,
        size: u64,
        inline: bool,
        /// Everything it names: config, layers, children. Not its subject.
        children: Vec<Digest>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        referrer: Option<Referrer>,
    },
    /// A manifest was deleted; the rest says which rows it had.
    ManifestDeleted {
        repo: RepoName,
        digest: Digest,
        children: Vec<Digest>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<(Digest, String)>,
    },
    /// A tag names a manifest now.
    TagSet {
        repo: RepoName,
        tag: Tag,
        digest: Digest,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Digest>,
    },
    /// A tag names nothing any more.
    TagDeleted { repo: RepoName, tag: Tag, digest: Digest },
    /// Perhaps nothing needs this any more; it is looked at again when its time has come.
    Doubted {
        item: Item,
        /// Since when it was doubted already: that place in the queue is given up.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Timestamp>,
    },
    /// A doubt is over: the thing is needed, or gone.
    Settled { item: Item, since: Timestamp },
    /// Content that no repository holds is given up; its file goes to the trash next.
    BlobCondemned { digest: Digest },
    /// The last manifest or blob of a repository is gone, and so is its name.
    RepoEmptied { repo: RepoName },
    /// Manifests were pulled: what was counted in memory since the last such record.
    Pulled { pulls: Vec<Pull> },
    /// Who wanted the rest of the record, for those who are told of it. No row follows.
    Asked { by: Box<Asked> },
}

/// A request that changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// What the request is called in logs.
    pub(crate) id: String,
    /// Who it came from, as logs name the caller.
    pub(crate) actor: String,
    /// The address of whoever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) addr: Option<IpAddr>,
    /// What the registry was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    pub(crate) method: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    /// Whether a blob was mounted, and from where if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mounted: Option<Mounted>,
}

/// Where a blob was mounted from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mounted {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<RepoName>,
}

/// The last pull of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pull {
    pub(crate) repo: RepoName,
    pub(crate) digest: Digest,
    pub(crate) at: Timestamp,
}

/// What a manifest with a `subject` adds to the list of referrers of that subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Referrer {
    pub(crate) subject: Digest,
    /// The type to filter by; empty if there is none.
    pub(crate) artifact_type: String,
    /// The entry of the list, ready to be served.
    pub(crate) descriptor: Descriptor,
}

/// The facts of one transaction: all of them happened, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) at: Timestamp,
    pub(crate) facts: Vec<Fact>,
    /// The bytes of the one manifest that is stored, if it is kept inline, or of the one blob that is
    /// written ahead.
    pub(crate) body: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Head<F> {
    at: Timestamp,
    facts: F,
}

/// A record of the journal that cannot be understood, though its checksum is good.
#[derive(Debug, thiserror::Error)]
#[error("a record of the journal is in a form that this version does not know: {0}")]
pub(crate) struct InvalidRecord(String);

impl Record {
    /// The record as bytes for the journal.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let head = Head { at: self.at, facts: &self.facts };
        let json = serde_json::to_vec(&head).expect("facts hold only strings and numbers");
        let length = u32::try_from(json.len()).expect("facts stay far below 4 GiB: manifests are limited");
        let mut bytes = Vec::with_capacity(4 + json.len() + self.body.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&json);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads what [`Record::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, InvalidRecord> {
        let cut = || InvalidRecord("it is cut short".to_owned());
        let (length, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
        let (json, body) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(cut)?;
        let head: Head<Vec<Fact>> = serde_json::from_slice(json).map_err(|error| InvalidRecord(error.to_string()))?;
        Ok(Self { at: head.at, facts: head.facts, body: body.to_vec() })
    }

    /// Whether a record may carry a blob, without reading it: most do not.
    pub(crate) fn may_carry(bytes: &[u8]) -> bool {
        const MARK: &[u8] = br#""ahead":true"#;
        let json = bytes.split_first_chunk().map(|(length, rest)| (u32::from_le_bytes(*length) as usize, rest));
        // What is cut short is for `decode` to complain about.
        json.and_then(|(length, rest)| rest.get(..length))
            .is_none_or(|json| json.windows(MARK.len()).any(|window| window == MARK))
    }

    /// The blob that the record carries, if it does.
    pub(crate) fn carried(&self) -> Option<(Digest, &[u8])> {
        self.facts.iter().find_map(|fact| match fact {
            Fact::BlobStored { digest, ahead: true, .. } => Some((*digest, &*self.body)),
            _ => None,
        })
    }

    /// The row changes that follow, in order; a later one of the same key wins.
    pub(crate) fn writes(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        for fact in &self.facts {
            self.fact_writes(fact, &mut writes);
        }
        writes
    }

    fn fact_writes(&self, fact: &Fact, out: &mut Vec<Write>) {
        let at = self.at;
        match fact {
            Fact::UploadOpened { id, repo, algorithm } => {
                let algorithm: Algorithm = algorithm.parse().unwrap_or(Algorithm::Sha256);
                out.push(Write::put(
                    key::upload(id),
                    &UploadRow { repo: repo.clone(), algorithm: algorithm.to_string(), opened_at: at },
                ));
            }
            Fact::UploadClosed { id } => out.push(Write::remove(key::upload(id))),
            Fact::BlobStored { digest, size, ahead: _ } => {
                out.push(Write::put(key::blob(digest), &BlobRow { size: *size, stored_at: at }));
            }
            Fact::BlobLinked { repo, digest } => {
                out.push(Write::put(key::repo(repo), &rows::RepoRow {}));
                out.push(Write::put(key::link(repo, digest), &rows::LinkRow { linked_at: at }));
                out.push(Write::mark(key::holder(digest, repo)));
            }
            Fact::BlobUnlinked { repo, digest } => {
                out.push(Write::remove(key::link(repo, digest)));
                out.push(Write::remove(key::holder(digest, repo)));
            }
            Fact::ManifestStored { repo, digest, media_type, size, inline, children, referrer } => {
                let row = ManifestRow {
                    media_type: media_type.clone(),
                    size: *size,
                    pushed_at: at,
                    subject: referrer.as_ref().map(|referrer| referrer.subject),
                    artifact_type: referrer.as_ref().map(|referrer| referrer.artifact_type.clone()),
                    children: children.clone(),
                    inline: *inline,
                };
                out.push(Write::put(key::repo(repo), &rows::RepoRow {}));
                out.push(Write::put_with_body(key::manifest(repo, digest), &row, &self.body));
                if !inline {
                    out.push(Write::mark(key::file_user(digest, repo)));
                }
                out.extend(children.iter().map(|child| Write::mark(key::parent(repo, child, digest))));
                if let Some(Referrer { subject, artifact_type, descriptor }) = referrer {
                    out.push(Write::put(key::referrer(repo, subject, artifact_type, digest), descriptor));
                }
            }
            Fact::ManifestDeleted { repo, digest, children, subject } => {
                out.push(Write::remove(key::manifest(repo, digest)));
                out.push(Write::remove(key::file_user(digest, repo)));
                out.push(Write::remove(key::pulled(repo, digest)));
                out.extend(children.iter().map(|child| Write::remove(key::parent(repo, child, digest))));
                if let Some((subject, artifact_type)) = subject {
                    out.push(Write::remove(key::referrer(repo, subject, artifact_type, digest)));
                }
            }
            Fact::TagSet { repo, tag, digest, previous } => {
                out.extend(previous.iter().map(|previous| Write::remove(key::name(repo, previous, tag))));
                out.push(Write::put(key::tag(repo, tag), &TagRow { digest: *digest, set_at: at }));
                out.push(Write::mark(key::name(repo, digest, tag)));
            }
            Fact::TagDeleted { repo, tag, digest } => {
                out.push(Write::remove(key::tag(repo, tag)));
                out.push(Write::remove(key::name(repo, digest, tag)));
            }
            Fact::Doubted { item, previous } => {
                out.extend(previous.iter().map(|previous| Write::remove(item.queue_key(*previous))));
                out.push(Write::put(item.queue_key(at), item));
                out.push(Write::put(item.key(), &DoubtRow { since: at }));
            }
            Fact::Settled { item, since } => {
                out.push(Write::remove(item.queue_key(*since)));
                out.push(Write::remove(item.key()));
            }
            Fact::Asked { .. } => {}
            Fact::BlobCondemned { digest } => out.push(Write::remove(key::blob(digest))),
            Fact::RepoEmptied { repo } => out.push(Write::remove(key::repo(repo))),
            Fact::Pulled { pulls } => {
                let row = |pull: &Pull| PullRow { pulled_at: pull.at };
                out.extend(pulls.iter().map(|pull| Write::put(key::pulled(&pull.repo, &pull.digest), &row(pull))));
            }
        }
    }
}

/// A change of one row: its new value, or that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

impl Write {
    fn put(key: Vec<u8>, row: &impl Serialize) -> Self {
        Self { key, value: Some(serde_json::to_vec(row).expect("rows hold only strings and numbers")) }
    }

    /// A row that consists of its key.
    fn mark(key: Vec<u8>) -> Self {
        Self { key, value: Some(Vec::new()) }
    }

    fn put_with_body(key: Vec<u8>, row: &impl Serialize, body: &[u8]) -> Self {
        let mut write = Self::put(key, row);
        if let Some(value) = &mut write.value {
            // JSON made by serde_json holds no raw newline, so the first one ends it.
            value.push(b'\n');
            value.extend_from_slice(body);
        }
        write
    }

    fn remove(key: Vec<u8>) -> Self {
        Self { key, value: None }
    }
}
