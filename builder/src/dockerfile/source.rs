//! The text of a Dockerfile by lines, and errors that point into it. Nothing is parsed here.

use std::fmt;
use std::sync::Arc;

/// The lines an instruction stands on, counted from 1, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The first line.
    pub first: usize,
    /// The last line.
    pub last: usize,
}

impl Span {
    /// One single line.
    pub fn line(line: usize) -> Self {
        Self { first: line, last: line }
    }
}

/// A Dockerfile's name, text and lines, kept so that later errors can still show them. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source(Arc<Kept>);

#[derive(Debug, PartialEq, Eq)]
struct Kept {
    name: String,
    text: Vec<u8>,
    lines: Vec<String>,
}

/// How many lines around the marked ones an excerpt shows.
const EXCERPT_MARGIN: usize = 2;
/// Longest excerpt line, in characters; the rest of a line is cut.
const EXCERPT_WIDTH: usize = 160;
/// Most marked lines that are shown; a heredoc may be long.
const EXCERPT_LINES: usize = 20;

impl Source {
    /// Takes the text apart; bytes that are not UTF-8 are shown as U+FFFD in excerpts.
    pub fn new(name: &str, text: &[u8]) -> Self {
        let ended = text.strip_suffix(b"\n").unwrap_or(text);
        let lines =
            String::from_utf8_lossy(ended).split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect();
        Self(Arc::new(Kept { name: name.to_owned(), text: text.to_owned(), lines }))
    }

    /// The file name, as it was given.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// All of it, byte for byte.
    pub fn text(&self) -> &[u8] {
        &self.0.text
    }

    /// A line, counted from 1, without its end.
    pub fn line(&self, number: usize) -> Option<&str> {
        self.0.lines.get(number.checked_sub(1)?).map(String::as_str)
    }

    /// Says that something is wrong with the given lines.
    pub fn at<P>(&self, span: Span, problem: P) -> Located<P> {
        Located { source: self.clone(), span, problem, hint: None }
    }

    /// The lines of the span with two around them, each numbered, the span's own marked with `>>>`.
    pub fn excerpt(&self, span: Span) -> String {
        let first = span.first.saturating_sub(EXCERPT_MARGIN).max(1);
        let last = span.last.min(span.first + EXCERPT_LINES).saturating_add(EXCERPT_MARGIN).min(self.0.lines.len());
        let mut text = String::new();
        for number in first..=last {
            let mark = if (span.first..=span.last).contains(&number) { ">>>" } else { "   " };
            let line: String = self.0.lines[number - 1].chars().take(EXCERPT_WIDTH).collect();
            text.push_str(format!("{number:4} | {mark} {line}").trim_end());
            text.push('\n');
        }
        text
    }
}

/// A problem with the place in a Dockerfile where it was found.
///
/// It prints as `FILE:LINE: problem` and the excerpt below; the hint is separate, for whoever draws it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<P> {
    source: Source,
    span: Span,
    problem: P,
    hint: Option<String>,
}

impl<P> Located<P> {
    /// What is wrong.
    pub fn problem(&self) -> &P {
        &self.problem
    }

    /// The name of the Dockerfile.
    pub fn file(&self) -> &str {
        self.source.name()
    }

    /// The Dockerfile.
    pub fn dockerfile(&self) -> &Source {
        &self.source
    }

    /// Where it is wrong.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The lines, numbered, with `>>>` at the wrong ones.
    pub fn excerpt(&self) -> String {
        self.source.excerpt(self.span)
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Adds what to do about it.
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The same place with another problem, usually a wider one.
    pub fn map<Q>(self, change: impl FnOnce(P) -> Q) -> Located<Q> {
        Located { source: self.source, span: self.span, problem: change(self.problem), hint: self.hint }
    }
}

impl<P: fmt::Display> fmt::Display for Located<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}: {}", self.file(), self.span.first, self.problem)?;
        f.write_str(self.excerpt().trim_end_matches('\n'))
    }
}

impl<P: std::error::Error + 'static> std::error::Error for Located<P> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// The candidate nearest to a misspelt word, if one is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let limit = if word.chars().count() <= 3 { 2 } else { 3 };
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance < limit && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, dropped, changed or swapped with their neighbour.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64; // no word of the language is longer
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_the_lines_in_question() {
        let source = Source::new("Dockerfile", b"FROM scratch\r\nRNU echo\nCMD x\nUSER y\n");
        let error = source.at(Span::line(2), "unknown");
        let expected =
            "Dockerfile:2: unknown\n   1 |     FROM scratch\n   2 | >>> RNU echo\n   3 |     CMD x\n   4 |     USER y";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn suggests_only_what_is_near() {
        let words = ["RUN", "COPY", "ENTRYPOINT", "USER"];
        for (word, meant) in [
            ("RNU", Some("RUN")),
            ("cpoy", Some("COPY")),
            ("ENTRYPONT", Some("ENTRYPOINT")),
            ("FETCH", None),
            ("X", None),
        ] {
            assert_eq!(nearest(word, words), meant, "{word}");
        }
    }
}
