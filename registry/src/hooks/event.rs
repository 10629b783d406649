//! Events: what of a record of the journal is worth telling, and in which words. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci::{Digest, RepoName, Tag};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::state::{Fact, Record};

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

/// Something that happened to a manifest or a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// The same each time that it is told.
    pub(super) id: String,
    pub(super) at: jiff::Timestamp,
    pub(super) action: Action,
    pub(super) repository: RepoName,
    pub(super) digest: Digest,
    pub(super) tag: Option<Tag>,
    /// What the tag named before.
    pub(super) previous: Option<Digest>,
    /// Media type and size, if the record says them.
    pub(super) manifest: Option<(String, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Push,
    Delete,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// The events of a record. Blobs are not told: they mean something once a manifest names them.
pub(super) fn events(journal: u64, lsn: u64, record: &Record) -> Vec<Event> {
    let stored = |wanted: &Digest| {
        record.facts.iter().find_map(|fact| match fact {
            Fact::ManifestStored { digest, media_type, size, .. } if digest == wanted => {
                Some((media_type.clone(), *size))
            }
            _ => None,
        })
    };
    let tagged = |wanted: &Digest| {
        record.facts.iter().any(|fact| matches!(fact, Fact::TagSet { digest, .. } if digest == wanted))
    };
    let mut found = Vec::new();
    for (index, fact) in record.facts.iter().enumerate() {
        let (action, repository, digest, tag, previous) = match fact {
            Fact::TagSet { repo, tag, digest, previous } => (Action::Push, repo, digest, Some(tag), *previous),
            Fact::ManifestStored { repo, digest, .. } if !tagged(digest) => (Action::Push, repo, digest, None, None),
            Fact::TagDeleted { repo, tag, digest } => (Action::Delete, repo, digest, Some(tag), None),
            Fact::ManifestDeleted { repo, digest, .. } => (Action::Delete, repo, digest, None, None),
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
            manifest: stored(digest),
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
        if let Some((media_type, size)) = &self.manifest {
            fields.extend([("mediaType".to_owned(), json!(media_type)), ("size".to_owned(), json!(size))]);
            fields.insert("length".to_owned(), json!(size));
        }
        if let Some(tag) = &self.tag {
            fields.insert("tag".to_owned(), json!(tag));
        }
        if self.action == Action::Push {
            let url = format!("{}/v2/{}/manifests/{}", source.unwrap_or_default(), self.repository, self.digest);
            fields.insert("url".to_owned(), json!(url));
        }
        json!({"id": self.id, "timestamp": self.at, "action": self.action.as_str(), "target": target,
            "request": {}, "actor": {}, "source": {"addr": source.unwrap_or_default()}})
    }

    fn cloud_event(&self, source: Option<&str>) -> Value {
        let subject = match &self.tag {
            Some(tag) => format!("{}:{tag}", self.repository),
            None => format!("{}@{}", self.repository, self.digest),
        };
        let mut data = json!({"repository": self.repository, "digest": self.digest, "tag": self.tag,
            "previous": self.previous});
        if let (Some((media_type, size)), Some(data)) = (&self.manifest, data.as_object_mut()) {
            data.extend([("mediaType".to_owned(), json!(media_type)), ("size".to_owned(), json!(size))]);
        }
        json!({
            "specversion": "1.0", "id": self.id, "source": source.unwrap_or("lighter-registry"),
            "type": format!("lighter.registry.{}", self.action.as_str()), "subject": subject, "time": self.at,
            "datacontenttype": "application/json", "data": data,
        })
    }
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
        assert_eq!(found[0].manifest, Some(("application/x".to_owned(), 7)));
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
