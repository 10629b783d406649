//! Runs the parser, the expander and the ignore rules over the tables of BuildKit and moby, where
//! `LIGHTER_CORPUS` names a directory that holds them: `cargo test -p builder --test suite -- --ignored corpus`.
//! The rules have tables of their own beside the code.

use std::path::PathBuf;

use builder::dockerfile::expand::Style;
use builder::dockerfile::parse;
use builder::ignore::Patterns;
use serde_json::Value;

fn corpus(part: &str) -> PathBuf {
    let directory = std::env::var_os("LIGHTER_CORPUS").expect("LIGHTER_CORPUS names the directory of the tables");
    PathBuf::from(directory).join(part)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
#[ignore = "needs the tables that LIGHTER_CORPUS names"]
fn words_expand_as_in_buildkit() {
    let directory = corpus("buildkit-shell");
    let lookup = |name: &str| {
        let value = match name {
            "PWD" => "/home",
            "SHELL" => "bash",
            "KOREAN" => "한국어",
            "NULL" => "",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let text = std::fs::read_to_string(directory.join("envVarTest")).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        if parts[0] == "W" {
            continue;
        }
        let found = Style::new('\\').word(parts[1], &lookup);
        assert_eq!(found.as_deref().unwrap_or("error"), parts[2], "{line}");
    }
    for row in json(directory.join("lex_cases.json"))["TestProcessWithMatches"][0]["rows"].as_array().unwrap() {
        let lookup = |name: &str| row["envs"].get(name).map(|value| value.as_str().unwrap().to_owned());
        let found = Style::new('\\').word(row["input"].as_str().unwrap(), &lookup);
        match row.get("expectedErr").and_then(Value::as_bool) {
            Some(true) => assert!(found.is_err(), "{row}"),
            _ => assert_eq!(found.as_deref().ok(), Some(row["expected"].as_str().unwrap_or_default()), "{row}"),
        }
    }
}

#[test]
#[ignore = "needs the tables that LIGHTER_CORPUS names"]
fn words_split_as_in_buildkit() {
    let directory = corpus("buildkit-shell");
    let mut env: Vec<(String, String)> = Vec::new();
    let text = std::fs::read_to_string(directory.join("wordsTest")).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if let Some((name, value)) = line.strip_prefix("ENV ").and_then(|pair| pair.split_once('=')) {
            env.push((name.trim_start().to_owned(), value.to_owned()));
            continue;
        }
        let (test, expected) = line.split_once('|').unwrap();
        let lookup = |name: &str| env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let found = Style::new('\\').words(test.trim(), &lookup);
        match expected.trim_start() {
            "error" => assert!(found.is_err(), "{line}"),
            expected => assert_eq!(found.unwrap(), expected.split(',').collect::<Vec<_>>(), "{line}"),
        }
    }
}

#[test]
#[ignore = "needs the tables that LIGHTER_CORPUS names"]
fn patterns_match_as_in_moby() {
    let directory = corpus("dockerignore");
    let cases = json(directory.join("patternmatcher_cases.json"));
    for row in cases["TestMatches"].as_array().unwrap().iter().flat_map(|table| table["rows"].as_array().unwrap()) {
        let patterns: Vec<&str> = match &row[0] {
            Value::Array(all) => all.iter().map(|pattern| pattern.as_str().unwrap()).collect(),
            one => vec![one.as_str().unwrap()],
        };
        let path = row[1].as_str().unwrap();
        let parsed = Patterns::new(patterns).unwrap_or_else(|error| panic!("{row}: {error}"));
        // The root itself is never asked for.
        if !path.trim_matches('/').is_empty() {
            assert_eq!(parsed.excludes(path.as_bytes()), row[2].as_bool().unwrap(), "{row}");
        }
    }
}

#[test]
#[ignore = "needs the tables that LIGHTER_CORPUS names"]
fn files_parse_as_in_buildkit() {
    let directory = corpus("buildkit-parser");
    for (folder, good) in [("testfiles", true), ("testfiles-negative", false)] {
        for case in std::fs::read_dir(directory.join(folder)).unwrap() {
            let path = case.unwrap().path();
            let file = path.join("Dockerfile");
            let mut text = std::fs::read_to_string(&file).unwrap();
            if good && !text.to_lowercase().contains("from") {
                text.insert_str(0, "FROM scratch\n");
            }
            let found = parse(text.as_bytes(), &file.to_string_lossy());
            // Their test only splits lines; these would be refused one step later, there as here.
            let only_split = ["flags", "health", "escapes"].iter().any(|name| path.ends_with(name));
            match found {
                Err(error) if good && !only_split => panic!("{error}"),
                Ok(_) if !good => panic!("{} is not refused", file.display()),
                _ => {}
            }
        }
    }
}
