//! build: a Dockerfile and a context become an image, and go where they are wanted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use builder::cache::Cache;
use builder::event::Event;
use builder::sandbox::{self, Cancel, Entered};
use builder::{Built, Request, Workshop};
use content::Disk;
use content::remote::Client;
use oci::{Descriptor, Digest, Manifest, Reference};
use tokio::runtime::Runtime;

use super::named::LayoutImage;
use super::output::Outputs;
use super::request::{self, Loaded};
use super::{buildah, docker, kaniko, platforms, report};
use crate::args::build::Method;
use crate::args::{BuildArgs, ProgressKind};
use crate::exchange::{Exchange, SharedMounts};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::images::Images;
use crate::interrupt;
use crate::location::Location;
use crate::place::{Opener, scratch};
use crate::progress::Progress;
use crate::settings;
use crate::terminal::{out, tell};

pub use super::request::Job;

/// A build that is ready to begin: everything that needs a process without threads is done.
pub struct Prepared {
    pub request: Request,
    cache: Cache,
    entered: Option<Entered>,
    pull: bool,
    progress: ProgressKind,
    layouts: BTreeMap<Reference, LayoutImage>,
    /// The images that were built so far.
    built: RefCell<Vec<Built>>,
    /// What the request reads from, for as long as it may.
    _loaded: request::Kept,
}

impl Prepared {
    /// What earlier builds left.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }
}

/// What came out, for one platform or several.
pub struct Finished {
    /// The image, or the index of all of them.
    pub manifest: Manifest,
    /// What `--iidfile` gets: the config of an image, the index itself.
    pub image_id: Digest,
    /// What `--metadata-file` gets.
    pub metadata: serde_json::Value,
}

pub fn run(mut args: BuildArgs) -> Outcome<()> {
    let mut notes = kaniko::translate(&mut args)?;
    notes.extend(buildah::translate(&mut args)?);
    notes.extend(docker::notes(&args.docker)?);
    if args.progress != ProgressKind::Quiet && !args.quiet {
        notes.iter().for_each(|note| tell(&format!("note: {note}")));
    }
    if args.call().method != Method::Build {
        return super::call::run(&args);
    }
    let data = settings::data_directory(&args.store)?;
    let local = settings::local_store(&data)?;
    let mut image = super::image_options::ImageOptions::new(&args.image)?;
    let outputs = Outputs::parse(&args.output, &mut image, || scratch(&data))?;
    let mut job = Job::new(&args, outputs.files.clone())?;
    job.image = image;
    let exchange = Exchange::parse(&args.exchange)?;
    if args.plan {
        return super::plan::run(&job, &exchange, &data, &local);
    }
    let named = Names::new(&args, &outputs)?;
    let is_index = platforms::is_index(&mut job)?;
    platforms::check(&job, &outputs, is_index)?;
    let mounts = args.exchange.cache_mounts.as_deref().map(SharedMounts::parse).transpose()?;
    if args.reproducible_check && is_index {
        return Err(Failure::new(Exit::Usage, "--reproducible-check compares images for one platform"));
    }
    let mut prepared = prepare(&job, &data)?;
    let client = settings::client(&args.registry)?;
    let runtime = crate::runtime()?;
    prepared.request.inline_cache = exchange.is_inline();
    let platform = prepared.request.options.target_platform.clone();
    prepared.request.imports =
        runtime.block_on(interrupt::until_signal(async { Ok(exchange.import(&client, &platform).await) }))?;
    if let Some(mounts) = &mounts {
        let import = runtime.block_on(interrupt::until_signal(async { Ok(mounts.import(&client).await) }))?;
        prepared.request.mount_imports = import.into_iter().collect();
    }
    let built = if is_index {
        platforms::build(&mut prepared, &job, &named.all, &runtime, &local, &client)?
    } else {
        prepared.request.names.clone_from(&named.all);
        let built = build(&prepared, &runtime, &local, &client)?;
        if args.reproducible_check {
            super::twice::check(&prepared, &runtime, &local, &client, &built)?;
        }
        Finished::of(&built)
    };
    let digest = built.manifest.digest();
    let opener = Opener { data: data.clone(), local: local.clone(), client: client.clone(), _in_use: None };
    for name in &named.pushed {
        push(&runtime, &opener, name, outputs.push_by_digest)?;
    }
    report::write(&args, &built, &named.all)?;
    for built in prepared.built.take() {
        runtime.block_on(interrupt::until_signal(exchange.export(&built, &prepared.cache, &local, &client)))?;
        if let Some(mounts) = &mounts {
            let exported = mounts.export(&built.mounts, &prepared.cache, &client);
            runtime.block_on(interrupt::until_signal(exported))?;
        }
    }
    outputs.send()?;
    let cache = data.join("build");
    drop(prepared);
    super::cache::keep_small(&cache, &local);
    if !outputs.uses_stdout() {
        if named.all.is_empty() {
            out(&digest.to_string());
        }
        for name in &named.all {
            out(&name.pin(digest).to_string());
        }
    }
    Ok(())
}

/// The names of the image, and those that are pushed.
struct Names {
    all: Vec<Reference>,
    pushed: Vec<Reference>,
}

impl Names {
    fn new(args: &BuildArgs, outputs: &Outputs) -> Outcome<Self> {
        let tags = args.tag.iter().map(|name| reference("--tag", name)).collect::<Outcome<Vec<_>>>()?;
        let push_tags = args.push || outputs.push_tags;
        if push_tags && tags.is_empty() && outputs.pushed.is_empty() {
            return Err(Failure::new(Exit::Usage, "--push needs a --tag to push to")
                .hint("lighter build -t HOST/NAME:TAG --push"));
        }
        let named = |names: &[String]| names.iter().map(|name| reference("name", name)).collect::<Outcome<Vec<_>>>();
        let mut pushed = if push_tags { tags.clone() } else { Vec::new() };
        pushed.extend(named(&outputs.pushed)?);
        let mut all = tags;
        all.extend(named(&outputs.names)?);
        for names in [&mut all, &mut pushed] {
            let mut seen = std::collections::BTreeSet::new();
            names.retain(|name| seen.insert(name.to_string()));
        }
        Ok(Self { all, pushed })
    }
}

impl Finished {
    fn of(built: &Built) -> Self {
        Self { manifest: built.manifest.clone(), image_id: built.image_id, metadata: built.metadata() }
    }

    /// Of an index.
    pub fn of_index(manifest: Manifest, names: &[Reference]) -> Self {
        let descriptor: Descriptor = manifest.descriptor();
        let mut metadata = serde_json::json!({
            "containerimage.descriptor": descriptor,
            "containerimage.digest": manifest.digest(),
        });
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            metadata["image.name"] = names.join(",").into();
        }
        Self { image_id: manifest.digest(), metadata, manifest }
    }
}

fn push(runtime: &Runtime, opener: &Opener, name: &Reference, by_digest: bool) -> Outcome<()> {
    let destination = Location::Registry(name.clone());
    let opened = opener.in_local_store(name);
    let mut target = opener.target(&destination)?;
    if by_digest {
        target.tags.clear();
    }
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
    let Loaded { request, layouts, kept } = request::read(job, data)?;
    let directory = data.join("build");
    let cache = Cache::open(&directory).map_err(|error| Failure::io(error.to_string(), &error.source))?;
    let runs_commands = request.runs_commands().map_err(|error| told(&error))?;
    let entered = if runs_commands { Some(enter(&cache, job)?) } else { None };
    Ok(Prepared {
        request,
        cache,
        entered,
        pull: job.pull,
        progress: job.progress,
        layouts,
        built: RefCell::default(),
        _loaded: kept,
    })
}

fn enter(cache: &Cache, job: &Job) -> Outcome<Entered> {
    let entered = sandbox::enter(&cache.work(), job.run.isolation).map_err(|error| {
        Failure::because(Exit::Environment, "this machine does not let RUN be isolated", &error)
            .hint("Dockerfiles without RUN build everywhere; docs/build.md lists what RUN needs")
    })?;
    if !matches!(job.progress, ProgressKind::Quiet | ProgressKind::Rawjson) {
        if !entered.refused.is_empty() || entered.rung != sandbox::Rung::Overlay {
            tell(&format!("note: RUN steps run in {}", entered.rung));
        }
        for refusal in &entered.refused {
            tell(&format!("note: {refusal}"));
        }
    }
    Ok(entered)
}

/// Builds. Ctrl-C stops it, and leaves nothing half done.
pub fn build(prepared: &Prepared, runtime: &Runtime, local: &Disk, client: &Client) -> Outcome<Built> {
    let built = build_request(&prepared.request, prepared, runtime, local, client)?;
    prepared.built.borrow_mut().push(built.clone());
    Ok(built)
}

/// Builds something else with what was prepared.
pub fn build_request(
    request: &Request,
    prepared: &Prepared,
    runtime: &Runtime,
    local: &Disk,
    client: &Client,
) -> Outcome<Built> {
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
        Images::new(runtime.handle().clone(), client.clone(), local.clone(), prepared.pull, interrupted.clone())
            .with_layouts(prepared.layouts.clone());
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
    let built = builder::build(request, &workshop);
    progress.end(built.is_err());
    drop(progress);
    watch.abort();
    if let Some(exit) = *interrupted.borrow() {
        return Err(interrupt::failure(exit));
    }
    built.map_err(|error| told(&error))
}

fn reference(flag: &str, name: &str) -> Outcome<Reference> {
    let parsed: Reference =
        name.parse().map_err(|error| Failure::because(Exit::Usage, format!("{flag} `{name}`"), &error))?;
    if parsed.digest().is_some() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{flag} `{name}` has a digest, which only the finished image has"),
        ));
    }
    Ok(parsed)
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
            StepProblem::Download { source, .. } => Failure::content("", source).exit,
            StepProblem::Git(builder::remote::Error::Start(_)) => Exit::Environment,
            StepProblem::Git(builder::remote::Error::Disk { .. }) => Exit::Disk,
            StepProblem::Git(_) => Exit::Unavailable,
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
