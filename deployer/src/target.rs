//! Targets as people write them: `deployment/web`, `sts/db/postgres`. Which kind is meant, and whether
//! the object exists, is found out elsewhere.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest name of an object (RFC 1123 subdomain).
const NAME_LIMIT: usize = 253;

/// Why a text is not a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// There is no `KIND/NAME` in it.
    #[error("{0:?} is no target; write it as KIND/NAME or KIND/NAME/CONTAINER, for instance deployment/web")]
    Shape(String),
    /// The name cannot be one in Kubernetes.
    #[error("{0:?} cannot be the name of an object: use lower-case letters, digits, `-` and `.`")]
    Name(String),
}

/// Which containers of a workload, or of manifests, take an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Those whose image is of the same repository; else the only one.
    #[default]
    Fitting,
    /// All of them, init containers too: `*`, as kubectl has it.
    All,
    /// The one with this name; `volume:NAME` is an image volume.
    Named(String),
}

impl FromStr for Which {
    type Err = InvalidTarget;

    /// Reads `*`, the name of a container, or `volume:NAME`.
    fn from_str(text: &str) -> Result<Which, InvalidTarget> {
        if text == "*" {
            return Ok(Which::All);
        }
        let name = text.strip_prefix(VOLUME).unwrap_or(text);
        if is_name(name) {
            Ok(Which::Named(text.to_owned()))
        } else {
            Err(InvalidTarget::Name(text.chars().take(100).collect()))
        }
    }
}

impl Which {
    /// The name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Which::Named(name) => Some(name),
            Which::Fitting | Which::All => None,
        }
    }
}

/// What stands before the name of an image volume, which may be that of a container, too.
pub(crate) const VOLUME: &str = "volume:";

/// A workload, and which of its containers is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The kind as it was written: `deployment`, `deploy`, `deployments.apps`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// Its containers.
    pub which: Which,
    /// When its turn is, among several targets: lower numbers first.
    #[serde(default)]
    pub wave: i32,
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Target, InvalidTarget> {
        let shape = || InvalidTarget::Shape(text.chars().take(100).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, name, container) = match parts[..] {
            [kind, name] => (kind, name, None),
            [kind, name, container] => (kind, name, Some(container)),
            _ => return Err(shape()),
        };
        let is_kind = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        if kind.is_empty() || kind.len() > NAME_LIMIT || !kind.chars().all(is_kind) {
            return Err(shape());
        }
        if !is_name(name) {
            return Err(InvalidTarget::Name(name.chars().take(100).collect()));
        }
        let which = container.map_or(Ok(Which::Fitting), str::parse)?;
        Ok(Target { kind: kind.to_lowercase(), name: name.to_owned(), which, wave: 0 })
    }
}

fn is_name(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    name.len() <= NAME_LIMIT
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(byte))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)?;
        match &self.which {
            Which::Fitting => Ok(()),
            Which::All => f.write_str("/*"),
            Which::Named(name) => write!(f, "/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_printed() {
        for (text, printed) in [
            ("deployment/web", "deployment/web"),
            ("Deployment/web/app", "deployment/web/app"),
            ("deployments.apps/web", "deployments.apps/web"),
            ("sts/db/*", "sts/db/*"),
            ("sts/db/volume:model", "sts/db/volume:model"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), printed);
        }
        for bad in [
            "",
            "web",
            "/web",
            "deployment/",
            "a/b/c/d",
            "deployment/We b",
            "deployment/..",
            "deployment/web/",
            "de ploy/x",
            "sts/db/volume:",
            "sts/db/**",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
