//! Ignore patterns: `.dockerignore` and `--exclude`, with the rules of moby's patternmatcher.
//!
//! They look like gitignore and are not: a pattern is anchored at the root of the context, `**` crosses
//! directories, the last match wins, and what lies below a match is matched too. No files are read here.

use std::borrow::Cow;

/// Largest ignore file that is read, in bytes.
pub const SIZE_LIMIT: usize = 1 << 20;
/// Most patterns; each is tried on each path.
const PATTERN_LIMIT: usize = 10_000;

/// Why an ignore file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Beyond reason.
    #[error("the ignore file has more than {SIZE_LIMIT} bytes or {PATTERN_LIMIT} patterns")]
    TooLarge,
    /// A `!` and nothing.
    #[error("line {line}: illegal exclusion pattern: \"!\"")]
    BareException {
        /// The line, counted from 1.
        line: usize,
    },
    /// A bracket without its end, or a backslash at the end.
    #[error("line {line}: syntax error in pattern {pattern:?}")]
    Syntax {
        /// The line, counted from 1.
        line: usize,
        /// The pattern.
        pattern: String,
    },
}

/// An ordered list of patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

impl Patterns {
    /// No patterns: nothing is left out.
    pub const fn none() -> Self {
        Self { patterns: Vec::new() }
    }

    /// Reads an ignore file: one pattern per line, `#` at the very start of a line is a comment.
    pub fn parse(text: &[u8]) -> Result<Self, Invalid> {
        if text.len() > SIZE_LIMIT {
            return Err(Invalid::TooLarge);
        }
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let text = String::from_utf8_lossy(text);
        let lines = text.lines().enumerate();
        Self::build(lines.filter_map(|(index, line)| Some((index + 1, pattern_of(line)?))))
    }

    /// Takes patterns one by one, as `--exclude` gives them; errors count them like lines. Unlike in a file, a slash
    /// at the start is part of the pattern, which then matches nothing.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        Self::build(patterns.into_iter().enumerate().map(|(index, pattern)| (index + 1, pattern.to_owned())))
    }

    fn build(lines: impl Iterator<Item = (usize, String)>) -> Result<Self, Invalid> {
        let mut patterns = Vec::new();
        for (line, text) in lines {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            if patterns.len() == PATTERN_LIMIT {
                return Err(Invalid::TooLarge);
            }
            let cleaned = clean(text);
            let (exception, cleaned) = match cleaned.strip_prefix('!') {
                Some("") => return Err(Invalid::BareException { line }),
                Some(rest) => (true, rest),
                None => (false, &*cleaned),
            };
            let matcher = Matcher::new(cleaned).ok_or_else(|| Invalid::Syntax { line, pattern: text.to_owned() })?;
            patterns.push(Pattern { exception, matcher });
        }
        Ok(Self { patterns })
    }

    /// Whether nothing is ever excluded.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether there is a `!`, so that something below what is excluded may be included again.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether a path (relative, `/` between its parts) is excluded, itself or through a directory above.
    pub fn excludes(&self, path: &[u8]) -> bool {
        let path = String::from_utf8_lossy(path);
        let path = path.trim_matches('/');
        if path.is_empty() || path == "." {
            return false;
        }
        self.is_matched_last(path) || (self.has_exceptions() && self.is_lost_on_the_way(path))
    }

    /// Whether the last pattern that matches a path or a directory above excludes it.
    fn is_matched_last(&self, path: &str) -> bool {
        let mut excluded = false;
        for pattern in &self.patterns {
            // A pattern that could not change the answer need not be tried.
            if pattern.exception == excluded && pattern.matches_with_parents(path) {
                excluded = !pattern.exception;
            }
        }
        excluded
    }

    /// Whether a path is excluded for one that comes down to it, directory by directory: an exception that names a
    /// directory counts below it only if the directory itself was excluded by a pattern above the exception.
    fn is_lost_on_the_way(&self, path: &str) -> bool {
        let mut above = vec![false; self.patterns.len()];
        let mut excluded = false;
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        for part in parents.chain([path]) {
            excluded = false;
            for (pattern, matched) in self.patterns.iter().zip(&mut above) {
                *matched = *matched || (pattern.exception == excluded && pattern.matcher.matches(part));
                if *matched {
                    excluded = !pattern.exception;
                }
            }
        }
        excluded
    }

    /// Whether checks tell of a source that it is excluded, by its cleaned path as it stands in the Dockerfile: a slash
    /// at its start counts, and the whole context is excluded only by a pattern that means everything.
    pub(crate) fn excludes_source(&self, path: &str) -> bool {
        let is_root = path == "." || path == "/";
        let takes = |pattern: &Pattern| if is_root { pattern.takes_all() } else { pattern.matches_with_parents(path) };
        self.patterns.iter().any(takes)
    }

    /// Whether something below an excluded directory may be included again, so it must be looked into.
    pub fn may_include_below(&self, directory: &[u8]) -> bool {
        let directory = String::from_utf8_lossy(directory);
        let directory = format!("{}/", directory.trim_matches('/'));
        self.patterns.iter().filter(|pattern| pattern.exception).any(|pattern| match &pattern.matcher {
            Matcher::Exact(text) => text.starts_with(&directory),
            Matcher::Prefix(text) => text.starts_with(&directory) || directory.starts_with(text.as_str()),
            Matcher::Suffix(_) | Matcher::Tokens(_) => true,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    exception: bool,
    matcher: Matcher,
}

impl Pattern {
    /// `*`, `**` and `**/*`.
    fn takes_all(&self) -> bool {
        match &self.matcher {
            Matcher::Suffix(text) => text.is_empty(),
            Matcher::Tokens(tokens) => matches!(tokens.as_slice(), [Token::Run] | [Token::Deep, Token::Run]),
            Matcher::Exact(_) | Matcher::Prefix(_) => false,
        }
    }

    fn matches_with_parents(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        self.matcher.matches(path) || parents.into_iter().any(|parent| self.matcher.matches(parent))
    }
}

/// The four ways of matching; the first three are what most patterns need.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    Exact(String),
    /// `foo/**`.
    Prefix(String),
    /// `**/foo` and `**foo`, without the `**`.
    Suffix(String),
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`: one character but `/`.
    One,
    /// `*`: any run of characters but `/`.
    Run,
    /// `**` between other things: nothing, or anything that ends with `/`.
    Deep,
    /// `**` at the end: anything.
    Rest,
    /// `[…]`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Matcher {
    /// Reads a cleaned pattern; `None` if its syntax is broken.
    fn new(pattern: &str) -> Option<Self> {
        let tokens = tokens(pattern)?;
        let literal = |tokens: &[Token]| -> Option<String> {
            let letter = |token: &Token| if let Token::Literal(letter) = token { Some(*letter) } else { None };
            tokens.iter().map(letter).collect()
        };
        // An escape makes even a literal pattern one of tokens in moby; the outcome is the same.
        Some(match tokens.as_slice() {
            [Token::Rest] => Self::Suffix(String::new()),
            [Token::Deep, rest @ ..] if literal(rest).is_some() => {
                Self::Suffix(pattern.trim_start_matches("**").to_owned())
            }
            [start @ .., Token::Rest] if literal(start).is_some() => Self::Prefix(literal(start)?),
            all => match literal(all) {
                Some(text) => Self::Exact(text),
                None => Self::Tokens(tokens),
            },
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(text) => path.starts_with(text.as_str()),
            Self::Suffix(text) => path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path),
            Self::Tokens(tokens) => run(tokens, path),
        }
    }
}

fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(character) = rest.next() {
        tokens.push(match character {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                if rest.peek().is_none() { Token::Rest } else { Token::Deep }
            }
            '*' => Token::Run,
            '?' => Token::One,
            '\\' => Token::Literal(rest.next()?),
            '[' => class(&mut rest)?,
            literal => Token::Literal(literal),
        });
    }
    Some(tokens)
}

/// What stands between `[` and `]`, by the syntax of Go's `filepath.Match`.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let end = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| match rest.next()? {
        '\\' => rest.next(),
        '-' | ']' => None,
        character => Some(character),
    };
    loop {
        if rest.peek() == Some(&']') && !ranges.is_empty() {
            rest.next();
            return Some(Token::Class { negated, ranges });
        }
        let low = end(rest)?;
        let high = if rest.next_if_eq(&'-').is_some() { end(rest)? } else { low };
        if low > high {
            return None; // moby makes a regular expression of it, which has no such range
        }
        ranges.push((low, high));
    }
}

/// Feeds the path to the tokens, keeping all states that are possible: no backtracking, so no pattern
/// costs more than its length times the path's.
fn run(tokens: &[Token], path: &str) -> bool {
    // Of a `Deep` token there are two states: before it, and inside it, from where only a slash leads on.
    let mut states = States::new(tokens.len());
    states.before[0] = true;
    states.skip_empty(tokens);
    for character in path.chars() {
        let mut next = States::new(tokens.len());
        for (at, token) in tokens.iter().enumerate() {
            if states.before[at] || states.inside[at] {
                match token {
                    Token::Literal(literal) => next.before[at + 1] |= *literal == character,
                    Token::One => next.before[at + 1] |= character != '/',
                    Token::Run => next.before[at] |= character != '/',
                    Token::Rest => next.before[at] = true,
                    Token::Deep => {
                        next.inside[at] = true;
                        next.before[at + 1] |= character == '/';
                    }
                    Token::Class { negated, ranges } => {
                        let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&character));
                        next.before[at + 1] |= inside != *negated;
                    }
                }
            }
        }
        next.skip_empty(tokens);
        states = next;
    }
    states.before[tokens.len()]
}

struct States {
    before: Vec<bool>,
    inside: Vec<bool>,
}

impl States {
    fn new(tokens: usize) -> Self {
        Self { before: vec![false; tokens + 1], inside: vec![false; tokens + 1] }
    }

    /// Whoever stands before a token that may be empty stands behind it too.
    fn skip_empty(&mut self, tokens: &[Token]) {
        for (at, token) in tokens.iter().enumerate() {
            if self.before[at] && matches!(token, Token::Run | Token::Rest | Token::Deep) {
                self.before[at + 1] = true;
            }
        }
    }
}

/// The pattern that a line of an ignore file is short for, if it is no comment: anchored without a slash. What it
/// becomes is read as a pattern again, with a `!` that stood behind a slash, and without blanks at its end.
fn pattern_of(line: &str) -> Option<String> {
    let text = line.trim();
    if line.starts_with('#') || text.is_empty() {
        return None;
    }
    let (sign, text) = text.strip_prefix('!').map_or(("", text), |rest| ("!", rest.trim()));
    let cleaned = if text.is_empty() { Cow::Borrowed("") } else { clean(text) };
    let anchored = cleaned.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&cleaned);
    Some(format!("{sign}{anchored}"))
}

/// Go's `filepath.Clean`: the shortest name of the same path, by its text alone.
pub(crate) fn clean(path: &str) -> Cow<'_, str> {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => Cow::Owned(format!("/{joined}")),
        (false, true) => Cow::Borrowed("."),
        (false, false) => Cow::Owned(joined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(patterns: &[&str], path: &str) -> bool {
        Patterns::new(patterns.iter().copied()).unwrap().excludes(path.as_bytes())
    }

    #[test]
    fn single_patterns() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**/", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "dir", true),
            ("**/dir", "a/dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "dir/myfile", true),
            ("**/file", "dir/myfile", false),
            ("**/*.txt", "a/b.txt", true),
            ("**/*.txt", "b.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "abc/dir/file.txt", true),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aee", false),
            ("a[^b]c", "adc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*", "a/b", true), // through its parent
            ("*.c", "a/b.c", false),
            ("/foo", "foo", false), // only in a file
            ("foo/", "foo", true),
            ("./foo/../bar", "bar", true),
            ("foo", "foobar", false),
            ("foo", "a/foo", false),
            ("?", "é", true),
            (".", "a", false),
            ("a.b|c+(d)$", "a.b|c+(d)$", true),
        ] {
            assert_eq!(excludes(&[pattern], path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_last_match_wins() {
        for (patterns, path, expected) in [
            (vec!["**", "!util/docker/web"], "util/docker/web/foo", false),
            (vec!["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
            (vec!["!a", "a"], "a", true),
            (vec!["a", "!a/b", "a/b/c"], "a/b/d", false),
            (vec!["*", "!src", "src/**/*.o"], "src/x/y.o", true),
            // An exception for a directory that nothing excludes is none for what lies in it.
            (vec!["a/secret", "!a"], "a/secret", true),
            (vec!["*/secret", "!*"], "a/secret", true),
            (vec!["a/secret", "!a/*"], "a/secret", false),
            (vec!["a", "a/secret", "!a"], "a/secret", false),
            (vec!["*", "!a"], "a/secret", false),
        ] {
            assert_eq!(excludes(&patterns, path), expected, "{patterns:?} on {path}");
        }
    }

    #[test]
    fn files_are_read_line_by_line() {
        let text = b"\xef\xbb\xbf# comment\n\n  /test \r\n # no comment\n! /keep/me\n";
        let patterns = Patterns::parse(text).unwrap();
        assert!(patterns.excludes(b"test/x"));
        assert!(patterns.excludes(b"# no comment"));
        assert!(!patterns.excludes(b"keep/me"));
        for (text, path, expected) in [
            ("d /.", "d", true), // a blank that only comes to its end
            ("a\n./!a", "a", false),
            ("a\n/!a", "a", false),
            ("/", "a", false),
        ] {
            assert_eq!(Patterns::parse(text.as_bytes()).unwrap().excludes(path.as_bytes()), expected, "{text}");
        }
        assert!(Patterns::new(["a", "! a"]).unwrap().excludes(b"a"));
        assert_eq!(Patterns::parse(b"a\n!\n"), Err(Invalid::BareException { line: 2 }));
        for bad in ["a[", "[]a]", "[a-]", "[-x]", "a\\", "[", "[^", "[b-a]"] {
            assert!(matches!(Patterns::new([bad]), Err(Invalid::Syntax { .. })), "{bad}");
        }
    }

    #[test]
    fn looks_below_excluded_directories_only_where_it_may_help() {
        let patterns = Patterns::new(["*", "!src/main.c", "!lib/**"]).unwrap();
        for (directory, below) in [("src", true), ("lib", true), ("lib/x", true), ("docs", false), ("src/x", false)] {
            assert_eq!(patterns.may_include_below(directory.as_bytes()), below, "{directory}");
        }
        assert!(!Patterns::new(["*"]).unwrap().may_include_below(b"src"));
        assert!(Patterns::new(["*", "!**/*.c"]).unwrap().may_include_below(b"src"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(lines in proptest::collection::vec(".{0,12}", 0..5), path in ".{0,20}") {
            if let Ok(patterns) = Patterns::new(lines.iter().map(String::as_str)) {
                let _ = patterns.excludes(path.as_bytes()); // only whether it returns matters here
            }
        }

        #[test]
        fn pruning_hides_nothing(lines in proptest::collection::vec("!?[ab*?]{1,3}(/[ab*]{1,3}){0,2}", 1..5), path in "[ab]{1,2}(/[ab]{1,2}){1,3}") {
            let patterns = Patterns::new(lines.iter().map(String::as_str)).unwrap();
            if !patterns.excludes(path.as_bytes()) {
                for (end, _) in path.match_indices('/') {
                    let directory = &path.as_bytes()[..end];
                    proptest::prop_assert!(!patterns.excludes(directory) || patterns.may_include_below(directory));
                }
            }
        }
    }
}
