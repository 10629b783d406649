//! Checks the Dockerfile before the first step: findings are warnings, or the end of the build.

use std::collections::BTreeMap;

use oci::{Platform, Reference};

use super::error::Error;
use super::steps::Builder;
use crate::check::{self, Around};
use crate::event::Event;
use crate::plan::Base;

impl Builder<'_> {
    /// Resolves the base images of all needed stages, which the build does anyway, and tells what was found.
    pub fn check(&mut self) -> Result<(), Error> {
        let mut images = BTreeMap::new();
        for stage in self.outline.stages.clone() {
            if let Base::Image(reference) = stage.base {
                let image = self.base(&reference, &stage.platform).map_err(|problem| self.at(stage.span, problem))?;
                images.insert((reference, stage.platform.to_string()), image);
            }
        }
        let base = |reference: &Reference, platform: &Platform| {
            images.get(&(reference.clone(), platform.to_string())).map(|image| image.config.clone())
        };
        let file = &self.request.dockerfile;
        let around = Around { outline: Some(&self.outline), ignore: self.request.context.ignore(), base: &base };
        let report = check::check(file, &self.options, &around)?;
        for finding in &report.findings {
            let (rule, message) = (Some(finding.rule.name()), finding.message.clone());
            self.event(Event::Warning { rule, span: Some(finding.span), message });
        }
        Ok(report.verdict(&file.source)?)
    }
}
