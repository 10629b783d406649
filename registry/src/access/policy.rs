//! Who may do what: rules of subjects, repositories, tags and rights. Pure functions of values; how a
//! caller is recognised is not known here.
//!
//! What no rule allows is denied. A rule that asks for a claim does not match a caller whose token
//! lacks it. Rules only ever add rights, so their order does not matter.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use oci::{RepoName, Tag};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::pattern::Pattern;

/// One thing that may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Read manifests and blobs, list tags.
    Pull,
    /// Upload blobs, store manifests, set tags that are not there yet.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
    /// Let a tag name something else. Needed beside `push`.
    Overwrite,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Delete, Self::Overwrite];

    /// Its name in rules and scopes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Overwrite => "overwrite",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is none of the rights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no right: there are pull, push, delete and overwrite")]
pub struct InvalidRight(String);

impl FromStr for Right {
    type Err = InvalidRight;

    fn from_str(text: &str) -> Result<Self, InvalidRight> {
        Self::ALL.into_iter().find(|right| right.as_str() == text).ok_or_else(|| InvalidRight(text.to_owned()))
    }
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// Everybody, with a login or without.
    Anonymous,
    /// A user of the htpasswd file; `None` for every one.
    User(Option<String>),
    /// A robot, by its name; `None` for every one.
    Robot(Option<String>),
    /// Whoever has a token of this issuer (by its name in the settings) with the rule's claims.
    Issuer(String),
    /// Whoever holds the client certificate with this SHA-256 fingerprint, in hex.
    Certificate(String),
}

/// A text that names no subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no subject: there are anonymous, user:NAME, robot:NAME, issuer:NAME, certificate:SHA256, and * for every NAME of users and robots"
)]
pub struct InvalidSubject(String);

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, InvalidSubject> {
        let wrong = || InvalidSubject(text.chars().take(80).collect());
        if text == "anonymous" {
            return Ok(Self::Anonymous);
        }
        let (kind, name) = text.split_once(':').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
        let one = (name != "*").then(|| name.to_owned());
        match kind {
            "user" => Ok(Self::User(one)),
            "robot" => Ok(Self::Robot(one)),
            "issuer" if one.is_some() => Ok(Self::Issuer(name.to_owned())),
            "certificate" if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Ok(Self::Certificate(name.to_ascii_lowercase()))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => write!(f, "user:{}", name.as_deref().unwrap_or("*")),
            Self::Robot(name) => write!(f, "robot:{}", name.as_deref().unwrap_or("*")),
            Self::Issuer(name) => write!(f, "issuer:{name}"),
            Self::Certificate(fingerprint) => write!(f, "certificate:{fingerprint}"),
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = InvalidSubject;
    fn try_from(text: String) -> Result<Self, InvalidSubject> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.to_string()
    }
}

/// Values that a claim may have: one, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Values {
    /// This one.
    One(String),
    /// Any of these.
    Any(Vec<String>),
}

impl Values {
    fn has(&self, value: &str) -> bool {
        match self {
            Self::One(one) => one == value,
            Self::Any(values) => values.iter().any(|one| one == value),
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Whom it is about: any of these.
    pub subjects: Vec<Subject>,
    /// What the token of an issuer must say: all of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Values>,
    /// Where it holds: any of these.
    pub repositories: Vec<Pattern>,
    /// For which tags; for all if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Pattern>,
    /// What it allows.
    pub rights: Vec<Right>,
}

/// What of a repository is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Content by its digest, or an upload: whoever has the right for any tag has it here.
    Content,
    /// This tag.
    Tag(&'a Tag),
    /// Content with all the tags that name it: only who has the right for every tag.
    AllTags,
}

impl Rule {
    fn is_about(&self, who: &Identity) -> bool {
        self.subjects.iter().any(|subject| match (subject, who) {
            (Subject::Anonymous, _) => true,
            (Subject::User(name), Identity::User(user)) => name.as_ref().is_none_or(|name| name == user),
            (Subject::Robot(name), Identity::Robot { name: robot, .. }) => {
                name.as_ref().is_none_or(|name| name == robot)
            }
            (Subject::Issuer(name), Identity::Issued { issuer, .. }) => name == issuer,
            (Subject::Certificate(fingerprint), Identity::Certificate(certificate)) => fingerprint == certificate,
            _ => false,
        }) && self.claims.iter().all(|(claim, values)| who.claim(claim).iter().any(|value| values.has(value)))
    }

    fn allows(&self, who: &Identity, right: Right, repository: &RepoName, target: Target<'_>) -> bool {
        let claim = |name: &str| who.claim(name).into_iter().next();
        self.rights.contains(&right)
            && self.repositories.iter().any(|pattern| pattern.matches(repository.as_str(), claim))
            && match target {
                Target::Content => true,
                Target::AllTags => self.tags.is_empty(),
                Target::Tag(tag) => {
                    self.tags.is_empty() || self.tags.iter().any(|pattern| pattern.matches(tag.as_str(), claim))
                }
            }
            && self.is_about(who)
    }
}

/// All rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy(pub Vec<Rule>);

impl Policy {
    /// Whether any rule, or what was granted to the caller itself, allows something.
    pub fn allows(&self, who: &Identity, right: Right, repository: &RepoName, target: Target<'_>) -> bool {
        self.0.iter().chain(who.own_rules()).any(|rule| rule.allows(who, right, repository, target))
    }

    /// Whether any rule is about this client certificate.
    pub fn has_certificate(&self, fingerprint: &str) -> bool {
        let is_it = |subject: &Subject| matches!(subject, Subject::Certificate(named) if named == fingerprint);
        self.0.iter().any(|rule| rule.subjects.iter().any(is_it))
    }

    /// The claims that any rule looks at: all that has to be remembered of a caller.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|rule| {
            let patterns = rule.repositories.iter().chain(&rule.tags).flat_map(Pattern::claims);
            rule.claims.keys().map(String::as_str).chain(patterns)
        })
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
