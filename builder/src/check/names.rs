//! FROM: the names of stages, and how `FROM` and `AS` are spelt.

use std::collections::BTreeSet;

use super::{Rule, Sink};
use crate::dockerfile::{Dockerfile, Stage};

/// Names that already mean something in `FROM` or `--from`.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(file: &Dockerfile, sink: &mut Sink<'_>) {
    let mut seen = BTreeSet::new();
    for stage in &file.stages {
        let Some(name) = &stage.name else { continue };
        casing(stage, sink);
        if RESERVED.contains(&name.as_str()) {
            let message = format!("Stage name should not use the same name as reserved stage {name:?}");
            sink.add(Rule::ReservedStageName, stage.span, message);
        }
        if !seen.insert(name) {
            let message = format!("Duplicate stage name {name:?}, stage names should be unique");
            sink.add(Rule::DuplicateStageName, stage.span, message);
        }
    }
}

/// The name and both keywords as they are written: `FROM … AS name`.
fn casing(stage: &Stage, sink: &mut Sink<'_>) {
    let mut words = stage.text.split_whitespace();
    let (Some(from), Some(name), Some(keyword)) = (words.next(), words.next_back(), words.next_back()) else { return };
    if name != name.to_lowercase() {
        sink.add(Rule::StageNameCasing, stage.span, format!("Stage name '{name}' should be lowercase"));
    }
    // A `From` is told by ConsistentInstructionCasing; nothing can match it.
    let matches = if from == from.to_lowercase() {
        keyword == keyword.to_lowercase()
    } else {
        from != from.to_uppercase() || keyword == keyword.to_uppercase()
    };
    if !matches {
        sink.add(Rule::FromAsCasing, stage.span, format!("'{keyword}' and '{from}' keywords' casing do not match"));
    }
}
