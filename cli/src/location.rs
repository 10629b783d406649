//! Where an image is: the local store, a registry, a layout, an archive. Written as skopeo does.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci::{InvalidReference, Reference};

/// The place of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `docker://HOST/NAME:TAG`: a registry.
    Registry(Reference),
    /// `local:NAME:TAG`: the local store.
    Local(Reference),
    /// `oci:DIRECTORY[:TAG]`: an OCI image layout.
    Layout(PathBuf, Option<String>),
    /// `oci-archive:FILE[:TAG]`: a tar of one.
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME:TAG]`: what `docker save` writes.
    DockerArchive(PathBuf, Option<String>),
    /// A bare reference: the command knows what is meant.
    Bare(Reference),
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLocation {
    /// The reference is malformed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// Nothing stands behind the prefix.
    #[error("after `{0}:` the name of a file or directory is missing")]
    NoPath(&'static str),
    /// A transport of skopeo that is not known here.
    #[error("`{0}:` is not known here; known are docker://, local:, oci:, oci-archive: and docker-archive:")]
    Transport(String),
}

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        if let Some(reference) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(reference.parse()?));
        }
        if let Some(reference) = text.strip_prefix("local:") {
            return Ok(Self::Local(reference.parse()?));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return path_and_name(rest, "oci").map(|(path, name)| Self::Layout(path, name));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return path_and_name(rest, "oci-archive").map(|(path, name)| Self::OciArchive(path, name));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return path_and_name(rest, "docker-archive").map(|(path, name)| Self::DockerArchive(path, name));
        }
        for transport in ["dir", "docker-daemon", "containers-storage", "ostree", "sif", "tarball", "https", "http"] {
            if text
                .strip_prefix(transport)
                .is_some_and(|rest| rest.starts_with(':') && !rest[1..].starts_with(|char: char| char.is_ascii_digit()))
            {
                return Err(InvalidLocation::Transport(transport.to_owned()));
            }
        }
        Ok(Self::Bare(text.parse()?))
    }
}

/// `PATH[:NAME]`: the first colon ends the path, as skopeo reads it.
fn path_and_name(text: &str, transport: &'static str) -> Result<(PathBuf, Option<String>), InvalidLocation> {
    let (path, name) = text.split_once(':').map_or((text, None), |(path, name)| (path, Some(name)));
    if path.is_empty() {
        return Err(InvalidLocation::NoPath(transport));
    }
    Ok((PathBuf::from(path), name.filter(|name| !name.is_empty()).map(str::to_owned)))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |f: &mut fmt::Formatter<'_>, transport: &str, path: &PathBuf, name: &Option<String>| {
            write!(f, "{transport}:{}", path.display())?;
            name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
        };
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Local(reference) => write!(f, "local:{reference}"),
            Self::Bare(reference) => write!(f, "{reference}"),
            Self::Layout(path, name) => named(f, "oci", path, name),
            Self::OciArchive(path, name) => named(f, "oci-archive", path, name),
            Self::DockerArchive(path, name) => named(f, "docker-archive", path, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_skopeo_writes_them() {
        for (text, printed) in [
            ("docker://vm2:5000/api:v1", "docker://vm2:5000/api:v1"),
            ("local:api", "local:docker.io/library/api:latest"),
            ("oci:build/out:v1", "oci:build/out:v1"),
            ("oci:out", "oci:out"),
            ("oci-archive:a.tar", "oci-archive:a.tar"),
            ("docker-archive:a.tar:vm2:5000/api:v1", "docker-archive:a.tar:vm2:5000/api:v1"),
            ("vm2:5000/api", "vm2:5000/api:latest"),
            ("dir:5000/api", "dir:5000/api:latest"),
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), printed, "{text}");
        }
        for bad in ["", "oci:", "oci-archive::x", "docker-daemon:x", "docker://", "https://vm2/api", "UPPER"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
    }
}
