//! Why a build ends without an image, in one list.

use crate::check;
use crate::dockerfile::{self, Located};
use crate::layer::{diff, pipeline, read, tree, unpack};
use crate::sandbox::{self, UserError};
use crate::{cache, copy, output, plan};

use super::base::Unusable;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile cannot be read.
    #[error(transparent)]
    Dockerfile(Box<dockerfile::Error>),
    /// It cannot be meant, or needs what is not there yet.
    #[error(transparent)]
    Plan(Box<plan::Error>),
    /// It does not pass its own checks.
    #[error(transparent)]
    Check(Box<check::Error>),
    /// A step failed.
    #[error(transparent)]
    Step(Box<Located<StepProblem>>),
    /// The image could not be put together or written.
    #[error(transparent)]
    Output(#[from] output::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] content::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// Somebody stopped it.
    #[error("the build was cancelled")]
    Cancelled,
}

impl Error {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Dockerfile(error) => error.hint(),
            Self::Plan(error) => error.hint(),
            Self::Check(error) => error.hint(),
            Self::Step(error) => error.hint(),
            _ => None,
        }
    }
}

impl From<dockerfile::Error> for Error {
    fn from(error: dockerfile::Error) -> Self {
        Self::Dockerfile(Box::new(error))
    }
}

impl From<plan::Error> for Error {
    fn from(error: plan::Error) -> Self {
        Self::Plan(Box::new(error))
    }
}

impl From<check::Error> for Error {
    fn from(error: check::Error) -> Self {
        Self::Check(Box::new(error))
    }
}

/// What is wrong with one step.
#[derive(Debug, thiserror::Error)]
pub enum StepProblem {
    /// The base image.
    #[error("{0}")]
    Base(#[from] Unusable),
    /// COPY or ADD.
    #[error("{0}")]
    Copy(#[from] copy::Error),
    /// ADD of a URL that cannot be had.
    #[error("{url}: {source}")]
    Download {
        /// The URL, without passwords.
        url: String,
        /// Why.
        source: content::Error,
    },
    /// ADD of a URL that is not what was asked for.
    #[error("{url} is {actual}, and --checksum says {expected}")]
    Checksum {
        /// The URL, without passwords.
        url: String,
        /// What `--checksum` says.
        expected: oci::Digest,
        /// What came.
        actual: oci::Digest,
    },
    /// ADD of a git repository.
    #[error("{0}")]
    Git(#[from] crate::remote::Error),
    /// A command that ended with a failure.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Failed {
        /// The command.
        command: String,
        /// Its exit code; 128 plus the number of a signal.
        code: i32,
    },
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// RUN where no sandbox was entered.
    #[error("RUN needs a sandbox, and this build was started without one")]
    NoSandbox,
    /// USER names nobody.
    #[error(transparent)]
    User(#[from] UserError),
    /// RUN as somebody else where there is only one user.
    #[error("RUN as USER {0} is not possible here: only one user id is available")]
    SingleUser(String),
    /// A required secret that nobody gave.
    #[error("secret {0}: not found, and the mount says that it is required")]
    NoSecret(String),
    /// A required SSH agent that nobody gave.
    #[error("ssh {0}: not found, and the mount says that it is required")]
    NoAgent(String),
    /// A directory that cannot be made.
    #[error("cannot make the directory {path}: {reason}")]
    Directory {
        /// The directory.
        path: String,
        /// Why.
        reason: String,
    },
    /// A name for an owner that nothing can tell the number of.
    #[error("{asked}: {why}")]
    Owner {
        /// The flag and its value.
        asked: String,
        /// Why nobody is known.
        why: &'static str,
    },
    /// Part of the language that cannot be executed here.
    #[error("{0} is not supported here")]
    Unsupported(String),
    /// The changes of a command.
    #[error(transparent)]
    Diff(#[from] diff::Error),
    /// Writing the layer.
    #[error(transparent)]
    Layer(#[from] pipeline::Error),
    /// A layer that a cache of others promised.
    #[error("{cache} promised a layer that cannot be used: {why}")]
    Import {
        /// The cache.
        cache: String,
        /// What is wrong with the layer.
        why: Box<StepProblem>,
    },
    /// A layer that something is built on.
    #[error("layer {layer}: {source}")]
    Read {
        /// Its blob.
        layer: oci::Digest,
        /// Why.
        source: read::Error,
    },
    /// A layer that is not what the image's config says.
    #[error("layer {layer} holds {actual}, but the config of its image says {expected}: the image is damaged")]
    WrongLayer {
        /// Its blob.
        layer: oci::Digest,
        /// What the config says.
        expected: oci::DiffId,
        /// What it is.
        actual: oci::DiffId,
    },
    /// Unpacking a layer.
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    /// Making a plain tree.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] content::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The disk.
    #[error("{doing}: {source}")]
    Disk {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not cached, and this build only looks.
    #[error("it is not cached")]
    NotDone,
    /// Somebody stopped it.
    #[error("cancelled")]
    Cancelled,
    /// A stage that this step reads from failed; its own error is the one to show.
    #[error("{0}")]
    Stage(Box<Error>),
}

impl StepProblem {
    /// Whether the step itself is not to blame.
    pub(super) fn is_consequence(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Sandbox(sandbox::Error::Cancelled) | Self::Stage(_) | Self::NotDone)
    }
}
