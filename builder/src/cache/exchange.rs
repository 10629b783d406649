//! A build cache as others can have it: one document of what steps made, and the blobs that it names. It travels as an
//! OCI image manifest whose config is the document, so that every registry keeps the blobs as long as the cache, and
//! layers that an image has too are there once. Where it is kept, and how it gets there, is not known here.
//!
//! What is read was written by somebody else: records that name no layer of the manifest, or no kind of layer that is
//! known, do not exist. Whoever may write the cache decides what is found in it, as with every shared cache.

use std::collections::{BTreeMap, BTreeSet};

use oci::{Descriptor, DiffId, Digest, media_type};
use serde::{Deserialize, Serialize};

use super::Record;
use crate::layer::{Index, Residue};

/// The media type of the document; another format is another type.
pub const DOCUMENT_TYPE: &str = "application/vnd.lighter.cache.v1+json";

/// The media type of a layer's index, compressed.
pub const INDEX_TYPE: &str = "application/vnd.lighter.layer-index.v1+zstd";

/// Where an image config carries the document of its own layers.
pub const INLINE_KEY: &str = "com.lighter.cache.v1";

/// More steps than a pipeline has in months; the ones that were not used for longest go first.
pub const STEP_LIMIT: usize = 4000;

/// A step that was not used for so long, in seconds before the last use of any, is forgotten.
pub const AGE_LIMIT: i64 = 60 * 24 * 3600;

/// Largest document that is read, in bytes.
pub const DOCUMENT_LIMIT: usize = 16 << 20;

/// How much of [`DOCUMENT_LIMIT`] may be residues of steps ([`Residue`](crate::layer::Residue)), in bytes. Most steps
/// have none or a few hundred bytes; one that has more than all may have is not told to others.
const RESIDUES_LIMIT: usize = 4 << 20;

/// Largest index that is read, in bytes when it is compressed and when it is not.
const INDEX_LIMIT: u64 = 256 << 20;

/// How hard indexes are compressed: they are small, and sent often.
const INDEX_LEVEL: i32 = 9;

/// What steps made, and what is in layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// By the key of the step.
    #[serde(default)]
    pub steps: BTreeMap<Digest, Step>,
    /// Where the index of a layer is, also of base images' layers: whoever has them needs not look into the layers.
    #[serde(default)]
    pub indexes: BTreeMap<DiffId, Descriptor>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it made.
    #[serde(flatten)]
    pub record: Record,
    /// When it was made or found last, in seconds since 1970.
    pub used: i64,
}

impl Document {
    /// Reads a document whose blobs are `blobs`; what does not fit to them is left out. None if it is none.
    pub fn parse(bytes: &[u8], blobs: &[Descriptor]) -> Option<Self> {
        let mut document: Self = serde_json::from_slice(bytes).ok()?;
        let there: BTreeSet<(Digest, u64)> = blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
        let is_there = |blob: &Descriptor| there.contains(&(blob.digest, blob.size)) && blob.urls.is_empty();
        document.steps.retain(|_, step| is_there(&step.record.blob) && is_layer(&step.record.blob.media_type));
        document.indexes.retain(|_, index| is_there(index) && index.media_type == INDEX_TYPE);
        Some(document)
    }

    /// Takes in what another one knows. Of two results of one step the one that is here stays, as later steps were built
    /// upon it: two machines that know nothing of each other give their files different times.
    pub fn merge(&mut self, other: Self) {
        for (key, step) in other.steps {
            let used = step.used;
            let kept = self.steps.entry(key).or_insert(step);
            kept.used = kept.used.max(used);
        }
        for (layer, index) in other.indexes {
            self.indexes.entry(layer).or_insert(index);
        }
        self.shrink(STEP_LIMIT);
    }

    /// Whether everything that another one knows is known here, or newer.
    pub fn covers(&self, other: &Self) -> bool {
        self.steps.len() >= STEP_LIMIT
            || other.steps.iter().all(|(key, step)| self.steps.get(key).is_some_and(|ours| ours.used >= step.used))
    }

    fn shrink(&mut self, limit: usize) {
        let newest = self.steps.values().map(|step| step.used).max().unwrap_or_default();
        let before = self.steps.len();
        self.steps.retain(|_, step| step.used > newest.saturating_sub(AGE_LIMIT));
        let residue = |step: &Step| step.record.residue.as_ref().map_or(0, Residue::size);
        let residues: usize = self.steps.values().map(residue).sum();
        if self.steps.len() <= limit && self.steps.len() == before && residues <= RESIDUES_LIMIT {
            return;
        }
        let mut by_use: Vec<(i64, Digest, usize)> =
            self.steps.iter().map(|(key, step)| (step.used, *key, residue(step))).collect();
        by_use.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.to_string().cmp(&b.1.to_string())));
        let (mut kept, mut left) = (0, RESIDUES_LIMIT);
        for (_, key, size) in by_use {
            if kept < limit && size <= left {
                (kept, left) = (kept + 1, left - size);
            } else {
                self.steps.remove(&key);
            }
        }
        // Indexes of layers that no step makes are those of base images, which are few and shared.
        let made: BTreeSet<DiffId> = self.steps.values().map(|step| step.record.diff_id).collect();
        let bases = limit;
        let mut kept = 0;
        self.indexes.retain(|layer, _| {
            let is_base = !made.contains(layer);
            kept += usize::from(is_base);
            !is_base || kept <= bases
        });
    }

    /// Every blob that it names, each once.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let all = self.steps.values().map(|step| &step.record.blob).chain(self.indexes.values());
        let distinct: BTreeMap<String, &Descriptor> = all.map(|blob| (blob.digest.to_string(), blob)).collect();
        distinct.into_values().cloned().collect()
    }

    /// The bytes of the document.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a map of texts and numbers is always JSON")
    }

    /// The bytes of the manifest under which it travels.
    pub fn manifest(&self) -> Vec<u8> {
        let json = self.to_json();
        let config = Descriptor::new(DOCUMENT_TYPE, Digest::of(&json), json.len() as u64);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": config,
            "layers": self.blobs(),
        });
        serde_json::to_vec(&manifest).expect("a struct of texts and numbers is always JSON")
    }
}

/// The layer types that this builder writes and reads.
fn is_layer(media_type: &str) -> bool {
    [media_type::OCI_LAYER, media_type::OCI_LAYER_GZIP, media_type::OCI_LAYER_ZSTD, media_type::DOCKER_LAYER_GZIP]
        .contains(&media_type)
}

/// An index as it travels.
pub fn pack_index(index: &Index) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(&index.to_bytes(), INDEX_LEVEL)
}

/// Reads an index that has travelled.
pub fn unpack_index(from: impl std::io::Read) -> Option<Index> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let plain = zstd::stream::read::Decoder::new(from.take(INDEX_LIMIT)).ok()?;
    plain.take(INDEX_LIMIT).read_to_end(&mut bytes).ok()?;
    Index::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, used: i64) -> (Digest, Step) {
        let blob = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(name.as_bytes()), name.len() as u64);
        let diff_id = Digest::of(b"tar").to_string().parse().unwrap();
        (
            Digest::of(format!("key {name}").as_bytes()),
            Step { record: Record { diff_id, blob, created: String::new(), likeness: None, residue: None }, used },
        )
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_there_is_not() {
        let document = Document { steps: [step("a", 1), step("bb", 2)].into(), ..Document::default() };
        let blobs = document.blobs();
        assert_eq!(Document::parse(&document.to_json(), &blobs), Some(document.clone()));
        assert_eq!(Document::parse(&document.to_json(), &blobs[..1]).unwrap().steps.len(), 1);
        let wrong_size: Vec<_> = blobs.iter().map(|b| Descriptor::new("", b.digest, b.size + 1)).collect();
        assert!(Document::parse(&document.to_json(), &wrong_size).unwrap().steps.is_empty());
        assert_eq!(Document::parse(b"{\"steps\":3}", &[]), None);
        let mut odd = document;
        odd.steps.values_mut().for_each(|step| step.record.blob.media_type = "application/x-sh".into());
        assert!(Document::parse(&odd.to_json(), &blobs).unwrap().steps.is_empty());
    }

    #[test]
    fn documents_merge_whatever_comes_first() {
        let (a, b) = ([step("a", 5), step("b", 1)], [step("b", 9), step("c", 2)]);
        let document = |steps: [(Digest, Step); 2]| Document { steps: steps.into(), ..Document::default() };
        let (mut one, mut two) = (document(a.clone()), document(b.clone()));
        one.merge(document(b));
        two.merge(document(a));
        assert_eq!(one, two);
        assert_eq!(one.steps.len(), 3);
        assert!(one.covers(&two) && !document([step("a", 5), step("b", 1)]).covers(&one));
        one.shrink(1);
        assert_eq!(one.steps.values().map(|step| step.used).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn indexes_travel() {
        let mut builder = crate::layer::index::Builder::default();
        builder.push(crate::layer::Entry::new("a", crate::layer::Kind::Directory, 0o755));
        let index = builder.finish();
        assert_eq!(unpack_index(&*pack_index(&index).unwrap()), Some(index));
        assert_eq!(unpack_index(&b"nonsense"[..]), None);
    }
}
