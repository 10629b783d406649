//! The comments above an instruction, and where the file's own directive stands. The parser drops
//! comments, so they are taken from the lines.

use crate::dockerfile::{Dockerfile, Source, Span};

/// The comments above the given lines, from the top, without their `#`. An empty comment, an instruction or the given
/// line ends them; an empty line does not, though BuildKit's own documentation says so.
pub(super) fn above(source: &Source, span: Span, end: Option<usize>) -> Vec<&str> {
    let numbers = (1..span.first).rev().take_while(|number| Some(*number) != end);
    let written = numbers.filter(|number| source.line(*number).is_some_and(|line| !line.trim().is_empty()));
    let mut comments: Vec<&str> =
        written.map_while(|number| comment(source, number).filter(|text| !text.is_empty())).collect();
    comments.reverse();
    comments
}

/// What a comment above the given lines says of NAME: the rest of the first one that begins with it.
pub(crate) fn description(file: &Dockerfile, span: Span, name: &str) -> Option<String> {
    let end = file.check.as_ref().map(|_| directive(&file.source).first);
    let says = |comment: &str| comment.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
    above(&file.source, span, end).into_iter().find_map(says).filter(|_| !name.is_empty())
}

/// Whether a comment is a directive to some program and so describes nothing.
pub(super) fn is_directive(comment: &str) -> bool {
    let key = comment.split_once('=').map(|(key, _)| key.trim().to_lowercase());
    key.is_some_and(|key| ["check", "escape", "syntax"].contains(&key.as_str()))
}

/// The line of `# check=`; the first line if there is none.
pub(super) fn directive(source: &Source) -> Span {
    let is_check = |text: &str| text.split_once('=').is_some_and(|(key, _)| key.trim().eq_ignore_ascii_case("check"));
    let text = |number| Some((number, bare(source, number)?.trim().strip_prefix('#')?.trim()));
    let mut comments = (1..).map_while(text);
    Span::line(comments.find(|(_, text)| is_check(text)).map_or(1, |(number, _)| number))
}

/// A comment without the first character of its line, which of an indented one is not the `#`: so BuildKit has it.
fn comment(source: &Source, number: usize) -> Option<&str> {
    let line = bare(source, number)?;
    let mut behind = line.chars();
    behind.next();
    line.trim_start().starts_with('#').then(|| behind.as_str().trim())
}

/// A line without the byte order mark that a file may begin with.
fn bare(source: &Source, number: usize) -> Option<&str> {
    source.line(number).map(|line| line.strip_prefix('\u{feff}').unwrap_or(line))
}
