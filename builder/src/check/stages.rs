//! The stages, each with what it starts from; their instructions are checked in `instructions`.

use std::collections::{BTreeSet, HashMap};

use oci::{Platform, Reference};

use super::instructions::Walk;
use super::state::States;
use super::words::{self, Named};
use super::{Around, Rule, Sink};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{self, Dockerfile, Instruction, Stage};
use crate::plan::{Options, Scope, StageId};

pub(super) fn check(file: &Dockerfile, options: &Options, globals: &Scope, around: &Around<'_>, sink: &mut Sink<'_>) {
    let legacy = file.warnings.iter().filter(|warning| warning.rule == Rule::LegacyKeyValueFormat.name());
    let shared = Shared {
        file,
        options,
        globals,
        around,
        elsewhere: variables(file),
        legacy: legacy.map(|warning| warning.span.first).collect(),
    };
    let mut stages = Stages { shared: &shared, states: States::default(), images: HashMap::new() };
    let mut earlier: HashMap<&str, Option<usize>> = HashMap::new();
    for (index, stage) in file.stages.iter().enumerate() {
        let is_needed = around.outline.is_none_or(|outline| outline.stage(StageId(index)).is_some());
        let state = is_needed.then(|| stages.stage(stage, &earlier, sink));
        if let Some(name) = &stage.name {
            earlier.insert(name, state);
        }
    }
}

/// What does not change from stage to stage.
pub(super) struct Shared<'a> {
    pub file: &'a Dockerfile,
    pub options: &'a Options,
    pub globals: &'a Scope,
    pub around: &'a Around<'a>,
    /// Every name that some ARG or ENV of the file has.
    pub elsewhere: BTreeSet<&'a str>,
    /// The lines of ENV and LABEL in their old form.
    pub legacy: BTreeSet<usize>,
}

fn variables(file: &Dockerfile) -> BTreeSet<&str> {
    let globals = file.globals.iter().flat_map(|node| &node.value).map(|argument| argument.name.as_str());
    let nodes = file.stages.iter().flat_map(|stage| &stage.instructions);
    let own = nodes.flat_map(|node| match &node.value {
        Instruction::Arg(arguments) => arguments.iter().map(|argument| argument.name.as_str()).collect(),
        Instruction::Env(pairs) => pairs.iter().map(|pair| pair.name.as_str()).collect(),
        _ => Vec::new(),
    });
    globals.chain(own).collect()
}

struct Stages<'a> {
    shared: &'a Shared<'a>,
    states: States,
    /// Images that were asked for, each once.
    images: HashMap<(Reference, String), usize>,
}

impl Stages<'_> {
    /// Checks one stage; gives what it leaves for those after it.
    fn stage(&mut self, stage: &Stage, earlier: &HashMap<&str, Option<usize>>, sink: &mut Sink<'_>) -> usize {
        let base = self.base(stage, earlier, sink);
        let triggers = self.states.at(base).triggers.clone();
        let state = self.states.child(base);
        let mut walk = Walk::new(self.shared, &mut self.states, state, sink);
        for trigger in triggers {
            // One that cannot be read is told by the planner.
            if let Ok(node) = dockerfile::parse_trigger(&trigger, &self.shared.file.source, stage.span) {
                walk.instruction(&node);
            }
        }
        for node in &stage.instructions {
            walk.instruction(node);
        }
        state
    }

    /// The state that a stage starts from, by the planner's rules for names.
    fn base(&mut self, stage: &Stage, earlier: &HashMap<&str, Option<usize>>, sink: &mut Sink<'_>) -> usize {
        let Shared { file, options, .. } = self.shared;
        let is_context = |name: &str| options.contexts.contains(name);
        let Some(base) = self.expand(&stage.base, file.escape) else { return self.states.image(None) };
        if stage.name.as_deref().is_some_and(is_context) {
            return self.states.scratch();
        }
        if let Some(state) = earlier.get(base.to_lowercase().as_str()) {
            return state.unwrap_or_else(|| self.states.image(None));
        }
        match base.parse::<Reference>() {
            _ if base == "scratch" || is_context(&base) => self.states.scratch(), // files have no variables
            Ok(reference) => self.image(stage, &base, reference, sink),
            _ => self.states.image(None),
        }
    }

    fn image(&mut self, stage: &Stage, written: &str, reference: Reference, sink: &mut Sink<'_>) -> usize {
        let Shared { file, options, around, .. } = self.shared;
        let asked = stage.platform.as_ref().and_then(|platform| self.expand(platform, file.escape));
        let expected: Platform =
            asked.and_then(|text| text.parse().ok()).unwrap_or_else(|| options.target_platform.clone());
        let key = (reference, expected.to_string());
        let state = match self.images.get(&key) {
            Some(state) => *state,
            None => {
                let config = (around.base)(&key.0, &expected);
                let state = self.states.image(config.as_ref());
                self.images.insert(key, state);
                state
            }
        };
        if let Some(actual) = &self.states.at(state).platform
            && (&actual.os, &actual.architecture) != (&expected.os, &expected.architecture)
        {
            let (actual, expected) = (actual.to_string(), expected.to_string());
            let message = format!(
                "Base image {written} was pulled with platform {actual:?}, expected {expected:?} for current build"
            );
            sink.add(Rule::InvalidBaseImagePlatform, stage.span, message);
        }
        state
    }

    fn expand(&self, text: &str, escape: char) -> Option<String> {
        let lookup = |name: &str| self.shared.globals.value(name).map(str::to_owned);
        words::expand(Style::new(escape), text, &lookup, &mut Named::default())
    }
}
