//! Where something stands, as BuildKit has it in JSON: a range for each line, and no columns.

use serde::Serialize;

use crate::dockerfile::Span;

/// Lines of the only source there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Position {
    line: usize,
}

impl From<Span> for Location {
    fn from(span: Span) -> Self {
        let range = |line| Range { start: Position { line }, end: Position { line } };
        Self { ranges: (span.first..=span.last).map(range).collect() }
    }
}
