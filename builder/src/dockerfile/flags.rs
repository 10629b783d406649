//! The `--flags` of an instruction, checked against those it has.

use super::error::{Failure, Problem};
use super::nearest;

/// What values a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Present, or `=true` or `=false`.
    Switch,
    /// One value.
    Value,
    /// One value, and the flag may be repeated.
    Values,
}

/// The flags that were given, in their order.
pub(super) struct Flags(Vec<(&'static str, String)>);

impl Flags {
    /// Checks the flags against what the instruction knows.
    pub fn parse(
        instruction: &'static str,
        given: Vec<String>,
        known: &[(&'static str, Kind)],
    ) -> Result<Self, Failure> {
        let mut flags = Self(Vec::new());
        for word in given {
            let word = word.strip_prefix("--").unwrap_or(&word);
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let Some((known_name, kind)) = known.iter().find(|(known, _)| *known == name) else {
                return Err(unknown(instruction, name, known));
            };
            if *kind != Kind::Values && flags.has(known_name) {
                return Err(Problem::DuplicateFlag(name.to_owned()).into());
            }
            flags.0.push((known_name, checked(name, value, *kind)?));
        }
        Ok(flags)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| *given == name)
    }

    /// The value of a flag.
    pub fn value(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.clone())
    }

    /// Every value of a flag that may be repeated.
    pub fn values(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(given, _)| *given == name).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a switch is on.
    pub fn switch(&self, name: &str) -> bool {
        self.choice(name).unwrap_or(false)
    }

    /// A switch where it matters whether it was given at all.
    pub fn choice(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value == "true")
    }
}

fn unknown(instruction: &'static str, name: &str, known: &[(&'static str, Kind)]) -> Failure {
    let hint = match nearest(name, known.iter().map(|(known, _)| *known)) {
        Some(meant) => format!("did you mean --{meant}?"),
        None if known.is_empty() => format!("{instruction} has no flags"),
        None => {
            let all: Vec<String> = known.iter().map(|(known, _)| format!("--{known}")).collect();
            format!("{instruction} has {}", all.join(", "))
        }
    };
    Failure { problem: Problem::UnknownFlag { instruction, flag: name.to_owned() }, hint: Some(hint) }
}

fn checked(name: &str, value: Option<&str>, kind: Kind) -> Result<String, Problem> {
    match (kind, value) {
        (Kind::Switch, None) => Ok("true".to_owned()),
        (Kind::Switch, Some("")) | (Kind::Value | Kind::Values, None) => Err(Problem::FlagValue(name.to_owned())),
        (Kind::Switch, Some(value)) => match value.to_lowercase() {
            lower if lower == "true" || lower == "false" => Ok(lower),
            _ => Err(Problem::FlagBoolean { flag: name.to_owned(), value: value.to_owned() }),
        },
        (Kind::Value | Kind::Values, Some(value)) => Ok(value.to_owned()),
    }
}
