//! Events: what of a record of the journal is worth telling, and in which words. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci::{Digest, RepoName, Tag};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::state::{Asked, Fact, Record};

/// How events are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As the distribution project's registry writes them: an envelope of events.
    #[default]
    Distribution,
    /// CloudEvents 1.0, structured JSON.
    CloudEvents,
}

impl Format {
    /// The media type of what is sent.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Distribution => "application/vnd.docker.distribution.events.v1+json",
            Self::CloudEvents => "application/cloudevents+json",
        }
    }
}

/// Something that happened to a manifest, a tag or a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// The same each time that it is told.
    pub(super) id: String,
    pub(super) at: jiff::Timestamp,
    pub(super) action: Action,
    pub(super) repository: RepoName,
    pub(super) digest: Digest,
    pub(super) tag: Option<Tag>,
    /// What the tag named before.
    pub(super) previous: Option<Digest>,
    /// Media type and size, if they are known.
    pub(super) content: Option<(String, u64)>,
    pub(super) is_blob: bool,
    /// The request that it was done for. The registry itself deletes what retention does not keep.
    pub(super) by: Option<Asked>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It was pushed, or a tag names it now.
    Push,
    /// It was read.
    Pull,
    /// A blob was taken from another repository.
    Mount,
    /// It can no longer be read, or a tag names it no more.
    Delete,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Mount => "mount",
            Self::Delete => "delete",
        }
    }
}

/// Media type of blobs, whatever they hold.
const BLOB: &str = "application/octet-stream";

/// The events of a record.
pub(super) fn events(journal: u64, lsn: u64, record: &Record) -> Vec<Event> {
    let stored = |wanted: &Digest| {
        record.facts.iter().find_map(|fact| match fact {
            Fact::ManifestStored { digest, media_type, size, .. } if digest == wanted => {
                Some((media_type.clone(), *size))
            }
            Fact::BlobStored { digest, size, .. } if digest == wanted => Some((BLOB.to_owned(), *size)),
            _ => None,
        })
    };
    let tagged = |wanted: &Digest| {
        record.facts.iter().any(|fact| matches!(fact, Fact::TagSet { digest, .. } if digest == wanted))
    };
    let by = record.facts.iter().find_map(|fact| match fact {
        Fact::Asked { by } => Some(Asked::clone(by)),
        _ => None,
    });
    let linked = match &by {
        Some(by) if by.mounted.is_some() => Action::Mount,
        _ => Action::Push,
    };
    let mut found = Vec::new();
    for (index, fact) in record.facts.iter().enumerate() {
        let (action, repository, digest, tag, previous) = match fact {
            Fact::TagSet { repo, tag, digest, previous } => (Action::Push, repo, digest, Some(tag), *previous),
            Fact::ManifestStored { repo, digest, .. } if !tagged(digest) => (Action::Push, repo, digest, None, None),
            Fact::TagDeleted { repo, tag, digest } => (Action::Delete, repo, digest, Some(tag), None),
            Fact::ManifestDeleted { repo, digest, .. } => (Action::Delete, repo, digest, None, None),
            // What the collector moves about is of no interest to others.
            Fact::BlobLinked { repo, digest } if by.is_some() => (linked, repo, digest, None, None),
            Fact::BlobUnlinked { repo, digest } if by.is_some() => (Action::Delete, repo, digest, None, None),
            _ => continue,
        };
        found.push(Event {
            id: format!("{journal:016x}-{lsn}-{index}"),
            at: record.at,
            action,
            repository: repository.clone(),
            digest: *digest,
            tag: tag.cloned(),
            previous,
            content: stored(digest),
            is_blob: matches!(fact, Fact::BlobLinked { .. } | Fact::BlobUnlinked { .. }),
            by: by.clone(),
        });
    }
    found
}

impl Event {
    /// The message for a receiver; `source` is the URL of the registry, if it knows it.
    pub(super) fn message(&self, format: Format, source: Option<&str>) -> Vec<u8> {
        let document = match format {
            Format::Distribution => json!({"events": [self.distribution(source)]}),
            Format::CloudEvents => self.cloud_event(source),
        };
        serde_json::to_vec(&document).expect("events hold only strings and numbers")
    }

    fn distribution(&self, source: Option<&str>) -> Value {
        let mut target = json!({"repository": self.repository, "digest": self.digest});
        let fields = target.as_object_mut().expect("this is an object");
        if let Some((media_type, size)) = &self.content {
            fields.extend([("mediaType".to_owned(), json!(media_type)), ("size".to_owned(), json!(size))]);
            fields.insert("length".to_owned(), json!(size));
        }
        if let Some(tag) = &self.tag {
            fields.insert("tag".to_owned(), json!(tag));
        }
        if self.action != Action::Delete {
            let kind = if self.is_blob { "blobs" } else { "manifests" };
            let url = format!("{}/v2/{}/{kind}/{}", source.unwrap_or_default(), self.repository, self.digest);
            fields.insert("url".to_owned(), json!(url));
        }
        fields.extend(self.mounted_from().map(|from| ("fromRepository".to_owned(), json!(from))));
        let (request, actor) = match &self.by {
            Some(by) => (request(by), json!({"name": by.actor})),
            None => (json!({}), json!({})),
        };
        let journal = self.id.split('-').next().unwrap_or_default();
        json!({"id": self.id, "timestamp": self.at, "action": self.action.as_str(), "target": target,
            "request": request, "actor": actor,
            "source": {"addr": source.unwrap_or_default(), "instanceID": journal}})
    }

    fn mounted_from(&self) -> Option<&RepoName> {
        self.by.as_ref().filter(|_| self.is_blob)?.mounted.as_ref()?.from.as_ref()
    }

    fn cloud_event(&self, source: Option<&str>) -> Value {
        let subject = match &self.tag {
            Some(tag) => format!("{}:{tag}", self.repository),
            None => format!("{}@{}", self.repository, self.digest),
        };
        let mut data = json!({"repository": self.repository, "digest": self.digest, "tag": self.tag,
            "previous": self.previous});
        let fields = data.as_object_mut().expect("this is an object");
        if let Some((media_type, size)) = &self.content {
            fields.extend([("mediaType".to_owned(), json!(media_type)), ("size".to_owned(), json!(size))]);
        }
        if let Some(by) = &self.by {
            fields.extend([("actor".to_owned(), actor(by)), ("request".to_owned(), request(by))]);
            fields.extend(self.mounted_from().map(|from| ("fromRepository".to_owned(), json!(from))));
        }
        json!({
            "specversion": "1.0", "id": self.id, "source": source.unwrap_or("lighter-registry"),
            "type": format!("lighter.registry.{}{}", if self.is_blob { "blob." } else { "" }, self.action.as_str()), "subject": subject, "time": self.at,
            "datacontenttype": "application/json", "data": data,
        })
    }
}

/// A request, as the distribution project writes it.
fn request(by: &Asked) -> Value {
    let mut request = json!({"id": by.id, "method": by.method});
    let fields = request.as_object_mut().expect("this is an object");
    fields.extend(by.addr.map(|addr| ("addr".to_owned(), json!(addr))));
    fields.extend(by.host.iter().map(|host| ("host".to_owned(), json!(host))));
    fields.extend(by.agent.iter().map(|agent| ("useragent".to_owned(), json!(agent))));
    request
}

/// Who asked, with his address.
fn actor(by: &Asked) -> Value {
    json!({"name": by.actor, "address": by.addr})
}

/// Proves to a receiver that a message came from whoever knows the secret.
pub(super) fn signature(secret: &str, message: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message);
    format!("sha256={}", STANDARD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(facts: Vec<Fact>) -> Record {
        Record { at: jiff::Timestamp::from_second(1_700_000_000).unwrap(), facts, body: Vec::new() }
    }

    #[test]
    fn a_push_with_tags_is_one_event_for_each_tag() {
        let (repo, digest): (RepoName, _) = ("a".parse().unwrap(), Digest::of(b"m"));
        let stored = Fact::ManifestStored {
            repo: repo.clone(),
            digest,
            media_type: "application/x".to_owned(),
            size: 7,
            inline: true,
            children: vec![],
            referrer: None,
        };
        let set = |tag: &str| Fact::TagSet { repo: repo.clone(), tag: tag.parse().unwrap(), digest, previous: None };
        assert_eq!(events(1, 5, &record(vec![stored.clone()])).len(), 1);
        let found = events(1, 5, &record(vec![stored, set("v1"), set("v2")]));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].id, "0000000000000001-5-1");
        assert_eq!(found[0].content, Some(("application/x".to_owned(), 7)));
        let message: Value =
            serde_json::from_slice(&found[0].message(Format::Distribution, Some("https://r"))).unwrap();
        let target = &message["events"][0]["target"];
        assert_eq!((&target["tag"], &target["length"]), (&json!("v1"), &json!(7)));
        assert_eq!(target["url"], json!(format!("https://r/v2/a/manifests/{digest}")));
        let message: Value = serde_json::from_slice(&found[1].message(Format::CloudEvents, None)).unwrap();
        assert_eq!((&message["type"], &message["subject"]), (&json!("lighter.registry.push"), &json!("a:v2")));
        let blob = Fact::BlobLinked { repo: repo.clone(), digest };
        let gone = Fact::TagDeleted { repo, tag: "v1".parse().unwrap(), digest };
        let found = events(1, 6, &record(vec![blob, gone]));
        assert_eq!((found.len(), found[0].action), (1, Action::Delete));
    }
}
