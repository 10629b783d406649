//! The result: config and manifest put together, filed, named and written where it is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use oci::{Descriptor, Digest, Manifest, media_type};
use serde::Serialize;

use super::error::{Error, StepProblem};
use super::layers::{Chain, ChainContents, lock};
use super::made::Made;
use super::steps::{Builder, Finished};
use super::{Built, BuiltLayer, BuiltStep};
use crate::cache::Record;
use crate::cache::exchange::{self, Document, Step};
use crate::event::Event;
use crate::layer::entry::Kind;
use crate::layer::view::Node;
use crate::output::{self, Image, Output};

/// Which family of media types a manifest and what it names are written with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// Those of the OCI.
    #[default]
    Oci,
    /// Docker's own, which say the same.
    Docker,
}

/// How a manifest is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// Its media types.
    pub media_types: MediaTypes,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Compresses the layers of base images anew where they are compressed otherwise.
    pub force_compression: bool,
    /// Sees to it that every blob is in the store, also those that a registry could give later.
    pub whole: bool,
}

/// The manifest in the order in which BuildKit writes its fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ManifestDocument<'a> {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// An index, likewise.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexDocument<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// Puts images for several platforms together.
pub fn index(
    manifests: &[Descriptor],
    media_types: MediaTypes,
    annotations: &BTreeMap<String, String>,
) -> Result<Manifest, oci::InvalidManifest> {
    let media_type = match media_types {
        MediaTypes::Oci => media_type::OCI_INDEX,
        MediaTypes::Docker => media_type::DOCKER_LIST,
    };
    let document = IndexDocument { schema_version: 2, media_type, manifests, annotations };
    let json = serde_json::to_vec_pretty(&document).expect("a struct of texts and numbers is always JSON");
    Manifest::parse(Some(media_type), json)
}

impl Builder<'_> {
    /// Builds the target and makes an image of it.
    pub fn image(&mut self) -> Result<Built, Error> {
        let finished = self.target()?;
        let span = self.request.dockerfile.stages[self.outline.target.0].span;
        let mut config = config_of(&finished, self.layers.options.newest.map(|_| self.timestamp().to_string()));
        if self.request.inline_cache {
            config = self.with_inline_cache(&config, &finished.chain);
        }
        let form = &self.request.form;
        let mut chain = finished.chain.clone();
        if form.force_compression {
            chain = self.recompressed(&chain).map_err(|problem| self.at(span, problem))?;
        }
        let lazy = !form.whole && !self.request.outputs.iter().any(Output::needs_blobs);
        self.provide(&chain, lazy).map_err(|problem| self.at(span, problem))?;
        let store = self.workshop.store;
        let config_blob = store.put_bytes(&config)?;
        let manifest = manifest_of(&chain, &config, form)?;
        store.put_manifest(&manifest, None)?; // it has no name yet, so nobody takes it for finished
        for output in &self.request.outputs {
            self.export(output, &finished, &manifest)?;
        }
        for name in &self.request.names {
            store.put_manifest(&manifest, Some(name.to_string()))?;
        }
        let layers = chain.iter().zip(&finished.origins);
        let layer = |(link, origin): (&Arc<super::layers::Link>, &super::LayerOrigin)| BuiltLayer {
            digest: link.blob.digest,
            size: link.blob.size,
            origin: *origin,
        };
        Ok(Built {
            manifest,
            image_id: config_blob.digest(),
            config,
            names: self.request.names.clone(),
            layers: layers.map(layer).collect(),
            steps: lock(&self.shared.made).iter().map(|(key, made)| built_step(key, made, &finished.chain)).collect(),
            mounts: lock(&self.shared.mounts).clone(),
            seen: self.seen(),
            steps_done: self.shared.done.load(Ordering::Relaxed),
            steps_cached: self.shared.cached.load(Ordering::Relaxed),
        })
    }

    /// Adds to the config how the image's own layers came about.
    fn with_inline_cache(&self, config: &[u8], chain: &Chain) -> Vec<u8> {
        let in_chain = |record: &Record| chain.iter().any(|link| link.diff_id == record.diff_id);
        let used = self.now();
        let made = lock(&self.shared.made);
        let steps = made.iter().map(|(key, made)| (*key, made.record())).filter(|(_, record)| in_chain(record));
        let steps = steps.map(|(key, record)| (key, Step { record, used })).collect();
        let document = Document { steps, ..Document::default() };
        let with = || -> Option<Vec<u8>> {
            let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(config).ok()?;
            config.insert(exchange::INLINE_KEY.to_owned(), serde_json::to_value(&document).ok()?);
            serde_json::to_vec(&config).ok()
        };
        with().unwrap_or_else(|| config.to_vec()) // our own config is always an object
    }

    /// Layers of base images, compressed as our own are.
    fn recompressed(&mut self, chain: &Chain) -> Result<Chain, StepProblem> {
        let wanted = self.layers.options.compression.media_type();
        let mut all = Chain::new();
        for link in chain {
            if link.base.is_none() || layer_in(MediaTypes::Oci, &link.blob).media_type == wanted {
                all.push(link.clone());
                continue;
            }
            self.layers.check_cancelled()?;
            let key = super::key::Key::new("recompress", [link.diff_id.as_bytes()], &self.layers.options).finish();
            let made = self.remembered(key, |builder| builder.layers.recompress(link))?;
            all.push(Arc::new(made.into_link()));
        }
        Ok(all)
    }

    /// Sees to it that every blob is in the store, or that the store knows where to get it: layers of a
    /// base image that nobody looked into are never fetched if they can be had from a registry later.
    fn provide(&self, chain: &Chain, lazy: bool) -> Result<(), StepProblem> {
        for link in chain {
            let origin = link.origin();
            if let Some(origin) = origin {
                // Also for a layer that is here: a push to the same registry mounts it instead of sending it.
                self.workshop.store.remember_origin(&link.blob.digest, origin)?;
            }
            let is_here = self.workshop.store.blob_size(&link.blob.digest)?.is_some();
            if !(is_here || lazy && origin.is_some()) {
                drop(self.layers.blob(link)?);
            }
        }
        Ok(())
    }

    fn export(&self, output: &Output, finished: &Finished, manifest: &Manifest) -> Result<(), Error> {
        if output.needs_blobs() {
            let image = Image { store: self.workshop.store, manifest, names: &self.request.names };
            return Ok(output::write_image(output, &image)?);
        }
        let span = self.request.dockerfile.stages[self.outline.target.0].span;
        let at = |problem| self.at(span, problem);
        let view = self.layers.view(&finished.chain).map_err(at)?;
        // Before anything is written: a layer that cannot be had from a cache of others is made instead.
        let files = view.nodes().iter().filter(|node| matches!(node.entry.kind, Kind::File { size: 1.., .. }));
        for layer in files.map(|node| node.layer).collect::<BTreeSet<usize>>() {
            finished.chain.get(layer).map_or(Ok(()), |link| self.layers.prepare(link)).map_err(at)?;
        }
        let contents = ChainContents { layers: &self.layers, chain: &finished.chain };
        let open = |node: &Node| -> std::io::Result<Box<dyn Read + '_>> {
            crate::copy::Contents::open(&contents, node.layer, &node.origin)
        };
        let cancel = || self.workshop.cancel.is_cancelled();
        match output::write_tree(output, &view, &open, &cancel) {
            Err(output::Error::Cancelled) => Err(Error::Cancelled),
            result => {
                self.tell_left_out(&result?);
                Ok(())
            }
        }
    }

    fn tell_left_out(&self, devices: &[String]) {
        let Some(first) = devices.first() else { return };
        let more = devices.len() - 1;
        let rest = if more > 0 { format!(" and {more} more devices are") } else { " is".to_owned() };
        let message = format!("{first}{rest} left out of the directory: only root may make devices");
        self.event(Event::Warning { rule: None, span: None, message });
    }
}

fn built_step(key: &Digest, made: &Made, chain: &Chain) -> BuiltStep {
    let record = made.record();
    let in_image = chain.iter().any(|link| link.diff_id == record.diff_id);
    BuiltStep { key: *key, record, in_image, origin: made.origin().cloned() }
}

fn config_of(finished: &Finished, epoch: Option<String>) -> Vec<u8> {
    let mut config = finished.plan.config.clone();
    config.diff_ids = finished.chain.iter().map(|link| link.diff_id).collect();
    config.complete_history(&finished.times, &finished.titles, epoch);
    config.to_json()
}

fn manifest_of(chain: &Chain, config: &[u8], form: &Form) -> Result<Manifest, Error> {
    let (media_type, config_type) = match form.media_types {
        MediaTypes::Oci => (media_type::OCI_MANIFEST, media_type::OCI_CONFIG),
        MediaTypes::Docker => (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG),
    };
    let document = ManifestDocument {
        schema_version: 2,
        media_type,
        config: Descriptor::new(config_type, oci::Digest::of(config), config.len() as u64),
        layers: chain.iter().map(|link| layer_in(form.media_types, &link.blob)).collect(),
        annotations: &form.annotations,
    };
    let json = serde_json::to_vec_pretty(&document).expect("a struct of texts and numbers is always JSON");
    let place = "the new image".to_owned();
    Ok(Manifest::parse(Some(media_type), json).map_err(|source| content::Error::Manifest { place, source })?)
}

/// The types of layers in both families: OCI's and Docker's name.
const LAYER_TYPES: [(&str, &str); 5] = [
    (media_type::OCI_LAYER_GZIP, media_type::DOCKER_LAYER_GZIP),
    (media_type::OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar"),
    (media_type::OCI_LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
    ("application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar"),
];

/// A layer's descriptor with the family's name for its type, as one manifest has the types of one family.
fn layer_in(family: MediaTypes, blob: &Descriptor) -> Descriptor {
    let known = LAYER_TYPES.iter().find(|(oci, docker)| [*oci, *docker].contains(&blob.media_type.as_str()));
    let media_type = match (known, family) {
        (Some((oci, _)), MediaTypes::Oci) => oci,
        (Some((_, docker)), MediaTypes::Docker) => docker,
        (None, _) => blob.media_type.as_str(),
    };
    Descriptor { urls: blob.urls.clone(), ..Descriptor::new(media_type, blob.digest, blob.size) }
}
