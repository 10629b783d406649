//! `--call=check,format=json`: what a check found, and why a build would end before its first step.

use serde::Serialize;

use super::encoded;
use super::location::Location;
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
    location: Location,
}

impl Lint {
    /// The findings in a Dockerfile.
    pub fn new(source: &Source, findings: &[Finding]) -> Self {
        // BuildKit knows the file by its last name, wherever it lies.
        let filename = source.name().rsplit('/').next().unwrap_or_default().to_owned();
        let sources = [SourceInfo { filename, data: encoded(source), language: "Dockerfile" }];
        Self { warnings: findings.iter().map(Warning::new).collect(), sources, build_error: None }
    }

    /// A Dockerfile that cannot be built, with what was found before.
    pub fn broken<P: ToString>(self, error: &Located<P>) -> Self {
        let error = BuildError { message: error.problem().to_string(), location: error.span().into() };
        Self { build_error: Some(error), ..self }
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
