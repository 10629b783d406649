//! `lighter build --check`: what is legal in a Dockerfile and probably not meant, by BuildKit's rules.
//!
//! Pure: a parsed Dockerfile, the plan's options and the ignore patterns become findings. What cannot be
//! built at all is an error and found by [`plan`](crate::plan), not here.
//!
//! ```text
//! rule          the names of the rules      settings   which of them count
//! text          casing, continuations, comments; no variables
//! names, bases  FROM
//! stages        every stage with what it starts from
//! instructions  its instructions, with the variables they see (state, words)
//! ```

mod bases;
mod comments;
mod evaluate;
mod instructions;
mod names;
mod ports;
mod rule;
mod secrets;
mod settings;
mod stages;
mod state;
mod text;
mod words;

use std::collections::BTreeSet;
use std::fmt;

use oci::{Platform, Reference};

pub(crate) use comments::description;
pub use evaluate::evaluate;
pub(crate) use evaluate::plans;
pub use rule::Rule;
pub(crate) use words::{Named, expand};

use crate::config::ImageConfig;
use crate::dockerfile::{Dockerfile, Located, Source, Span};
use crate::ignore::Patterns;
use crate::plan::{self, Options, Outline};
use settings::Settings;

/// The build argument that says the same as `# check=`, and comes before it.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What a check says no to, and where.
pub type Error = Located<Problem>;

/// Why a check fails a build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A `# check=` that cannot be understood.
    #[error("failed to parse check options: {0}")]
    Settings(String),
    /// `error=true`, and there are findings.
    #[error("lint violation found for rules: {}", .0.join(", "))]
    Violations(Vec<&'static str>),
}

/// Looks up the config of a base image; `None` where it cannot be had.
pub type Bases<'a> = &'a dyn Fn(&Reference, &Platform) -> Option<ImageConfig>;

/// What a check may know beside the Dockerfile.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// The stages that are built; without it the instructions of every stage are checked.
    pub outline: Option<&'a Outline>,
    /// The ignore patterns of the build context.
    pub ignore: &'a Patterns,
    /// The base images.
    pub base: Bases<'a>,
}

impl fmt::Debug for Around<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Around").field("outline", &self.outline).field("ignore", &self.ignore).finish_non_exhaustive()
    }
}

/// Something legal that is probably not meant. It prints as `Rule: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// Where.
    pub span: Span,
    /// What, in BuildKit's words.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.name(), self.message)
    }
}

/// The findings by line, and whether they fail a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What was found.
    pub findings: Vec<Finding>,
    is_error: bool,
}

impl Report {
    /// Fails if there are findings and the Dockerfile says `# check=error=true`.
    pub fn verdict(&self, source: &Source) -> Result<(), Error> {
        let Some(first) = self.findings.first().filter(|_| self.is_error) else { return Ok(()) };
        let rules: BTreeSet<&str> = self.findings.iter().map(|finding| finding.rule.name()).collect();
        let hint = "correct the lines, or name rules that do not count in `# check=skip=RULE,RULE`".to_owned();
        Err(source.at(first.span, Problem::Violations(rules.into_iter().collect())).with_hint(Some(hint)))
    }
}

/// Checks a Dockerfile.
///
/// # Errors
/// If its `# check=`, or the build argument in its place, cannot be understood. Whatever else is wrong
/// with the Dockerfile is no finding and no error here.
pub fn check(file: &Dockerfile, options: &Options, around: &Around<'_>) -> Result<Report, Error> {
    let settings = settings(file, options)?;
    let directive = file.check.as_ref().map(|_| comments::directive(&file.source).first);
    let mut sink = Sink { source: &file.source, settings: &settings, directive, own: None, findings: Vec::new() };
    text::check(file, &mut sink);
    names::check(file, &mut sink);
    // Without its global arguments a Dockerfile cannot be planned, and the planner says why.
    if let Ok(globals) = plan::globals(file, options) {
        bases::check(file, options, &globals, &mut sink);
        stages::check(file, options, &globals, around, &mut sink);
    }
    let mut findings = sink.findings;
    findings.sort_by(|a, b| (a.span.first, &a.message).cmp(&(b.span.first, &b.message)));
    Ok(Report { findings, is_error: settings.error })
}

fn settings(file: &Dockerfile, options: &Options) -> Result<Settings, Error> {
    if let Some(text) = options.build_args.get(ARGUMENT) {
        let wrong = |invalid: settings::Invalid| {
            Source::new(ARGUMENT, text.as_bytes()).at(Span::line(1), Problem::Settings(invalid.to_string()))
        };
        return Settings::parse(text).map_err(wrong);
    }
    let wrong = |invalid: settings::Invalid| {
        file.source.at(comments::directive(&file.source), Problem::Settings(invalid.to_string()))
    };
    let hint = || Some("it is written like `# check=skip=RULE,RULE;error=true;experimental=all`".to_owned());
    Settings::parse(file.check.as_deref().unwrap_or_default()).map_err(|invalid| wrong(invalid).with_hint(hint()))
}

/// Takes what the rules find, and keeps what counts.
struct Sink<'a> {
    source: &'a Source,
    settings: &'a Settings,
    /// The line of the file's own `# check=`, which is no comment on the instruction below it.
    directive: Option<usize>,
    /// What the comments above the last instruction say, so that they are read once.
    own: Option<(Span, Option<Settings>)>,
    findings: Vec<Finding>,
}

impl Sink<'_> {
    fn add(&mut self, rule: Rule, span: Span, message: String) {
        self.add_under(rule, span, span, message);
    }

    /// For a finding in the midst of an instruction: the comments above the instruction count.
    fn add_under(&mut self, rule: Rule, span: Span, instruction: Span, message: String) {
        if self.own.as_ref().is_none_or(|(known, _)| *known != instruction) {
            let comments = comments::above(self.source, instruction, self.directive);
            self.own = Some((instruction, Settings::of_comments(&comments)));
        }
        let own = self.own.as_ref().and_then(|(_, settings)| settings.as_ref());
        if self.settings.allow(rule, own) {
            self.findings.push(Finding { rule, span, message });
        }
    }
}

#[cfg(test)]
mod tests;
