//! What a machine's builds have in common, in a file: `$LIGHTER_CONFIG`, else `lighter/config.toml` below
//! `$XDG_CONFIG_HOME` or `~/.config`. What is typed comes after it, and so counts where both say something.
//!
//! ```toml
//! [registries]
//! map = { "docker.io" = "mirror.corp:5000/hub" }
//! insecure = ["vm2:5000"]
//! ca = ["/etc/ssl/corp.pem"]
//! client_certificates = { "vm2:5000" = "/etc/lighter/ci.pem,/etc/lighter/ci.key" }
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::args::RegistryArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// Largest file that is read, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    registries: Registries,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Registries {
    map: BTreeMap<String, String>,
    insecure: Vec<String>,
    ca: Vec<PathBuf>,
    client_certificates: BTreeMap<String, String>,
}

/// What was typed, behind what the file says. `variable` reads the environment.
pub fn with_file(args: &RegistryArgs, variable: impl Fn(&str) -> Option<String>) -> Outcome<RegistryArgs> {
    let named = variable("LIGHTER_CONFIG").map(PathBuf::from);
    let below = |directory: String| PathBuf::from(directory).join("lighter/config.toml");
    let home = || variable("HOME").map(|home| below(format!("{home}/.config")));
    let usual = || variable("XDG_CONFIG_HOME").map(below).or_else(home);
    let must_be_there = named.is_some();
    let Some(path) = named.or_else(usual) else { return Ok(args.clone()) };
    let text = std::fs::File::open(&path).and_then(|file| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(file, SIZE_LIMIT), &mut text).map(|_| text)
    });
    let text = match text {
        Ok(text) => text,
        Err(error) if !must_be_there && is_absent(&error) => return Ok(args.clone()),
        Err(error) => return Err(Failure::io(format!("cannot read the configuration {}", path.display()), &error)),
    };
    let config: Config = toml::from_str(&text).map_err(|error| {
        Failure::because(Exit::BadInput, format!("the configuration {} is wrong", path.display()), &error)
    })?;
    Ok(merged(config, args))
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

fn merged(config: Config, args: &RegistryArgs) -> RegistryArgs {
    let Registries { map, insecure, ca, client_certificates } = config.registries;
    let pairs = |pairs: BTreeMap<String, String>| pairs.into_iter().map(|(host, value)| format!("{host}={value}"));
    let mut all = args.clone();
    all.registry_map = pairs(map).chain(args.registry_map.iter().cloned()).collect();
    all.registry_client_cert = pairs(client_certificates).chain(args.registry_client_cert.iter().cloned()).collect();
    all.insecure_registry.extend(insecure);
    all.registry_ca.extend(ca);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_counts_where_the_file_says_otherwise() {
        let text = r#"
            [registries]
            map = { "docker.io" = "file:5000", "quay.io" = "file:5000" }
            insecure = ["vm2:5000"]
        "#;
        let typed = RegistryArgs {
            insecure_registry: vec!["vm3:5000".to_owned()],
            registry_ca: Vec::new(),
            registry_map: vec!["docker.io=typed:5000".to_owned()],
            registry_client_cert: Vec::new(),
            authfile: None,
        };
        let all = merged(toml::from_str(text).unwrap(), &typed);
        assert_eq!(all.registry_map.last().map(String::as_str), Some("docker.io=typed:5000"));
        assert_eq!((all.registry_map.len(), all.insecure_registry.len()), (3, 2));
        assert!(toml::from_str::<Config>("[registry]\n").is_err(), "unknown keys are errors");
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let place = tempfile::tempdir().unwrap();
        let typed = || RegistryArgs {
            insecure_registry: Vec::new(),
            registry_ca: Vec::new(),
            registry_map: Vec::new(),
            registry_client_cert: Vec::new(),
            authfile: None,
        };
        let missing = place.path().join("missing").display().to_string();
        assert!(with_file(&typed(), |name| (name == "LIGHTER_CONFIG").then(|| missing.clone())).is_err());
        assert!(with_file(&typed(), |name| (name == "XDG_CONFIG_HOME").then(|| missing.clone())).is_ok());
        assert!(with_file(&typed(), |_| None).is_ok());
    }
}
