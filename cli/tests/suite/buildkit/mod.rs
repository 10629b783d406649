//! Whether `lighter build` makes what BuildKit makes: real buildkitd and lighter build the same Dockerfiles, and every
//! document, every entry of every layer and every diff ID are compared, or that both refuse.
//!
//! It needs root and Debian's runc, and is run when asked for:
//!
//! ```text
//! fixtures/buildkit/build.sh
//! cargo test --release -p cli --test suite -- --ignored buildkit::
//! LIGHTER_RECIPES=chmod cargo test … -- --ignored buildkit:: --nocapture      those with `chmod` in their name
//! LIGHTER_SEEDS=5000..9000 cargo test … -- --ignored buildkit::…random…       other Dockerfiles that nobody wrote
//! LIGHTER_SEEDS=5000..9000 cargo test … -- --ignored buildkit::…mutated…      those of all others, with mistakes
//! ```
//!
//! `fixtures/buildkit/differences` has the names of those that are wanted to differ, each with the reason. One that does
//! not differ any more fails too, so that the list stays true.
#![allow(clippy::print_stdout)] // what was refused, and with which words, is for people who look for differences

mod choice;
mod elsewhere;
mod mutated;
mod picture;
mod random;
mod recipe;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use fixtures::buildkit::{BuildKit, NOWHERE};
use fixtures::cases::{Base, Case};
use fixtures::den::Den;
use fixtures::described::{self, SAME};
use fixtures::http::Scripted;
use oci::Digest;

use super::contexts::git_daemon;
use elsewhere::{page, repository};
use recipe::Recipe;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/cases");
const TABLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/buildkit");
/// When the commits were made; the time of no file elsewhere.
const COMMIT_TIME: &str = "1500000000";
/// Which Dockerfiles that nobody wrote are built, if nobody asks for others.
const SEEDS: Range<u64> = 0..200;
/// How often one that differs is built again to find a smaller one that does.
const SHRINKS: usize = 45;
/// How many lines of one that we refuse are left out until it is given up.
const REPAIRS: usize = 30;
/// How many Dockerfiles are built at once.
const WORKERS: usize = 2;

#[test]
#[ignore = "needs a BuildKit that fixtures/buildkit/build.sh builds in minutes"]
fn privileged_cases_come_out_as_from_buildkit() {
    compare(Case::all(Path::new(CASES)).into_iter().map(Recipe::of_case).collect());
}

#[test]
#[ignore = "needs a BuildKit that fixtures/buildkit/build.sh builds in minutes"]
fn privileged_tables_come_out_as_from_buildkit() {
    compare(of_tables());
}

#[test]
#[ignore = "needs a BuildKit that fixtures/buildkit/build.sh builds in minutes"]
fn privileged_random_dockerfiles_come_out_as_from_buildkit() {
    compare(seeds().flat_map(of_seed).collect());
}

#[test]
#[ignore = "needs a BuildKit that fixtures/buildkit/build.sh builds in minutes"]
fn privileged_mutated_dockerfiles_come_out_as_from_buildkit() {
    let mut all: Vec<Recipe> = Case::all(Path::new(CASES)).into_iter().map(Recipe::of_case).collect();
    all.extend(of_tables());
    all.extend(mutated::RANDOM.flat_map(of_seed));
    all.retain(mutated::is_fit);
    compare(seeds().map(|seed| mutated::recipe(seed, &all)).collect());
}

fn of_tables() -> Vec<Recipe> {
    let mut tables: Vec<PathBuf> = fs::read_dir(TABLES).unwrap().map(|entry| entry.unwrap().path()).collect();
    tables.retain(|path| path.extension().is_some_and(|extension| extension == "table"));
    tables.sort();
    tables.iter().flat_map(|path| Recipe::of_table(&fs::read_to_string(path).unwrap())).collect()
}

fn of_seed(seed: u64) -> Vec<Recipe> {
    Recipe::of_table(&random::block(seed))
}

fn seeds() -> Range<u64> {
    std::env::var("LIGHTER_SEEDS").map_or(SEEDS, |text| {
        let (from, to) = text.split_once("..").expect("LIGHTER_SEEDS is FROM..TO");
        from.parse().expect("a number")..to.parse().expect("a number")
    })
}

/// Builds all of them twice.
///
/// # Panics
///
/// Panics if one differs that should not, or one does not that should.
fn compare(mut recipes: Vec<Recipe>) {
    let wanted = std::env::var("LIGHTER_RECIPES").unwrap_or_default();
    recipes.retain(|recipe| wanted.split(',').any(|wanted| recipe.name.contains(wanted)));
    let known = differences();
    let bench = Bench::new();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        let buildkit = BuildKit::start();
        while let Some(recipe) = recipes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut recipe = recipe.clone();
            let mut differences = bench.differences(&buildkit, &recipe);
            if let Some(rest) = bench.repaired(&recipe).filter(|_| differences.is_none()) {
                differences = bench.differences(&buildkit, &rest);
                recipe = rest;
            }
            if let Some(checked) = recipe.checked().filter(|recipe| recipe.is_unwritten() && differences.is_none()) {
                differences = bench.differences(&buildkit, &checked);
                recipe = checked;
            }
            let problem = match (differences, known.get(&recipe.name)) {
                (None, None) | (Some(_), Some(_)) => continue,
                (Some(differences), None) => bench.smallest(&buildkit, &recipe, differences),
                (None, Some(reason)) => format!("  does not differ; listed in differences: {reason}"),
            };
            println!("##### {}\n{problem}", recipe.name);
            failed.lock().unwrap().push(format!("##### {}\n{problem}", recipe.name));
        }
    };
    std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}\n{} of {} differ", failed.join("\n"), failed.len(), recipes.len());
}

/// `NAME: REASON` of each difference that is wanted.
fn differences() -> BTreeMap<String, String> {
    let text = fs::read_to_string(Path::new(TABLES).join("differences")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(": ").unwrap_or_else(|| panic!("no reason: {line}"))).map(owned).collect()
}

fn owned((name, reason): (&str, &str)) -> (String, String) {
    (name.to_owned(), reason.to_owned())
}

/// What both build with.
struct Bench {
    bases: BTreeMap<String, (PathBuf, Digest)>,
    words: Vec<(&'static str, String)>,
    /// What is newer has the time of the build; BuildKit may still have a step of an earlier one.
    began: i64,
    _web: Scripted,
    den: Den,
}

impl Bench {
    fn new() -> Self {
        let den = Den::new("compare");
        let mut bases = BTreeMap::new();
        for (name, base) in Base::all(Path::new(CASES)) {
            let layout = den.path().join("bases").join(&name);
            let digest = base.lay_out(&layout);
            bases.insert(name, (layout, digest));
        }
        let commit = repository(&den.path().join("git/repository"));
        let web = Scripted::start(page);
        let words = vec![
            ("{http}", format!("http://{}", web.address())),
            ("{git}", git_daemon(&den.path().join("git"))),
            ("{commit}", commit),
        ];
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed() - 60;
        Self { bases, words, began, _web: web, den }
    }

    /// Of one that nobody wrote and we refuse, as much as we build: each line that is refused is left out.
    fn repaired(&self, recipe: &Recipe) -> Option<Recipe> {
        let mut rest = recipe.name.starts_with("random-").then(|| recipe.clone())?;
        for repairs in 0..REPAIRS {
            let place = self.place(&rest);
            let ours = self.ours(&rest, &Kind::of(&rest), place.path());
            if ours.status.success() {
                return (repairs > 0).then_some(rest);
            }
            let said = text(&ours.stderr);
            let (_, said) = said.split_once("/Dockerfile:")?;
            let number: String = said.chars().take_while(char::is_ascii_digit).collect();
            rest = rest.without_line(number.parse().ok()?)?;
        }
        None
    }

    /// A directory with what a recipe needs.
    fn place(&self, recipe: &Recipe) -> tempfile::TempDir {
        let place = tempfile::Builder::new().prefix("recipe-").tempdir_in(self.den.path()).unwrap();
        recipe.lay_out(place.path(), &self.words);
        place
    }

    /// What differs between the two, if anything.
    fn differences(&self, buildkit: &BuildKit, recipe: &Recipe) -> Option<Vec<String>> {
        let place = self.place(recipe);
        let kind = Kind::of(recipe);
        let ours = self.ours(recipe, &kind, place.path());
        let theirs = self.theirs(buildkit, recipe, &kind, place.path());
        let refused = |of: &Output| !of.status.success() && kind != Kind::Check;
        match (refused(&ours), refused(&theirs)) {
            (true, true) => {
                println!("refused {}\n   ours: {}\n   theirs: {}", recipe.name, last_words(&ours), last_words(&theirs));
                recipe.name.starts_with("mutated-").then(|| other_blame(&theirs, &ours)).flatten()
            }
            // Wanted: an outline can be had without the base images.
            (false, true) if kind == Kind::Call && text(&theirs.stderr).contains("resolve source metadata") => None,
            // Wanted: names of contexts in any case.
            (false, true) if has_upper_context(&theirs) => None,
            (false, true) => Some(vec![format!("  BuildKit refuses it: {}", last_words(&theirs))]),
            (true, false) => Some(vec![format!("  we refuse it: {}", last_words(&ours))]),
            (false, false) => {
                let (said, answer) = (text(&ours.stdout), text(&theirs.stdout));
                let mut theirs = match kind {
                    Kind::Check => picture::of_their_check(&answer),
                    Kind::Call => picture::of_answer(&answer),
                    _ => kind.picture(&place.path().join("theirs"), self.began),
                };
                let mut ours = match kind {
                    Kind::Check => picture::of_our_check(&said),
                    Kind::Call => picture::of_answer(&said),
                    _ => kind.picture(&place.path().join("ours"), self.began),
                };
                if recipe.name.starts_with("add-git") {
                    // Wanted: files of a repository have the time of the commit, not of the checkout.
                    let fetched = ours.iter_mut().filter(|line| line.contains(" r/"));
                    fetched.for_each(|line| *line = line.replace(&format!(" {COMMIT_TIME} "), " now "));
                    ours.pop_if(|line| line.starts_with("  diff ID")); // of the layer on top, which is the repository's
                }
                if recipe.is_unwritten() {
                    let has_runs = recipe.text().to_lowercase().contains("run ");
                    [&mut theirs, &mut ours].into_iter().for_each(|picture| blur(&kind, has_runs, picture));
                }
                // Of a Dockerfile with errors, checks tell until they find one.
                if theirs != ours && kind == Kind::Check && recipe.is_unwritten() {
                    let mut built = recipe.clone();
                    built.flags.retain(|flag| flag != "--check");
                    let ours = self.ours(&built, &Kind::Archive("type=oci".to_owned()), place.path());
                    ours.status.success().then_some(())?;
                }
                (theirs != ours).then(|| changes(&theirs, &ours))
            }
        }
    }

    /// A smaller one that differs in the same way, as text, with what differs.
    fn smallest(&self, buildkit: &BuildKit, recipe: &Recipe, mut differences: Vec<String>) -> String {
        if !recipe.is_unwritten() {
            return differences.join("\n");
        }
        let way = |differences: &[String]| differences[0].split(':').next().map(str::to_owned);
        let (mut smallest, mut tries, mut next) = (recipe.clone(), 0, 0);
        while tries < SHRINKS
            && let Some(smaller) = smallest.smaller().into_iter().nth(next)
        {
            tries += 1;
            match self.differences(buildkit, &smaller).filter(|found| way(found) == way(&differences)) {
                Some(found) => (smallest, differences) = (smaller, found),
                None => next += 1,
            }
        }
        format!("{}\nit differs as this does:\n{}\n{}", recipe.text(), smallest.text(), differences.join("\n"))
    }

    fn ours(&self, recipe: &Recipe, kind: &Kind, place: &Path) -> Output {
        let mut command = Command::new(LIGHTER);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", place);
        command.env("HTTPS_PROXY", NOWHERE);
        command.args(["build", "--progress=plain", "--data"]).arg(place.join("data"));
        command.arg("-f").arg(place.join("dockerfile/Dockerfile"));
        for (name, (layout, _)) in &self.bases {
            command.arg("--build-context").arg(format!("{name}=oci-layout://{}", layout.display()));
        }
        for (flag, value) in pairs(recipe) {
            let value = value.replace("=@", &format!("={}/", place.display()));
            match (flag, kind) {
                ("-o", _) => {}
                _ if value.is_empty() => drop(command.arg(flag)),
                _ => drop(command.arg(flag).arg(value)),
            }
        }
        if kind.is_build() {
            command.arg("-o").arg(kind.output(&place.join("ours")));
        }
        command.arg(place.join("context")).stdin(Stdio::null()).output().expect("lighter starts")
    }

    fn theirs(&self, buildkit: &BuildKit, recipe: &Recipe, kind: &Kind, place: &Path) -> Output {
        // What it keeps shows: of a context it fetches what has another size or time than in the last one, and a step
        // that it has done has the time of then.
        let pruned = buildkit.buildctl().args(["prune", "--all"]).output().expect("buildctl starts");
        assert!(pruned.status.success(), "{}", text(&pruned.stderr));
        let mut command = buildkit.buildctl();
        command.args(["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        command.arg("--local").arg(format!("context={}", place.join("context").display()));
        command.arg("--local").arg(format!("dockerfile={}", place.join("dockerfile").display()));
        for (name, (layout, digest)) in &self.bases {
            command.arg("--oci-layout").arg(format!("{name}={}", layout.display()));
            command.arg("--opt").arg(format!("context:{name}=oci-layout://{name}@{digest}"));
        }
        let mut output = kind.output(&place.join("theirs"));
        for (flag, value) in pairs(recipe) {
            match flag {
                "--build-arg" => drop(command.arg("--opt").arg(format!("build-arg:{value}"))),
                "--label" => drop(command.arg("--opt").arg(format!("label:{value}"))),
                "--target" => drop(command.arg("--opt").arg(format!("target={value}"))),
                "--platform" => drop(command.arg("--opt").arg(format!("platform={value}"))),
                "--add-host" => drop(command.arg("--opt").arg(format!("add-hosts={value}"))),
                "--ulimit" => drop(command.arg("--opt").arg(format!("ulimit={value}"))),
                "--shm-size" => drop(command.arg("--opt").arg(format!("shm-size={value}"))),
                "--network" => drop(command.arg("--opt").arg(format!("force-network-mode={value}"))),
                "--annotation" => output += &annotation(value),
                "--secret" => {
                    let value = value.replace("=@", &format!("={}/", place.display()));
                    command.arg("--secret").arg(value);
                }
                "--build-context" => {
                    let (name, from) = value.split_once("=@").expect("NAME=@NAME");
                    command.arg("--local").arg(format!("{name}={}", place.join(from).display()));
                    command.arg("--opt").arg(format!("context:{name}=local:{name}"));
                }
                "--check" => {
                    command.arg("--opt").arg("requestid=frontend.lint");
                }
                "--call=outline" => drop(command.args(["--opt", "requestid=frontend.outline"])),
                "--call=targets" => drop(command.args(["--opt", "requestid=frontend.targets"])),
                "-o" => {}
                other => panic!("{}: {other} has no counterpart here yet", recipe.name),
            }
        }
        if kind.is_build() {
            command.arg("--output").arg(output);
        }
        command.stdin(Stdio::null()).output().expect("buildctl starts")
    }
}

/// What is asked for.
#[derive(PartialEq, Eq)]
enum Kind {
    Archive(String),
    Tree(String),
    Check,
    /// An outline, or the targets.
    Call,
}

impl Kind {
    fn of(recipe: &Recipe) -> Self {
        let output = pairs(recipe).find(|(flag, _)| *flag == "-o").map(|(_, value)| value.to_owned());
        match output {
            _ if recipe.flags.iter().any(|flag| flag == "--check") => Self::Check,
            _ if recipe.flags.iter().any(|flag| flag.starts_with("--call=")) => Self::Call,
            Some(output) if output.starts_with("type=tar") || output.starts_with("type=local") => Self::Tree(output),
            Some(output) => Self::Archive(output),
            None => Self::Archive("type=oci".to_owned()),
        }
    }

    fn output(&self, to: &Path) -> String {
        match self {
            Self::Archive(output) | Self::Tree(output) => format!("{output},dest={}", to.display()),
            Self::Check | Self::Call => String::new(),
        }
    }

    /// Whether something is built.
    fn is_build(&self) -> bool {
        matches!(self, Self::Archive(_) | Self::Tree(_))
    }

    fn picture(&self, path: &Path, began: i64) -> Vec<String> {
        match self {
            Self::Tree(_) => picture::of_tree(path, began),
            _ => picture::of_archive(path, began),
        }
    }
}

/// Each flag with its value; those without one have an empty one.
fn pairs(recipe: &Recipe) -> impl Iterator<Item = (&str, &str)> {
    let flags = &recipe.flags;
    let is_flag = |word: &String| word.starts_with('-');
    flags.iter().enumerate().filter(move |(_, word)| is_flag(word)).map(move |(number, flag)| {
        let value = flags.get(number + 1).filter(|word| !is_flag(word));
        (flag.as_str(), value.map_or("", String::as_str))
    })
}

/// `[SCOPE:]KEY=VALUE` as an attribute of an output.
fn annotation(text: &str) -> String {
    match text.split_once(':').filter(|(scope, _)| scope.starts_with("index") || scope.starts_with("manifest")) {
        Some((scope, rest)) => format!(",annotation-{scope}.{rest}"),
        None => format!(",annotation.{text}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Takes out what is known to differ here and there: the times of directories into which a COPY has put only what was
/// there before, which a tree shows, and which of several near names BuildKit suggests.
fn blur(kind: &Kind, has_runs: bool, picture: &mut Vec<String>) {
    let is_tree = matches!(kind, Kind::Tree(_));
    for line in picture.iter_mut() {
        if *kind == Kind::Check {
            line.truncate(line.find(" (did you mean").unwrap_or(line.len()));
        } else if is_tree && line.trim_start().starts_with("dir ") {
            let words: Vec<&str> = line.trim_start().splitn(5, ' ').collect();
            *line = format!("{} {} {} {}", words[0], words[1], words[2], words[4]);
        }
    }
    picture.retain(|line| !has_runs || !line.starts_with("  diff ID"));
}

/// What a build said of why it failed.
fn last_words(output: &Output) -> String {
    let said = text(&output.stderr);
    let is_reason = |line: &&str| {
        !line.contains("level=warning")
            && ["rror:", "ERROR", "caused by", "hint", "runc run"].iter().any(|word| line.contains(word))
    };
    let lines: Vec<&str> = said.lines().filter(is_reason).collect();
    lines[lines.len().saturating_sub(4)..].join(" | ")
}

/// The lines that two failures are blamed on, if they are not the same and should be.
fn other_blame(theirs: &Output, ours: &Output) -> Option<Vec<String>> {
    let (our_line, their_line) = (blamed(ours), blamed(theirs));
    let line = |line: Option<usize>| line.map_or("no line".to_owned(), |line| format!("line {line}"));
    (their_line.is_some() && our_line != their_line && !may_blame_another(theirs, ours)).then(|| {
        vec![
            "  another line is blamed:".to_owned(),
            format!("- {}: {}", line(their_line), last_words(theirs)),
            format!("+ {}: {}", line(our_line), last_words(ours)),
        ]
    })
}

/// Whether two failures need not be of the same line.
fn may_blame_another(theirs: &Output, ours: &Output) -> bool {
    let (said, ours) = (text(&theirs.stderr), text(&ours.stderr));
    let of_steps = [" ERROR: ", "failed to compute cache key", "invalid user index"];
    // Where steps failed, it is chance which did first.
    (of_steps.iter().any(|word| said.contains(word)) && ours.contains("the build failed"))
        // Of a directive, BuildKit blames the line above.
        || said.contains(" parser directive can be used")
        // Patterns of what is ignored are read before the Dockerfile is.
        || ours.contains("cannot use ") && ours.contains(".dockerignore")
        || has_upper_context(theirs)
}

/// Whether BuildKit refuses a name that a context has in lower case.
fn has_upper_context(theirs: &Output) -> bool {
    text(&theirs.stderr).contains(") must be lowercase")
}

/// The first line that stands marked in what was said of a failure.
fn blamed(output: &Output) -> Option<usize> {
    let said = text(&output.stderr);
    said.lines().find_map(|line| line.split_once(" | >>>")?.0.trim().parse().ok())
}

/// The lines of one that the other has not, in order: `-` of theirs, `+` of ours.
fn changes(theirs: &[String], ours: &[String]) -> Vec<String> {
    described::changes(theirs, ours).into_iter().filter(|line| !line.starts_with(SAME)).collect()
}
