//! What can be wrong with a Dockerfile beyond its syntax, in one list.

use crate::dockerfile::expand;
use crate::dockerfile::{self, InvalidMount};

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// `--target` names no stage.
    #[error("target stage {0:?} could not be found")]
    UnknownTarget(String),
    /// More stages than anybody writes.
    #[error("the Dockerfile has more than {0} stages")]
    Stages(usize),
    /// The file of a heredoc is put into no directory.
    #[error("open {0}: no such directory; give the file's name only, and its directory as the destination")]
    HeredocName(String),
    /// A mount on top of everything.
    #[error("invalid mount target \"/\": nothing of the image would be left to run")]
    MountOverRoot,
    /// FROM with a variable that is empty.
    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    /// FROM --platform with a variable that is empty.
    #[error("empty platform value from expression {0}")]
    BlankPlatform(String),
    /// FROM --platform with something else.
    #[error("failed to parse platform {expression}: {reason}")]
    Platform {
        /// As it is written.
        expression: String,
        /// Why.
        reason: oci::InvalidPlatform,
    },
    /// A base that is no image reference.
    #[error("failed to parse stage name {name:?}: {reason}")]
    Reference {
        /// The name.
        name: String,
        /// Why.
        reason: oci::InvalidReference,
    },
    /// `--from=7` of five stages.
    #[error("invalid stage index {0}")]
    StageIndex(String),
    /// A stage that uses itself or a later one.
    #[error("cannot copy from stage {from:?}, it needs to be defined before current stage {stage:?}")]
    LaterStage {
        /// The stage that is named.
        from: String,
        /// The stage that names it.
        stage: String,
    },
    /// `--from=$X`.
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
    )]
    FromVariable,
    /// A broken word.
    #[error("{0}")]
    Expansion(#[from] expand::Invalid),
    /// A trigger of the base image that cannot be read.
    #[error("ONBUILD trigger {trigger:?} of the base: {problem}")]
    Trigger {
        /// Its text.
        trigger: String,
        /// What is wrong with it.
        problem: Box<dockerfile::Problem>,
    },
    /// A mount whose expanded values make no sense.
    #[error("invalid mount: {0}")]
    Mount(#[from] InvalidMount),
    /// A mount over the root.
    #[error("invalid mount target {0:?}")]
    MountTarget(String),
    /// EXPOSE of something else.
    #[error("invalid port {port:?} in EXPOSE: {reason}")]
    Port {
        /// The word.
        port: String,
        /// Why.
        reason: &'static str,
    },
    /// STOPSIGNAL of something else.
    #[error("invalid signal: {0}")]
    Signal(String),
    /// VOLUME with a variable that is empty.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// A heredoc in a RUN of the JSON form.
    #[error("a heredoc cannot be used with the JSON form of RUN")]
    HeredocRun,
    /// `--chmod` out of range.
    #[error("invalid chmod parameter: '{0}'. It should be octal and between 0 and 07777, or symbolic like u=rwX,go=rX")]
    Chmod(String),
    /// COPY of a URL or repository.
    #[error("source can't be a {0} for COPY")]
    RemoteCopy(&'static str),
    /// `--checksum` of files.
    #[error("--checksum requires exactly one HTTP(S) or Git source")]
    Checksum,
    /// `--checksum` that is no digest.
    #[error("--checksum={checksum}: {reason}")]
    ChecksumDigest {
        /// As it is written.
        checksum: String,
        /// Why.
        reason: oci::InvalidDigest,
    },
    /// A remote source that makes no sense.
    #[error("{0}")]
    Remote(#[from] crate::remote::InvalidSource),
    /// `--keep-git-dir` against the address.
    #[error("--keep-git-dir says something else than the address of the repository")]
    KeepGitDir,
    /// An `--exclude` pattern that is none.
    #[error("--exclude: {0}")]
    Exclude(crate::ignore::Invalid),
    /// SOURCE_DATE_EPOCH that is no number.
    #[error("SOURCE_DATE_EPOCH {0:?} is not a number of seconds since 1970")]
    Epoch(String),
    /// Part of the language that cannot be executed here.
    #[error("{what} is not supported here")]
    Unsupported {
        /// The instruction or flag.
        what: String,
    },
}
