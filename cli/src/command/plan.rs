//! build --plan: what a build would do, and why. Nothing is run or written, and nothing fetched but manifests and what
//! shared caches say of layers.

use std::fmt::Write as _;
use std::path::Path;

use builder::Workshop;
use builder::build::{Fate, Survey, survey};
use builder::cache::Cache;
use builder::sandbox::Cancel;
use content::Disk;
use oci::Platform;

use super::build::{self, Job};
use super::request;
use crate::exchange::Exchange;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::images::Images;
use crate::settings;
use crate::terminal::{bytes, out};

/// Prints the plan, for each platform.
pub fn run(job: &Job, exchange: &Exchange, data: &Path, local: &Disk) -> Outcome<()> {
    let mut loaded = request::read(job, data)?;
    let cache = Cache::open(&data.join("build")).map_err(|error| Failure::io(error.to_string(), &error.source))?;
    let cancel = Cancel::new().map_err(|error| Failure::because(Exit::Bug, "cannot prepare the plan", &error))?;
    let runtime = crate::runtime()?;
    let client = settings::client(&job.registry)?;
    let (_interrupt, interrupted) = tokio::sync::watch::channel(None); // Ctrl-C just ends us: nothing is half done
    let images = Images::new(runtime.handle().clone(), client.clone(), local.clone(), job.pull, interrupted)
        .with_layouts(std::mem::take(&mut loaded.layouts));
    let workshop =
        Workshop { store: local, cache: &cache, images: &images, sandbox: None, events: &|_| {}, cancel: &cancel };
    let asked: Vec<Option<Platform>> = match job.platforms.as_slice() {
        [] => vec![None],
        platforms => platforms.iter().cloned().map(Some).collect(),
    };
    for platform in asked {
        if let Some(platform) = platform {
            loaded.request.options.target_platform = platform;
        }
        loaded.request.imports = runtime.block_on(exchange.import(&client, &loaded.request.options.target_platform));
        let survey = survey(&loaded.request, &workshop).map_err(|error| build::told(&error))?;
        out(&shown(&survey, &loaded.request.options.target_platform));
    }
    Ok(())
}

fn shown(survey: &Survey, platform: &Platform) -> String {
    let mut text = format!("plan for {platform}\n");
    for (reference, digest) in &survey.bases {
        let _ = writeln!(text, "base    {reference} is {digest}"); // a string takes everything
    }
    for step in &survey.steps {
        let label = &step.label;
        let stage = if label.stage.is_empty() { String::new() } else { format!("{} ", label.stage) };
        let fate = match step.fate {
            Fate::Cached(size) => format!("cached  {:>9}", bytes(size)),
            Fate::New { reads: 0 } => "do               ".to_owned(),
            Fate::New { reads } => format!("do      {:>9}", bytes(reads)),
            Fate::Waits => "wait             ".to_owned(),
            Fate::Spared => "spare            ".to_owned(),
        };
        let title = label.title.lines().next().unwrap_or_default();
        let _ = writeln!(text, "{fate}  [{stage}{}/{}] {title}", label.number, label.total);
    }
    if !survey.skipped.is_empty() {
        let _ = writeln!(text, "skip    {}: the target does not need it", survey.skipped.join(", "));
    }
    let count = |wanted: fn(&Fate) -> bool| survey.steps.iter().filter(|step| wanted(&step.fate)).count();
    let cached = count(|fate| matches!(fate, Fate::Cached(_)));
    let waiting = count(|fate| matches!(fate, Fate::Waits));
    let spared = count(|fate| matches!(fate, Fate::Spared));
    let _ = write!(
        text,
        "steps   {} in all: {cached} cached, {} to do, {waiting} that depend on those",
        survey.steps.len(),
        survey.steps.len() - cached - waiting - spared
    );
    if spared > 0 {
        let _ = write!(text, ", {spared} that nobody needs as what is copied from them is cached");
    }
    text.push('\n');
    let _ = write!(text, "fetch   {} layers, {}", survey.fetch.len(), bytes(survey.fetch.values().sum()));
    text
}
