//! Who calls. How that was found out is not known here.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::policy::Rule;

/// The claims of a token.
pub type Claims = Map<String, Value>;

/// A caller.
#[derive(Debug, Clone, PartialEq)]
pub enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// A user of the htpasswd file.
    User(String),
    /// A robot, with what its token allows by itself.
    Robot {
        /// The id of the token.
        id: String,
        /// The name that rules and logs call it.
        name: String,
        /// What it may do, whatever other rules say.
        rules: Arc<[Rule]>,
    },
    /// The bearer of an identity token.
    Issued {
        /// The issuer, by its name in the settings.
        issuer: String,
        /// What the issuer calls the caller (`sub`).
        subject: String,
        /// What else the token says.
        claims: Claims,
    },
    /// The holder of a client certificate, by its SHA-256 fingerprint in hex.
    Certificate(String),
}

impl Identity {
    /// Whether this is nobody in particular.
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }

    /// The values that the caller's token has for a claim: none if it has no such claim. A name that
    /// starts with `/` is a JSON pointer (RFC 6901) into nested claims.
    pub fn claim(&self, name: &str) -> Vec<String> {
        let Self::Issued { claims, .. } = self else { return Vec::new() };
        let value = match name.strip_prefix('/') {
            Some(path) => {
                let mut steps = path.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
                let first = steps.next().and_then(|step| claims.get(&step));
                steps.fold(first, |value, step| value?.get(&step))
            }
            None => claims.get(name),
        };
        match value {
            Some(Value::Array(values)) => values.iter().filter_map(text).collect(),
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Rules that came with the caller.
    pub(super) fn own_rules(&self) -> impl Iterator<Item = &Rule> {
        let rules: &[Rule] = match self {
            Self::Robot { rules, .. } => rules,
            _ => &[],
        };
        rules.iter()
    }
}

/// A simple value as text. GitLab writes all its claims as strings; others write numbers.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        _ => None,
    }
}

/// As logs name the caller.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Robot { name, .. } => write!(f, "robot:{name}"),
            Self::Issued { issuer, subject, .. } => write!(f, "issuer:{issuer}:{subject}"),
            Self::Certificate(fingerprint) => write!(f, "certificate:{fingerprint}"),
        }
    }
}
