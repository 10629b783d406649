//! `--build-context NAME=SOURCE`: what was typed, and what it becomes: files, or an image.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use builder::build::{Directory, Files};
use builder::ignore::Patterns;
use builder::plan::context_name;
use builder::remote::GitSource;
use content::Disk;
use oci::{Digest, Reference};
use tempfile::TempDir;

use super::context::{self, Fetching};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::place::scratch;

/// What was typed behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Directory(PathBuf),
    Image(Reference),
    /// `oci-layout://PATH[:TAG|@DIGEST]`.
    Layout(PathBuf, Which),
    Git(GitSource),
    Http(String),
}

/// Which image of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    Tag(String),
    Digest(Digest),
    /// The only one, or `latest`.
    Any,
}

/// An image of a layout on this machine, known to a build by a name of its own.
#[derive(Debug, Clone)]
pub struct LayoutImage {
    pub disk: Disk,
    pub digest: Digest,
}

/// Everything that the names mean.
#[derive(Default)]
pub struct Named {
    pub files: BTreeMap<String, Files>,
    pub images: BTreeMap<String, Reference>,
    pub layouts: BTreeMap<Reference, LayoutImage>,
    pub kept: Vec<TempDir>,
}

/// Reads all `--build-context`. The last one of a name counts.
pub fn parse(typed: &[String]) -> Outcome<BTreeMap<String, Source>> {
    let mut sources = BTreeMap::new();
    for text in typed {
        let wrong = |why: &str| {
            Failure::new(Exit::Usage, format!("--build-context `{text}` {why}"))
                .hint("--build-context NAME=DIR, NAME=docker-image://REF, NAME=oci-layout://DIR[:TAG], or NAME=URL")
        };
        let (name, value) = text.split_once('=').ok_or_else(|| wrong("has no value"))?;
        if name.is_empty() || value.is_empty() {
            return Err(wrong("has no name or no source"));
        }
        sources.insert(context_name(name), source(value).map_err(|failure| failure.about(text))?);
    }
    Ok(sources)
}

fn source(value: &str) -> Outcome<Source> {
    if let Some(name) = value.strip_prefix("docker-image://") {
        let wrong = |error| Failure::because(Exit::Usage, format!("`{name}` is no image"), &error);
        return Ok(Source::Image(name.parse().map_err(wrong)?));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        return layout_source(layout);
    }
    if value.starts_with("target:") {
        return Err(Failure::new(Exit::Usage, "another target of a bake file cannot be named here"));
    }
    if !std::path::Path::new(value).is_dir() {
        if let Some(source) = context::repository(value)? {
            return Ok(Source::Git(source));
        }
        if value.starts_with("http://") || value.starts_with("https://") {
            return Ok(Source::Http(value.to_owned()));
        }
    }
    Ok(Source::Directory(PathBuf::from(value)))
}

fn layout_source(text: &str) -> Outcome<Source> {
    let wrong = |error| Failure::because(Exit::Usage, format!("`{text}`"), &error);
    let (path, which) = match text.split_once('@') {
        Some((path, digest)) => (path, Which::Digest(digest.parse().map_err(wrong)?)),
        None => match text.rsplit_once(':').filter(|(path, tag)| !tag.contains('/') && !path.is_empty()) {
            Some((path, tag)) => (path, Which::Tag(tag.to_owned())),
            None => (text, Which::Any),
        },
    };
    Ok(Source::Layout(PathBuf::from(path), which))
}

/// Fetches and opens what the names mean.
pub fn open(sources: &BTreeMap<String, Source>, fetching: &Fetching<'_>) -> Outcome<Named> {
    let mut named = Named::default();
    for (name, source) in sources {
        match source {
            Source::Directory(path) => {
                let path = context::directory(path, "the named context")?;
                let ignore = super::request::ignore_file(None, &path)?;
                named.files.insert(name.clone(), Directory { path, ignore }.into());
            }
            Source::Image(reference) => {
                named.images.insert(name.clone(), reference.clone());
            }
            Source::Layout(path, which) => {
                let image = layout(path, which)?;
                let reference = known_as(name, image.digest)?;
                named.images.insert(name.clone(), reference.clone());
                named.layouts.insert(reference, image);
            }
            Source::Git(source) => {
                let (path, kept) = context::checkout(source, fetching)?;
                named.files.insert(name.clone(), Directory { path, ignore: Patterns::none() }.into());
                named.kept.push(kept);
            }
            Source::Http(url) => {
                let kept = scratch(fetching.data)?;
                let mut file = context::download(url, kept.path(), fetching)?;
                // BuildKit's name for it, whatever the URL is.
                let path = kept.path().join("context");
                let written = std::fs::File::create(&path).and_then(|mut to| io::copy(&mut file, &mut to));
                written.map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))?;
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(&path, mode)
                    .map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))?;
                let directory = Directory { path: kept.path().to_owned(), ignore: Patterns::none() };
                named.files.insert(name.clone(), directory.into());
                named.kept.push(kept);
            }
        }
    }
    Ok(named)
}

fn layout(path: &std::path::Path, which: &Which) -> Outcome<LayoutImage> {
    let what = || format!("the named context `{}`", path.display());
    let failed = |error: content::Error| Failure::content(format!("{} cannot be used", what()), &error);
    let disk = Disk::open(path).map_err(failed)?;
    let tag = match which {
        Which::Digest(digest) => return Ok(LayoutImage { disk, digest: *digest }),
        Which::Tag(tag) => Some(tag.as_str()),
        Which::Any => None,
    };
    let images = disk.images().map_err(failed)?;
    let by_name = |name: &str| images.iter().rev().find(|(known, _)| known == name).map(|(_, entry)| entry.digest);
    let found = match tag {
        Some(tag) => by_name(tag),
        None => {
            let entries = disk.entries().map_err(failed)?;
            let only = entries.first().filter(|first| entries.iter().all(|entry| entry.digest == first.digest));
            by_name("latest").or(only.map(|entry| entry.digest))
        }
    };
    let digest = found.ok_or_else(|| {
        let known: Vec<&str> = images.iter().map(|(name, _)| name.as_str()).collect();
        let missing = tag.map_or("does not hold just one image".to_owned(), |tag| format!("has no image {tag}"));
        Failure::new(Exit::NoInput, format!("{} {missing}", what()))
            .hint(format!("it has {}", if known.is_empty() { "no named image".to_owned() } else { known.join(", ") }))
    })?;
    Ok(LayoutImage { disk, digest })
}

/// A reference that no registry has, since its host can be none.
fn known_as(name: &str, digest: Digest) -> Outcome<Reference> {
    let name = name.parse::<Reference>().map_or("image".to_owned(), |reference| reference.name().to_string());
    let name = name.strip_prefix("library/").unwrap_or(&name);
    let text = format!("oci-layout.invalid/{name}@{digest}");
    text.parse().map_err(|error| Failure::because(Exit::Usage, format!("--build-context `{name}`"), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_as_buildx_writes_them() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (text, name, source) in [
            ("a=dir", "a", Source::Directory("dir".into())),
            ("Alpine=docker-image://debian:12", "alpine", Source::Image("debian:12".parse().unwrap())),
            ("docker.io/library/x:latest=dir", "x", Source::Directory("dir".into())),
            ("x:1=oci-layout://l", "x:1", Source::Layout("l".into(), Which::Any)),
            ("x=oci-layout:///a:b/l:v1", "x", Source::Layout("/a:b/l".into(), Which::Tag("v1".into()))),
            (
                &format!("x=oci-layout://l@{digest}"),
                "x",
                Source::Layout("l".into(), Which::Digest(digest.parse().unwrap())),
            ),
            ("x=https://h/f", "x", Source::Http("https://h/f".into())),
        ] {
            assert_eq!(parse(&[text.to_owned()]).unwrap(), [(name.to_owned(), source)].into(), "{text}");
        }
        assert!(matches!(parse(&["x=https://h/r.git#v1".to_owned()]).unwrap()["x"], Source::Git(_)));
        for bad in ["a", "=dir", "a=", "a=docker-image://UPPER", "a=oci-layout://l@x", "a=target:b"] {
            assert_eq!(parse(&[bad.to_owned()]).unwrap_err().exit, Exit::Usage, "{bad}");
        }
        assert!(known_as("debian:12", digest.parse().unwrap()).is_ok());
    }
}
