//! What other builds have left elsewhere: read before the build, asked after the local cache, and fetched only where a
//! step that is not there needs it.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use content::Origin;
use oci::Descriptor;

use crate::cache::exchange::Document;

/// Gives blobs of a cache from their first byte; calls may block.
pub trait Blobs: Send + Sync {
    /// Opens a blob. The bytes are checked by whoever keeps them.
    ///
    /// # Errors
    /// If it cannot be had.
    fn open(&self, blob: &Descriptor) -> content::Result<Box<dyn Read + Send>>;
}

/// A cache that somebody else keeps.
#[derive(Clone)]
pub struct Import {
    /// What it knows.
    pub document: Document,
    /// Gives its blobs.
    pub blobs: Arc<dyn Blobs>,
    /// The registry that layers can be mounted from, if it is one: they need not be fetched to be pushed.
    pub origin: Option<Origin>,
    /// What it is called in messages.
    pub name: String,
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Import").field("name", &self.name).field("steps", &self.document.steps.len()).finish()
    }
}
