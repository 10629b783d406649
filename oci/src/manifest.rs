//! Manifests: the exact bytes that have a digest, beside what they mean.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::{Algorithm, Descriptor, Digest};

/// Largest manifest that is taken, in bytes: the distribution specification asks for at least
/// 4 MiB; the rest is room for JSON around a payload of just that size.
pub const MANIFEST_LIMIT: usize = (4 << 20) + (64 << 10);

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// More than [`MANIFEST_LIMIT`].
    #[error("the manifest is larger than {MANIFEST_LIMIT} bytes")]
    TooLarge,
    /// Not JSON, or a field that must be there is missing or malformed.
    #[error("the manifest cannot be read: {0}")]
    Json(String),
    /// The document names another media type than the one it came with.
    #[error("the manifest says it is {document}, but came as {declared}")]
    MediaType {
        /// The type in the document.
        document: String,
        /// The type of the request or descriptor.
        declared: String,
    },
    /// Docker's first schema, without digests of its own.
    #[error("Docker image manifests of schema 1 are not supported; push the image again with any Docker since 1.10")]
    Schema1,
    /// Neither an image nor an index.
    #[error("the manifest has neither `layers` and `config` nor `manifests`")]
    Shapeless,
}

/// What a manifest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestKind {
    /// One image (or artifact): a config and layers.
    Image {
        /// The image config, or the artifact's own.
        config: Descriptor,
        /// The layers, bottom first.
        layers: Vec<Descriptor>,
    },
    /// Several images: an OCI index or a Docker manifest list.
    Index {
        /// The images.
        manifests: Vec<Descriptor>,
    },
}

/// A manifest: its exact bytes, their digest, and the meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    bytes: Vec<u8>,
    digest: Digest,
    media_type: String,
    kind: ManifestKind,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads a manifest. `declared` is the media type it came with (`Content-Type`, descriptor).
    ///
    /// The bytes are kept as they are: their digest must survive. A document without `mediaType`
    /// is told by its shape, as the image specification allows.
    pub fn parse(declared: Option<&str>, bytes: Vec<u8>) -> Result<Self, InvalidManifest> {
        let digest = Digest::of(&bytes);
        Self::parse_with_digest(declared, bytes, digest)
    }

    /// Reads a manifest that is to be named with the given algorithm.
    pub fn parse_named(declared: Option<&str>, bytes: Vec<u8>, algorithm: Algorithm) -> Result<Self, InvalidManifest> {
        let digest = Digest::of_with(algorithm, &bytes);
        Self::parse_with_digest(declared, bytes, digest)
    }

    fn parse_with_digest(declared: Option<&str>, bytes: Vec<u8>, digest: Digest) -> Result<Self, InvalidManifest> {
        if bytes.len() > MANIFEST_LIMIT {
            return Err(InvalidManifest::TooLarge);
        }
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| InvalidManifest::Json(error.to_string()))?;
        if document.schema_version == Some(1) {
            return Err(InvalidManifest::Schema1);
        }
        let declared = declared.map(essence).filter(|declared| !declared.is_empty());
        let media_type = match (document.media_type, declared) {
            (Some(document), Some(declared)) if document != declared => {
                return Err(InvalidManifest::MediaType { document, declared: declared.to_owned() });
            }
            (Some(document), _) => document,
            (None, Some(declared)) => declared.to_owned(),
            (None, None) if document.manifests.is_some() => OCI_INDEX.to_owned(),
            (None, None) => OCI_MANIFEST.to_owned(),
        };
        let is_index = matches!(media_type.as_str(), OCI_INDEX | DOCKER_LIST);
        let is_image = matches!(media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST);
        let kind = match (document.config, document.layers, document.manifests) {
            (None, None, Some(manifests)) if !is_image => ManifestKind::Index { manifests },
            (Some(config), layers, None) if !is_index => {
                ManifestKind::Image { config, layers: layers.unwrap_or_default() }
            }
            _ => return Err(InvalidManifest::Shapeless),
        };
        Ok(Self {
            bytes,
            digest,
            media_type,
            kind,
            subject: document.subject,
            artifact_type: document.artifact_type.filter(|kind| !kind.is_empty()),
            annotations: document.annotations.unwrap_or_default(),
        })
    }

    /// The exact bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the exact bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The media type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// What the manifest is.
    pub fn kind(&self) -> &ManifestKind {
        &self.kind
    }

    /// The manifest that this one refers to: a signature's image, say.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// The kind of artifact by which referrers are filtered: `artifactType`, else the config's
    /// media type for an image (distribution-spec, "Listing Referrers").
    pub fn artifact_type(&self) -> Option<&str> {
        match (&self.artifact_type, &self.kind) {
            (Some(kind), _) => Some(kind),
            (None, ManifestKind::Image { config, .. }) => Some(&config.media_type),
            (None, ManifestKind::Index { .. }) => None,
        }
    }

    /// Free text by key.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// The blobs that must be there before this manifest: config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, layers) = match &self.kind {
            ManifestKind::Image { config, layers } => (Some(config), layers.as_slice()),
            ManifestKind::Index { .. } => (None, &[][..]),
        };
        config.into_iter().chain(layers)
    }

    /// The manifests that must be there before this one: the entries of an index.
    pub fn children(&self) -> &[Descriptor] {
        match &self.kind {
            ManifestKind::Index { manifests } => manifests,
            ManifestKind::Image { .. } => &[],
        }
    }

    /// Describes this manifest to an index.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.bytes.len() as u64)
    }
}

/// A media type without its parameters: `; charset=utf-8` is no part of it.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or(media_type).trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn descriptor(media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": Digest::of(media_type.as_bytes()), "size": 3})
    }

    fn image() -> serde_json::Value {
        json!({"schemaVersion": 2, "config": descriptor("c"), "layers": [descriptor("l"), descriptor("m")]})
    }

    fn parse(declared: Option<&str>, document: &serde_json::Value) -> Result<Manifest, InvalidManifest> {
        Manifest::parse(declared, serde_json::to_vec_pretty(document).unwrap())
    }

    #[test]
    fn keeps_the_exact_bytes_and_lists_what_must_be_there_first() {
        let manifest = parse(None, &image()).unwrap();
        assert_eq!(manifest.digest(), Digest::of(manifest.bytes()));
        assert_eq!(manifest.media_type(), OCI_MANIFEST);
        assert_eq!(manifest.blobs().count(), 3);
        let index = parse(
            Some("application/vnd.oci.image.index.v1+json; charset=utf-8"),
            &json!({"manifests": [descriptor(OCI_MANIFEST)]}),
        )
        .unwrap();
        assert_eq!((index.media_type(), index.children().len(), index.blobs().count()), (OCI_INDEX, 1, 0));
    }

    #[test]
    fn refuses_what_contradicts_itself() {
        let typed = |media_type: &str| {
            let mut document = image();
            document["mediaType"] = media_type.into();
            document
        };
        let mut both = image();
        both["manifests"] = json!([]);
        assert!(matches!(parse(Some(DOCKER_MANIFEST), &typed(OCI_MANIFEST)), Err(InvalidManifest::MediaType { .. })));
        assert_eq!(parse(None, &typed(OCI_INDEX)), Err(InvalidManifest::Shapeless));
        assert_eq!(parse(None, &both), Err(InvalidManifest::Shapeless));
        assert_eq!(parse(None, &json!({"schemaVersion": 1, "fsLayers": []})), Err(InvalidManifest::Schema1));
        assert!(matches!(
            parse(None, &json!({"config": {"digest": "sha256:../../x", "size": 1}})),
            Err(InvalidManifest::Json(_))
        ));
        assert!(matches!(Manifest::parse(None, vec![b' '; MANIFEST_LIMIT + 1]), Err(InvalidManifest::TooLarge)));
        assert!(matches!(Manifest::parse(None, b"[".repeat(100_000)), Err(InvalidManifest::Json(_))));
    }

    #[test]
    fn artifact_type_falls_back_to_the_config() {
        assert_eq!(parse(None, &image()).unwrap().artifact_type(), Some("c"));
        let mut document = image();
        document["artifactType"] = "application/spdx+json".into();
        assert_eq!(parse(None, &document).unwrap().artifact_type(), Some("application/spdx+json"));
    }
}
