//! `-o type=KIND,dest=PATH`: what was typed, and outputs to stdout.

use std::path::{Path, PathBuf};

use builder::output::Output;
use content::ArchiveKind;
use tempfile::TempDir;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Outputs as the builder takes them; those for stdout are written aside first.
#[derive(Debug)]
pub struct Outputs {
    /// What the builder writes.
    pub files: Vec<Output>,
    stdout: Option<(PathBuf, TempDir)>,
}

impl Outputs {
    /// Reads all `-o`. `scratch` makes a directory that vanishes with the command.
    pub fn parse(specs: &[String], scratch: impl Fn() -> Outcome<TempDir>) -> Outcome<Self> {
        let mut outputs = Self { files: Vec::new(), stdout: None };
        for spec in specs {
            let mut output = parse(spec)?;
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
    Failure::new(Exit::Usage, format!("--output `{spec}` {why}"))
        .hint("--output type=oci|docker|tar|local,dest=PATH; a bare PATH is type=local, - a tar on stdout")
}

fn parse(spec: &str) -> Outcome<Output> {
    if spec == "-" {
        return Ok(Output::Tar(PathBuf::from("-")));
    }
    if !spec.contains('=') {
        return if spec.is_empty() { Err(wrong(spec, "is empty")) } else { Ok(Output::Directory(PathBuf::from(spec))) };
    }
    let (mut kind, mut destination, mut archive) = (None, None, true);
    for part in spec.split(',') {
        let (key, value) = part.split_once('=').ok_or_else(|| wrong(spec, &format!("has `{part}` without a value")))?;
        match key.trim().to_lowercase().as_str() {
            "type" => kind = Some(value),
            "dest" => destination = Some(PathBuf::from(value)),
            "tar" => archive = value.parse().map_err(|_| wrong(spec, "has a `tar` that is neither true nor false"))?,
            other => return Err(wrong(spec, &format!("has `{other}`, which is not known here"))),
        }
    }
    let destination = destination.filter(|path| !path.as_os_str().is_empty());
    let needed = || destination.clone().ok_or_else(|| wrong(spec, "needs a dest"));
    let kind = kind.ok_or_else(|| wrong(spec, "needs a type"))?;
    if !archive && kind != "oci" {
        return Err(wrong(spec, "has `tar=false`, which only type=oci knows"));
    }
    match kind {
        "oci" if archive => Ok(Output::Archive(ArchiveKind::Oci, needed()?)),
        "oci" => Ok(Output::Layout(needed()?)),
        "docker" => Ok(Output::Archive(ArchiveKind::Docker, needed()?)),
        "tar" => Ok(Output::Tar(destination.unwrap_or_else(|| PathBuf::from("-")))),
        "local" => Ok(Output::Directory(needed()?)),
        "image" | "registry" => Err(wrong(spec, "is what --tag NAME and --push are for")),
        other => Err(wrong(spec, &format!("has the type `{other}`, which is not known here"))),
    }
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
        ] {
            assert_eq!(parse(spec).unwrap(), output, "{spec}");
        }
        for bad in [
            "",
            "type=oci",
            "type=zip,dest=x",
            "type=image,push=true",
            "dest=x",
            "type=local,dest=",
            "type=tar,dest=x,tar=false",
            "type=oci,dest=x,name=y",
            "type=oci,dest",
        ] {
            assert_eq!(parse(bad).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn only_one_output_goes_to_stdout() {
        let scratch = || tempfile::tempdir().map_err(|error| Failure::io("scratch", &error));
        let parse =
            |specs: &[&str]| Outputs::parse(&specs.iter().map(|spec| (*spec).to_owned()).collect::<Vec<_>>(), scratch);
        assert!(parse(&["-", "out"]).unwrap().uses_stdout());
        assert!(parse(&["-", "type=docker,dest=-"]).is_err());
        assert!(parse(&["type=local,dest=-"]).is_err());
        assert!(!parse(&["out"]).unwrap().uses_stdout());
    }
}
