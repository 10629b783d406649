//! Base images: how a build gets them. Where they are kept and over which network is not known here.

use std::io::{Read, Write};

use content::Origin;
use content::remote::Version;
use oci::{Descriptor, Manifest, ManifestKind, Platform, Reference};

use crate::config::{self, ImageConfig};
use crate::remote::Answer;

/// Gives images to a build. Calls may block; they come from one thread.
pub trait BaseImages: Sync {
    /// Finds the image for a platform: its manifest (not an index) and config, no layers.
    fn resolve(&self, reference: &Reference, platform: &Platform) -> content::Result<Resolved>;

    /// Opens a layer of an image that [`resolve`](Self::resolve) gave, from its first byte. The bytes are
    /// checked by whoever keeps them.
    fn open(&self, image: &Resolved, layer: &Descriptor) -> content::Result<Box<dyn Read + Send>>;

    /// Fetches a file behind a URL, for ADD; none if it is still the version that is known. Whoever has no network
    /// refuses.
    fn download(&self, url: &str, _known: &Version, _into: &mut dyn Write) -> content::Result<Option<Answer>> {
        let reason = "this build was started without a network".to_owned();
        Err(content::Error::Unreachable { host: url.to_owned(), reason })
    }
}

/// No images at all: for builds that start from scratch only.
impl BaseImages for () {
    fn resolve(&self, reference: &Reference, _: &Platform) -> content::Result<Resolved> {
        let which = reference.selector();
        Err(content::Error::NoManifest { place: reference.repository(), which })
    }

    fn open(&self, image: &Resolved, layer: &Descriptor) -> content::Result<Box<dyn Read + Send>> {
        Err(content::Error::NoBlob { place: image.reference.repository(), digest: layer.digest })
    }
}

/// An image, found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What was asked for.
    pub reference: Reference,
    /// The manifest of the platform's image.
    pub manifest: Manifest,
    /// The bytes of its config.
    pub config: Vec<u8>,
    /// The registry that its layers can be mounted from later, if there is one.
    pub origin: Option<Origin>,
}

/// Why an image cannot be built on.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It cannot be had.
    #[error("{reference}: {source}")]
    Missing {
        /// The image.
        reference: Box<Reference>,
        /// Why, in the words of its registry.
        source: content::Error,
    },
    /// It is an index or an artifact.
    #[error("{0} is not the image of one platform")]
    Kind(Box<Reference>),
    /// Its config cannot be read.
    #[error("{reference}: {source}")]
    Config {
        /// The image.
        reference: Box<Reference>,
        /// Why.
        source: config::Invalid,
    },
    /// Manifest and config do not fit together.
    #[error("{reference}: the manifest lists {layers} layers, the config {diff_ids}")]
    Layers {
        /// The image.
        reference: Box<Reference>,
        /// How many the manifest lists.
        layers: usize,
        /// How many the config lists.
        diff_ids: usize,
    },
}

impl Resolved {
    /// The config and the layers' descriptors, as many of one as of the other.
    pub fn parts(&self) -> Result<(ImageConfig, Vec<Descriptor>), Unusable> {
        let reference = || Box::new(self.reference.clone());
        let ManifestKind::Image { layers, .. } = self.manifest.kind() else {
            return Err(Unusable::Kind(reference()));
        };
        let config = ImageConfig::parse(&self.config);
        let config = config.map_err(|source| Unusable::Config { reference: reference(), source })?;
        if config.diff_ids.len() != layers.len() {
            let diff_ids = config.diff_ids.len();
            return Err(Unusable::Layers { reference: reference(), layers: layers.len(), diff_ids });
        }
        Ok((config, layers.clone()))
    }
}
