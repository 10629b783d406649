//! The local store with what it only knows of: blobs that were never fetched because no build step
//! read them come from the registry that their image came from, and only when somebody asks.

use oci::{Descriptor, Digest, Manifest, Selector};

use crate::disk::DiskRepository;
use crate::remote::Client;
use crate::store::{Body, Origin, Source};
use crate::{Error, Result};

/// A repository on disk, completed by the registries that its blobs came from.
#[derive(Debug, Clone)]
pub struct WithOrigins {
    disk: DiskRepository,
    client: Client,
}

impl WithOrigins {
    /// Completes a repository on disk.
    pub fn new(disk: DiskRepository, client: Client) -> Self {
        Self { disk, client }
    }
}

impl Source for WithOrigins {
    async fn manifest(&self, which: &Selector) -> Result<Manifest> {
        self.disk.manifest(which).await
    }

    async fn blob(&self, blob: &Descriptor, from: u64) -> Result<Body> {
        let mut missing = match self.disk.blob(blob, from).await {
            Err(error @ Error::NoBlob { .. }) => error,
            other => return other,
        };
        for origin in self.disk.origins(blob.digest) {
            match self.client.repository(&origin.host, &origin.name).blob(blob, from).await {
                Ok(body) => return Ok(body),
                Err(error) => missing = error,
            }
        }
        Err(missing)
    }

    fn origins(&self, blob: Digest) -> Vec<Origin> {
        self.disk.origins(blob)
    }

    async fn went_to(&self, blob: Digest, origin: &Origin) -> Result<()> {
        self.disk.went_to(blob, origin).await
    }
}
