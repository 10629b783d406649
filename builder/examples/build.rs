//! Builds an image into an OCI layout, with base images from OCI layouts on disk: the builder alone,
//! without registry and command line. `build CONTEXT -f FILE -o LAYOUT --bases DIR [--cache DIR]
//! [--build-arg K=V]... [--target NAME] [--no-cache] [--tree TAR] [--secret ID=FILE]...
//! [--ssh ID=SOCKET]... [--isolation KIND]`.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use builder::build::{BaseImages, Directory, Resolved};
use builder::cache::Cache;
use builder::event::Event;
use builder::output::Output;
use builder::secret::Secret;
use builder::{Request, Workshop, dockerfile, ignore, sandbox};
use content::Disk;
use oci::{Descriptor, Manifest, ManifestKind, Platform, Reference};

/// Takes an image from the layout whose directory its name begins with, else from `debian`.
struct Layouts(PathBuf);

impl Layouts {
    fn layout(&self, reference: &Reference) -> content::Result<Disk> {
        let name = reference.name().to_string();
        let last = name.rsplit('/').next().unwrap_or_default().to_owned();
        let known = ["busybox", "alpine"].into_iter().find(|known| last.starts_with(known)).unwrap_or("debian");
        let own = self.0.join(&last);
        Disk::open(if own.exists() { own } else { self.0.join(known) })
    }

    fn bytes(disk: &Disk, descriptor: &Descriptor) -> content::Result<Vec<u8>> {
        let missing = || content::Error::NoBlob { place: disk.root().display().to_string(), digest: descriptor.digest };
        let mut bytes = Vec::new();
        let mut file = disk.open_blob(&descriptor.digest)?.ok_or_else(missing)?;
        let failed = |source| content::Error::Disk { path: disk.root().to_owned(), source };
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }
}

impl BaseImages for Layouts {
    fn resolve(&self, reference: &Reference, _: &Platform) -> content::Result<Resolved> {
        let disk = self.layout(reference)?;
        let missing =
            || content::Error::NoManifest { place: disk.root().display().to_string(), which: reference.selector() };
        let descriptor = disk.entries()?.into_iter().next().ok_or_else(missing)?;
        let manifest = Manifest::parse(Some(&descriptor.media_type), Self::bytes(&disk, &descriptor)?)
            .map_err(|source| content::Error::Manifest { place: disk.root().display().to_string(), source })?;
        let config = match manifest.kind() {
            ManifestKind::Image { config, .. } => Self::bytes(&disk, config)?,
            _ => return Err(missing()),
        };
        Ok(Resolved { reference: reference.clone(), manifest, config, origin: None })
    }

    fn open(&self, image: &Resolved, layer: &Descriptor) -> content::Result<Box<dyn Read + Send>> {
        let disk = self.layout(&image.reference)?;
        let missing = || content::Error::NoBlob { place: disk.root().display().to_string(), digest: layer.digest };
        Ok(Box::new(disk.open_blob(&layer.digest)?.ok_or_else(missing)?))
    }
}

#[derive(Default)]
struct Arguments {
    context: PathBuf,
    file: PathBuf,
    out: PathBuf,
    bases: PathBuf,
    cache: PathBuf,
    build_args: Vec<(String, String)>,
    target: Option<String>,
    no_cache: bool,
    tree: Option<PathBuf>,
    isolation: sandbox::Isolation,
    /// ID=FILE
    secrets: Vec<String>,
    /// ID=SOCKET
    ssh: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let mut found = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "-f" => found.file = value()?.into(),
            "-o" => found.out = value()?.into(),
            "--bases" => found.bases = value()?.into(),
            "--cache" => found.cache = value()?.into(),
            "--target" => found.target = Some(value()?),
            "--isolation" => found.isolation = value()?.parse().map_err(|error| format!("{error}"))?,
            "--no-cache" => found.no_cache = true,
            "--secret" => found.secrets.push(value()?),
            "--ssh" => found.ssh.push(value()?),
            "--tree" => found.tree = Some(value()?.into()),
            "--build-arg" => {
                let pair = value()?;
                let (name, value) = pair.split_once('=').ok_or("--build-arg NAME=VALUE")?;
                found.build_args.push((name.to_owned(), value.to_owned()));
            }
            flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}")),
            context => found.context = context.into(),
        }
    }
    Ok(found)
}

/// The whole program; the tests of RUN start it in a process of its own.
pub fn main() -> ExitCode {
    sandbox::init_if_requested();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}"); // there is nowhere else to say it
            ExitCode::FAILURE
        }
    }
}

fn ignore_file(arguments: &Arguments) -> Result<ignore::Patterns, String> {
    let mut own = arguments.file.clone().into_os_string();
    own.push(".dockerignore");
    let own = PathBuf::from(own);
    let path = if own.exists() { own } else { arguments.context.join(".dockerignore") };
    match std::fs::read(&path) {
        Ok(text) => ignore::Patterns::parse(&text).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(ignore::Patterns::default()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn run() -> Result<(), String> {
    let arguments = arguments()?;
    let text = std::fs::read(&arguments.file).map_err(|error| format!("{}: {error}", arguments.file.display()))?;
    let name = arguments.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = dockerfile::parse(&text, &name).map_err(|error| shown(&error, error.hint()))?;
    let context = Directory { path: arguments.context.clone(), ignore: ignore_file(&arguments)? };
    let mut request = Request::new(file, context);
    request.options.build_args = arguments.build_args.iter().cloned().collect();
    request.options.target = arguments.target.clone();
    request.no_cache = arguments.no_cache;
    for text in &arguments.secrets {
        let (id, path) = text.split_once('=').ok_or("--secret ID=FILE")?;
        let content = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let content = Secret::new(content).map_err(|error| error.to_string())?;
        request.run.secrets.insert(id.to_owned(), content);
    }
    for text in &arguments.ssh {
        let (id, path) = text.split_once('=').ok_or("--ssh ID=SOCKET")?;
        request.run.ssh.insert(id.to_owned(), path.into());
    }
    request.outputs = vec![Output::Layout(arguments.out.clone())];
    request.outputs.extend(arguments.tree.clone().map(Output::Tar));
    build(&request, &arguments)
}

fn build(request: &Request, arguments: &Arguments) -> Result<(), String> {
    let say = |error: &dyn std::fmt::Display| error.to_string();
    let store = Disk::create(arguments.cache.join("store")).map_err(|error| say(&error))?;
    let cache = Cache::open(&arguments.cache.join("cache")).map_err(|error| say(&error))?;
    let needed = request.runs_commands().map_err(|error| shown(&error, error.hint()))?;
    let entered =
        needed.then(|| sandbox::enter(&cache.work(), arguments.isolation)).transpose().map_err(|error| say(&error))?;
    for refusal in entered.iter().flat_map(|entered| &entered.refused) {
        let _ = writeln!(std::io::stderr(), "note: {refusal}"); // there is nowhere else to say it
    }
    let images = Layouts(arguments.bases.clone());
    let cancel = sandbox::Cancel::new().map_err(|error| say(&error))?;
    let stderr = Mutex::new(std::io::stderr());
    let events = |event: Event| {
        let Ok(mut out) = stderr.lock() else { return };
        // What cannot be shown is lost; the build goes on.
        let _ = match event {
            Event::Started(step) => writeln!(out, "[{} {}/{}] {}", step.stage, step.number, step.total, step.title),
            Event::Cached(_) => writeln!(out, "  cached"),
            Event::Output { bytes, .. } => out.write_all(&bytes),
            Event::Done { took, size, .. } => writeln!(out, "  done in {took:?}, {size} bytes"),
            Event::Failed(step) => writeln!(out, "  failed: {}", step.title),
            Event::Base { step, digest } => writeln!(out, "{} is {digest}", step.title),
            Event::Fetch { digest, size } => writeln!(out, "  fetching {digest}, {size} bytes"),
            Event::Warning { message, .. } => writeln!(out, "warning: {message}"),
        };
    };
    let workshop = Workshop {
        store: &store,
        cache: &cache,
        images: &images,
        sandbox: entered.as_ref(),
        events: &events,
        cancel: &cancel,
    };
    let built = builder::build(request, &workshop).map_err(|error| shown(&error, error.hint()))?;
    let _ = writeln!(std::io::stderr(), "{}", built.manifest.digest()); // as above
    Ok(())
}

fn shown(error: &dyn std::fmt::Display, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}
