//! What can be seen in the text alone: casing, continuations, MAINTAINER, comments that describe.

use super::{Rule, Sink, comments};
use crate::dockerfile::{Argument, Dockerfile, Instruction, Span};

pub(super) fn check(file: &Dockerfile, sink: &mut Sink<'_>) {
    continuations(file, sink);
    instruction_casing(file, sink);
    maintainers(file, sink);
    descriptions(file, sink);
}

/// The first word of an instruction, as it is written.
pub(super) fn keyword(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// Told at the last line, which is where BuildKit notices.
fn continuations(file: &Dockerfile, sink: &mut Sink<'_>) {
    for warning in file.warnings.iter().filter(|warning| warning.rule == Rule::NoEmptyContinuation.name()) {
        let last = Span::line(warning.span.last);
        sink.add_under(Rule::NoEmptyContinuation, last, warning.span, "Empty continuation line".to_owned());
    }
}

/// The majority decides; a tie is decided for capital letters.
fn instruction_casing(file: &Dockerfile, sink: &mut Sink<'_>) {
    let keywords = || {
        file.stages.iter().flat_map(|stage| {
            let own = stage.instructions.iter().map(|node| (keyword(&node.text), node.span));
            std::iter::once((keyword(&stage.text), stage.span)).chain(own)
        })
    };
    let lower = keywords().filter(|(word, _)| *word == word.to_lowercase()).count();
    let upper = keywords().filter(|(word, _)| *word == word.to_uppercase()).count();
    for (word, span) in keywords() {
        let (right, name) =
            if lower > upper { (word.to_lowercase(), "lowercase") } else { (word.to_uppercase(), "uppercase") };
        if word != right {
            let message = format!("Command '{word}' should match the case of the command majority ({name})");
            sink.add(Rule::ConsistentInstructionCasing, span, message);
        }
    }
}

fn maintainers(file: &Dockerfile, sink: &mut Sink<'_>) {
    for node in file.stages.iter().flat_map(|stage| &stage.instructions) {
        if let Instruction::Maintainer(_) = node.value {
            let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
            sink.add(Rule::MaintainerDeprecated, node.span, message);
        }
    }
}

/// A comment directly above FROM or ARG is a description, and begins with the name of what it describes.
fn descriptions(file: &Dockerfile, sink: &mut Sink<'_>) {
    let mut describe = |instruction: &str, names: &[&str], span: Span| {
        let above = comments::above(&file.source, span, None);
        let Some(last) = above.last().filter(|comment| !comments::is_directive(comment)) else { return };
        let named = last.split(' ').next().unwrap_or_default();
        if names.is_empty() || names.contains(&named) {
            return;
        }
        let example = if let [name] = names { name } else { "<arg_key>" };
        let message = format!("Comment for {instruction} should follow the format: `# {example} <description>`");
        sink.add(Rule::InvalidDefinitionDescription, span, message);
    };
    fn names(arguments: &[Argument]) -> Vec<&str> {
        arguments.iter().map(|argument| argument.name.as_str()).collect()
    }
    for global in &file.globals {
        describe("ARG", &names(&global.value), global.span);
    }
    for stage in &file.stages {
        describe("FROM", &stage.name.as_deref().into_iter().collect::<Vec<_>>(), stage.span);
        for node in &stage.instructions {
            if let Instruction::Arg(arguments) = &node.value {
                describe("ARG", &names(arguments), node.span);
            }
        }
    }
}
