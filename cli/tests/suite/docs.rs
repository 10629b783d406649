//! The guides in `docs/`, typed from top to bottom: the blocks marked `console` are run, each guide in a
//! directory of its own, and have to print what they show.
//!
//! In such a block, lines that begin with `$ ` are typed, lines with `> ` go on with the one before, and the rest is
//! shown by the command, among other lines; `…` stands for anything. 127.0.0.1:5000 is another free port here. A
//! guide that deploys has a namespace on a real cluster, where every pod runs.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fixtures::den::Den;
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{Cluster, User};

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");
/// How long a guide may take; none takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(300);

/// What is typed, and what it shows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    typed: String,
    shown: Vec<String>,
}

fn guides() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut guides: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    guides.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    guides.sort();
    guides
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_inside = line == "```console";
        } else if !is_inside || line.is_empty() {
        } else if let Some(typed) = line.strip_prefix("$ ") {
            steps.push(Step { typed: typed.to_owned(), shown: Vec::new() });
        } else {
            let last = steps.last_mut().expect("a block begins with `$ `");
            match line.strip_prefix('>').map(|rest| rest.strip_prefix(' ').unwrap_or(rest)) {
                Some(more) if last.shown.is_empty() => last.typed += &format!("\n{more}"),
                _ => last.shown.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Whether a line is as it is shown; `…` stands for anything.
fn is_as_shown(line: &str, shown: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = shown.contains('…').then(|| shown.rsplit('…').next().unwrap_or_default()) else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    line.ends_with(last)
}

/// Every command writes to a file of its own; the first that fails ends the script.
fn script(steps: &[Step]) -> String {
    let mut script = String::from("set -eu\n");
    for (number, step) in steps.iter().enumerate() {
        script += &format!("echo {number} > \"$DEN/current\"\n{{\n{}\n}} > \"$DEN/said.{number}\" 2>&1\n", step.typed);
    }
    script
}

/// Types a guide, and checks what it shows.
fn follow(guide: &Path, text: &str) {
    let name = guide.file_stem().unwrap().to_string_lossy().replace('_', "-");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let steps = steps(&text.replace("127.0.0.1:5000", &format!("127.0.0.1:{port}")));
    let mut den = Den::new("guide");
    let path = |name: &str| den.path().join(name);
    for directory in ["bin", "home", "here"] {
        fs::create_dir(path(directory)).unwrap();
    }
    std::os::unix::fs::symlink(LIGHTER, path("bin/lighter")).unwrap();
    fs::write(path("script"), script(&steps)).unwrap();
    let mut shell = Command::new("sh");
    // The shell stays, so that what the guide started in the background ends with the den.
    shell.args(["-c", "code=0; sh \"$DEN/script\" || code=$?; echo $code > \"$DEN/done.part\"; mv \"$DEN/done.part\" \"$DEN/done\"; exec sleep 3600"]);
    shell.env_clear().env("DEN", den.path()).env("HOME", path("home")).current_dir(path("here"));
    shell.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path("bin").display()));
    let _kubelet = steps.iter().any(|step| step.typed.contains("lighter deploy")).then(|| {
        let namespace = format!("guide-{name}");
        let cluster = Cluster::shared();
        cluster.namespace(&namespace);
        shell.env("KUBECONFIG", cluster.kubeconfig(User::Admin, &namespace));
        Kubelet::start(cluster, &namespace, |_| Fate::Runs)
    });
    den.start("guide", &mut shell);
    let read = |den: &Den, name: &str| fs::read_to_string(den.path().join(name)).unwrap_or_default();
    let code = den.wait("guide", LIMIT, |den| Some(read(den, "done")).filter(|code| !code.is_empty()));
    if code.trim() != "0" {
        let last: usize = read(&den, "current").trim().parse().expect("a number");
        let said = read(&den, &format!("said.{last}"));
        panic!("{name}: exit code {} of\n$ {}\n{said}", code.trim(), steps[last].typed);
    }
    for (number, step) in steps.iter().enumerate() {
        let said = read(&den, &format!("said.{number}"));
        let mut lines = said.lines();
        for shown in &step.shown {
            assert!(
                lines.any(|line| is_as_shown(line, shown)),
                "{name}: {shown:?} is not (or not there) in what was said to\n$ {}\n{said}",
                step.typed
            );
        }
    }
}

#[test]
fn every_command_in_the_guides_runs() {
    let mut followed = Vec::new();
    for guide in guides() {
        let text = fs::read_to_string(&guide).unwrap();
        if text.contains("```console\n") {
            follow(&guide, &text);
            followed.push(guide.file_stem().unwrap().to_string_lossy().into_owned());
        }
    }
    for wanted in ["start", "install", "ci", "formats"] {
        assert!(followed.iter().any(|name| name == wanted), "docs/{wanted}.md has nothing to run: {followed:?}");
    }
}

#[test]
fn links_between_the_guides_lead_somewhere() {
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|char| char.is_alphanumeric() || ['-', '_'].contains(char)).collect()
    };
    for guide in guides() {
        let text = fs::read_to_string(&guide).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { guide.clone() } else { guide.parent().unwrap().join(file) };
            let target = fs::read_to_string(&target).unwrap_or_else(|_| panic!("{}: {link}", guide.display()));
            let mut headings = target.lines().filter(|line| line.starts_with('#'));
            assert!(wanted.is_empty() || headings.any(|line| anchor(line) == wanted), "{}: {link}", guide.display());
        }
    }
}

#[test]
fn blocks_are_read_as_they_are_written() {
    let text = "```\n$ not run\n```\n```console\n$ cat <<E\n> one\n>\n> two\n> E\none\n\n$ true\n```\n";
    let expected = [
        Step { typed: "cat <<E\none\n\ntwo\nE".into(), shown: vec!["one".into()] },
        Step { typed: "true".into(), shown: vec![] },
    ];
    assert_eq!(steps(text), expected);
    for (line, shown, is) in [
        ("a@sha256:12", "a@sha256:…", true),
        ("a@sha256:12 b", "a@…:… b", true),
        ("ab", "a", false),
        ("a", "ab", false),
        ("x/out", "…/out", true),
        ("x/out/y", "…/out", false),
    ] {
        assert_eq!(is_as_shown(line, shown), is, "{line} {shown}");
    }
}
