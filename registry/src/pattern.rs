//! Patterns over names: the one dialect of access rules, robots, webhooks, retention and sparse images.
//! Pure; what they are for is not known here.
//!
//! | written | means |
//! |---|---|
//! | `*` | any text within one part |
//! | `?` | one character, but `/` |
//! | `**` between slashes or alone | any number of whole parts: `**/cache` means `cache` too |
//! | `**` at the end, after a slash | whatever is below, but something: `a/**` does not mean `a` |
//! | `**` beside other text | any text, over slashes too: `a**` means `a`, `ab` and `a/b`; not where rights are given |
//! | `{claim}` | what the caller's token says under that name; only where rights are given |

use std::fmt;
use std::str::FromStr;

use oci::RepoName;
use serde::{Deserialize, Serialize};

/// Longest pattern, in bytes; a name has at most 255.
const PATTERN_LIMIT: usize = 1024;

/// A pattern that a whole name either matches or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// These bytes.
    Text(String),
    /// One byte but `/`.
    One,
    /// Any bytes but `/`.
    Star,
    /// Any bytes.
    Anything,
    /// `**/`: any number of parts with their slashes.
    Parts,
    /// `**` at the end: whatever is left, but something.
    Rest,
    /// What a token says under this name.
    Claim(String),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pattern: {reason}")]
pub struct InvalidPattern {
    text: String,
    reason: &'static str,
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let pattern = Self::compile(text)?;
        // `shop**` would open `shopping/secret` to somebody.
        if pattern.tokens.contains(&Token::Anything) {
            let reason = "** stands for whole parts where rights are given, so it must be one between slashes";
            return Err(InvalidPattern { text: pattern.text, reason });
        }
        Ok(pattern)
    }
}

impl Pattern {
    /// Reads everything that the dialect has.
    fn compile(text: &str) -> Result<Self, InvalidPattern> {
        let wrong = |reason| InvalidPattern { text: text.chars().take(80).collect(), reason };
        if text.is_empty() || text.len() > PATTERN_LIMIT {
            return Err(wrong("it has no or too many characters"));
        }
        let mut tokens = Vec::new();
        let mut rest = text;
        let mut at_part = true; // whether a part of a name begins here
        while let Some(first) = rest.chars().next() {
            let (token, used) = match first {
                '*' if rest.starts_with("**") => deep(rest, at_part),
                '*' => (Token::Star, 1),
                '?' => (Token::One, 1),
                '{' => claim(rest).map_err(wrong)?,
                _ => plain(rest).map_err(wrong)?,
            };
            at_part = rest[..used].ends_with('/');
            tokens.push(token);
            rest = &rest[used..];
        }
        Ok(Self { text: text.to_owned(), tokens })
    }
}

fn deep(rest: &str, at_part: bool) -> (Token, usize) {
    match rest.as_bytes().get(2) {
        None if at_part => (Token::Rest, 2),
        Some(b'/') if at_part => (Token::Parts, 3),
        _ => (Token::Anything, 2),
    }
}

fn claim(rest: &str) -> Result<(Token, usize), &'static str> {
    let end = rest.find('}').ok_or("a { has no }")?;
    let name = &rest[1..end];
    if name.is_empty() || name.contains('{') {
        return Err("between { and } stands the name of a claim");
    }
    Ok((Token::Claim(name.to_owned()), end + 1))
}

fn plain(rest: &str) -> Result<(Token, usize), &'static str> {
    let end = rest.find(['*', '?', '{']).unwrap_or(rest.len());
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
    match rest[..end].bytes().all(is_good) {
        true => Ok((Token::Text(rest[..end].to_owned()), end)),
        false => Err("names have letters, digits and . _ - / only"),
    }
}

impl Pattern {
    /// Whether a name matches. `claim` says what the caller's token holds under a name.
    pub fn matches(&self, name: &str, claim: impl Fn(&str) -> Option<String>) -> bool {
        // Which positions can be reached by the tokens so far: no backtracking, so no hostile pattern.
        let mut reached = vec![false; name.len() + 1];
        reached[0] = true;
        for token in &self.tokens {
            reached = match token {
                Token::Text(text) => step_text(&reached, name, text),
                Token::Claim(key) => match claim(key).and_then(|value| inserted(&value)) {
                    Some(value) => step_text(&reached, name, &value),
                    None => return false,
                },
                Token::One => step_one(&reached, name),
                Token::Star => step(&reached, name, |byte| byte != b'/', |_| true),
                Token::Anything => step(&reached, name, |_| true, |_| true),
                Token::Parts => step(&reached, name, |_| true, |last| last == Some(b'/')),
                Token::Rest => return reached[..name.len()].contains(&true),
            };
        }
        reached[name.len()]
    }

    /// The claims that it needs.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Claim(name) => Some(name.as_str()),
            _ => None,
        })
    }
}

/// A claim may stand for parts of a name only: no pattern and no path comes in by a token. GitLab's
/// paths may have capitals, and are unique without them.
fn inserted(value: &str) -> Option<String> {
    value.to_ascii_lowercase().parse::<RepoName>().ok().map(String::from)
}

fn step_text(reached: &[bool], name: &str, text: &str) -> Vec<bool> {
    let mut next = vec![false; reached.len()];
    for (at, _) in reached.iter().enumerate().filter(|(_, reached)| **reached) {
        if name.as_bytes()[at..].starts_with(text.as_bytes()) {
            next[at + text.len()] = true;
        }
    }
    next
}

fn step_one(reached: &[bool], name: &str) -> Vec<bool> {
    let mut next = vec![false; reached.len()];
    for (at, _) in name.bytes().enumerate().filter(|(_, byte)| *byte != b'/') {
        next[at + 1] = reached[at];
    }
    next
}

/// Goes on over any bytes that `passes`, and stops where `ends` likes the last one, or at once.
fn step(reached: &[bool], name: &str, passes: impl Fn(u8) -> bool, ends: impl Fn(Option<u8>) -> bool) -> Vec<bool> {
    let mut next = reached.to_vec();
    let mut running = false;
    for (at, byte) in name.bytes().enumerate() {
        running = (running || reached[at]) && passes(byte);
        next[at + 1] |= running && ends(Some(byte));
    }
    next
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;
    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

/// Which repositories something is about, whoever calls: without claims and capitals, since a pattern with
/// them would never match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoGlob(Pattern);

impl RepoGlob {
    /// Whether this repository is meant.
    pub fn matches(&self, repo: &RepoName) -> bool {
        self.0.matches(repo.as_str(), |_| None)
    }
}

impl FromStr for RepoGlob {
    type Err = InvalidPattern;
    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let pattern = Pattern::compile(text)?;
        let reason = match &pattern {
            _ if pattern.claims().next().is_some() => "only access rules know the claims of a caller",
            _ if pattern.text.bytes().any(|byte| byte.is_ascii_uppercase()) => "no repository has capitals",
            _ => return Ok(Self(pattern)),
        };
        Err(InvalidPattern { text: pattern.text, reason })
    }
}

impl TryFrom<String> for RepoGlob {
    type Error = InvalidPattern;
    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        text.parse()
    }
}

impl From<RepoGlob> for String {
    fn from(glob: RepoGlob) -> Self {
        glob.0.text
    }
}

impl fmt::Display for RepoGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        let claim = |key: &str| match key {
            "project_path" => Some("Shop/API".to_owned()),
            "evil" => Some("**".to_owned()),
            "up" => Some("../x".to_owned()),
            _ => None,
        };
        Pattern::compile(pattern).unwrap().matches(name, claim)
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, yes, no) in [
            ("a", &["a"][..], &["b", "aa", "a/a"][..]),
            ("**", &["a", "a/b/c"], &[]),
            ("*", &["a", "abc"], &["a/b"]),
            ("shop/*", &["shop/api"], &["shop", "shop/api/x", "shops/api"]),
            ("shop/**", &["shop/api", "shop/api/x"], &["shop", "shops/api"]),
            ("**/cache", &["cache", "a/cache", "a/b/cache"], &["xcache", "a/xcache", "cache/a"]),
            ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["az", "a/zz", "a/bz"]),
            ("a**", &["a", "ab", "a/b/c"], &["b/a"]),
            ("**a", &["a", "b/ca"], &["ab"]),
            ("a/**b", &["a/b", "a/x/cb"], &["a/x", "ab"]),
            ("a?c", &["abc"], &["ac", "a/c", "abbc"]),
            ("?/*", &["a/b"], &["ab/c", "a"]),
            ("*/api", &["shop/api"], &["api", "a/b/api"]),
            ("a.c", &["a.c"], &["abc"]),
            ("v*.*", &["v1.2", "v."], &["v1", "1.2"]),
            ("*-rc*", &["1-rc1", "-rc"], &["1rc"]),
            ("{project_path}", &["shop/api"], &["shop", "shop/apis"]),
            ("{project_path}/**", &["shop/api/web"], &["shop/api", "shop/web"]),
            ("{none}", &[], &["", "none", "shop/api"]),
            ("{evil}", &[], &["a", "**", "a/b"]),
            ("x/{up}", &[], &["x/../x", "x/x"]),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for text in ["", "{", "{}", "{a{b}}", "a b", "ä", "[a]", "a|b", &"a".repeat(PATTERN_LIMIT + 1)] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
        for text in ["a**", "**a", "a/**b"] {
            assert!(text.parse::<Pattern>().is_err() && text.parse::<RepoGlob>().is_ok(), "{text}");
        }
        for text in ["", "A", "{project_path}/**", "a[b]"] {
            assert!(text.parse::<RepoGlob>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_name_matches_itself_and_its_prefixes_cover_it(name in "[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,3}") {
            proptest::prop_assert!(matches(&name, &name));
            proptest::prop_assert!(matches("**", &name));
            let below = format!("x/{name}");
            proptest::prop_assert!(matches("x/**", &below));
            proptest::prop_assert!(!matches("y/**", &below));
        }

        #[test]
        fn parsing_never_panics_and_prints_back(text: String, name: String) {
            let _ = text.parse::<RepoGlob>(); // only whether it returns matters here
            if let Ok(pattern) = text.parse::<Pattern>() {
                pattern.matches(&name, |_| None);
                proptest::prop_assert_eq!(pattern.to_string(), text);
            }
        }
    }
}
