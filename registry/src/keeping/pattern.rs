//! Patterns: which repositories (globs) and which tags (regular expressions) a policy is about.

use std::fmt;
use std::str::FromStr;

use oci::{RepoName, Tag};
use regex::Regex;
use serde::{Deserialize, Serialize};

/// Longest pattern in bytes; a name has at most 255.
const LONGEST: usize = 1024;

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// A glob holds something that no repository name has.
    #[error("`{0}` is no pattern for repositories: names with * (not over /), ** (over /) and ?")]
    Glob(String),
    /// The regular expression is none.
    #[error("the tag pattern cannot be read: {0}")]
    Expression(String),
    /// It is too long.
    #[error("a pattern has at most {LONGEST} bytes")]
    TooLong,
}

/// Which repositories: a name in which `*` stands for anything but `/`, `**` for anything, and `?`
/// for one character. `a/**` means everything below `a`, and `**` every repository.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoGlob {
    text: String,
    expression: Regex,
}

impl RepoGlob {
    /// Whether the glob means this repository.
    pub fn matches(&self, repo: &RepoName) -> bool {
        self.expression.is_match(repo.as_str())
    }
}

impl FromStr for RepoGlob {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        if text.len() > LONGEST {
            return Err(InvalidPattern::TooLong);
        }
        let invalid = || InvalidPattern::Glob(text.to_owned());
        let (mut expression, mut rest) = (String::from(r"\A"), text);
        while let Some(first) = rest.chars().next() {
            let (piece, length) = match first {
                '*' if rest.starts_with("**") => (".*".to_owned(), 2),
                '*' => ("[^/]*".to_owned(), 1),
                '?' => ("[^/]".to_owned(), 1),
                'a'..='z' | '0'..='9' | '/' | '_' => (first.to_string(), 1),
                '.' | '-' => (format!("\\{first}"), 1),
                _ => return Err(invalid()),
            };
            expression.push_str(&piece);
            rest = &rest[length..];
        }
        if text.is_empty() {
            return Err(invalid());
        }
        let expression = Regex::new(&(expression + r"\z")).map_err(|_| invalid())?;
        Ok(Self { text: text.to_owned(), expression })
    }
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
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        if text.len() > LONGEST {
            return Err(InvalidPattern::TooLong);
        }
        let tell = |error: regex::Error| InvalidPattern::Expression(error.to_string());
        // Alone first: `a)(b` would be a pattern between our parentheses.
        Regex::new(text).map_err(tell)?;
        let expression = Regex::new(&format!(r"\A(?:{text})\z")).map_err(tell)?;
        Ok(Self { text: text.to_owned(), expression })
    }
}

macro_rules! text_of {
    ($pattern:ty) => {
        impl TryFrom<String> for $pattern {
            type Error = InvalidPattern;
            fn try_from(text: String) -> Result<Self, InvalidPattern> {
                text.parse()
            }
        }

        impl From<$pattern> for String {
            fn from(pattern: $pattern) -> Self {
                pattern.text
            }
        }

        impl fmt::Display for $pattern {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl PartialEq for $pattern {
            fn eq(&self, other: &Self) -> bool {
                self.text == other.text
            }
        }

        impl Eq for $pattern {}
    };
}

text_of!(RepoGlob);
text_of!(TagPattern);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs() {
        let matches = |glob: &str, name: &str| glob.parse::<RepoGlob>().unwrap().matches(&name.parse().unwrap());
        for (glob, name) in [("**", "a/b/c"), ("a/*", "a/b"), ("a/**", "a/b/c"), ("*/api", "shop/api"), ("a?c", "abc")]
        {
            assert!(matches(glob, name), "{glob} means {name}");
        }
        for (glob, name) in [("*", "a/b"), ("a/*", "a/b/c"), ("a.c", "abc"), ("a", "ab"), ("a/**", "ab/c"), ("b", "ab")]
        {
            assert!(!matches(glob, name), "{glob} does not mean {name}");
        }
        for wrong in ["", "A", "a[b]", "a b", "a|b", "ä"] {
            assert!(wrong.parse::<RepoGlob>().is_err(), "{wrong}");
        }
    }

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
        fn a_name_without_wildcards_means_itself(name in "[a-z]{1,5}(/[a-z0-9]{1,4}){0,3}", other in "[a-z]{1,5}") {
            let (repo, other): (RepoName, RepoName) = (name.parse().unwrap(), other.parse().unwrap());
            let glob: RepoGlob = name.parse().unwrap();
            prop_assert!(glob.matches(&repo));
            prop_assert_eq!(glob.matches(&other), repo == other);
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = (text.parse::<RepoGlob>(), text.parse::<TagPattern>()); // only whether it returns matters here
        }
    }
}
