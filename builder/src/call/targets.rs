//! `--call=targets`: the stages of a Dockerfile, as they are written.

use std::fmt;

use serde::Serialize;

use super::location::Location;
use super::{encoded, table};
use crate::check::description;
use crate::dockerfile::Dockerfile;

/// All stages. It prints as BuildKit's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// They, in the order of the file.
    pub targets: Vec<Target>,
    sources: [String; 1],
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its name in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is the one that is built if none is named.
    #[serde(rename = "default", skip_serializing_if = "std::ops::Not::not")]
    pub is_default: bool,
    /// What the comment above it says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it starts from, variables not expanded.
    pub base: String,
    /// `--platform`, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Where its FROM stands.
    pub location: Location,
}

/// Lists the stages.
pub fn targets(file: &Dockerfile) -> Targets {
    let last = file.stages.len().saturating_sub(1);
    let targets = file.stages.iter().enumerate().map(|(number, stage)| Target {
        name: stage.name.clone(),
        is_default: number == last,
        description: stage.name.as_deref().and_then(|name| description(file, stage.span, name)),
        base: stage.base.clone(),
        platform: stage.platform.clone().filter(|platform| !platform.is_empty()),
        location: stage.span.into(),
    });
    Targets { targets: targets.collect(), sources: [encoded(&file.source)] }
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.targets.iter().map(shown).collect();
        let described = |target: &'_ Target| target.description.clone().unwrap_or_default();
        let descriptions: Vec<String> = self.targets.iter().map(described).collect();
        let own = names.iter().zip(&descriptions).map(|(name, description)| [name.as_str(), description.as_str()]);
        let rows: Vec<[&str; 2]> = std::iter::once(["TARGET", "DESCRIPTION"]).chain(own).collect();
        f.write_str(&table::table(&rows, 1))
    }
}

fn shown(target: &Target) -> String {
    match (&target.name, target.is_default) {
        (Some(name), true) => format!("{name} (default)"),
        (None, true) => "(default)".to_owned(),
        (name, false) => name.clone().unwrap_or_default(),
    }
}
