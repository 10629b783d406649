//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use oci::{Digest, Mismatch, RepoName, Selector};

use crate::state::Refusal;

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another registry process: stop it, or choose another data directory", data.display())]
    InUse {
        /// The data directory.
        data: PathBuf,
    },
    /// It is of another version, or no store at all.
    #[error("{} is not a data directory of this version: its VERSION says {found:?}", data.display())]
    Version {
        /// The data directory.
        data: PathBuf,
        /// What its `VERSION` says.
        found: String,
    },
    /// The directory holds something else.
    #[error("{} is not empty and is not a registry's data directory: choose another one", data.display())]
    Foreign {
        /// The directory.
        data: PathBuf,
    },
    /// The system refused a file operation.
    #[error("could not open the data directory {}", data.display())]
    Io {
        /// The data directory, or the file in it.
        data: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The metadata cannot be read.
    #[error("could not read the metadata")]
    Metadata(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl OpenError {
    pub(super) fn io(data: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { data: data.to_owned(), source }
    }

    pub(super) fn metadata(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Metadata(Box::new(error))
    }
}

/// Why the store does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such repository.
    #[error("there is no repository {0}")]
    NoRepository(RepoName),
    /// There is no such manifest in this repository.
    #[error("there is no manifest {0} in this repository")]
    NoManifest(Selector),
    /// There is no such blob in this repository.
    #[error("there is no blob {0} in this repository")]
    NoBlob(Digest),
    /// There is no such upload session.
    #[error("the upload session is unknown: it ended, was cancelled, or never began")]
    NoUpload,
    /// Another request is writing to the session at this moment.
    #[error("another request is writing to this upload session")]
    UploadBusy,
    /// A chunk does not start where the last one ended.
    #[error("the chunk starts at byte {first}, but {received} bytes have arrived")]
    OutOfOrder {
        /// Where the chunk starts.
        first: u64,
        /// How many bytes are there.
        received: u64,
    },
    /// A chunk is not as long as it says.
    #[error("the chunk is announced with {announced} bytes, but {found} came")]
    WrongSize {
        /// What the request says.
        announced: u64,
        /// What it carries.
        found: u64,
    },
    /// An upload is larger than this registry takes.
    #[error("the blob is larger than {limit} bytes, the limit of this registry")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The content is not what its digest says.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The state forbids it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A write could not be made durable, now or before; nothing is written until a restart.
    #[error("the registry is read-only: {0}")]
    ReadOnly(String),
    /// There is no room on the disk.
    #[error("the registry's disk is full")]
    Full,
    /// Content is missing on disk or has another size than recorded.
    #[error("the stored content of {0} is damaged: push it again to repair it")]
    Damaged(Digest),
    /// The rows cannot be read.
    #[error("the index cannot be read; it is being made again")]
    Index(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The disk failed.
    #[error("could not access {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store is closing.
    #[error("the registry is shutting down")]
    Closing,
}

impl StoreError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly("its file system is".to_owned()),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }

    /// Whether this says that something is not there.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::NoRepository(_) | Self::NoManifest(_) | Self::NoBlob(_) | Self::NoUpload => true,
            Self::Refused(refusal) => matches!(
                refusal,
                Refusal::BlobUnknown(_) | Refusal::ManifestUnknown(_) | Refusal::TagUnknown(_) | Refusal::UploadUnknown
            ),
            _ => false,
        }
    }
}

/// Runs a blocking function on a thread for that; async code waits only for its result.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Closing),
        },
    }
}
