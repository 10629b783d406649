//! What an instruction sees of what came before it: variables, SHELL, WORKDIR, inherited from stage to
//! stage. States refer to the one they start from, so that a long chain of stages holds nothing twice.

use std::collections::{BTreeMap, BTreeSet};

use oci::Platform;

use crate::config::{DEFAULT_PATH, ImageConfig};

/// What is known at one point of a stage, or of a base image.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What it starts from.
    parent: Option<usize>,
    /// Variables that are set: ENV, and ARG with a value.
    variables: BTreeMap<String, String>,
    /// The names of every ARG, with a value or without.
    pub declared: BTreeSet<String>,
    /// Whether the base image is not known, so that other variables may be set.
    pub is_unknown: bool,
    /// Whether there is a SHELL.
    pub has_shell: bool,
    /// Whether the Dockerfile has set a WORKDIR.
    pub has_workdir: bool,
    /// ONBUILD, for the stages that start from here.
    pub triggers: Vec<String>,
    /// What a base image is for.
    pub platform: Option<Platform>,
}

/// All states, by number.
#[derive(Debug, Default)]
pub(super) struct States(Vec<State>);

impl States {
    /// The state of an image: with `None` of one that is not known.
    pub fn image(&mut self, config: Option<&ImageConfig>) -> usize {
        let mut state = State { is_unknown: config.is_none(), ..State::default() };
        state.variables.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
        if let Some(config) = config {
            let pairs = config.run.env.iter().map(|entry| entry.split_once('=').unwrap_or((entry, "")));
            state.variables.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
            state.has_shell = !config.run.shell.is_empty();
            state.triggers.clone_from(&config.run.on_build);
            // An image without layers runs anywhere.
            state.platform = (!config.diff_ids.is_empty()).then(|| config.platform.clone());
        }
        self.add(state)
    }

    /// The state of nothing at all: `FROM scratch`.
    pub fn scratch(&mut self) -> usize {
        let variables = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
        self.add(State { variables, ..State::default() })
    }

    /// The state of a stage that starts from another.
    pub fn child(&mut self, parent: usize) -> usize {
        let State { is_unknown, has_shell, has_workdir, .. } = self.0[parent];
        self.add(State { parent: Some(parent), is_unknown, has_shell, has_workdir, ..State::default() })
    }

    fn add(&mut self, state: State) -> usize {
        self.0.push(state);
        self.0.len() - 1
    }

    pub fn at(&self, index: usize) -> &State {
        &self.0[index]
    }

    pub fn at_mut(&mut self, index: usize) -> &mut State {
        &mut self.0[index]
    }

    pub fn set(&mut self, index: usize, name: String, value: String) {
        self.0[index].variables.insert(name, value);
    }

    pub fn value(&self, index: usize, name: &str) -> Option<&str> {
        self.lineage(index).find_map(|state| state.variables.get(name)).map(String::as_str)
    }

    pub fn is_declared(&self, index: usize, name: &str) -> bool {
        self.lineage(index).any(|state| state.declared.contains(name))
    }

    /// The names of the variables that are set.
    pub fn names(&self, index: usize) -> impl Iterator<Item = &str> {
        self.lineage(index).flat_map(|state| state.variables.keys()).map(String::as_str)
    }

    fn lineage(&self, index: usize) -> impl Iterator<Item = &State> {
        std::iter::successors(self.0.get(index), |state| state.parent.and_then(|parent| self.0.get(parent)))
    }
}
