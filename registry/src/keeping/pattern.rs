//! Which tags a policy is about, as a regular expression. Which repositories: see `pattern`.

use std::fmt;
use std::str::FromStr;

use oci::Tag;
use regex::Regex;
use serde::{Deserialize, Serialize};

/// Longest pattern in bytes; a name has at most 255.
const LONGEST: usize = 1024;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTagPattern {
    /// The regular expression is none.
    #[error("the tag pattern cannot be read: {0}")]
    Expression(String),
    /// It is too long.
    #[error("a pattern has at most {LONGEST} bytes")]
    TooLong,
}

/// Which tags: a regular expression that the whole tag must match.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TagPattern {
    text: String,
    expression: Regex,
}

impl TagPattern {
    /// Whether the pattern means this tag.
    pub fn matches(&self, tag: &Tag) -> bool {
        self.expression.is_match(tag.as_str())
    }
}

impl FromStr for TagPattern {
    type Err = InvalidTagPattern;

    fn from_str(text: &str) -> Result<Self, InvalidTagPattern> {
        if text.len() > LONGEST {
            return Err(InvalidTagPattern::TooLong);
        }
        let tell = |error: regex::Error| InvalidTagPattern::Expression(error.to_string());
        // Alone first: `a)(b` would be a pattern between our parentheses.
        Regex::new(text).map_err(tell)?;
        let expression = Regex::new(&format!(r"\A(?:{text})\z")).map_err(tell)?;
        Ok(Self { text: text.to_owned(), expression })
    }
}

impl TryFrom<String> for TagPattern {
    type Error = InvalidTagPattern;
    fn try_from(text: String) -> Result<Self, InvalidTagPattern> {
        text.parse()
    }
}

impl From<TagPattern> for String {
    fn from(pattern: TagPattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for TagPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TagPattern {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tag_patterns_mean_whole_tags() {
        let matches = |text: &str, tag: &str| text.parse::<TagPattern>().unwrap().matches(&tag.parse().unwrap());
        assert!(matches("v[0-9]+", "v12") && matches("a|b", "b"));
        assert!(!matches("v[0-9]+", "v12-rc") && !matches("a|b", "ab"));
        for wrong in ["(", "a)(b", "[", "a{99999999}"] {
            assert!(wrong.parse::<TagPattern>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text: String) {
            let _ = text.parse::<TagPattern>(); // only whether it returns matters here
        }
    }
}
