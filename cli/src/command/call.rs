//! build --call: what is asked about a Dockerfile in place of building it. Nothing is built.

use std::cell::RefCell;
use std::collections::BTreeMap;

use builder::build::BaseImages;
use builder::call;
use builder::config::ImageConfig;
use builder::plan::{Options, context_name};
use oci::{Platform, Reference};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::build::{self, Job};
use super::{check, request};
use crate::args::BuildArgs;
use crate::args::build::{Format, Method};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::images::Images;
use crate::settings;
use crate::terminal::{out, tell};

/// Answers what `--call` asks, on stdout.
pub fn run(args: &BuildArgs) -> Outcome<()> {
    let call = args.call();
    let data = settings::data_directory(&args.store)?;
    let job = Job::new(args, Vec::new())?;
    if call.method == Method::Check {
        return check::run(args, &job, &data);
    }
    let loaded = request::read(&job, &data)?;
    let file = &loaded.request.dockerfile;
    if call.method == Method::Targets {
        let targets = call::targets(file);
        return answer(call.format, &targets, &targets.to_string());
    }
    let options = loaded.request.plan_options();
    let bases = Bases::open(args, &loaded, &options)?;
    let outline = call::outline(file, &options, &|reference, platform| bases.config(reference, platform))
        .map_err(|error| build::told(&error.into()))?;
    answer(call.format, &outline, &outline.to_string())
}

/// Prints an answer: the text as it is, or the document.
fn answer(format: Format, document: &impl Serialize, text: &str) -> Outcome<()> {
    match format {
        Format::Text => out(text.trim_end_matches('\n')),
        Format::Json => out(&json(document)?),
    }
    Ok(())
}

/// A document, for people to read too.
pub fn json(document: &impl Serialize) -> Outcome<String> {
    serde_json::to_string_pretty(document)
        .map_err(|error| Failure::because(Exit::Bug, "cannot write the answer as JSON", &error))
}

/// The configs of base images, each asked for once.
pub struct Bases<'a> {
    images: Images,
    options: &'a Options,
    known: RefCell<BTreeMap<(Reference, String), Option<ImageConfig>>>,
    _runtime: Runtime,
    _interrupt: watch::Sender<Option<Exit>>, // Ctrl-C just ends us: nothing is half done
}

impl<'a> Bases<'a> {
    /// Of the local store and of registries, with the layouts that the request names.
    pub fn open(args: &BuildArgs, loaded: &request::Loaded, options: &'a Options) -> Outcome<Self> {
        let runtime = crate::runtime()?;
        let local = settings::local_store(&settings::data_directory(&args.store)?)?;
        let (interrupt, interrupted) = watch::channel(None);
        let images =
            Images::new(runtime.handle().clone(), settings::client(&args.registry)?, local, args.pull, interrupted)
                .with_layouts(loaded.layouts.clone());
        Ok(Self { images, options, known: RefCell::default(), _runtime: runtime, _interrupt: interrupt })
    }

    /// The config of a base image. An answer does without one that cannot be had; it only knows less.
    pub fn config(&self, reference: &Reference, platform: &Platform) -> Option<ImageConfig> {
        // The rules look at what FROM says; a --build-context of that name stands for it.
        let reference = self.options.images.get(&context_name(&reference.to_string())).unwrap_or(reference);
        let key = (reference.clone(), platform.to_string());
        self.known.borrow_mut().entry(key).or_insert_with(|| self.ask(reference, platform)).clone()
    }

    fn ask(&self, reference: &Reference, platform: &Platform) -> Option<ImageConfig> {
        let found = self.images.resolve(reference, platform).map_err(|error| error.to_string());
        match found.and_then(|image| image.parts().map_err(|error| error.to_string())) {
            Ok((config, _)) => Some(config),
            Err(why) => {
                tell(&format!("note: {reference} cannot be had, so its variables are not known: {why}"));
                None
            }
        }
    }
}
