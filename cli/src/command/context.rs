//! What a build context is: a directory, a tar, a repository, a file behind a URL, or nothing but a
//! Dockerfile. Whatever lies elsewhere is fetched here, before the build begins.
//!
//! A sandbox can only be entered while the process has no threads, so the network is waited for on this one.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder::build::{Directory, Files, Tarball};
use builder::copy::{Context, Source as _};
use builder::ignore::Patterns;
use builder::layer::read;
use builder::remote::{Git, GitSource, Place};
use builder::sandbox::Cancel;
use content::remote::Client;
use futures_util::StreamExt;
use tempfile::TempDir;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::place::scratch;
use crate::terminal::tell;

/// Largest Dockerfile or ignore file that is read, in bytes.
pub const TEXT_LIMIT: u64 = 16 << 20;
/// How much of a stream tells a tar from a Dockerfile, in bytes: one header.
const START: usize = 512;

/// What was typed as the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// A directory.
    Directory(PathBuf),
    /// A tar or a Dockerfile on stdin.
    Stdin,
    /// A tar in a file (kaniko's tar://).
    Tar(PathBuf),
    /// A git repository.
    Git(GitSource),
    /// A tar or a Dockerfile behind a URL.
    Http(String),
}

impl From<PathBuf> for Typed {
    fn from(path: PathBuf) -> Self {
        Self::Directory(path)
    }
}

/// A context that is ready, for as long as this value lives.
pub struct Ready {
    pub files: Files,
    /// The Dockerfile, where the context brings one that is no file of this machine: its name and text.
    pub dockerfile: Option<(String, Vec<u8>)>,
    /// The directory on this machine whose ignore file counts.
    pub directory: Option<PathBuf>,
    _kept: Option<TempDir>,
}

/// What fetching needs.
pub struct Fetching<'a> {
    pub data: &'a Path,
    pub client: &'a dyn Fn() -> Outcome<Client>,
    pub git: &'a Git,
    /// The Dockerfile in the context, where the context brings it.
    pub file: Option<&'a Path>,
}

impl Typed {
    /// Reads a context as docker does: a directory that is there comes first.
    pub fn parse(text: &Path) -> Outcome<Self> {
        let Some(name) = text.to_str().filter(|_| !text.is_dir()) else { return Ok(Self::Directory(text.to_owned())) };
        if name == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(path) = name.strip_prefix("tar://") {
            return Ok(Self::Tar(PathBuf::from(path)));
        }
        if let Some(source) = repository(name)? {
            return Ok(Self::Git(source));
        }
        if name.starts_with("http://") || name.starts_with("https://") {
            return Ok(Self::Http(name.to_owned()));
        }
        Ok(Self::Directory(text.to_owned()))
    }

    /// Whether the context brings its Dockerfile itself.
    pub fn brings_dockerfile(&self) -> bool {
        !matches!(self, Self::Directory(_))
    }

    /// Makes the context ready.
    pub fn open(&self, fetching: &Fetching<'_>) -> Outcome<Ready> {
        match self {
            Self::Directory(path) => {
                let path = directory(path, "the build context")?;
                let files = Directory { path: path.clone(), ignore: Patterns::none() }.into();
                Ok(Ready { files, dockerfile: None, directory: Some(path), _kept: None })
            }
            Self::Stdin => stream(std::io::stdin().lock(), "stdin", fetching),
            Self::Tar(path) => {
                let shown = path.display().to_string();
                let file = std::fs::File::open(path)
                    .map_err(|error| Failure::io(format!("cannot read the build context `{shown}`"), &error))?;
                stream(file, &shown, fetching)
            }
            Self::Git(source) => {
                let (path, kept) = checkout(source, fetching)?;
                let name = fetching.file.map_or("Dockerfile".into(), |file| file.to_string_lossy().into_owned());
                let text = in_directory(&path, &name)?;
                let files = Directory { path, ignore: Patterns::none() }.into();
                Ok(Ready { files, dockerfile: Some((name, text)), directory: None, _kept: Some(kept) })
            }
            Self::Http(url) => {
                let file = download(url, &room(fetching.data)?, fetching)?;
                stream(file, url, fetching)
            }
        }
    }
}

/// A repository: somewhere else, or of this machine where a `#` says that it is meant.
pub fn repository(text: &str) -> Outcome<Option<GitSource>> {
    let wrong = |error| Failure::because(Exit::Usage, format!("`{text}` cannot be used"), &error);
    if let Some(source) = GitSource::parse(text, Place::CommandLine).map_err(wrong)? {
        return Ok(Some(source));
    }
    let Some((path, fragment)) = text.split_once('#') else { return Ok(None) };
    let path = Path::new(path);
    let is_repository = path.join(".git").exists() || path.join("HEAD").is_file() && path.join("objects").is_dir();
    if !is_repository {
        return Ok(None);
    }
    let real = path.canonicalize().map_err(|error| Failure::io(format!("`{text}` cannot be used"), &error))?;
    GitSource::parse(&format!("file://{}#{fragment}", real.display()), Place::CommandLine).map_err(wrong)
}

/// A directory that is there.
pub fn directory(path: &Path, what: &str) -> Outcome<PathBuf> {
    let real = path
        .canonicalize()
        .map_err(|error| Failure::io(format!("{what} `{}` cannot be used", path.display()), &error))?;
    if !real.is_dir() {
        return Err(Failure::new(Exit::BadInput, format!("{what} `{}` is not a directory", path.display())));
    }
    Ok(real)
}

/// A tar is a context, anything else a Dockerfile without one; compression is recognised.
fn stream(from: impl Read, name: &str, fetching: &Fetching<'_>) -> Outcome<Ready> {
    let broken = |error: std::io::Error| Failure::io(format!("cannot read the build context from {name}"), &error);
    let (start, from) = peeked(from).map_err(broken)?;
    let room = room(fetching.data)?;
    if !is_archive(&start) {
        let mut text = Vec::new();
        from.take(TEXT_LIMIT).read_to_end(&mut text).map_err(broken)?;
        let empty = Tarball::empty(&room).map_err(broken)?;
        if fetching.file.is_some() {
            return Err(Failure::new(
                Exit::Usage,
                format!("{name} is a Dockerfile itself, so --file names another one"),
            )
            .hint("leave --file away, or give a tar"));
        }
        let dockerfile = Some((name.to_owned(), text));
        return Ok(Ready { files: Files::Archive(Arc::new(empty)), dockerfile, directory: None, _kept: None });
    }
    let cancel = Cancel::new().map_err(|error| Failure::because(Exit::Bug, "cannot prepare the build", &error))?;
    let tar = Tarball::read(from, name, &room, &cancel).map_err(|error| {
        Failure::because(Exit::BadInput, format!("the build context from {name} cannot be used"), &error)
    })?;
    let file = fetching.file.map_or("Dockerfile".into(), |file| file.to_string_lossy().into_owned());
    let found = dockerfile_in(&file, |path| {
        tar.file(path, TEXT_LIMIT).map_err(|error| {
            Failure::because(Exit::BadInput, format!("cannot read `{path}` of the build context"), &error)
        })
    })?;
    let dockerfile = Some((file, found));
    Ok(Ready { files: Files::Archive(Arc::new(tar)), dockerfile, directory: None, _kept: None })
}

fn peeked(mut from: impl Read) -> std::io::Result<(Vec<u8>, impl Read)> {
    let mut start = Vec::new();
    from.by_ref().take(1 << 16).read_to_end(&mut start)?;
    Ok((start.clone(), std::io::Cursor::new(start).chain(from)))
}

/// Compressed, or a tar header; what is compressed and no tar is refused when it is read.
fn is_archive(start: &[u8]) -> bool {
    if read::Format::of(start) == read::Format::Plain {
        return read::looks_like_tar(&start[..start.len().min(START)])
            || start.len() >= 1024 && start.iter().all(|byte| *byte == 0);
    }
    true
}

/// The Dockerfile by that name; `Dockerfile` may be written small.
fn dockerfile_in(name: &str, read: impl Fn(&str) -> Outcome<Option<Vec<u8>>>) -> Outcome<Vec<u8>> {
    let small = Path::new(name).file_name().is_some_and(|last| last == "Dockerfile");
    let small = small.then(|| format!("{}dockerfile", &name[..name.len() - "dockerfile".len()]));
    for name in [Some(name.to_owned()), small].into_iter().flatten() {
        if let Some(text) = read(&name)? {
            return Ok(text);
        }
    }
    Err(Failure::new(Exit::NoInput, format!("the build context has no `{name}`"))
        .hint("name the Dockerfile in the context with -f FILE"))
}

/// A file of a directory that somebody else filled: links do not lead out of it.
fn in_directory(path: &Path, name: &str) -> Outcome<Vec<u8>> {
    let wrong = |error: builder::copy::Error| {
        Failure::because(Exit::BadInput, format!("cannot read `{name}` of the build context"), &error)
    };
    let context = Context::open(path, &(), None).map_err(wrong)?;
    dockerfile_in(name, |name| {
        let real = context.resolve(name.as_bytes()).map_err(wrong)?;
        let Some(item) = context.lstat(&real).map_err(wrong)?.filter(|item| !item.entry.is_dir()) else {
            return Ok(None);
        };
        let mut text = Vec::new();
        let read = context.open(&item).map_err(wrong)?.take(TEXT_LIMIT).read_to_end(&mut text);
        read.map_err(|error| Failure::io(format!("cannot read `{name}` of the build context"), &error))?;
        Ok(Some(text))
    })
}

/// Checks a repository out into a directory that lives as long as the second value.
pub fn checkout(source: &GitSource, fetching: &Fetching<'_>) -> Outcome<(PathBuf, TempDir)> {
    let kept = scratch(fetching.data)?;
    tell(&format!("fetching {}", source.shown()));
    let keep = source.keep_git_dir == Some(true);
    let checkout = stoppable(|cancel| fetching.git.fetch(source, kept.path(), keep, cancel))?;
    let checkout = checkout.map_err(|error| {
        let exit = match error {
            builder::remote::Error::Start(_) => Exit::Environment,
            builder::remote::Error::Disk { .. } => Exit::Disk,
            _ => Exit::Unavailable,
        };
        let failure = Failure::because(exit, format!("cannot fetch {}", source.shown()), &error);
        match exit {
            Exit::Environment => failure.hint("install git"),
            _ => failure,
        }
    })?;
    Ok((checkout.directory, kept))
}

/// Does work that can be cancelled; Ctrl-C cancels it. No thread is left afterwards.
fn stoppable<T: Send>(work: impl FnOnce(&Cancel) -> T + Send) -> Outcome<T> {
    let cancel = Cancel::new().map_err(|error| Failure::because(Exit::Bug, "cannot prepare the build", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("cannot wait for signals", &error))?;
    let mut signals = {
        let _inside = runtime.enter();
        interrupt::Signals::listen() // before the work begins, which others may see
    };
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let result = work(&cancel);
            let _ = done.send(()); // after a signal nobody listens any more
            result
        });
        let exit = runtime.block_on(async {
            tokio::select! {
                _ = ended => None, // also when the worker panicked
                exit = signals.next() => Some(exit),
            }
        });
        if exit.is_some() {
            cancel.cancel();
        }
        let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        exit.map_or(Ok(result), |exit| Err(interrupt::failure(exit)))
    })
}

/// Where files without a name are made.
fn room(data: &Path) -> Outcome<PathBuf> {
    let room = data.join("tmp");
    std::fs::create_dir_all(&room).map_err(|error| Failure::io(format!("cannot use {}", room.display()), &error))?;
    Ok(room)
}

/// Fetches a URL into a file without a name.
pub fn download(url: &str, directory: &Path, fetching: &Fetching<'_>) -> Outcome<std::fs::File> {
    let failed =
        |error: content::Error| Failure::content(format!("cannot fetch {}", builder::remote::shown(url)), &error);
    let disk = |error: std::io::Error| Failure::io(format!("cannot write {}", directory.display()), &error);
    let client = (fetching.client)()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("cannot wait for the network", &error))?;
    tell(&format!("fetching {}", builder::remote::shown(url)));
    let file = runtime.block_on(interrupt::until_signal(async {
        let mut file = tempfile::tempfile_in(directory).map_err(disk)?;
        let mut body = client.download(url).await.map_err(failed)?.body;
        while let Some(part) = body.next().await {
            file.write_all(&part.map_err(failed)?).map_err(disk)?;
        }
        std::io::Seek::rewind(&mut file).map_err(disk)?;
        Ok(file)
    }));
    drop(client);
    drop(runtime); // waits for the threads that looked names up: none may be left
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_told_apart() {
        let parse = |text: &str| Typed::parse(Path::new(text)).unwrap();
        assert_eq!(parse("."), Typed::Directory(".".into()));
        assert_eq!(parse("-"), Typed::Stdin);
        assert_eq!(parse("https://h/x.tar.gz"), Typed::Http("https://h/x.tar.gz".into()));
        assert!(matches!(parse("https://h/x.git#main:a"), Typed::Git(source) if source.directory == "a"));
        assert!(matches!(parse("git@h:x"), Typed::Git(_)));
        assert_eq!(parse("nowhere#main"), Typed::Directory("nowhere#main".into()));
        assert_eq!(Typed::parse(Path::new("https://h/x.git?x=y")).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_tar_is_known_by_its_header() {
        assert!(!is_archive(b"FROM scratch\n") && !is_archive(b""));
        assert!(is_archive(b"\x1f\x8b\x08") && is_archive(&[0; 1024]));
    }
}
