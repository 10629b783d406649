//! `--call=check,format=json`: what a check found, and why a build would end before its first step.

use serde::Serialize;

use super::encoded;
use super::location::Location;
use crate::build::Error;
use crate::check::{Finding, Rule};
use crate::dockerfile::{Located, Source};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lint {
    warnings: Vec<Warning>,
    sources: [SourceInfo; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    build_error: Option<BuildError>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Warning {
    rule_name: &'static str,
    description: &'static str,
    url: String,
    detail: String,
    location: Location,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SourceInfo {
    filename: String,
    data: String,
    language: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct BuildError {
    message: String,
    location: Place,
}

/// Nothing is known of where an error stands that is not in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Place {
    Known(Location),
    Elsewhere {},
}

impl Lint {
    /// The findings in a Dockerfile, and why it cannot be built.
    pub fn new(source: &Source, findings: &[Finding], broken: Option<&Error>) -> Self {
        let warnings = findings.iter().map(Warning::new).collect();
        // BuildKit knows the file by its last name, wherever it lies.
        let filename = source.name().rsplit('/').next().unwrap_or_default().to_owned();
        let sources = [SourceInfo { filename, data: encoded(source), language: "Dockerfile" }];
        Self { warnings, sources, build_error: broken.map(|error| BuildError::new(source, error)) }
    }
}

impl BuildError {
    fn new(source: &Source, error: &Error) -> Self {
        match error {
            Error::Dockerfile(error) => Self::located(source, error),
            Error::Plan(error) => Self::located(source, error),
            Error::Check(error) => Self::located(source, error),
            other => Self { message: other.to_string(), location: Place::Elsewhere {} },
        }
    }

    fn located<P: ToString>(source: &Source, error: &Located<P>) -> Self {
        let location = match error.dockerfile() == source {
            true => Place::Known(error.span().into()),
            false => Place::Elsewhere {},
        };
        Self { message: error.problem().to_string(), location }
    }
}

impl Warning {
    fn new(finding: &Finding) -> Self {
        Self {
            rule_name: finding.rule.name(),
            description: finding.rule.description(),
            url: address(finding.rule),
            detail: finding.message.clone(),
            location: finding.span.into(),
        }
    }
}

/// Where the rule is explained: its name in small letters, with a hyphen before each word.
fn address(rule: Rule) -> String {
    let mut words = String::new();
    let letters: Vec<char> = rule.name().chars().collect();
    for (number, letter) in letters.iter().enumerate() {
        let before = number.checked_sub(1).map(|before| letters[before]);
        let after = letters.get(number + 1);
        // The last letter of `JSON` in `JSONArgs` is of that word; `Args` begins with the next.
        let begins = letter.is_ascii_uppercase()
            && before.is_some_and(|before| before.is_ascii_lowercase() || after.is_some_and(char::is_ascii_lowercase));
        if begins {
            words.push('-');
        }
        words.push(letter.to_ascii_lowercase());
    }
    format!("https://docs.docker.com/go/dockerfile/rule/{words}/")
}
