//! `lighter.toml`: what `ship` has to know of a project and a Dockerfile cannot say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// The only place outside a project that it may take files from: programs and libraries, no secrets.
const SYSTEM: &str = "/usr";

/// The settings of a project. An unknown key is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Project {
    pub ship: Ship,
    pub build: Build,
}

/// `[ship]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ship {
    /// The repository, and a tag where it is not `latest`.
    pub tag: Option<String>,
    /// Manifests to apply, relative to the project.
    pub manifests: Option<PathBuf>,
}

/// `[build]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    /// The Dockerfile, relative to the project.
    pub file: Option<PathBuf>,
    /// The stage to build.
    pub target: Option<String>,
    /// Named contexts: directories of the project, or of /usr.
    pub contexts: BTreeMap<String, PathBuf>,
}

impl Project {
    /// Reads `lighter.toml` of a directory; a project without one has no settings.
    pub fn read(directory: &Path) -> Outcome<Self> {
        let path = directory.join("lighter.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()), &error)),
        };
        let what = || format!("cannot read {}", path.display());
        toml::from_str(&text).map_err(|error| Failure::because(Exit::BadInput, what(), &error))
    }

    /// The named contexts as directories that really are inside the project or /usr, symlinks followed:
    /// whoever ships a foreign project must not find their home directory in its image.
    pub fn contexts(&self, directory: &Path) -> Outcome<BTreeMap<String, PathBuf>> {
        let real = |path: &Path| {
            path.canonicalize().map_err(|error| Failure::io(format!("cannot use {}", path.display()), &error))
        };
        let root = real(directory)?;
        let mut contexts = BTreeMap::new();
        for (name, path) in &self.build.contexts {
            let path = real(&directory.join(path))?;
            if !path.starts_with(&root) && !path.starts_with(SYSTEM) {
                let what = format!("lighter.toml: the context `{name}` is {}, outside the project", path.display());
                return Err(Failure::new(Exit::BadInput, what).hint(format!(
                    "a project may name directories of its own and of {SYSTEM}; for others use `lighter build --build-context {name}=DIR`"
                )));
            }
            contexts.insert(name.clone(), path);
        }
        Ok(contexts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(text: &str) -> (tempfile::TempDir, Outcome<Project>) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("lighter.toml"), text).unwrap();
        let project = Project::read(directory.path());
        (directory, project)
    }

    #[test]
    fn a_foreign_project_reaches_no_further_than_the_system() {
        let contexts = |path: &str| {
            let (directory, project) = project(&format!("[build.contexts]\nx = \"{path}\""));
            std::fs::create_dir(directory.path().join("own")).unwrap();
            std::os::unix::fs::symlink("/etc", directory.path().join("link")).unwrap();
            project.unwrap().contexts(directory.path())
        };
        assert_eq!(contexts("/usr").unwrap()["x"], Path::new("/usr"));
        assert!(contexts("/usr/bin").is_ok() && contexts("own").is_ok() && contexts(".").is_ok());
        for outside in ["/", "/etc", "..", "link", "/usr/../etc", "/usr/../root"] {
            let failure = contexts(outside).unwrap_err();
            assert!(matches!(failure.exit, Exit::BadInput | Exit::NoInput | Exit::Disk), "{outside}: {failure}");
        }
    }

    #[test]
    fn typos_are_errors() {
        let failure = project("[build]\ncontext = {}").1.unwrap_err();
        assert!(failure.to_string().contains("unknown field"), "{failure}");
        assert_eq!(failure.exit, Exit::BadInput);
    }
}
