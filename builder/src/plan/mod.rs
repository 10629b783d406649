//! Decides what a build does: which stages, in which order, and what each of their steps is.
//!
//! Two pure phases, because a step may depend on its base image (ENV, USER, WORKDIR, SHELL, ONBUILD):
//! [`outline`] finds the stages that the target needs and what they start from; [`stage`] expands the
//! instructions of one stage once the config of its base is known. Nothing is fetched or run here.

mod error;
mod go;
mod outline;
mod ports;
mod scope;
mod stage;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};

use oci::{Platform, Reference};

pub use error::Problem;
pub use outline::{Base, Origin, Outline, StageId, StageOutline, context_name, outline};
pub use scope::Scope;
pub(crate) use scope::global as globals;
pub use stage::{BaseState, Declared, StagePlan, stage};

use crate::dockerfile::{Located, Mount, Network, Span};
use crate::remote::{GitSource, HttpSource};

/// A plan that cannot be made: what, where, the lines, and a hint.
pub type Error = Located<Problem>;

/// What the user asked for, as far as it changes the plan.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--target`; the last stage otherwise.
    pub target: Option<String>,
    /// A stage that the builder itself needs, whatever the target is.
    pub stage: Option<StageId>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// What the builder runs on.
    pub build_platform: Platform,
    /// What the image is for.
    pub target_platform: Platform,
    /// Whether `--platform` was given, so the image says so whatever its base says.
    pub platform_is_explicit: bool,
    /// The names of `--build-context` that are files; they come before stages and images of the same name.
    pub contexts: BTreeSet<String>,
    /// Those that are images.
    pub images: BTreeMap<String, Reference>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
}

impl Options {
    /// Builds everything for the machine that this runs on.
    pub fn new(platform: Platform) -> Self {
        Self {
            target: None,
            stage: None,
            build_args: BTreeMap::new(),
            build_platform: platform.clone(),
            target_platform: platform,
            platform_is_explicit: false,
            contexts: BTreeSet::new(),
            images: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }
}

/// One step that makes a layer, fully expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The lines of its instruction; those of the FROM for an ONBUILD trigger.
    pub span: Span,
    /// What people are shown: the instruction, its variables expanded where they are known.
    pub title: String,
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Runs a command.
    Run(RunStep),
    /// Copies files.
    Copy(CopyStep),
    /// Makes the working directory, owned by the user.
    Workdir {
        /// The directory, absolute.
        path: String,
        /// USER as it was written; empty is root.
        user: String,
    },
}

/// A file whose content stands in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inline {
    /// Its name.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStep {
    /// The program and its arguments, the shell already in front.
    pub arguments: Vec<String>,
    /// The environment: that of the image and the build arguments in scope.
    pub env: Vec<(String, String)>,
    /// Proxy settings for the environment; they change neither history nor cache.
    pub proxy: Vec<(String, String)>,
    /// The working directory.
    pub cwd: String,
    /// USER as it was written; empty is root.
    pub user: String,
    /// A script to be put at `/dev/pipes/NAME`, which `arguments` names.
    pub script: Option<Inline>,
    /// `--mount`, with where each comes from.
    pub mounts: Vec<(Mount, Option<Origin>)>,
    /// `--network`.
    pub network: Network,
    /// The name that the machine has for the command, where a build argument says so.
    pub hostname: Option<String>,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStep {
    /// Whether it is ADD.
    pub add: bool,
    /// Where the sources lie.
    pub from: Origin,
    /// The sources, in the order of the instruction.
    pub sources: Vec<CopySource>,
    /// Files that stand in the Dockerfile.
    pub inline: Vec<Inline>,
    /// The destination, absolute; a slash at its end is kept and means a directory.
    pub destination: String,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub excludes: Vec<String>,
    /// Whether archives are unpacked.
    pub unpack: bool,
}

/// One source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// A path of what `from` names, which may be a pattern.
    Path(String),
    /// A file behind a URL; whether it is unpacked if it is an archive.
    Http(HttpSource, bool),
    /// A git repository; whether `.git` is kept.
    Git(GitSource, bool),
}

#[cfg(test)]
mod tests;
