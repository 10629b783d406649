//! Builds every case of `fixtures/cases` and compares what came out with what the rules say: as this
//! user, and, if that is root, as an ordinary user too. Cases with RUN need root and Debian's busybox-static.
//!
//! The process that builds has to be free of threads before it enters the sandbox, and cannot leave it,
//! so this program starts itself again, once for each way.
#![allow(clippy::print_stdout, clippy::print_stderr)] // this file is a test harness: printing is its job

mod describe;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use builder::build::{BaseImages, Directory, Resolved};
use builder::cache::Cache;
use builder::ignore::Patterns;
use builder::output::Output;
use builder::sandbox::{self, Cancel, Entered};
use builder::{Built, Request, Workshop, build, dockerfile};
use content::Disk;
use fixtures::cases::{Base, Case};
use oci::{Descriptor, Manifest, Platform, Reference};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/cases");
/// A user id without a name and without a range of ids, so the one with the fewest rights.
const NOBODY: u32 = 64_322;
/// How this program knows that it was started by itself.
const WORKER: &str = "as-worker";
/// How many cases are built at once; most of their time they wait for the disk.
const WORKERS: usize = 8;

fn main() -> ExitCode {
    sandbox::init_if_requested();
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [marker, kind, directory, filters @ ..] = &words[..]
        && marker == WORKER
    {
        return work(kind, Path::new(directory), filters);
    }
    if words.iter().any(|word| word == "--list") {
        Case::all(Path::new(CASES)).iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> = words.into_iter().filter(|word| !word.starts_with('-')).collect();
    let is_root = rustix::process::geteuid().is_root();
    let mut all_well = run("files", false, &filters);
    if is_root {
        all_well &= run("ordinary_files", true, &filters);
        all_well &= run("privileged_commands", false, &filters);
    } else {
        println!("test privileged_commands ... skipped: cases with RUN need root");
    }
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts this program again, with copies of it and of the cases that an ordinary user can read.
fn run(kind: &str, as_nobody: bool, filters: &[String]) -> bool {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (program, cases, work) =
        (place.path().join("cases-test"), place.path().join("cases"), place.path().join("work"));
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let copied = Command::new("cp").args(["-r", CASES]).arg(&cases).status().unwrap();
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(&cases).status().unwrap();
    assert!(copied.success() && opened.success());
    fs::create_dir(&work).unwrap();
    let mut command = Command::new(program);
    command.args([WORKER, kind]).arg(place.path()).args(filters).stdin(Stdio::null()).env("TMPDIR", &work);
    if as_nobody {
        chown(&work, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    command.status().unwrap().success()
}

/// Builds the cases of one kind.
fn work(kind: &str, place: &Path, filters: &[String]) -> ExitCode {
    let runs = kind == "privileged_commands";
    let shared = Cache::open(&place.join("work/cache")).unwrap();
    let entered = runs
        .then(|| sandbox::enter(&shared.work(), sandbox::Isolation::Auto).unwrap_or_else(|error| panic!("{error}")));
    let bases = Bases(Base::all(&place.join("cases")));
    let mut cases = Case::all(&place.join("cases"));
    let name = |case: &Case| format!("{kind}::{}", case.name);
    cases.retain(|case| case.asked.runs == runs);
    cases.retain(|case| filters.is_empty() || filters.iter().any(|word| name(case).contains(word.as_str())));
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let room = Room { case, bases: &bases, shared: &shared, entered: entered.as_ref() };
            match catch_unwind(AssertUnwindSafe(|| room.check())) {
                Ok(None) => println!("test {} ... ok", name(case)),
                outcome => {
                    println!("test {} ... FAILED\n{}", name(case), outcome.ok().flatten().unwrap_or_default());
                    failed.lock().unwrap().push(case.name.clone());
                }
            }
        }
    };
    std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    println!("{kind}: {} of {} cases failed {failed:?}\n", failed.len(), cases.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Base images from memory.
struct Bases(BTreeMap<String, Base>);

impl Bases {
    fn find(&self, reference: &Reference) -> content::Result<&Base> {
        let name = reference.name().to_string();
        let missing =
            || content::Error::NoManifest { place: "the base images of the cases".into(), which: reference.selector() };
        self.0.get(name.rsplit('/').next().unwrap_or_default()).ok_or_else(missing)
    }
}

impl BaseImages for Bases {
    fn resolve(&self, reference: &Reference, _: &Platform) -> content::Result<Resolved> {
        let base = self.find(reference)?;
        let manifest = Manifest::parse(None, base.manifest.clone())
            .map_err(|source| content::Error::Manifest { place: reference.to_string(), source })?;
        Ok(Resolved { reference: reference.clone(), manifest, config: base.config.clone(), origin: None })
    }

    fn open(&self, image: &Resolved, _: &Descriptor) -> content::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.find(&image.reference)?.layer.clone())))
    }
}

/// What a case is built with.
struct Room<'a> {
    case: &'a Case,
    bases: &'a Bases,
    shared: &'a Cache,
    entered: Option<&'a Entered>,
}

impl Room<'_> {
    /// Builds the case; gives what differs from what is expected.
    fn check(&self) -> Option<String> {
        let place = tempfile::tempdir().unwrap();
        let (expected, why) = (&self.case.expected, self.case.expected.why.as_deref().unwrap_or_default());
        let tree = place.path().join("tree.tar");
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed() - 1;
        let store = Disk::create(place.path().join("store")).unwrap();
        let outcome = self.build(place.path(), &store, &tree);
        let differences = match (outcome, &expected.error) {
            (Ok(built), None) => describe::Found::new(&built, &store, &tree, began).differences(expected),
            (Ok(_), Some(error)) => vec![format!("- error: {error}"), "+ it was built".to_owned()],
            (Err(found), None) => vec![format!("+ {found}")],
            (Err(found), Some(error)) => problem(&found, error, expected.line),
        };
        (!differences.is_empty()).then(|| format!("{}\n{why}\n", differences.join("\n")))
    }

    fn build(&self, place: &Path, store: &Disk, tree: &Path) -> Result<Built, String> {
        let request = self.request(place, tree)?;
        let own = Cache::open(&place.join("cache")).unwrap();
        let cancel = Cancel::new().unwrap();
        let cache = if self.entered.is_some() { self.shared } else { &own };
        let workshop =
            Workshop { store, cache, images: self.bases, sandbox: self.entered, events: &|_| {}, cancel: &cancel };
        build(&request, &workshop).map_err(|error| error.to_string())
    }

    fn request(&self, place: &Path, tree: &Path) -> Result<Request, String> {
        let (case, asked) = (self.case, &self.case.asked);
        let text = fs::read(case.directory.join("Dockerfile")).unwrap();
        let file = dockerfile::parse(&text, "Dockerfile").map_err(|error| error.to_string())?;
        let ignore = case.ignore_file().map(|text| Patterns::parse(&text).unwrap()).unwrap_or_default();
        let lay_out = |name: &str| -> PathBuf {
            let to = place.join("contexts").join(name);
            case.lay_out(name, &to);
            to
        };
        let mut request = Request::new(file, Directory { path: lay_out("context"), ignore });
        request.options.target = asked.target.clone();
        request.options.build_args = asked.build_args.clone().into_iter().collect();
        request.options.target_platform = Platform::linux("amd64");
        let named = |(name, from): (&String, &String)| {
            (name.clone(), Directory { path: lay_out(from), ignore: Patterns::default() }.into())
        };
        request.contexts = asked.contexts.iter().map(named).collect();
        request.no_cache = self.entered.is_some();
        request.outputs = vec![Output::Tar(tree.to_owned())];
        Ok(request)
    }
}

/// What differs between the message of a failed build and the expected one.
fn problem(found: &str, error: &str, line: Option<usize>) -> Vec<String> {
    let place = line.map(|line| format!("Dockerfile:{line}: ")).unwrap_or_default();
    // The lines below the first show the Dockerfile.
    let message = found.lines().next().unwrap_or_default();
    let is_same = message.contains(error) && message.starts_with(&place);
    if is_same { Vec::new() } else { vec![format!("- error: {place}{error}"), format!("+ {found}")] }
}
