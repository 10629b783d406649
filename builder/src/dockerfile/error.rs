//! What can be wrong with a Dockerfile, in one list.

use super::expand;
use super::mount::InvalidMount;
use super::source::Span;

/// What is wrong with a Dockerfile or one of its instructions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not a byte in it.
    #[error("the Dockerfile cannot be empty")]
    Empty,
    /// Only comments and blanks.
    #[error("file with no instructions")]
    NoInstructions,
    /// No FROM.
    #[error("no stages to build: there is no FROM")]
    NoStages,
    /// Larger than [`SIZE_LIMIT`](super::SIZE_LIMIT).
    #[error("the file is larger than {} bytes", super::SIZE_LIMIT)]
    TooLarge,
    /// A command, or a file that is taken as it is, with other bytes than UTF-8.
    #[error("the instruction is not UTF-8")]
    NotUtf8,
    /// An instruction before the first FROM.
    #[error("no build stage in current context: {0} stands before the first FROM, where only ARG may stand")]
    BeforeFrom(&'static str),
    /// A word that is no instruction.
    #[error("unknown instruction: {0}")]
    UnknownInstruction(String),
    /// A directive given twice.
    #[error("only one {0} parser directive can be used")]
    DirectiveTwice(String),
    /// A bad `# escape=`.
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeDirective(String),
    /// A heredoc without its last line.
    #[error("unterminated heredoc: no line is `{0}`")]
    OpenHeredoc(String),
    /// A heredoc where a path must stand.
    #[error("{0} cannot accept a heredoc as a destination")]
    HeredocDestination(&'static str),
    /// A heredoc behind the JSON form or several words in its place.
    #[error("the heredoc cannot be used in this form of RUN")]
    HeredocRun,
    /// A word with broken quotes or a broken `${…}`.
    #[error("{0}")]
    Expansion(#[from] expand::Invalid),
    /// A flag that the instruction does not have.
    #[error("unknown flag: --{flag} of {instruction}")]
    UnknownFlag {
        /// The instruction.
        instruction: &'static str,
        /// The flag without its dashes.
        flag: String,
    },
    /// A flag given twice.
    #[error("duplicate flag specified: --{0}")]
    DuplicateFlag(String),
    /// A flag that needs a value.
    #[error("missing a value on flag: --{0}")]
    FlagValue(String),
    /// A switch with something else than true or false.
    #[error("expecting boolean value for flag --{flag}, not: {value}")]
    FlagBoolean {
        /// The flag without its dashes.
        flag: String,
        /// What it was given.
        value: String,
    },
    /// A flag with a value it does not know.
    #[error("invalid value for flag --{flag}: {value}; {allowed}")]
    FlagChoice {
        /// The flag without its dashes.
        flag: &'static str,
        /// What it was given.
        value: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// A `--mount` that makes no sense.
    #[error("invalid mount: {0}")]
    Mount(#[from] InvalidMount),
    /// Nothing after the instruction.
    #[error("{0} requires at least one argument")]
    AtLeastOne(&'static str),
    /// Nothing or too much after the instruction.
    #[error("{0} requires exactly one argument")]
    ExactlyOne(&'static str),
    /// COPY or ADD without destination.
    #[error("{0} requires at least two arguments, but only one was provided. Destination could not be determined")]
    NoDestination(&'static str),
    /// `ENV name`.
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    /// `ENV a=b c`.
    #[error("can't find = in {word:?}; must be of the form: name=value")]
    NoEquals {
        /// The word without `=`.
        word: String,
    },
    /// `ENV =value`.
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    /// FROM with two, or more than three words.
    #[error("FROM requires either one or three arguments")]
    FromArguments,
    /// `AS` with a name that cannot be one.
    #[error("invalid name for build stage: {0:?}, name can't start with a number or contain symbols")]
    StageName(String),
    /// A JSON array with something else than strings.
    #[error("{0} in JSON form must be an array of strings")]
    NotStrings(&'static str),
    /// SHELL in shell form.
    #[error("SHELL requires the arguments to be in JSON form")]
    ShellForm,
    /// ONBUILD ONBUILD.
    #[error("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    /// ONBUILD FROM, ONBUILD MAINTAINER.
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(&'static str),
    /// An ONBUILD trigger of a base that is not exactly one instruction.
    #[error("the ONBUILD trigger of the base is not a single instruction: {0:?}")]
    Trigger(String),
    /// HEALTHCHECK with something else than CMD or NONE.
    #[error("unknown type {0:?} in HEALTHCHECK (try CMD)")]
    HealthcheckType(String),
    /// HEALTHCHECK NONE with more words.
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthcheckNone,
    /// HEALTHCHECK CMD and nothing.
    #[error("missing command after HEALTHCHECK CMD")]
    HealthcheckCommand,
    /// A span of time that is none.
    #[error("invalid duration {value:?} for --{flag}: write it like 30s, 1m30s or 500ms")]
    Duration {
        /// The flag.
        flag: &'static str,
        /// What it was given.
        value: String,
    },
    /// A span of time below what docker can keep.
    #[error("interval {value:?} for --{flag} cannot be less than 1ms")]
    ShortDuration {
        /// The flag.
        flag: &'static str,
        /// What it was given.
        value: String,
    },
    /// A number that is none.
    #[error("invalid value {value:?} for --{flag}: a whole number of at least 0 is needed")]
    Number {
        /// The flag.
        flag: &'static str,
        /// What it was given.
        value: String,
    },
    /// VOLUME "".
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
}

/// A problem whose place is not yet known, with a hint.
pub(super) struct Failure {
    pub problem: Problem,
    pub hint: Option<String>,
}

impl<P: Into<Problem>> From<P> for Failure {
    fn from(problem: P) -> Self {
        Self { problem: problem.into(), hint: None }
    }
}

/// Something legal that is probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The name of the rule, as `docker build --check` has it.
    pub rule: &'static str,
    /// Where.
    pub span: Span,
    /// What.
    pub message: String,
}

impl Warning {
    pub(crate) fn new(rule: &'static str, span: Span, message: String) -> Self {
        Self { rule, span, message }
    }
}
