//! The files for CI systems and clusters that lighter ships, checked against the program: every option in them
//! exists, and a real API server takes the manifests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::clients::{Client, Lighter};
use fixtures::images::Image;
use fixtures::kubernetes::{Cluster, User};
use fixtures::registry::Registry;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The options that a command has, by its own help.
fn options(command: &[&str]) -> String {
    let output = Command::new(LIGHTER).args(command).arg("--help").output().expect("lighter starts");
    assert!(output.status.success(), "lighter {command:?} is no command");
    String::from_utf8(output.stdout).unwrap()
}

/// The calls of lighter in a text: command and options. Lines that end in a backslash go on; so do those of a
/// folded YAML scalar that begin with an option.
fn calls(text: &str) -> Vec<(String, Vec<String>)> {
    let joined = text.replace("\\\n", " ");
    let mut calls = Vec::new();
    for line in joined.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let words: Vec<&str> =
            line.split([' ', '\t', '(', ')', '"', '|', ';']).filter(|word| !word.is_empty()).collect();
        for (at, _) in words.iter().enumerate().filter(|(_, word)| **word == "lighter") {
            let Some(command) = words.get(at + 1).filter(|word| ["build", "deploy"].contains(word)) else { continue };
            let options = words[at..].iter().filter(|word| word.starts_with("--")).map(|word| (*word).to_owned());
            calls.push(((*command).to_owned(), options.collect()));
        }
        // The template collects its options beforehand.
        if let Some((_, set)) = line.split_once("set -- ") {
            let command = if ["--push", "LIGHTER_DOCKERFILE", "--cache"].iter().any(|word| set.contains(word)) {
                "build"
            } else {
                "deploy"
            };
            let words = set.split([' ', '"', ';']).filter(|word| word.starts_with("--") && word.len() > 2);
            calls.push((command.to_owned(), words.map(str::to_owned).collect()));
        }
    }
    calls
}

#[test]
fn ci_files_use_options_that_exist() {
    let mut known = BTreeMap::new();
    for file in [
        "fixtures/gitlab/templates/lighter.yml",
        "fixtures/gitlab/shell-runner.gitlab-ci.yml",
        "fixtures/github/lighter.yml",
        "fixtures/woodpecker/lighter.yml",
        "fixtures/drone/lighter.yml",
    ] {
        let calls = calls(&fs::read_to_string(project(file)).expect("a shipped file"));
        for wanted in ["build", "deploy"] {
            assert!(
                calls.iter().any(|(command, options)| command == wanted && !options.is_empty()),
                "{file}: {calls:?}"
            );
        }
        for (command, used) in calls {
            let help = known.entry(command.clone()).or_insert_with(|| options(&[&command]));
            for option in used {
                let name = option.split('=').next().unwrap_or_default();
                let is_known = help.split([' ', ',', '=', '\n', '[']).any(|word| word == name);
                assert!(is_known, "{file}: lighter {command} has no {name}");
            }
        }
    }
}

#[test]
fn a_real_api_server_takes_the_manifests_of_the_registry() {
    let cluster = Cluster::shared();
    cluster.namespace("shipped");
    let registry = Registry::start(LIGHTER);
    let lighter = Lighter::new(Path::new(LIGHTER));
    let image = Image::small(11);
    let reference = registry.reference("lighter/ci:1");
    lighter.push(&image, &reference);
    let manifests = project("packaging/kubernetes/registry.yaml");
    let mut deploy = lighter.command(&["deploy", "--dry-run", "-n", "shipped", "--image", &reference, "-f"]);
    deploy.arg(&manifests).env("KUBECONFIG", cluster.kubeconfig(User::Admin, "shipped"));
    let output = deploy.output().expect("lighter starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    for kind in ["configmap", "service", "statefulset", "ingress", "networkpolicy"] {
        assert!(told.to_lowercase().contains(kind), "{kind} is not in the plan:\n{told}");
    }
    assert!(told.contains("the server would take this"), "{told}");

    // The same with a mistake in it is refused: the server did look.
    let wrong = lighter.home().join("wrong.yaml");
    let text = fs::read_to_string(&manifests).unwrap().replace("volumeMounts:", "volumeMount:");
    fs::write(&wrong, text).unwrap();
    let mut deploy = lighter.command(&["deploy", "--dry-run", "-n", "shipped", "--image", &reference, "-f"]);
    deploy.arg(&wrong).env("KUBECONFIG", cluster.kubeconfig(User::Admin, "shipped"));
    let output = deploy.output().expect("lighter starts");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("volumeMount"));
}

#[test]
fn lighter_builds_the_toolchain_image() {
    let lighter = Lighter::new(Path::new(LIGHTER));
    let program = lighter.home().join("program");
    fs::create_dir(&program).unwrap();
    fs::copy(LIGHTER, program.join("lighter")).unwrap();
    // As the guide has it, with a registry that is there and the program of this test.
    let registry = Registry::start(LIGHTER);
    let guide = fs::read_to_string(project("docs/ci.md")).unwrap().replace("\\\n", " ");
    let typed =
        guide.lines().find_map(|line| line.strip_prefix("lighter build fixtures/toolchain ")).expect("a command");
    let typed = typed.replace("target/dist", program.to_str().unwrap());
    let typed = typed.replace("registry.example.com:5000", &registry.address().to_string());
    let mut build = lighter.command(&["build"]);
    build.args(typed.split_whitespace()).args(["-o", "type=local,dest=out"]).arg(project("fixtures/toolchain"));
    let output = build.output().expect("lighter starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pinned = String::from_utf8(output.stdout).unwrap();
    assert!(pinned.starts_with(&registry.reference("lighter/ci:1@sha256:")), "{pinned}");
    let out = lighter.home().join("out");
    assert_eq!(fs::read(out.join("bin/lighter")).unwrap(), fs::read(LIGHTER).unwrap());
    for applet in ["sh", "tr", "head", "printf", "date"] {
        assert_eq!(fs::read_link(out.join("bin").join(applet)).unwrap(), Path::new("/bin/busybox"), "{applet}");
    }
    assert!(fs::read_to_string(out.join("etc/ssl/certs/ca-certificates.crt")).unwrap().contains("BEGIN CERTIFICATE"));
}
