//! build --check: what in the Dockerfile is probably not meant. Nothing is built.

use std::path::Path;

use builder::Error;
use builder::call::Lint;
use builder::check::{self, Around, Finding};
use builder::dockerfile::Source;

use super::build::{self, Job};
use super::call::{Bases, json};
use super::request::{self, Loaded};
use crate::args::BuildArgs;
use crate::args::build::Format;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::terminal::{out, tell};

/// Prints the findings of all stages, or of those that `--target` needs. Fails if there are any.
pub fn run(args: &BuildArgs, job: &Job, data: &Path) -> Outcome<()> {
    let call = args.call();
    let loaded = request::read_or_tell(job, data, &|error| {
        let (source, findings) = (error.dockerfile().clone(), Vec::new());
        Found { source, findings, broken: Some(error.clone().into()) }.print(call.format)
    })?;
    let found = look(args, &loaded)?;
    found.print(call.format)?;
    if let Some(error) = &found.broken {
        return Err(build::told(error));
    }
    match found.findings.len() {
        0 => {
            tell("check: nothing found");
            Ok(())
        }
        number if call.ignore_status => {
            tell(&format!("check: {}", counted(number)));
            Ok(())
        }
        number => Err(Failure::new(Exit::Failed, format!("the check found {}", counted(number)))),
    }
}

fn counted(findings: usize) -> String {
    if findings == 1 { "1 problem".to_owned() } else { format!("{findings} problems") }
}

/// What a check comes to.
struct Found {
    source: Source,
    findings: Vec<Finding>,
    /// Why the Dockerfile cannot be built.
    broken: Option<Error>,
}

fn look(args: &BuildArgs, loaded: &Loaded) -> Outcome<Found> {
    let request = &loaded.request;
    let options = request.plan_options();
    let file = &request.dockerfile;
    let bases = Bases::open(args, loaded, &options)?;
    let base = |reference: &_, platform: &_| bases.config(reference, platform);
    let mut found = Found { source: file.source.clone(), findings: Vec::new(), broken: None };
    let mut all = || -> Result<(), Error> {
        let outline = options.target.as_ref().map(|_| builder::plan::outline(file, &options)).transpose()?;
        let around = Around { outline: outline.as_ref(), ignore: request.context.ignore(), base: &base };
        found.findings = check::check(file, &options, &around)?.findings;
        Ok(check::evaluate(file, &options, &base)?)
    };
    found.broken = all().err();
    Ok(found)
}

impl Found {
    fn print(&self, format: Format) -> Outcome<()> {
        match format {
            Format::Json => out(&json(&Lint::new(&self.source, &self.findings, self.broken.as_ref()))?),
            Format::Text if self.findings.is_empty() => {}
            Format::Text => {
                let shown = self.findings.iter().map(|finding| self.source.at(finding.span, finding).to_string());
                out(&shown.collect::<Vec<String>>().join("\n\n"));
            }
        }
        Ok(())
    }
}
