//! Which variables are visible where: build arguments, global and platform arguments, ENV.

use std::collections::BTreeMap;

use super::{Error, Options, Problem};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{Argument, Dockerfile, Node};

/// The proxy settings that need no ARG and leave no trace; each also in lower case.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Names and values, in the order in which they first appeared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope(Vec<(String, String)>);

impl Scope {
    /// Sets a variable; an old one keeps its place.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The value of a variable.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All of them.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Expands one word with these variables.
    pub fn expand(&self, style: Style, text: &str) -> Result<String, Problem> {
        Ok(style.word(text, &|name: &str| self.value(name).map(str::to_owned))?)
    }

    /// Expands and splits into words.
    pub fn expand_words(&self, style: Style, text: &str) -> Result<Vec<String>, Problem> {
        Ok(style.words(text, &|name: &str| self.value(name).map(str::to_owned))?)
    }
}

/// The arguments that FROM sees and that a plain `ARG NAME` takes into a stage: the platforms, then
/// the ARGs before the first FROM, each of which sees those before it.
pub(crate) fn global(file: &Dockerfile, options: &Options) -> Result<Scope, Error> {
    let mut scope = platforms(file, options);
    for Node { span, value: arguments, .. } in &file.globals {
        for Argument { name, default } in arguments {
            let value = match (options.build_args.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let expanded = scope.expand(Style::new(file.escape), default);
                    Some(expanded.map_err(|problem| file.source.at(*span, problem))?)
                }
                (None, None) => None,
            };
            if let Some(value) = value {
                scope.set(name, &value);
            }
        }
    }
    Ok(scope)
}

fn platforms(file: &Dockerfile, options: &Options) -> Scope {
    let mut scope = Scope::default();
    for (prefix, platform) in [("BUILD", &options.build_platform), ("TARGET", &options.target_platform)] {
        scope.set(&format!("{prefix}PLATFORM"), &platform.to_string());
        scope.set(&format!("{prefix}OS"), &platform.os);
        scope.set(&format!("{prefix}OSVERSION"), platform.os_version.as_deref().unwrap_or_default());
        scope.set(&format!("{prefix}ARCH"), &platform.architecture);
        scope.set(&format!("{prefix}VARIANT"), platform.variant.as_deref().unwrap_or_default());
    }
    let last = file.stages.last().and_then(|stage| stage.name.clone());
    let target = options.target.clone().or(last).unwrap_or_else(|| "default".to_owned());
    scope.set("TARGETSTAGE", &target);
    let overridden: Vec<_> = scope.0.iter().filter_map(|(name, _)| options.build_args.get_key_value(name)).collect();
    for (name, value) in overridden {
        scope.set(name, value);
    }
    scope
}

/// The proxy settings among the build arguments, in both spellings, for the environment of RUN.
pub(super) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in PROXIES {
        let lower = name.to_lowercase();
        if let Some(value) = build_args.get(name).or_else(|| build_args.get(&lower)) {
            found.push((name.to_owned(), value.clone()));
            found.push((lower, value.clone()));
        }
    }
    found
}
