//! The comments above an instruction, and where the file's own directive stands. The parser drops
//! comments, so they are taken from the lines.

use crate::dockerfile::{Source, Span};

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

/// Whether a comment is a directive to some program and so describes nothing.
pub(super) fn is_directive(comment: &str) -> bool {
    let key = comment.split_once('=').map(|(key, _)| key.trim().to_lowercase());
    key.is_some_and(|key| ["check", "escape", "syntax"].contains(&key.as_str()))
}

/// The line of `# check=`; the first line if there is none.
pub(super) fn directive(source: &Source) -> Span {
    let is_check = |text: &str| text.split_once('=').is_some_and(|(key, _)| key.trim().eq_ignore_ascii_case("check"));
    let mut comments = (1..).map_while(|number| comment(source, number).map(|text| (number, text)));
    Span::line(comments.find(|(_, text)| is_check(text)).map_or(1, |(number, _)| number))
}

fn comment(source: &Source, number: usize) -> Option<&str> {
    let line = source.line(number)?;
    line.trim_start_matches('\u{feff}').trim().strip_prefix('#').map(str::trim)
}
