//! Names of repositories and tags, by the grammar of the distribution specification.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest repository name, in bytes: most clients stop at 255 for host and name together.
const NAME_LIMIT: usize = 255;
/// Longest tag, in bytes (distribution-spec, "Pulling manifests").
const TAG_LIMIT: usize = 128;

/// Why a text is not a name or a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It is not a repository name.
    #[error(
        "{0:?} is not a repository name: use lower-case letters, digits and single . _ - between them, in parts separated by /"
    )]
    Repository(String),
    /// It is not a tag.
    #[error("{0:?} is not a tag: up to 128 letters, digits, _ . and -, not starting with . or -")]
    Tag(String),
}

/// The name of a repository, without its registry: `shop/api`.
///
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`, at most 255 bytes
/// (distribution-spec, "Pulling manifests"). It holds no `..`, no empty part and no separator at an
/// end, so it is safe as a relative path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoName(String);

impl RepoName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last slash: `api` of `shop/api`.
    pub fn last_part(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for RepoName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() <= NAME_LIMIT && text.split('/').all(is_component) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidName::Repository(clip(text)))
    }
}

/// One part between slashes: alphanumeric runs joined by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_well = |end: Option<&u8>| end.is_some_and(is_alphanumeric);
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes.split(is_alphanumeric).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-')
        })
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution-spec, "Pulling manifests").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// The tag that is meant where none is given.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let mut bytes = text.bytes();
        let starts_well = bytes.next().is_some_and(is_word);
        if starts_well && text.len() <= TAG_LIMIT && bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-')) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidName::Tag(clip(text)))
    }
}

/// The start of a hostile text, for an error message.
fn clip(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

macro_rules! text_conversions {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )+};
}
text_conversions!(RepoName, Tag);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names() {
        for good in ["a", "shop/api", "a.b/c_d/e__f/g---h", "0/1", &"a".repeat(255)] {
            assert!(good.parse::<RepoName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "a___b",
            "a._b",
            "-a",
            "a-",
            "a/../b",
            "..",
            ".",
            "a b",
            "ä",
            "a\0",
            "a%2fb",
            &"a".repeat(256),
        ] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags() {
        for good in ["latest", "v1.2-rc_3", "_", "0", &"t".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".", "-a", "a/b", "a:b", "a b", "ä", &"t".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }
}
