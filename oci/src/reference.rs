//! References: `host[:port]/name[:tag][@digest]`, read the way docker reads them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, InvalidDigest, InvalidName, RepoName, Tag};

/// Where a name without a host points to.
const DEFAULT_HOST: &str = "docker.io";
/// Longest reference that is looked at, in bytes: 255 of name, 128 of tag, 135 of digest, a host.
const REFERENCE_LIMIT: usize = 1024;

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// Nothing was given.
    #[error("the image reference is empty; write it as HOST[:PORT]/NAME[:TAG]")]
    Empty,
    /// It is longer than anything real.
    #[error("the image reference is longer than {REFERENCE_LIMIT} bytes")]
    TooLong,
    /// The host part is none.
    #[error("{0:?} is not a registry host; write it as HOST[:PORT]")]
    Host(String),
    /// The name or the tag is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The digest after the `@` is none.
    #[error("after the @: {0}")]
    Digest(#[from] InvalidDigest),
    /// A digest is needed here and there is none.
    #[error("the reference {0} carries no digest")]
    NotPinned(String),
}

/// A registry's `host[:port]`, as it stands in a reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

impl Host {
    /// The host with its port as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without its port, and without the brackets of an IPv6 address.
    pub fn name(&self) -> &str {
        let name = match self.0.rfind(']') {
            Some(end) => &self.0[..=end],
            None => self.0.split(':').next().unwrap_or(&self.0),
        };
        name.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether this is Docker Hub, whose API stands under another name.
    pub fn is_docker_hub(&self) -> bool {
        matches!(self.0.as_str(), "docker.io" | "index.docker.io" | "registry-1.docker.io")
    }

    /// Whether the host is this machine itself: plain HTTP is spoken there without asking.
    pub fn is_loopback(&self) -> bool {
        let name = self.name();
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Host {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let wrong = || InvalidReference::Host(text.chars().take(80).collect());
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
                ("", port)
            }
            None => match text.find(':') {
                Some(colon) => text.split_at(colon),
                None => (text, ""),
            },
        };
        let port_is_good = port.is_empty()
            || port.strip_prefix(':').is_some_and(|digits| {
                digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|port| port > 0)
            });
        let label_is_good = |label: &str| {
            let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
            let bytes = label.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
        };
        let name_is_good = text.starts_with('[') || name.split('.').all(label_is_good);
        if text.len() <= 255 && port_is_good && name_is_good {
            return Ok(Self(text.to_owned()));
        }
        Err(wrong())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl TryFrom<String> for Host {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}
impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

/// Which manifest of a repository is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// The one that the tag names now.
    Tag(Tag),
    /// Exactly this one.
    Digest(Digest),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidReference;

    /// A text with a colon can only be a digest, since no tag holds one.
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

/// The full name of an image: registry, repository, and a tag, a digest or both.
///
/// Short names are completed as docker does: `alpine` is `docker.io/library/alpine:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    host: Host,
    name: RepoName,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl Reference {
    /// Names an image by its parts; without tag and digest, `latest` is meant.
    pub fn new(host: Host, name: RepoName, tag: Option<Tag>, digest: Option<Digest>) -> Self {
        let tag = if tag.is_none() && digest.is_none() { Some(Tag::latest()) } else { tag };
        Self { host, name, tag, digest }
    }

    /// The registry.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The repository.
    pub fn name(&self) -> &RepoName {
        &self.name
    }

    /// The tag, if the reference has one.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest, if the reference has one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask the registry for: the digest where there is one, else the tag.
    pub fn selector(&self) -> Selector {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Selector::Digest(*digest),
            (None, Some(tag)) => Selector::Tag(tag.clone()),
            (None, None) => Selector::Tag(Tag::latest()), // `new` leaves no such reference
        }
    }

    /// The same image, pinned to a digest; the tag stays beside it for people.
    pub fn pin(&self, digest: Digest) -> Pinned {
        let mut reference = self.clone();
        reference.digest = Some(digest);
        Pinned { reference, digest }
    }

    /// `host/name`, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.name)
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if text.is_empty() {
            return Err(InvalidReference::Empty);
        }
        if text.len() > REFERENCE_LIMIT {
            return Err(InvalidReference::TooLong);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let last_part = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest[last_part..].rfind(':') {
            Some(colon) => (&rest[..last_part + colon], Some(rest[last_part + colon + 1..].parse()?)),
            None => (rest, None),
        };
        let (host, name) = split_host(path)?;
        Ok(Self::new(host, name.parse()?, tag, digest))
    }
}

/// Tells the registry from the repository: the first part is a host if it looks like one, which is
/// docker's rule (a dot, a colon, or `localhost`).
fn split_host(path: &str) -> Result<(Host, String), InvalidReference> {
    let first_is_host = |first: &str| {
        first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    match path.split_once('/') {
        Some((first, rest)) if first_is_host(first) => {
            let host: Host = first.parse()?;
            let official = host.is_docker_hub() && !rest.contains('/');
            let host = if host.is_docker_hub() { Host(DEFAULT_HOST.to_owned()) } else { host };
            Ok((host, if official { format!("library/{rest}") } else { rest.to_owned() }))
        }
        Some(_) => Ok((Host(DEFAULT_HOST.to_owned()), path.to_owned())),
        None => Ok((Host(DEFAULT_HOST.to_owned()), format!("library/{path}"))),
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}
impl TryFrom<String> for Reference {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}
impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

/// A reference that carries a digest, so it means the same image for ever.
///
/// A push returns one, a deploy demands one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pinned {
    reference: Reference,
    digest: Digest,
}

impl Pinned {
    /// The digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The reference with tag (where it has one) and digest.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// `host/name@digest`, without the tag.
    pub fn without_tag(&self) -> String {
        format!("{}@{}", self.reference.repository(), self.digest)
    }
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reference.fmt(f)
    }
}
impl FromStr for Pinned {
    type Err = InvalidReference;
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let reference: Reference = text.parse()?;
        match reference.digest {
            Some(digest) => Ok(Self { reference, digest }),
            None => Err(InvalidReference::NotPinned(reference.to_string())),
        }
    }
}
impl TryFrom<String> for Pinned {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}
impl From<Pinned> for String {
    fn from(pinned: Pinned) -> Self {
        pinned.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_are_completed_as_docker_does() {
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("vm2:5000/shop/api", "vm2:5000/shop/api:latest"),
            ("Registry/app", "Registry/app:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), full, "{text}");
        }
        let both = format!("vm2:5000/api:v1@{DIGEST}");
        assert_eq!(both.parse::<Reference>().unwrap().to_string(), both);
        let pinned = format!("vm2:5000/api@{DIGEST}");
        assert_eq!(pinned.parse::<Pinned>().unwrap().to_string(), pinned);
        assert!(both.parse::<Pinned>().unwrap().without_tag().ends_with(DIGEST));
    }

    #[test]
    fn refuses_what_is_no_reference() {
        for text in [
            "",
            "/",
            "UPPER",
            "a:",
            "a:b:c",
            "a@",
            "a@sha256:0",
            "host:99999/a",
            "host:0/a",
            "-x.de/a",
            "a/../b",
            "[::1/a",
            "http://x/y",
            "a b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        assert!("alpine".parse::<Pinned>().is_err());
    }

    #[test]
    fn loopback_is_known_by_name_and_address() {
        for (host, loopback) in [
            ("localhost:5000", true),
            ("127.8.0.1", true),
            ("[::1]:5000", true),
            ("vm2:5000", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(host.parse::<Host>().unwrap().is_loopback(), loopback, "{host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(text in "([a-z]{1,8}(\\.[a-z]{1,4})?(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,6}([._/-][a-z0-9]{1,5}){0,3}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,9})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn parsing_never_panics(text: String) {
            let _ = text.parse::<Reference>(); // only whether it returns matters here
        }
    }
}
