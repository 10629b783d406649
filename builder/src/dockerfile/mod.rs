//! The Dockerfile language: text in, a typed tree out.
//!
//! Everything here is a pure function of the text. What variables are worth, which stages are built
//! and what each step does is decided in [`plan`](crate::plan); nothing is looked up or run here.

mod duration;
mod error;
pub mod expand;
mod flags;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod pattern;
mod read;
mod source;
mod words;

pub use error::{Problem, Warning};
pub use heredoc::Heredoc;
pub use instruction::{
    Add, Argument, Assignment, CommandLine, Copy, Healthcheck, Instruction, Network, Probe, Run, Security, Transfer,
};
pub(crate) use mount::last_name;
pub use mount::{InvalidMount, Mount, MountKind, Sharing, fields, size};
pub use source::{Located, Source, Span};
pub(crate) use source::{distance, nearest};

/// A Dockerfile that cannot be read: what, where, the lines, and a hint.
pub type Error = Located<Problem>;

/// Largest Dockerfile that is read; heredocs make real ones long, but not this long.
pub const SIZE_LIMIT: usize = 4 << 20;

/// A Dockerfile, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// Its name and lines, for errors found later.
    pub source: Source,
    /// The escape character, `\` unless a directive says `` ` ``.
    pub escape: char,
    /// The value of `# syntax=`. It chooses a frontend for BuildKit and means nothing here.
    pub syntax: Option<String>,
    /// The value of `# check=`.
    pub check: Option<String>,
    /// The ARG instructions before the first FROM.
    pub globals: Vec<Node<Vec<Argument>>>,
    /// The stages in the order of the file; there is at least one.
    pub stages: Vec<Stage>,
    /// What is legal and probably not meant.
    pub warnings: Vec<Warning>,
}

/// Something of the file, with the lines it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<T> {
    /// Where it stands.
    pub span: Span,
    /// Its text with continuations joined, heredoc bodies left out.
    pub text: String,
    /// What it says.
    pub value: T,
}

/// `FROM base [AS name]` and the instructions after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Where the FROM stands.
    pub span: Span,
    /// The text of the FROM.
    pub text: String,
    /// What it starts from, variables not yet expanded.
    pub base: String,
    /// `--platform`, variables not yet expanded.
    pub platform: Option<String>,
    /// Its name in lower case; names are case-insensitive.
    pub name: Option<String>,
    /// The instructions.
    pub instructions: Vec<Node<Instruction>>,
}

/// Reads a Dockerfile; the name is only used in errors.
pub fn parse(text: &[u8], name: &str) -> Result<Dockerfile, Error> {
    if text.len() > SIZE_LIMIT {
        return Err(Source::new(name, b"").at(Span::line(1), Problem::TooLarge));
    }
    let source = Source::new(name, text);
    if text.is_empty() {
        return Err(source.at(Span::line(1), Problem::Empty));
    }
    let lines = lines::read(&source, text)?;
    let mut file = Dockerfile {
        source,
        escape: lines.escape,
        syntax: lines.syntax,
        check: lines.check,
        globals: Vec::new(),
        stages: Vec::new(),
        warnings: lines.warnings,
    };
    if lines.lines.is_empty() {
        return Err(file.source.at(Span::line(lines.count), Problem::NoInstructions));
    }
    for line in lines.lines {
        let (span, source) = (line.span, file.source.clone());
        file.take(line).map_err(|failure| source.at(span, failure.problem).with_hint(failure.hint))?;
    }
    match file.stages.is_empty() {
        true => Err(file.source.at(Span::line(1), Problem::NoStages)),
        false => Ok(file),
    }
}

/// Reads the text of an ONBUILD trigger, as an image config or another stage keeps it.
///
/// Problems are reported at `span` of `source`: the FROM that pulls the trigger.
pub fn parse_trigger(text: &str, source: &Source, span: Span) -> Result<Node<Instruction>, Error> {
    let place = |failure: error::Failure| source.at(span, failure.problem).with_hint(failure.hint);
    if text.len() > SIZE_LIMIT {
        return Err(source.at(span, Problem::TooLarge));
    }
    let trigger = Source::new("ONBUILD", text.as_bytes());
    let mut lines = lines::read(&trigger, text.as_bytes()).map_err(|error| source.at(span, error.problem().clone()))?;
    match (lines.lines.pop(), lines.lines.is_empty()) {
        (Some(line), true) => {
            let value = read::parse_trigger(&line, lines.escape).map_err(place)?;
            Ok(Node { span, text: line.text, value })
        }
        _ => Err(source.at(span, Problem::Trigger(text.to_owned()))),
    }
}

impl Dockerfile {
    /// Files one logical line: a new stage, a global ARG, or an instruction of the last stage.
    fn take(&mut self, line: lines::Line) -> Result<(), error::Failure> {
        let (name, _) = words::split_name(&line.text);
        if name.eq_ignore_ascii_case("FROM") {
            self.stages.push(read::parse_from(&line, self.escape)?);
            return Ok(());
        }
        let value = read::parse(&line, self.escape, &mut self.warnings)?;
        let is_raw = matches!(value, Instruction::Run(_)) || line.heredocs.iter().any(|heredoc| !heredoc.expand);
        if line.is_lossy && is_raw {
            return Err(Problem::NotUtf8.into());
        }
        let node = Node { span: line.span, text: line.text, value };
        match (self.stages.last_mut(), node) {
            (Some(stage), node) => stage.instructions.push(node),
            (None, Node { span, text, value: Instruction::Arg(arguments) }) => {
                self.globals.push(Node { span, text, value: arguments });
            }
            (None, node) => return Err(Problem::BeforeFrom(node.value.name()).into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
