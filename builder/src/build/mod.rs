//! Builds an image: stage by stage, step by step, each step taken from the cache or done once.
//!
//! ```text
//! base      the images that stages start from
//! check     what is legal and probably not meant, before the first step
//! steps     one stage: its plan, its steps, what they made
//! remote    ADD from elsewhere          tarball  a context that is a tar
//! transfer  COPY and ADD       command   RUN       mounts   RUN --mount (cache_mounts: its caches)       workdir   WORKDIR
//! key       the name of a step's result         foresight  that name, before the stages that it copies from are there
//! made      what steps made: looked up, made once, remembered
//! options   what every RUN gets                 agent     the SSH agent, lent
//! import    caches of others
//! room      the directories of a running step       ground    what it stands on: an overlay, or a plain tree
//! turns     which stages are built at the same time     alone   what one thread does for all
//! layers    blobs, indexes, unpacked trees and contents of layers, when they are needed
//! image     config and manifest of the result
//! survey    all of that looked up and nothing done
//! ```
//!
//! What a stage is for the steps after it, is what its layers say, and what its steps have left beside them
//! ([`Residue`](crate::layer::Residue): the touched time of a directory, a hard link to a file of a lower layer), which
//! caches keep with the layers: the same input gives the same image whatever was cached. BuildKit goes on with the
//! directory in which a step ran, and loses these when a layer comes from a remote cache.
//!
//! What to do was decided by [`plan`](crate::plan); how layers come about is known to
//! [`layer`](crate::layer), [`copy`](crate::copy) and [`sandbox`](crate::sandbox).

mod agent;
mod alone;
mod base;
mod cache_mounts;
mod check;
mod command;
mod error;
mod foresight;
mod ground;
mod image;
mod import;
mod kept;
mod key;
mod layers;
mod made;
mod mounts;
mod options;
mod remote;
mod room;
mod steps;
mod survey;
mod tarball;
mod transfer;
mod turns;
mod workdir;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use content::Disk;
use oci::{DiffId, Digest, Manifest, Reference};

pub use base::{BaseImages, Resolved, Unusable};
pub use error::{Error, StepProblem};
pub use image::{Form, MediaTypes, index};
pub use import::{Blobs, Import};
pub use options::RunOptions;
pub use survey::{Fate, Survey, Surveyed, survey};
pub use tarball::Tarball;

use crate::cache::mounts as mounts_of_others;
use crate::cache::{Cache, Record};
use crate::dockerfile::{Dockerfile, Instruction};
use crate::event::{Event, Events};
use crate::ignore::Patterns;
use crate::layer::{Compression, pipeline};
use crate::output::Output;
use crate::plan;
use crate::sandbox::{Cancel, Entered};

/// A directory that files are copied from, and what of it does not count.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The directory.
    pub path: PathBuf,
    /// What its ignore file says.
    pub ignore: Patterns,
}

/// Where files are copied from: the build context, or a named one.
#[derive(Debug, Clone)]
pub enum Files {
    /// A directory. Its files belong to root, whoever owns them here.
    Directory(Directory),
    /// A tar, read once. Its files belong to whom it says, and no ignore file counts, as in BuildKit.
    Archive(Arc<Tarball>),
}

impl From<Directory> for Files {
    fn from(directory: Directory) -> Self {
        Self::Directory(directory)
    }
}

impl Files {
    /// What does not count.
    pub fn ignore(&self) -> &Patterns {
        static NOTHING: Patterns = Patterns::none();
        match self {
            Self::Directory(directory) => &directory.ignore,
            Self::Archive(_) => &NOTHING,
        }
    }

    /// What people know them by.
    pub fn shown(&self) -> String {
        match self {
            Self::Directory(directory) => directory.path.display().to_string(),
            Self::Archive(archive) => archive.name().to_owned(),
        }
    }
}

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Request {
    /// The Dockerfile.
    pub dockerfile: Dockerfile,
    /// Target, build arguments, platform. The names of its contexts are taken from `contexts`.
    pub options: plan::Options,
    /// The build context.
    pub context: Files,
    /// `--build-context` of files, by [`plan::context_name`].
    pub contexts: BTreeMap<String, Files>,
    /// `--build-context` of images, likewise.
    pub images: BTreeMap<String, Reference>,
    /// Does every step anew.
    pub no_cache: bool,
    /// Caches of others, the first ones first.
    pub imports: Vec<Arc<Import>>,
    /// Cache mounts of others, the first ones first: a mount that is not here yet begins with theirs.
    pub mount_imports: Vec<mounts_of_others::Import>,
    /// Whether the image's config tells how its layers came about, for builds that use the image as a cache.
    pub inline_cache: bool,
    /// How many stages are worked at at the same time, at most.
    pub jobs: NonZeroUsize,
    /// `--no-cache-filter`: does the steps of these stages anew.
    pub no_cache_stages: Vec<String>,
    /// How layers are compressed.
    pub compression: Compression,
    /// What commands get beside what the Dockerfile says.
    pub run: RunOptions,
    /// The names of the image in the local store.
    pub names: Vec<Reference>,
    /// Where else the image is written.
    pub outputs: Vec<Output>,
    /// How the manifest is written.
    pub form: Form,
}

impl Request {
    /// Builds the last stage for this machine, with the cache, into the store only.
    pub fn new(dockerfile: Dockerfile, context: impl Into<Files>) -> Self {
        Self {
            dockerfile,
            options: plan::Options::new(oci::Platform::of_this_machine()),
            context: context.into(),
            contexts: BTreeMap::new(),
            images: BTreeMap::new(),
            no_cache: false,
            imports: Vec::new(),
            mount_imports: Vec::new(),
            inline_cache: false,
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            no_cache_stages: Vec::new(),
            compression: Compression::default(),
            run: RunOptions::default(),
            names: Vec::new(),
            outputs: Vec::new(),
            form: Form::default(),
        }
    }

    /// The options with the names of the contexts.
    pub fn plan_options(&self) -> plan::Options {
        let contexts = self.contexts.keys().cloned().collect();
        plan::Options { contexts, images: self.images.clone(), ..self.options.clone() }
    }

    /// Whether the Dockerfile itself asks for a command to be run, so a sandbox is needed before any
    /// thread starts. A trigger of a base image may ask for one too; nobody knows that yet.
    ///
    /// # Errors
    /// If the Dockerfile makes no sense.
    pub fn runs_commands(&self) -> Result<bool, Error> {
        let outline = plan::outline(&self.dockerfile, &self.plan_options())?;
        let is_run = |instruction: &Instruction| match instruction {
            Instruction::Run(_) => true,
            Instruction::Onbuild(text) => text.get(..3).is_some_and(|name| name.eq_ignore_ascii_case("run")),
            _ => false,
        };
        let stages = outline.stages.iter().filter(|stage| !stage.replaced);
        let stages = stages.map(|stage| &self.dockerfile.stages[stage.id.0]);
        Ok(stages.flat_map(|stage| &stage.instructions).any(|node| is_run(&node.value)))
    }
}

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    /// Where blobs are kept, and the image in the end.
    pub store: &'a Disk,
    /// What earlier builds left.
    pub cache: &'a Cache,
    /// Where base images come from.
    pub images: &'a dyn BaseImages,
    /// Where commands run; entered with [`Cache::work`]. Not needed without RUN.
    pub sandbox: Option<&'a Entered>,
    /// Hears what happens.
    pub events: Events<'a>,
    /// Stops the build.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Workshop<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workshop").field("store", self.store).finish_non_exhaustive()
    }
}

/// Where a layer of the result came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerOrigin {
    /// The base image.
    Base,
    /// An earlier build.
    Cache,
    /// This build.
    Built,
}

/// A layer of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltLayer {
    /// Its blob.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Where it came from.
    pub origin: LayerOrigin,
}

/// What a step made.
#[derive(Debug, Clone)]
pub struct BuiltStep {
    /// Its name in caches.
    pub key: Digest,
    /// Its layer.
    pub record: Record,
    /// Whether the image has that layer.
    pub in_image: bool,
    /// Where the layer can be had, if it is not in the store.
    pub origin: Option<content::Origin>,
}

/// An image, built.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its manifest, which is in the store.
    pub manifest: Manifest,
    /// The digest of its config: what `docker build --iidfile` writes.
    pub image_id: Digest,
    /// Its config document.
    pub config: Vec<u8>,
    /// Its names in the store.
    pub names: Vec<Reference>,
    /// Its layers, lowest first.
    pub layers: Vec<BuiltLayer>,
    /// What every step made, in this build or an earlier one.
    pub steps: Vec<BuiltStep>,
    /// The cache mounts that steps have used, by their keys.
    pub mounts: BTreeMap<Digest, mounts_of_others::Used>,
    /// The layers of all stages, base images' included.
    pub seen: BTreeSet<DiffId>,
    /// How many steps were done.
    pub steps_done: usize,
    /// How many steps were found in the cache.
    pub steps_cached: usize,
}

impl Built {
    /// What `docker build --metadata-file` writes, as JSON.
    pub fn metadata(&self) -> serde_json::Value {
        let mut metadata = serde_json::json!({
            "containerimage.config.digest": self.image_id,
            "containerimage.descriptor": self.manifest.descriptor(),
            "containerimage.digest": self.manifest.digest(),
        });
        if !self.names.is_empty() {
            let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
            metadata["image.name"] = names.join(",").into();
        }
        metadata
    }
}

/// Builds an image into the store, and writes it where the request says.
///
/// # Errors
/// See [`Error`]. Whatever happens, no half image is named in the store, no half output remains, and no
/// process or mount.
pub fn build(request: &Request, workshop: &Workshop<'_>) -> Result<Built, Error> {
    if let Some(sandbox) = workshop.sandbox {
        room::sweep(&sandbox.steps);
        workshop.cache.sweep();
    }
    room::sweep(&workshop.cache.work());
    match build_with(request, workshop) {
        Err(Error::Step(step)) if matches!(step.problem(), StepProblem::Import { .. }) => {
            // A cache that does not keep its word is no cache.
            let message = format!("{}; the build goes on without the caches of --cache-from", step.problem());
            (workshop.events)(Event::Warning { rule: None, span: None, message });
            build_with(&Request { imports: Vec::new(), ..request.clone() }, workshop)
        }
        built => built,
    }
}

fn build_with(request: &Request, workshop: &Workshop<'_>) -> Result<Built, Error> {
    let options = request.plan_options();
    let outline = plan::outline(&request.dockerfile, &options)?;
    let epoch = epoch(request, &options, &outline)?;
    let layers = pipeline::Options { compression: request.compression, newest: epoch, ..pipeline::Options::default() };
    // A stage that fails stops those beside it, and not what the caller does with the same flag.
    let stop = workshop.cancel.child().map_err(|error| {
        let span = request.dockerfile.stages[outline.target.0].span;
        Error::Step(Box::new(request.dockerfile.source.at(span, error.into())))
    })?;
    let workshop = Workshop { cancel: &stop, ..*workshop };
    let mut builder = steps::Builder::new(request, options, outline, &workshop, layers);
    let built = builder.check().and_then(|()| builder.image());
    let kept = builder.keep_known();
    let built = built?;
    kept?;
    Ok(built)
}

/// SOURCE_DATE_EPOCH: the newest time that anything in the image may have.
fn epoch(request: &Request, options: &plan::Options, outline: &plan::Outline) -> Result<Option<i64>, Error> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let given = options.build_args.get(NAME).map(String::as_str).or_else(|| outline.globals.value(NAME));
    let Some(text) = given.filter(|text| !text.is_empty()) else { return Ok(None) };
    let source = &request.dockerfile.source;
    let span = request.dockerfile.stages[outline.target.0].span;
    let wrong = |_| plan::Error::from(source.at(span, plan::Problem::Epoch(text.to_owned())));
    Ok(Some(text.parse().map_err(wrong)?))
}
