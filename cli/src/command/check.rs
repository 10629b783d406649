//! build --check: what in the Dockerfile is probably not meant. Nothing is built.

use std::cell::RefCell;
use std::collections::BTreeMap;

use builder::build::BaseImages;
use builder::check::{self, Around};
use builder::config::ImageConfig;
use builder::plan::context_name;
use oci::{Platform, Reference};

use super::build::{self, Job};
use super::request;
use crate::args::BuildArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::images::Images;
use crate::settings;
use crate::terminal::{out, tell};

/// Prints the findings of all stages, or of those that `--target` needs. Fails if there are any.
pub fn run(args: &BuildArgs) -> Outcome<()> {
    let data = settings::data_directory(&args.store)?;
    let loaded = request::read(&Job::new(args, Vec::new())?, &data)?;
    let request = &loaded.request;
    let options = request.plan_options();
    let file = &request.dockerfile;
    let runtime = crate::runtime()?;
    let local = settings::local_store(&data)?;
    let (_interrupt, interrupted) = tokio::sync::watch::channel(None); // Ctrl-C just ends us: nothing is half done
    let images =
        Images::new(runtime.handle().clone(), settings::client(&args.registry)?, local, args.pull, interrupted)
            .with_layouts(loaded.layouts.clone());
    let known = RefCell::new(BTreeMap::new());
    let base = |reference: &Reference, platform: &Platform| {
        // The rules look at what FROM says; a --build-context of that name stands for it.
        let reference = options.images.get(&context_name(&reference.to_string())).unwrap_or(reference);
        let key = (reference.clone(), platform.to_string());
        known.borrow_mut().entry(key).or_insert_with(|| base(&images, reference, platform)).clone()
    };

    let outline = match &options.target {
        Some(_) => Some(builder::plan::outline(file, &options).map_err(|error| build::told(&error.into()))?),
        None => None,
    };
    let around = Around { outline: outline.as_ref(), ignore: request.context.ignore(), base: &base };
    let report = check::check(file, &options, &around).map_err(|error| build::told(&error.into()))?;
    let shown: Vec<String> =
        report.findings.iter().map(|finding| file.source.at(finding.span, finding).to_string()).collect();
    if !shown.is_empty() {
        out(&shown.join("\n\n"));
    }
    check::evaluate(file, &options, &base).map_err(|error| build::told(&error.into()))?;
    match shown.len() {
        0 => {
            tell("check: nothing found");
            Ok(())
        }
        1 => Err(Failure::new(Exit::Failed, "the check found 1 problem")),
        many => Err(Failure::new(Exit::Failed, format!("the check found {many} problems"))),
    }
}

/// The config of a base image. A check does without one that cannot be had; it only knows less.
fn base(images: &Images, reference: &Reference, platform: &Platform) -> Option<ImageConfig> {
    let found = images.resolve(reference, platform).map_err(|error| error.to_string());
    match found.and_then(|image| image.parts().map_err(|error| error.to_string())) {
        Ok((config, _)) => Some(config),
        Err(why) => {
            tell(&format!("note: {reference} cannot be had, so its variables are not known: {why}"));
            None
        }
    }
}
