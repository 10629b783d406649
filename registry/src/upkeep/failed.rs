//! Why something was not done, in a form that a socket carries: the kind for code, the words for people.

use std::error::Error;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::store::{PortableError, StoreError};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The store or the disk failed.
    Disk,
    /// The disk is full.
    Full,
    /// A file that was named is not there.
    NoInput,
    /// A layout, or a name in it, is wrong.
    BadInput,
    /// A name in a layout says no repository, and none was given.
    Nameless,
    /// There are no retention rules.
    NoRules,
    /// Content that was asked for is not there.
    Missing,
    /// The registry, or whoever asked, stopped meanwhile.
    Stopped,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// What kind of failure it is.
    pub kind: Kind,
    message: String,
    cause: Option<Box<Failed>>,
}

impl Failed {
    /// A failure without a cause.
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }

    pub(super) fn stopped() -> Self {
        Self::new(Kind::Stopped, "it was stopped before its end")
    }

    fn of(kind: Kind, error: &dyn Error) -> Self {
        let cause = error.source().map(|source| Box::new(Self::of(kind, source)));
        Self { kind, message: error.to_string(), cause }
    }

    /// The same with other words for something that whoever asked cannot know.
    pub(super) fn with(mut self, ours: &str, theirs: &str) -> Self {
        self.message = self.message.replace(ours, theirs);
        self.cause = self.cause.map(|cause| Box::new(cause.with(ours, theirs)));
        self
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Full => Kind::Full,
            StoreError::Closing => return Self::stopped(),
            StoreError::NoRepository(_) | StoreError::NoManifest(_) => Kind::Missing,
            _ => Kind::Disk,
        };
        Self::of(kind, &error)
    }
}

impl From<content::Error> for Failed {
    fn from(error: content::Error) -> Self {
        let kind = match &error {
            content::Error::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::NoInput,
            content::Error::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => Kind::Full,
            content::Error::Disk { .. } => Kind::Disk,
            content::Error::Format { .. } | content::Error::Manifest { .. } | content::Error::Wrong { .. } => {
                Kind::BadInput
            }
            _ => Kind::Missing,
        };
        Self::of(kind, &error)
    }
}

impl From<PortableError> for Failed {
    fn from(error: PortableError) -> Self {
        match error {
            PortableError::Store(error) => error.into(),
            PortableError::Content(error) => error.into(),
            PortableError::Nameless(_) => Self::of(Kind::Nameless, &error),
            PortableError::Name(_) => Self::of(Kind::BadInput, &error),
        }
    }
}
