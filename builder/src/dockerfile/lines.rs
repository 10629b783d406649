//! From bytes to logical lines: directives, comments, continuations and heredoc bodies.
//!
//! What the words of an instruction mean is not known here; only enough of it to find the bodies of
//! heredocs (see [`heredoc`](super::heredoc)).

use std::borrow::Cow;

use super::heredoc::{self, Heredoc};
use super::source::{Located, Source, Span};
use super::{Problem, Warning, read};

/// One instruction with its continuations joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub span: Span,
    pub text: String,
    pub heredocs: Vec<Heredoc>,
    /// Whether bytes of it were not UTF-8; they are U+FFFD now.
    pub is_lossy: bool,
}

/// What the top of the file and its lines say.
pub(super) struct Lines {
    pub escape: char,
    pub syntax: Option<String>,
    pub check: Option<String>,
    pub lines: Vec<Line>,
    /// How many physical lines there are.
    pub count: usize,
    pub warnings: Vec<Warning>,
}

/// Splits a Dockerfile (or one ONBUILD trigger) into its logical lines.
pub(super) fn read(source: &Source, text: &[u8]) -> Result<Lines, Located<Problem>> {
    let mut reader = Reader {
        source,
        physical: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).split_inclusive(|byte| *byte == b'\n'),
        number: 0,
        directives: Directives::default(),
        warnings: Vec::new(),
        is_lossy: false,
    };
    let mut lines = Vec::new();
    while let Some(line) = reader.line()? {
        lines.push(line);
    }
    let Directives { escape, syntax, check, .. } = reader.directives;
    Ok(Lines { escape, syntax, check, lines, count: reader.number, warnings: reader.warnings })
}

struct Reader<'a, I> {
    source: &'a Source,
    physical: I,
    number: usize,
    directives: Directives,
    warnings: Vec<Warning>,
    /// Whether anything in the line that is read was not UTF-8.
    is_lossy: bool,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Reader<'a, I> {
    fn next_physical(&mut self) -> Option<&'a [u8]> {
        let line = self.physical.next()?;
        self.number += 1;
        Some(line)
    }

    /// The next logical line, or `None` at the end of the file.
    fn line(&mut self) -> Result<Option<Line>, Located<Problem>> {
        loop {
            let Some(bytes) = self.next_physical() else { return Ok(None) };
            let first = self.number;
            if let Some(comment) = comment(bytes) {
                self.directive(comment)?;
                continue;
            }
            self.directives.done = true;
            self.is_lossy = false;
            let text = self.utf8(bytes);
            let (text, ended) = self.without_continuation(text.trim_start());
            if ended && text.is_empty() {
                continue;
            }
            let text = if ended { text.to_owned() } else { self.continued(text.to_owned(), first) };
            let span = Span { first, last: self.number };
            read::check_form(&text, self.directives.escape).map_err(|problem| self.source.at(span, problem))?;
            let heredocs = self.heredocs(&text, first)?;
            let span = Span { first, last: self.number };
            return Ok(Some(Line { span, text, heredocs, is_lossy: self.is_lossy }));
        }
    }

    /// Joins lines as long as they end with the escape character; comments in between vanish.
    fn continued(&mut self, mut text: String, first: usize) -> String {
        let mut empty = false;
        while let Some(bytes) = self.next_physical() {
            if comment(bytes).is_some() {
                continue;
            }
            let next = self.utf8(bytes);
            if next.trim().is_empty() {
                empty = true;
                continue;
            }
            let (next, ended) = self.without_continuation(&next);
            text.push_str(next);
            if ended {
                break;
            }
        }
        if empty {
            let span = Span { first, last: self.number };
            self.warnings.push(Warning::new(
                "NoEmptyContinuation",
                span,
                "empty line in a continued instruction".into(),
            ));
        }
        text
    }

    fn heredocs(&mut self, text: &str, first: usize) -> Result<Vec<Heredoc>, Located<Problem>> {
        let mut heredocs = heredoc::announced(text, self.directives.escape)
            .map_err(|invalid| self.source.at(Span { first, last: self.number }, Problem::Expansion(invalid)))?;
        for heredoc in &mut heredocs {
            let opened = self.number;
            loop {
                let Some(bytes) = self.next_physical() else {
                    let problem = Problem::OpenHeredoc(heredoc.name.clone());
                    return Err(self.source.at(Span { first, last: opened }, problem));
                };
                let line = self.utf8_with_end(bytes);
                let bare = line.trim_end_matches(['\r', '\n']);
                let bare = if heredoc.strip_tabs { bare.trim_start_matches('\t') } else { bare };
                if bare == heredoc.name {
                    break;
                }
                heredoc.body.push_str(&line);
            }
        }
        Ok(heredocs)
    }

    fn utf8(&mut self, bytes: &'a [u8]) -> Cow<'a, str> {
        let end = bytes.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        self.utf8_with_end(&bytes[..end])
    }

    fn utf8_with_end(&mut self, bytes: &'a [u8]) -> Cow<'a, str> {
        let text = String::from_utf8_lossy(bytes);
        self.is_lossy |= matches!(text, Cow::Owned(_));
        text
    }

    /// Takes a continuation character off; says whether the instruction ends here.
    ///
    /// An escaped escape character is not a continuation.
    fn without_continuation<'t>(&self, line: &'t str) -> (&'t str, bool) {
        let escape = self.directives.escape;
        match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
            Some(rest) if !rest.ends_with(escape) => (rest, false),
            _ => (line, true),
        }
    }

    fn directive(&mut self, comment: &[u8]) -> Result<(), Located<Problem>> {
        let first_line = self.number == 1;
        if self.directives.done || (first_line && comment.starts_with(b"!")) {
            // A shebang may stand above the directives, but `escape` is looked for by another reader of BuildKit's,
            // which takes it for a comment.
            self.directives.after_shebang |= first_line && !self.directives.done;
            return Ok(());
        }
        let comment = String::from_utf8_lossy(comment);
        self.directives.read(&comment).map_err(|problem| self.source.at(Span::line(self.number), problem))
    }
}

/// What follows the `#` of a comment line.
fn comment(line: &[u8]) -> Option<&[u8]> {
    line.trim_ascii().strip_prefix(b"#")
}

/// `# escape=`, `# syntax=` and `# check=` at the top of a file.
struct Directives {
    escape: char,
    syntax: Option<String>,
    check: Option<String>,
    seen_escape: bool,
    after_shebang: bool,
    done: bool,
}

impl Default for Directives {
    fn default() -> Self {
        Self { escape: '\\', syntax: None, check: None, seen_escape: false, after_shebang: false, done: false }
    }
}

impl Directives {
    /// Reads one comment; the first that is no directive ends them all.
    fn read(&mut self, comment: &str) -> Result<(), Problem> {
        let Some((key, value)) = comment.split_once('=').map(|(key, value)| (key.trim().to_lowercase(), value.trim()))
        else {
            self.done = true;
            return Ok(());
        };
        let twice = Err(Problem::DirectiveTwice(key.clone()));
        match key.as_str() {
            _ if value.is_empty() => self.done = true,
            "escape" if self.after_shebang => {}
            "escape" if self.seen_escape => return twice,
            "syntax" if self.syntax.is_some() => return twice,
            "check" if self.check.is_some() => return twice,
            "escape" => {
                self.seen_escape = true;
                self.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => return Err(Problem::EscapeDirective(value.to_owned())),
                };
            }
            "syntax" => self.syntax = Some(value.to_owned()),
            "check" => self.check = value.split(' ').next().map(str::to_owned), // what follows explains it
            _ => self.done = true,
        }
        Ok(())
    }
}
