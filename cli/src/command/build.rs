//! build: a Dockerfile and a directory become an image, and go where they are wanted.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use builder::build::RunOptions;
use builder::cache::Cache;
use builder::dockerfile;
use builder::event::Event;
use builder::ignore::Patterns;
use builder::output::Output;
use builder::sandbox::{self, Cancel, Entered};
use builder::{Built, Request, Workshop};
use content::Disk;
use content::remote::Client;
use oci::{Platform, Reference};
use tokio::runtime::Runtime;

use super::output::Outputs;
use crate::args::{BuildArgs, ProgressKind};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::images::Images;
use crate::interrupt;
use crate::location::Location;
use crate::place::{Opener, scratch};
use crate::progress::Progress;
use crate::settings;
use crate::terminal::{out, tell};

/// Largest Dockerfile or ignore file that is read, in bytes.
const TEXT_LIMIT: u64 = 16 << 20;

/// What a build needs to know; `build` and `ship` fill it in.
#[derive(Debug)]
pub struct Job {
    pub context: PathBuf,
    pub file: Option<PathBuf>,
    pub target: Option<String>,
    pub platform: Option<Platform>,
    pub build_args: Vec<String>,
    pub contexts: BTreeMap<String, PathBuf>,
    pub no_cache: bool,
    /// Asks the registry for base images even where the local store has them.
    pub pull: bool,
    /// What the commands of RUN get.
    pub run: RunOptions,
    pub outputs: Vec<Output>,
    pub progress: ProgressKind,
}

impl Job {
    /// What was typed, with the outputs that it asks for.
    pub fn new(args: &BuildArgs, outputs: Vec<Output>) -> Outcome<Self> {
        Ok(Self {
            context: args.context.clone(),
            file: args.file.clone(),
            target: args.target.clone(),
            platform: args.platform.clone(),
            build_args: args.build_arg.clone(),
            contexts: named_contexts(&args.build_context)?,
            no_cache: args.no_cache,
            pull: args.pull,
            run: super::run_options::parse(&args.run)?,
            outputs,
            progress: if args.quiet { ProgressKind::Quiet } else { args.progress },
        })
    }
}

/// A build that is ready to begin: everything that needs a process without threads is done.
pub struct Prepared {
    pub request: Request,
    cache: Cache,
    entered: Option<Entered>,
    pull: bool,
    progress: ProgressKind,
}

pub fn run(args: &BuildArgs) -> Outcome<()> {
    if args.is_check() {
        return super::check::run(args);
    }
    let data = settings::data_directory(&args.store)?;
    let local = settings::local_store(&data)?;
    let names = args.tag.iter().map(|name| reference(name)).collect::<Outcome<Vec<_>>>()?;
    if args.push && names.is_empty() {
        return Err(
            Failure::new(Exit::Usage, "--push needs a --tag to push to").hint("lighter build -t HOST/NAME:TAG --push")
        );
    }
    let outputs = Outputs::parse(&args.output, || scratch(&data))?;
    let job = Job::new(args, outputs.files.clone())?;
    let mut prepared = prepare(&job, &data)?;
    prepared.request.names.clone_from(&names);
    let client = settings::client(&args.registry)?;
    let runtime = crate::runtime()?;
    let built = build(&prepared, &runtime, &local, &client)?;
    let digest = built.manifest.digest();
    write_files(args, &built)?;
    if args.push {
        let opener = Opener { data, local, client };
        for name in &names {
            push(&runtime, &opener, name)?;
        }
    }
    outputs.send()?;
    if !outputs.uses_stdout() {
        if names.is_empty() {
            out(&digest.to_string());
        }
        for name in &names {
            out(&name.pin(digest).to_string());
        }
    }
    Ok(())
}

fn push(runtime: &Runtime, opener: &Opener, name: &Reference) -> Outcome<()> {
    let destination = Location::Registry(name.clone());
    let opened = opener.in_local_store(name);
    let target = opener.target(&destination)?;
    let options = settings::copy_options(None);
    let shown = destination.to_string();
    let sending = super::transfer::run(&opened, &target, &shown, &options);
    let copied = runtime.block_on(interrupt::until_signal(sending))?;
    tell(&super::transfer::summary(&copied, &destination));
    Ok(())
}

/// Reads what there is to read, and enters the sandbox if a RUN is to come: that must happen before any
/// thread starts.
pub fn prepare(job: &Job, data: &Path) -> Outcome<Prepared> {
    let request = request(job)?;
    let directory = data.join("build");
    let cache = Cache::open(&directory).map_err(|error| Failure::io(error.to_string(), &error.source))?;
    let runs_commands = request.runs_commands().map_err(|error| told(&error))?;
    let entered = if runs_commands { Some(enter(&cache, job.progress)?) } else { None };
    Ok(Prepared { request, cache, entered, pull: job.pull, progress: job.progress })
}

fn enter(cache: &Cache, progress: ProgressKind) -> Outcome<Entered> {
    let entered = sandbox::enter(&cache.work()).map_err(|error| {
        Failure::because(Exit::Environment, "this machine does not let RUN be isolated", &error)
            .hint("Dockerfiles without RUN build everywhere; docs/build.md lists what RUN needs")
    })?;
    if progress != ProgressKind::Quiet && progress != ProgressKind::Rawjson {
        for refusal in &entered.refused {
            tell(&format!("note: {refusal}"));
        }
    }
    Ok(entered)
}

/// Builds. Ctrl-C stops it, and leaves nothing half done.
pub fn build(prepared: &Prepared, runtime: &Runtime, local: &Disk, client: &Client) -> Outcome<Built> {
    let cancel = Cancel::new().map_err(|error| Failure::because(Exit::Bug, "cannot prepare the build", &error))?;
    let (raise, interrupted) = tokio::sync::watch::channel(None);
    let watching = cancel.clone();
    let mut signals = {
        let _inside = runtime.enter();
        interrupt::Signals::listen() // before the build begins, which others may see
    };
    let watch = runtime.spawn(async move {
        let exit = signals.next().await;
        let _ = raise.send(Some(exit)); // a build that just ended does not listen any more
        watching.cancel();
    });
    let images =
        Images::new(runtime.handle().clone(), client.clone(), local.clone(), prepared.pull, interrupted.clone());
    let progress = Progress::new(prepared.progress, false);
    let show = |event: Event| progress.show(&event);
    let workshop = Workshop {
        store: local,
        cache: &prepared.cache,
        images: &images,
        sandbox: prepared.entered.as_ref(),
        events: &show,
        cancel: &cancel,
    };
    let built = builder::build(&prepared.request, &workshop);
    progress.end(built.is_err());
    drop(progress);
    watch.abort();
    if let Some(exit) = *interrupted.borrow() {
        return Err(interrupt::failure(exit));
    }
    built.map_err(|error| told(&error))
}

/// Reads the Dockerfile, the ignore files, and what else there is to know before a build.
pub fn request(job: &Job) -> Outcome<Request> {
    let context = directory(&job.context, "the build context")?;
    let (name, path, text) = read_dockerfile(job)?;
    let dockerfile = dockerfile::parse(&text, &name).map_err(|error| told(&error.into()))?;
    let ignore = ignore_file(path.as_deref(), &context)?;
    let mut request = Request::new(dockerfile, builder::build::Directory { path: context, ignore });
    request.options.target.clone_from(&job.target);
    if let Some(platform) = &job.platform {
        request.options.target_platform = platform.clone();
        request.options.platform_is_explicit = true;
    }
    request.options.build_args = build_args(&job.build_args)?;
    for (name, path) in &job.contexts {
        let path = directory(path, "the named context")?;
        let ignore = ignore_file(None, &path)?;
        request.contexts.insert(name.clone(), builder::build::Directory { path, ignore });
    }
    request.no_cache = job.no_cache;
    request.run = job.run.clone();
    request.outputs.clone_from(&job.outputs);
    Ok(request)
}

fn directory(path: &Path, what: &str) -> Outcome<PathBuf> {
    let real = path
        .canonicalize()
        .map_err(|error| Failure::io(format!("{what} `{}` cannot be used", path.display()), &error))?;
    if !real.is_dir() {
        return Err(Failure::new(Exit::BadInput, format!("{what} `{}` is not a directory", path.display())));
    }
    Ok(real)
}

/// The Dockerfile: its name for messages, its path where it has one, its text.
fn read_dockerfile(job: &Job) -> Outcome<(String, Option<PathBuf>, Vec<u8>)> {
    let path = job.file.clone().unwrap_or_else(|| job.context.join("Dockerfile"));
    if path == Path::new("-") {
        let text = read_limited(&mut std::io::stdin().lock())
            .map_err(|error| Failure::io("cannot read the Dockerfile from stdin", &error))?;
        return Ok(("stdin".to_owned(), None, text));
    }
    let shown = path.display().to_string();
    let text = std::fs::File::open(&path).and_then(|mut file| read_limited(&mut file));
    let text = text.map_err(|error| {
        let failure = Failure::io(format!("cannot read the Dockerfile `{shown}`"), &error);
        let missing = error.kind() == std::io::ErrorKind::NotFound && job.file.is_none();
        if missing { failure.hint("name another one with -f FILE, or another directory as CONTEXT") } else { failure }
    })?;
    Ok((shown, Some(path), text))
}

fn read_limited(from: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(TEXT_LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

/// `<Dockerfile>.dockerignore` if there is one, else `.dockerignore` of the context.
fn ignore_file(dockerfile: Option<&Path>, context: &Path) -> Outcome<Patterns> {
    let beside = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in beside.into_iter().chain([context.join(".dockerignore")]) {
        let text = match std::fs::File::open(&path).and_then(|mut file| read_limited(&mut file)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()), &error)),
        };
        let wrong = |error| Failure::because(Exit::BadInput, format!("cannot use {}", path.display()), &error);
        return Patterns::parse(&text).map_err(wrong);
    }
    Patterns::parse(b"").map_err(|error| Failure::because(Exit::Bug, "no patterns are no patterns", &error))
}

/// `NAME=VALUE`, or `NAME` for the value in the environment; unset there means not given.
fn build_args(typed: &[String]) -> Outcome<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    // Taken from the environment without asking, as `docker buildx` does: builds that can be repeated set it.
    values.extend(settings::variable("SOURCE_DATE_EPOCH").map(|epoch| ("SOURCE_DATE_EPOCH".to_owned(), epoch)));
    for text in typed {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(
                Failure::new(Exit::Usage, format!("--build-arg `{text}` has no name")).hint("--build-arg NAME=VALUE")
            );
        }
        values.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(values)
}

fn named_contexts(typed: &[String]) -> Outcome<BTreeMap<String, PathBuf>> {
    let mut contexts = BTreeMap::new();
    for text in typed {
        let wrong = |why: &str| {
            Failure::new(Exit::Usage, format!("--build-context `{text}` {why}")).hint("--build-context NAME=DIR")
        };
        let (name, value) = text.split_once('=').ok_or_else(|| wrong("has no value"))?;
        if name.is_empty() || value.is_empty() {
            return Err(wrong("has no name or no directory"));
        }
        for scheme in ["docker-image://", "oci-layout://", "https://", "http://", "git@", "target:"] {
            if value.starts_with(scheme) {
                return Err(wrong(&format!("is no directory; `{scheme}` is not supported yet")));
            }
        }
        contexts.insert(name.to_lowercase(), PathBuf::from(value));
    }
    Ok(contexts)
}

fn reference(name: &str) -> Outcome<Reference> {
    let parsed: Reference =
        name.parse().map_err(|error| Failure::because(Exit::Usage, format!("--tag `{name}`"), &error))?;
    if parsed.digest().is_some() {
        return Err(Failure::new(
            Exit::Usage,
            format!("--tag `{name}` has a digest, which only the finished image has"),
        ));
    }
    Ok(parsed)
}

fn write_files(args: &BuildArgs, built: &Built) -> Outcome<()> {
    if let Some(path) = &args.iidfile {
        write_file(path, built.image_id.to_string().as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        let text = serde_json::to_vec_pretty(&built.metadata())
            .map_err(|error| Failure::because(Exit::Bug, "cannot print the metadata", &error))?;
        write_file(path, &text)?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &[u8]) -> Outcome<()> {
    content::place::replace_file(path, text)
        .map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
}

/// A failed build, with its exit code and what to do.
pub fn told(error: &builder::Error) -> Failure {
    let (what, detail) = match error {
        builder::Error::Dockerfile(_) | builder::Error::Plan(_) => {
            ("the Dockerfile cannot be built", error.to_string())
        }
        builder::Error::Check(_) => ("the Dockerfile does not pass its checks", error.to_string()),
        _ => ("the build failed", error.to_string()),
    };
    let mut failure = Failure::new(exit(error), what);
    failure.causes.push(detail);
    let content = content_error(error);
    match (error.hint(), content) {
        (Some(hint), _) => failure.hint(hint),
        (None, Some(content)) => Failure { hint: Failure::content("", content).hint, ..failure },
        (None, None) if is_disk_full(error) => failure.hint("make room, or choose another place with --data DIR"),
        (None, None) => failure,
    }
}

fn content_error(error: &builder::Error) -> Option<&content::Error> {
    use builder::build::{StepProblem, Unusable};
    match error {
        builder::Error::Store(error) => Some(error),
        builder::Error::Step(step) => match step.problem() {
            StepProblem::Base(Unusable::Missing { source, .. }) | StepProblem::Store(source) => Some(source),
            StepProblem::Stage(inner) => content_error(inner),
            _ => None,
        },
        _ => None,
    }
}

fn exit(error: &builder::Error) -> Exit {
    use builder::build::{StepProblem, Unusable};
    if is_disk_full(error) {
        return Exit::Disk;
    }
    if let Some(content) = content_error(error) {
        return Failure::content("", content).exit;
    }
    match error {
        builder::Error::Dockerfile(_) | builder::Error::Plan(_) | builder::Error::Check(_) => Exit::BadInput,
        builder::Error::Cancelled => Exit::Interrupted,
        builder::Error::Output(builder::output::Error::Write { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Exit::NoInput
        }
        builder::Error::Output(_) | builder::Error::Store(_) | builder::Error::Cache(_) => Exit::Disk,
        builder::Error::Step(step) => match step.problem() {
            StepProblem::Failed { .. } | StepProblem::Sandbox(sandbox::Error::Exec { .. }) => Exit::Failed,
            StepProblem::Copy(builder::copy::Error::NotFound(_))
            | StepProblem::NoSecret(_)
            | StepProblem::NoAgent(_) => Exit::NoInput,
            StepProblem::Sandbox(_) | StepProblem::NoSandbox | StepProblem::SingleUser(_) => Exit::Environment,
            StepProblem::Cache(_) | StepProblem::Disk { .. } => Exit::Disk,
            StepProblem::Cancelled => Exit::Interrupted,
            StepProblem::Base(Unusable::Missing { .. }) => Exit::Unavailable,
            StepProblem::Stage(inner) => self::exit(inner),
            _ => Exit::BadInput,
        },
    }
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let full = rustix::io::Errno::NOSPC.raw_os_error();
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.raw_os_error() == Some(full)) {
            return true;
        }
        next = error.source();
    }
    false
}
