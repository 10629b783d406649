//! Why a COPY or ADD cannot be done. Paths are shown as the Dockerfile means them: from the root of the
//! source or of the image.

use crate::layer::{pipeline, read, view};
use std::io;

/// Why a COPY or ADD cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source without wildcards that is not there.
    #[error("\"{0}\": not found")]
    NotFound(String),
    /// A wildcard that is none.
    #[error("\"{0}\": syntax error in pattern")]
    Pattern(String),
    /// A directory would replace a file.
    #[error("cannot copy to non-directory: {0}")]
    NonDirectory(String),
    /// A file would replace a directory.
    #[error("cannot replace to directory {0} with file")]
    ReplaceDirectory(String),
    /// A socket, which no image can hold.
    #[error("{0}: is a socket, which an image cannot hold; exclude it in .dockerignore")]
    Socket(String),
    /// Something else that cannot be copied.
    #[error("{path}: {what}")]
    Unsupported {
        /// The path.
        path: String,
        /// What it is, or why not.
        what: &'static str,
    },
    /// A file that is not the same as when it was first read.
    #[error("{0}: changed while the image was built; build again when nothing writes to it")]
    Changed(String),
    /// A mode that is none.
    #[error("--chmod={0}: not a mode; give it in octal (0755) or as symbols (u=rwX,go=rX)")]
    Mode(String),
    /// More files than a layer holds.
    #[error("more than {0} files are copied at once; split the step, or exclude some in .dockerignore")]
    TooMany(usize),
    /// A symbolic link that leads nowhere, or through a file.
    #[error(transparent)]
    View(#[from] view::Error),
    /// A file could not be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The path in its source.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// An archive that cannot be extracted.
    #[error("cannot extract {path}: {source}")]
    Archive {
        /// The archive.
        path: String,
        /// Why not.
        source: read::Error,
    },
    /// The space for an archive's contents failed.
    #[error("cannot write a temporary file: {0}")]
    Scratch(#[source] io::Error),
    /// The layer could not be written.
    #[error(transparent)]
    Write(pipeline::Error),
}

impl From<pipeline::Error> for Error {
    fn from(error: pipeline::Error) -> Self {
        match error {
            pipeline::Error::Changed { path, .. } => Self::Changed(path),
            other => Self::Write(other),
        }
    }
}
