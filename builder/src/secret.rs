//! A value that must not be seen: passwords and keys that a step may read. It has no text form, is not
//! serialised by itself, and shows nothing but its size when it is debugged.

use std::fmt;
use std::sync::Arc;

/// Largest secret, in bytes; BuildKit's limit.
pub const SECRET_LIMIT: usize = 500 << 10;

/// The content of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

/// A secret that is too large to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret holds at most {SECRET_LIMIT} bytes; mount larger files with --build-context and RUN --mount=type=bind"
)]
pub struct TooLarge;

impl Secret {
    /// Takes the content.
    ///
    /// # Errors
    /// If it is larger than [`SECRET_LIMIT`].
    pub fn new(content: impl Into<Vec<u8>>) -> Result<Self, TooLarge> {
        let content = content.into();
        if content.len() > SECRET_LIMIT { Err(TooLarge) } else { Ok(Self(content.into())) }
    }

    /// The content, for whom it is meant.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_size_is_shown() {
        assert_eq!(format!("{:?}", Secret::new(*b"hunter2").unwrap()), "Secret(7 bytes)");
        assert_eq!(Secret::new(vec![0; SECRET_LIMIT + 1]), Err(TooLarge));
    }
}
