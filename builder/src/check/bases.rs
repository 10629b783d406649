//! FROM: the variables in it, and `--platform`.

use std::collections::BTreeSet;

use oci::{Platform, Reference};

use super::words::{self, Named};
use super::{Rule, Sink};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{Dockerfile, Stage};
use crate::plan::{self, Options, Scope};

const TARGET: &str = "TARGETPLATFORM";

pub(super) fn check(file: &Dockerfile, options: &Options, globals: &Scope, sink: &mut Sink<'_>) {
    let declared = file.globals.iter().flat_map(|node| &node.value).map(|argument| argument.name.as_str());
    let known: BTreeSet<&str> = globals.pairs().iter().map(|(name, _)| name.as_str()).chain(declared).collect();
    let lookup = |name: &str| globals.value(name).map(str::to_owned);
    for stage in &file.stages {
        let style = Style::new(file.escape);
        let mut named = Named::default();
        words::expand(style, &stage.base, &lookup, &mut named);
        undefined(stage, &named, &known, sink);
        if let Some(platform) = &stage.platform {
            let mut named = Named::default();
            let expanded = words::expand(style, platform, &lookup, &mut named).unwrap_or_default();
            undefined(stage, &named, &known, sink);
            redundant(stage, platform, &named, sink, globals.value(TARGET) == Some(&expanded));
            constant(stage, &named, &expanded, sink);
        }
    }
    defaults(file, options, sink);
}

fn undefined(stage: &Stage, named: &Named, known: &BTreeSet<&str>, sink: &mut Sink<'_>) {
    for name in named.unset.iter().filter(|name| !known.contains(name.as_str())) {
        let meant = words::suggestion(words::meant(name, known.iter().copied()), "");
        let message = format!("FROM argument '{name}' is not declared{meant}");
        sink.add(Rule::UndefinedArgInFrom, stage.span, message);
    }
}

fn redundant(stage: &Stage, platform: &str, named: &Named, sink: &mut Sink<'_>, is_target: bool) {
    let only = named.unset.is_empty() && named.set.len() == 1 && named.set.contains(TARGET);
    if only && is_target {
        let message =
            format!("Setting platform to predefined {platform} in FROM is redundant as this is the default behavior");
        sink.add(Rule::RedundantTargetPlatform, stage.span, message);
    }
}

/// A stage whose name says its platform means it.
fn constant(stage: &Stage, named: &Named, expanded: &str, sink: &mut Sink<'_>) {
    let Ok(platform) = expanded.parse::<Platform>() else { return };
    let name = stage.name.as_deref().unwrap_or_default();
    let says_so = name.contains(&platform.os) || name.contains(&platform.architecture);
    if named.set.is_empty() && named.unset.is_empty() && !says_so {
        let message = format!("FROM --platform flag should not use constant value {expanded:?}");
        sink.add(Rule::FromPlatformFlagConstDisallowed, stage.span, message);
    }
}

/// The base must have a name without any `--build-arg` too.
fn defaults(file: &Dockerfile, options: &Options, sink: &mut Sink<'_>) {
    let bare = Options { build_args: Default::default(), ..options.clone() };
    let Ok(globals) = plan::globals(file, &bare) else { return };
    for stage in &file.stages {
        let mut named = Named::default();
        let lookup = |name: &str| globals.value(name).map(str::to_owned);
        let Some(base) = words::expand(Style::new(file.escape), &stage.base, &lookup, &mut named) else { continue };
        let has_variables = !named.set.is_empty() || !named.unset.is_empty();
        if has_variables && base.parse::<Reference>().is_err() {
            let message = format!("Default value for ARG {} results in empty or invalid base image name", stage.base);
            sink.add(Rule::InvalidDefaultArgInFrom, stage.span, message);
        }
    }
}
