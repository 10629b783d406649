//! What BuildKit answers, written down: outlines, targets and findings, as documents and as tables.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::build::Error;
use crate::check::{self, Around};
use crate::config::ImageConfig;
use crate::dockerfile::{Dockerfile, parse};
use crate::ignore::Patterns;
use crate::plan::Options;

fn read(text: &str) -> Dockerfile {
    parse(text.as_bytes(), "some/where/Dockerfile").unwrap()
}

fn options() -> Options {
    Options::new("linux/amd64".parse().unwrap())
}

fn asked(text: &str, target: Option<&str>, build_args: &[(&str, &str)]) -> Outline {
    let build_args: BTreeMap<String, String> =
        build_args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = Options { target: target.map(str::to_owned), build_args, ..options() };
    outline(&read(text), &options, &|_, _| None).unwrap()
}

/// `NAME=VALUE LINE: DESCRIPTION` of each argument.
fn arguments(text: &str, target: Option<&str>, build_args: &[(&str, &str)]) -> Vec<String> {
    let outline = serde_json::to_value(asked(text, target, build_args)).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let arguments = outline["args"].as_array().cloned().unwrap_or_default();
    let shown = arguments.iter().map(|arg| {
        let line = &arg["location"]["ranges"][0]["start"]["line"];
        let described = format!(" {line}: {}", text(&arg["description"]));
        format!("{}={}{}", text(&arg["name"]), text(&arg["value"]), described.trim_end_matches(": "))
    });
    shown.collect()
}

fn lines(first: usize, last: usize) -> Value {
    let ranges: Vec<Value> =
        (first..=last).map(|line| json!({"start": {"line": line}, "end": {"line": line}})).collect();
    json!({"ranges": ranges})
}

const SERVICE: &str = "\
# VERSION of the service
ARG VERSION=1
FROM scratch AS tools
RUN --mount=type=cache,target=/root/.cache/ --mount=type=cache,id=go,target=/go true

# service that answers
FROM scratch AS service
# VERSION again
ARG VERSION DEBUG=
COPY --from=tools / /
RUN --mount=type=secret,id=npm,required --mount=type=ssh \\
    --mount=type=secret,id=other true
RUN --mount=type=secret,id=npm true
";

#[test]
fn an_outline_is_buildkits_document() {
    let expected = json!({
        "name": "service",
        "description": "that answers",
        "args": [
            {"name": "VERSION", "description": "of the service", "value": "1", "location": lines(2, 2)},
            {"name": "DEBUG", "location": lines(9, 9)},
        ],
        "secrets": [
            {"name": "npm", "required": true, "location": lines(11, 12)},
            {"name": "other", "location": lines(11, 12)},
        ],
        "ssh": [{"name": "default", "location": lines(11, 12)}],
        "cache": [{"ID": "/root/.cache", "location": lines(4, 4)}, {"ID": "go", "location": lines(4, 4)}],
        "sources": [encoded(&read(SERVICE).source)],
    });
    assert_eq!(serde_json::to_value(asked(SERVICE, None, &[])).unwrap(), expected);
}

#[test]
fn an_outline_prints_as_tables() {
    let expected = "\
TARGET:      service
DESCRIPTION: that answers

BUILD ARG   VALUE   DESCRIPTION
VERSION     2       again
DEBUG               \n
SECRET   REQUIRED
npm      true
other    \n
SSH       REQUIRED
default   \n
";
    assert_eq!(asked(SERVICE, None, &[("VERSION", "2")]).to_string(), expected);
    assert_eq!(asked(SERVICE, Some("tools"), &[]).to_string(), "TARGET: tools\n\n");
    assert_eq!(asked("FROM scratch\n", None, &[]).to_string(), "");
}

#[test]
fn arguments_that_are_used_count() {
    let chain = "ARG A=1\nARG B=${A}2\nARG UNUSED=$B\nFROM scratch AS a\nARG B\nFROM a\nARG C=$B D\n";
    let hidden = "ARG X=scratch\nFROM $X AS a\nARG X=2\nFROM a\nARG Y\n";
    let copied = "FROM scratch AS a\nARG A=1\nFROM scratch AS b\nARG B=1\nFROM scratch\nCOPY --from=a / /\n";
    for (text, target, given, expected) in [
        (chain, None, &[][..], &["A=1 1", "B=12 2", "C=12 7", "D= 7"][..]),
        (chain, Some("a"), &[], &["A=1 1", "B=12 2"]),
        // What is given stands at the ARG that takes it, and needs nothing that its default would.
        (chain, None, &[("B", "x")], &["B=x 5", "C=x 7", "D= 7"]),
        // The name was used by the FROM before the stage had its own.
        (hidden, None, &[], &["X=scratch 1", "Y= 5"]),
        (hidden, Some("a"), &[], &["X=2 3"]),
        (copied, None, &[], &["A=1 2"]),
        // Platforms are given without an ARG, so they are none until somebody gives another.
        ("FROM scratch\nARG TARGETOS\n", None, &[], &[]),
        ("FROM scratch\nARG TARGETOS\n", None, &[("TARGETOS", "plan9")], &["TARGETOS=plan9 2"]),
        ("ARG A=1\nARG A=${A}2\nFROM scratch\nARG A\n", None, &[], &["A=12 2"]),
        ("FROM scratch AS a\nONBUILD ARG T=1\nFROM a\n", None, &[], &["T=1 3"]),
    ] {
        assert_eq!(arguments(text, target, given), expected, "{text}{target:?} {given:?}");
    }
}

#[test]
fn comments_describe_what_they_name() {
    for (comment, expected) in [
        ("# A says", "A=1 2: says"),
        ("#A says", "A=1 2: says"),
        ("# A  says ", "A=1 2:  says"),
        ("# a says", "A=1 2"),
        ("# AA says", "A=1 2"),
        ("# A", "A=1 2"),
        ("  # A says", "A=1 2"),
        ("# A says\n# A more", "A=1 3: says"),
        ("# A says\n# other", "A=1 3: says"),
        ("# A says\n\n", "A=1 4: says"),
        ("# A says\n#", "A=1 3"),
        ("# A says\nARG B", "A=1 3"),
    ] {
        let text = format!("{comment}\nARG A=1\nFROM scratch\nARG A\n");
        assert_eq!(arguments(&text, None, &[]), [expected], "{text}");
    }
}

#[test]
fn a_base_image_counts_where_it_is_known() {
    let file = read("FROM base\nARG A=$SAID\n");
    let mut config = ImageConfig::scratch(options().target_platform);
    config.run.set_env("SAID", "yes");
    let known = outline(&file, &options(), &|_, _| Some(config.clone())).unwrap();
    assert_eq!(known.args[0].value, "yes");
    let unknown = outline(&file, &options(), &|_, _| None).unwrap();
    assert_eq!((unknown.args[0].name.as_str(), unknown.args[0].value.as_str()), ("A", ""));
}

#[test]
fn targets_are_all_stages_as_written() {
    let text = "ARG P\n# Build what builds\n# build that compiles\nFROM --platform=$P debian:12 AS Build\nFROM build\n";
    let targets = targets(&read(text));
    let expected = json!({
        "targets": [
            {"name": "build", "description": "that compiles", "base": "debian:12", "platform": "$P", "location": lines(4, 4)},
            {"default": true, "base": "build", "location": lines(5, 5)},
        ],
        "sources": [encoded(&read(text).source)],
    });
    assert_eq!(serde_json::to_value(&targets).unwrap(), expected);
    assert_eq!(targets.to_string(), "TARGET    DESCRIPTION\nbuild     that compiles\n(default) \n");
    let named = super::targets(&read("FROM scratch AS only\r\n"));
    assert_eq!(named.to_string(), "TARGET         DESCRIPTION\nonly (default) \n");
}

#[test]
fn findings_are_buildkits_document() {
    let text = "FROM scratch AS x\nENV k \\\n  v\nSTOPSIGNAL no\n";
    let (file, options) = (read(text), options());
    let around = Around { outline: None, ignore: &Patterns::none(), base: &|_, _| None };
    let report = check::check(&file, &options, &around).unwrap();
    let error: Error = check::evaluate(&file, &options, &|_, _| None).unwrap_err().into();
    let expected = json!({
        "warnings": [{
            "ruleName": "LegacyKeyValueFormat",
            "description": "Legacy key/value format with whitespace separator should not be used",
            "url": "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/",
            "detail": "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            "location": lines(2, 3),
        }],
        "sources": [{"filename": "Dockerfile", "language": "Dockerfile", "data": encoded(&file.source)}],
        "buildError": {"message": "invalid signal: no", "location": lines(4, 4)},
    });
    assert_eq!(serde_json::to_value(Lint::new(&file.source, &report.findings, Some(&error))).unwrap(), expected);
    let nothing = serde_json::to_value(Lint::new(&file.source, &[], None)).unwrap();
    assert_eq!((&nothing["warnings"], nothing.get("buildError")), (&json!([]), None));
}

#[test]
fn the_text_is_kept_byte_for_byte() {
    let text = b"\xef\xbb\xbfFROM scratch\r\nLABEL a=\"\xc3\xa9\"\r\n\n";
    let file = parse(text, "Dockerfile").unwrap();
    assert_eq!(STANDARD.decode(encoded(&file.source)).unwrap(), text);
}

/// The addresses of rules are made of their names, among which some have abbreviations.
#[test]
fn rules_have_the_addresses_of_their_explanations() {
    let file = read("FROM scratch\nCMD a $b\nMAINTAINER m\n");
    let around = Around { outline: None, ignore: &Patterns::none(), base: &|_, _| None };
    let report = check::check(&file, &options(), &around).unwrap();
    let lint = serde_json::to_value(Lint::new(&file.source, &report.findings, None)).unwrap();
    let pages: Vec<&str> =
        lint["warnings"].as_array().unwrap().iter().map(|one| one["url"].as_str().unwrap()).collect();
    let root = "https://docs.docker.com/go/dockerfile/rule/";
    assert_eq!(pages, [format!("{root}json-args-recommended/"), format!("{root}maintainer-deprecated/")]);
}
