//! What a build needs to know, and reading it: the context, the Dockerfile, the ignore files, the options.

use std::collections::BTreeMap;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use builder::Request;
use builder::build::{Directory, Files, RunOptions};
use builder::dockerfile;
use builder::ignore::Patterns;
use builder::output::Output;
use builder::remote::Git;
use oci::{Platform, Reference};
use tempfile::TempDir;

use super::context::{Fetching, TEXT_LIMIT, Typed};
use super::image_options::ImageOptions;
use super::named::{self, LayoutImage};
use crate::args::{BuildArgs, ProgressKind, RegistryArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;

/// The secret that is a password for git over http(s).
const GIT_TOKEN: &str = "GIT_AUTH_TOKEN";

/// What a build needs to know; `build` and `ship` fill it in.
#[derive(Debug)]
pub struct Job {
    pub context: Typed,
    pub file: Option<PathBuf>,
    pub target: Option<String>,
    /// None means this machine's.
    pub platforms: Vec<Platform>,
    pub build_args: Vec<String>,
    pub contexts: BTreeMap<String, named::Source>,
    pub no_cache: bool,
    pub no_cache_stages: Vec<String>,
    /// How many stages are worked at at the same time; as many as there are cores if nobody says.
    pub jobs: Option<NonZeroUsize>,
    /// Asks the registry for base images even where the local store has them.
    pub pull: bool,
    /// What the commands of RUN get.
    pub run: RunOptions,
    pub image: ImageOptions,
    pub outputs: Vec<Output>,
    pub progress: ProgressKind,
    /// How registries are spoken to, and whoever else has a context.
    pub registry: RegistryArgs,
}

impl Job {
    /// What was typed, with the outputs that it asks for.
    pub fn new(args: &BuildArgs, outputs: Vec<Output>) -> Outcome<Self> {
        Ok(Self {
            context: Typed::parse(&args.context)?,
            file: args.file.clone(),
            target: args.target.clone(),
            platforms: args.platform.clone(),
            build_args: args.build_arg.clone(),
            contexts: named::parse(&args.build_context)?,
            no_cache: args.no_cache,
            no_cache_stages: args.docker.no_cache_filter.clone(),
            jobs: args.jobs.map(|jobs| NonZeroUsize::new(jobs).unwrap_or(NonZeroUsize::MAX)),
            pull: args.pull,
            run: super::run_options::parse(&args.run)?,
            image: ImageOptions::new(&args.image)?,
            outputs,
            progress: if args.quiet { ProgressKind::Quiet } else { args.progress },
            registry: args.registry.clone(),
        })
    }
}

/// A request, and what has to live as long as it.
pub struct Loaded {
    pub request: Request,
    /// Images that lie on this machine under names of their own.
    pub layouts: BTreeMap<Reference, LayoutImage>,
    pub kept: Kept,
}

/// Files that a request reads from, and that vanish with this value.
pub struct Kept {
    _named: Vec<TempDir>,
    _context: super::context::Ready,
}

/// Reads the Dockerfile, the ignore files, and what else there is to know before a build.
pub fn read(job: &Job, data: &Path) -> Outcome<Loaded> {
    read_or_tell(job, data, &|_| Ok(()))
}

/// The same; `broken` is told why a Dockerfile cannot be parsed, before it becomes a failure.
pub fn read_or_tell(job: &Job, data: &Path, broken: &dyn Fn(&dockerfile::Error) -> Outcome<()>) -> Outcome<Loaded> {
    let client = || settings::client(&job.registry);
    let git = Git { ssh_agent: job.run.ssh.get("default").cloned(), token: job.run.secrets.get(GIT_TOKEN).cloned() };
    let in_context = job.file.as_deref().filter(|file| job.context.brings_dockerfile() && *file != Path::new("-"));
    let fetching = Fetching { data, client: &client, git: &git, file: in_context };
    if job.context == Typed::Stdin && job.file.as_deref() == Some(Path::new("-")) {
        return Err(Failure::new(Exit::Usage, "the context and the Dockerfile cannot both come from stdin"));
    }
    let build_args = build_args(&job.build_args)?;
    let mut context = job.context.clone();
    if let Typed::Git(source) = &mut context
        && is_on(&build_args, "BUILDKIT_CONTEXT_KEEP_GIT_DIR")
    {
        source.keep_git_dir = Some(true);
    }
    let ready = context.open(&fetching)?;
    let (name, path, text) = match (&ready.dockerfile, &job.file) {
        (Some((name, text)), None) => (name.clone(), None, text.clone()),
        (Some((name, text)), Some(file)) if file != Path::new("-") => (name.clone(), None, text.clone()),
        _ => read_dockerfile(job, ready.directory.as_deref())?,
    };
    let dockerfile = match dockerfile::parse(&text, &name) {
        Ok(dockerfile) => dockerfile,
        Err(error) => {
            broken(&error)?;
            return Err(super::build::told(&error.into()));
        }
    };
    let context = match &ready.directory {
        Some(directory) => {
            let ignore = ignore_file(path.as_deref(), directory)?;
            Files::Directory(Directory { path: directory.clone(), ignore })
        }
        None => ready.files.clone(),
    };
    let mut request = Request::new(dockerfile, context);
    request.options.target.clone_from(&job.target);
    if let Some(platform) = job.platforms.first() {
        request.options.target_platform = platform.clone();
        request.options.platform_is_explicit = true;
    }
    request.options.build_args = build_args;
    let named = named::open(&job.contexts, &fetching)?;
    request.contexts = named.files;
    request.images = named.images;
    request.no_cache = job.no_cache;
    request.no_cache_stages.clone_from(&job.no_cache_stages);
    request.jobs = job.jobs.unwrap_or(request.jobs);
    request.run = job.run.clone();
    request.outputs.clone_from(&job.outputs);
    job.image.apply(&mut request)?;
    Ok(Loaded { request, layouts: named.layouts, kept: Kept { _named: named.kept, _context: ready } })
}

/// The Dockerfile: its name for messages, its path where it has one, its text.
fn read_dockerfile(job: &Job, directory: Option<&Path>) -> Outcome<(String, Option<PathBuf>, Vec<u8>)> {
    let typed = match &job.context {
        Typed::Directory(path) => path.clone(),
        _ => directory.unwrap_or(Path::new(".")).to_owned(),
    };
    let path = job.file.clone().unwrap_or_else(|| dockerfile_of(&typed));
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

/// The Dockerfile of a directory; its name may be written small.
fn dockerfile_of(directory: &Path) -> PathBuf {
    let usual = directory.join("Dockerfile");
    let small = directory.join("dockerfile");
    if !usual.exists() && small.exists() { small } else { usual }
}

fn read_limited(from: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(TEXT_LIMIT).read_to_end(&mut text)?;
    Ok(text)
}

/// `<Dockerfile>.dockerignore` if there is one, else `.dockerignore` of the context.
pub fn ignore_file(dockerfile: Option<&Path>, context: &Path) -> Outcome<Patterns> {
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
    Ok(Patterns::none())
}

/// Whether a build argument with a meaning of its own is on.
pub fn is_on(build_args: &BTreeMap<String, String>, name: &str) -> bool {
    build_args.get(name).is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE"))
}

/// `NAME=VALUE`, or `NAME` for the value in the environment; unset there means not given.
pub fn build_args(typed: &[String]) -> Outcome<BTreeMap<String, String>> {
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
