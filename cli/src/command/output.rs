//! `-o type=KIND,dest=PATH,…`: what was typed, and outputs to stdout.

use std::path::{Path, PathBuf};

use builder::build::MediaTypes;
use builder::dockerfile;
use builder::output::Output;
use content::ArchiveKind;
use tempfile::TempDir;

use super::image_options::{self, Annotation, ImageOptions};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Outputs as the builder takes them; those for stdout are written aside first.
#[derive(Debug)]
pub struct Outputs {
    /// What the builder writes.
    pub files: Vec<Output>,
    /// `type=image` and `type=registry`: names for the image.
    pub names: Vec<String>,
    /// Those of them that are pushed.
    pub pushed: Vec<String>,
    /// Whether `--tag`s are pushed as well, since an output without a name asks for a push.
    pub push_tags: bool,
    /// Whether what is pushed gets no tag there.
    pub push_by_digest: bool,
    stdout: Option<(PathBuf, TempDir)>,
}

impl Outputs {
    /// Reads all `-o`; what they say of the image itself goes into `image`. `scratch` makes a directory that
    /// vanishes with the command.
    pub fn parse(specs: &[String], image: &mut ImageOptions, scratch: impl Fn() -> Outcome<TempDir>) -> Outcome<Self> {
        let mut outputs = Self {
            files: Vec::new(),
            names: Vec::new(),
            pushed: Vec::new(),
            push_tags: false,
            push_by_digest: false,
            stdout: None,
        };
        for spec in specs {
            let parsed = parse(spec)?;
            parsed.tell(spec, image)?;
            outputs.push_by_digest |= parsed.push_by_digest;
            outputs.push_tags |= parsed.push && parsed.names.is_empty();
            if parsed.push {
                outputs.pushed.extend(parsed.names.iter().cloned());
            }
            outputs.names.extend(parsed.names);
            let Some(mut output) = parsed.output else { continue };
            if output.path() == Path::new("-") {
                if outputs.stdout.is_some() {
                    return Err(Failure::new(Exit::Usage, "only one --output can go to stdout"));
                }
                let directory = scratch()?;
                let path = directory.path().join("output");
                output = to_stdout(output, &path)
                    .ok_or_else(|| wrong(spec, "writes a directory, which stdout cannot take"))?;
                outputs.stdout = Some((path, directory));
            }
            outputs.files.push(output);
        }
        Ok(outputs)
    }

    /// Whether stdout carries an output, so that nothing else may go there.
    pub fn uses_stdout(&self) -> bool {
        self.stdout.is_some()
    }

    /// Sends the output for stdout, if there is one.
    pub fn send(&self) -> Outcome<()> {
        let Some((path, _)) = &self.stdout else { return Ok(()) };
        let sent =
            std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::stdout().lock()));
        sent.map(drop).map_err(|error| Failure::io("cannot write to stdout", &error))
    }
}

fn to_stdout(output: Output, path: &Path) -> Option<Output> {
    match output {
        Output::Archive(kind, _) => Some(Output::Archive(kind, path.to_owned())),
        Output::Tar(_) => Some(Output::Tar(path.to_owned())),
        Output::Layout(_) | Output::Directory(_) => None,
    }
}

fn wrong(spec: &str, why: &str) -> Failure {
    Failure::new(Exit::Usage, format!("--output `{spec}` {why}")).hint(
        "--output type=oci|docker|tar|local,dest=PATH, or type=image,name=NAME,push=true; a bare PATH is type=local, - a tar on stdout",
    )
}

/// One `-o`, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    /// What is written, if it is a file or directory.
    output: Option<Output>,
    names: Vec<String>,
    push: bool,
    push_by_digest: bool,
    compression: Option<String>,
    level: Option<u8>,
    force: bool,
    media_types: Option<MediaTypes>,
    annotations: Vec<Annotation>,
}

impl Parsed {
    /// Says what it says of the image itself.
    fn tell(&self, spec: &str, image: &mut ImageOptions) -> Outcome<()> {
        let method = self.compression.as_deref().or(self.level.map(|_| "gzip"));
        if let Some(method) = method {
            image.compress(image_options::compression(method, self.level)?, spec)?;
        }
        image.force_compression |= self.force;
        if let Some(media_types) = self.media_types {
            image.media_types = media_types;
        }
        image.annotations.extend(self.annotations.iter().cloned());
        Ok(())
    }

    fn attribute(&mut self, spec: &str, key: &str, value: &str) -> Outcome<()> {
        let switch = || match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(wrong(spec, &format!("has a `{key}` that is neither true nor false"))),
        };
        match key {
            "name" => self.names.extend(value.split(',').filter(|name| !name.is_empty()).map(str::to_owned)),
            "push" => self.push = switch()?,
            "push-by-digest" => self.push_by_digest = switch()?,
            "name-canonical" => drop(switch()?), // pins the name that is printed, as is always done here
            "compression" => self.compression = Some(value.to_owned()),
            "compression-level" => {
                self.level = Some(value.parse().map_err(|_| wrong(spec, "has a level that is no number"))?);
            }
            "force-compression" => self.force = switch()?,
            "oci-mediatypes" => {
                self.media_types = Some(if switch()? { MediaTypes::Oci } else { MediaTypes::Docker });
            }
            "rewrite-timestamp" => {
                // With SOURCE_DATE_EPOCH nothing newer is ever written; without it there is nothing to rewrite.
                if !switch()? && crate::settings::variable("SOURCE_DATE_EPOCH").is_some() {
                    return Err(wrong(spec, "keeps times newer than SOURCE_DATE_EPOCH, which is not done here"));
                }
            }
            "store" if !switch()? => {
                return Err(wrong(spec, "has store=false; the image is in the local store always"));
            }
            "store" => {}
            "unpack" if switch()? => return Err(wrong(spec, "has unpack=true; there is no runtime to unpack for")),
            "unpack" => {}
            "registry.insecure" if switch()? => {
                return Err(wrong(spec, "names no registry to speak plain HTTP to; use --insecure-registry HOST"));
            }
            "registry.insecure" => {}
            _ => return self.annotation(spec, key, value),
        }
        Ok(())
    }

    /// `annotation.KEY`, `annotation-SCOPE[PLATFORM].KEY`.
    fn annotation(&mut self, spec: &str, key: &str, value: &str) -> Outcome<()> {
        let unknown = || wrong(spec, &format!("has `{key}`, which is not known here"));
        let rest = key.strip_prefix("annotation").ok_or_else(unknown)?;
        let (scope, name) = rest.split_once('.').ok_or_else(unknown)?;
        let scope = if scope.is_empty() { "manifest" } else { scope.strip_prefix('-').ok_or_else(unknown)? };
        image_options::scope(scope).ok_or_else(unknown)?;
        self.annotations.extend(image_options::annotations(&format!("{scope}:{name}={value}"))?);
        Ok(())
    }
}

fn parse(spec: &str) -> Outcome<Parsed> {
    let only = |output| Ok(Parsed { output: Some(output), ..Parsed::default() });
    if spec == "-" {
        return only(Output::Tar(PathBuf::from("-")));
    }
    if !spec.contains('=') {
        return if spec.is_empty() {
            Err(wrong(spec, "is empty"))
        } else {
            only(Output::Directory(PathBuf::from(spec)))
        };
    }
    let (mut kind, mut destination, mut archive) = (None, None, true);
    let mut parsed = Parsed::default();
    let fields = dockerfile::fields(spec).map_err(|error| wrong(spec, &format!("cannot be read: {error}")))?;
    for part in fields {
        let (key, value) = part.split_once('=').ok_or_else(|| wrong(spec, &format!("has `{part}` without a value")))?;
        let key = key.trim();
        match key.to_lowercase().as_str() {
            "type" => kind = Some(value.to_owned()),
            "dest" => destination = Some(PathBuf::from(value)),
            "tar" => archive = value.parse().map_err(|_| wrong(spec, "has a `tar` that is neither true nor false"))?,
            _ if key.starts_with("annotation") => parsed.attribute(spec, key, value)?, // keys keep their case
            lower => parsed.attribute(spec, lower, value)?,
        }
    }
    let destination = destination.filter(|path| !path.as_os_str().is_empty());
    let needed = || destination.clone().ok_or_else(|| wrong(spec, "needs a dest"));
    let kind = kind.ok_or_else(|| wrong(spec, "needs a type"))?;
    if !archive && kind != "oci" {
        return Err(wrong(spec, "has `tar=false`, which only type=oci knows"));
    }
    let is_image = matches!(kind.as_str(), "image" | "registry");
    if (parsed.push || parsed.push_by_digest) && !is_image {
        return Err(wrong(spec, "cannot be pushed; type=image can"));
    }
    if matches!(kind.as_str(), "tar" | "local") && parsed != Parsed::default() {
        return Err(wrong(spec, "says something of the image, and holds only its files"));
    }
    parsed.output = match kind.as_str() {
        "oci" if archive => Some(Output::Archive(ArchiveKind::Oci, needed()?)),
        "oci" => Some(Output::Layout(needed()?)),
        "docker" => Some(Output::Archive(
            ArchiveKind::Docker,
            destination.ok_or_else(|| {
                wrong(spec, "needs a dest; there is no daemon to load it into, but `dest=-` and `docker load` do it")
            })?,
        )),
        "tar" => Some(Output::Tar(destination.unwrap_or_else(|| PathBuf::from("-")))),
        "local" => Some(Output::Directory(needed()?)),
        "image" | "registry" if destination.is_some() => return Err(wrong(spec, "is no file, so it has no dest")),
        "image" => None,
        "registry" => {
            parsed.push = true;
            None
        }
        "cacheonly" => None,
        other => return Err(wrong(spec, &format!("has the type `{other}`, which is not known here"))),
    };
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_written_as_buildx_writes_them() {
        let path = |text: &str| PathBuf::from(text);
        for (spec, output) in [
            ("type=oci,dest=a.tar", Output::Archive(ArchiveKind::Oci, path("a.tar"))),
            ("type=oci,dest=a,tar=false", Output::Layout(path("a"))),
            ("type=docker,dest=-", Output::Archive(ArchiveKind::Docker, path("-"))),
            ("type=local,dest=out", Output::Directory(path("out"))),
            ("type=tar", Output::Tar(path("-"))),
            ("out", Output::Directory(path("out"))),
            ("-", Output::Tar(path("-"))),
            ("type=oci,\"dest=a,b\"", Output::Archive(ArchiveKind::Oci, path("a,b"))),
        ] {
            assert_eq!(parse(spec).unwrap(), Parsed { output: Some(output), ..Parsed::default() }, "{spec}");
        }
        for bad in [
            "",
            "type=oci",
            "type=docker",
            "type=zip,dest=x",
            "type=image,dest=x",
            "type=oci,dest=x,push=true",
            "type=local,dest=x,compression=zstd",
            "type=image,push=maybe",
            "type=image,unpack=true",
            "type=image,registry.insecure=true",
            "dest=x",
            "type=local,dest=",
            "type=tar,dest=x,tar=false",
            "type=oci,dest=x,nope=y",
            "type=oci,dest=x,annotation-nope.a=y",
            "type=oci,dest",
        ] {
            assert_eq!(parse(bad).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn images_have_names_and_say_how_they_are_written() {
        let parse = |specs: &[&str]| {
            let specs: Vec<String> = specs.iter().map(|spec| (*spec).to_owned()).collect();
            let mut image = ImageOptions::default();
            let scratch = || tempfile::tempdir().map_err(|error| Failure::io("scratch", &error));
            Outputs::parse(&specs, &mut image, scratch).map(|outputs| (outputs, image))
        };
        let (outputs, image) = parse(&[
            "type=image,\"name=h/a:1,h/b:1\",push=true,oci-mediatypes=false,compression=zstd,compression-level=9,annotation.K=v",
            "type=image,name=c",
            "type=oci,dest=x,annotation-index.k=v,force-compression=true",
        ])
        .unwrap();
        assert_eq!(
            (outputs.names.len(), outputs.pushed.as_slice()),
            (3, &["h/a:1".to_owned(), "h/b:1".to_owned()][..])
        );
        assert_eq!(image.compression, Some(builder::layer::Compression::Zstd(9)));
        assert_eq!((image.media_types, image.force_compression), (MediaTypes::Docker, true));
        assert_eq!(image.annotations.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), ["K", "k"]);
        assert!(parse(&["type=registry"]).unwrap().0.push_tags);
        assert!(parse(&["type=oci,dest=a,compression=zstd", "type=oci,dest=b,compression=gzip"]).is_err());
    }

    #[test]
    fn only_one_output_goes_to_stdout() {
        let scratch = || tempfile::tempdir().map_err(|error| Failure::io("scratch", &error));
        let parse = |specs: &[&str]| {
            let specs: Vec<String> = specs.iter().map(|spec| (*spec).to_owned()).collect();
            Outputs::parse(&specs, &mut ImageOptions::default(), scratch)
        };
        assert!(parse(&["-", "out"]).unwrap().uses_stdout());
        assert!(parse(&["-", "type=docker,dest=-"]).is_err());
        assert!(parse(&["type=local,dest=-"]).is_err());
        assert!(!parse(&["out"]).unwrap().uses_stdout());
    }
}
