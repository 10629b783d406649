//! What can go wrong with content, whichever the place.

use std::path::PathBuf;

use oci::wire::Problem;
use oci::{Digest, InvalidManifest, Mismatch, Selector};

use crate::remote::Distrust;

/// The result of asking a place for content.
pub type Result<T> = std::result::Result<T, Error>;

/// Why content cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such manifest.
    #[error("{place} has no manifest {which}")]
    NoManifest {
        /// Where it was looked for.
        place: String,
        /// What was asked for.
        which: Selector,
    },
    /// There is no such blob.
    #[error("{place} has no blob {digest}")]
    NoBlob {
        /// Where it was looked for.
        place: String,
        /// What was asked for.
        digest: Digest,
    },
    /// The content is not what its name says.
    #[error("{place} sent wrong content: {mismatch}")]
    Wrong {
        /// Who sent it.
        place: String,
        /// What was expected and what came.
        mismatch: Mismatch,
    },
    /// The manifest cannot be read.
    #[error("{place}: {source}")]
    Manifest {
        /// Where it lies.
        place: String,
        /// What is wrong with it.
        source: InvalidManifest,
    },
    /// An index has no image for the platform.
    #[error("{place} has no image for {wanted}; it has {}", offered.join(", "))]
    NoPlatform {
        /// The index.
        place: String,
        /// The platform that is needed.
        wanted: String,
        /// The platforms that are there.
        offered: Vec<String>,
    },
    /// The registry wants a login, or refuses the one it got.
    #[error("{host} refused the login for {scope}: {reason}")]
    Unauthorized {
        /// The registry.
        host: String,
        /// What was to be done there.
        scope: String,
        /// What it said.
        reason: String,
    },
    /// The login is good, and this is not allowed.
    #[error("{host} does not allow this login to {scope}: {reason}")]
    Denied {
        /// The registry.
        host: String,
        /// What was to be done there.
        scope: String,
        /// What it said.
        reason: String,
    },
    /// The registry answered with an error.
    #[error("{host} answered {status} to {request}{}", told(problems))]
    Refused {
        /// The registry.
        host: String,
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
        /// Its own words.
        problems: Vec<Problem>,
    },
    /// The registry answered with something that the protocol does not have.
    #[error("{host} does not speak the registry protocol: {reason}")]
    Protocol {
        /// The registry.
        host: String,
        /// What it did.
        reason: String,
    },
    /// No answer: no such host, nobody listening, TLS refused, connection lost.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// The registry.
        host: String,
        /// What happened.
        reason: String,
    },
    /// No answer by way of the proxy that the environment names.
    #[error("cannot reach {host} through the proxy {proxy}: {reason}")]
    BehindProxy {
        /// The registry.
        host: String,
        /// The proxy, without its password.
        proxy: String,
        /// What happened.
        reason: String,
    },
    /// The registry's certificate is not believed.
    #[error("the certificate of {host} is not trusted: {why}")]
    Untrusted {
        /// The registry.
        host: String,
        /// Why not.
        why: Distrust,
    },
    /// The registry speaks HTTP where HTTPS is expected.
    #[error("{host} answers in plain HTTP, where HTTPS is expected")]
    PlainHttp {
        /// The registry.
        host: String,
    },
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file or directory is not of the format that it should be.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading the content stopped in the middle.
    #[error("reading from {place} stopped: {reason}")]
    Broken {
        /// Who sent it.
        place: String,
        /// What happened.
        reason: String,
    },
}

impl Error {
    /// Whether this says that something is not there, as opposed to not knowing.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::NoManifest { .. } | Self::NoBlob { .. })
    }

    /// Whether the same call may go well a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BehindProxy { .. } | Self::Broken { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    pub(crate) fn disk(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Disk { path, source }
    }
}

fn told(problems: &[Problem]) -> String {
    problems.first().map_or_else(String::new, |problem| format!(": {problem}"))
}
