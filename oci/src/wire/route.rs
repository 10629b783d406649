//! Paths of the protocol: parsing and printing are inverse.
//!
//! Repository names hold slashes, so the path is read from its end: what stands before
//! `/manifests/…`, `/blobs/…`, `/tags/list` or `/referrers/…` is the name.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, InvalidDigest, InvalidName, InvalidReference, RepoName, Selector};

/// The name of an upload session: up to 64 letters, digits and `-`, so it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(String);

impl UploadId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UploadId {
    type Err = InvalidRoute;

    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        let is_good =
            (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if is_good { Ok(Self(text.to_owned())) } else { Err(InvalidRoute::Upload) }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a path is none of the protocol's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    /// It has none of the known shapes.
    #[error("there is nothing at this path")]
    Unknown,
    /// The repository name is malformed.
    #[error(transparent)]
    Name(InvalidName),
    /// The digest is malformed.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// The tag is malformed.
    #[error(transparent)]
    Tag(InvalidName),
    /// The upload session id is malformed.
    #[error("this is not the id of an upload session")]
    Upload,
}

/// A place in the API (distribution-spec, "Endpoints").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: does the registry speak this protocol, and does it want a login?
    Base,
    /// `/v2/_catalog`: the repositories.
    Catalog,
    /// `/v2/<name>/tags/list`: the tags of a repository.
    Tags(RepoName),
    /// `/v2/<name>/manifests/<tag or digest>`.
    Manifest(RepoName, Selector),
    /// `/v2/<name>/blobs/<digest>`.
    Blob(RepoName, Digest),
    /// `/v2/<name>/blobs/uploads/`: where an upload starts.
    Uploads(RepoName),
    /// `/v2/<name>/blobs/uploads/<id>`: an upload in progress.
    Upload(RepoName, UploadId),
    /// `/v2/<name>/referrers/<digest>`: the manifests whose subject this is.
    Referrers(RepoName, Digest),
}

impl Route {
    /// Reads the path of a URL, without its query. Escaped paths are not of the protocol: no name,
    /// tag or digest needs an escape, except `:` which some clients escape all the same.
    pub fn parse(path: &str) -> Result<Self, InvalidRoute> {
        let unescaped = path.replace("%3A", ":").replace("%3a", ":");
        let rest = match unescaped.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Self::Base),
            Some(rest) => rest.strip_prefix('/').ok_or(InvalidRoute::Unknown)?,
            None => return Err(InvalidRoute::Unknown),
        };
        if matches!(rest, "_catalog" | "_catalog/") {
            return Ok(Self::Catalog);
        }
        let name = |text: &str| text.parse().map_err(InvalidRoute::Name);
        if let Some(repository) = rest.strip_suffix("/tags/list") {
            return Ok(Self::Tags(name(repository)?));
        }
        if let Some(repository) = rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads")) {
            return Ok(Self::Uploads(name(repository)?));
        }
        let (head, last) = rest.rsplit_once('/').ok_or(InvalidRoute::Unknown)?;
        if let Some(repository) = head.strip_suffix("/blobs/uploads") {
            return Ok(Self::Upload(name(repository)?, last.parse()?));
        }
        if let Some(repository) = head.strip_suffix("/blobs") {
            return Ok(Self::Blob(name(repository)?, last.parse()?));
        }
        if let Some(repository) = head.strip_suffix("/referrers") {
            return Ok(Self::Referrers(name(repository)?, last.parse()?));
        }
        if let Some(repository) = head.strip_suffix("/manifests") {
            return Ok(Self::Manifest(name(repository)?, selector(last)?));
        }
        Err(InvalidRoute::Unknown)
    }

    /// The path of this place; what [`Route::parse`] reads.
    pub fn path(&self) -> String {
        match self {
            Self::Base => "/v2/".to_owned(),
            Self::Catalog => "/v2/_catalog".to_owned(),
            Self::Tags(name) => format!("/v2/{name}/tags/list"),
            Self::Manifest(name, selector) => format!("/v2/{name}/manifests/{selector}"),
            Self::Blob(name, digest) => format!("/v2/{name}/blobs/{digest}"),
            Self::Uploads(name) => format!("/v2/{name}/blobs/uploads/"),
            Self::Upload(name, id) => format!("/v2/{name}/blobs/uploads/{id}"),
            Self::Referrers(name, digest) => format!("/v2/{name}/referrers/{digest}"),
        }
    }

    /// The repository that the path is about.
    pub fn name(&self) -> Option<&RepoName> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }
}

fn selector(text: &str) -> Result<Selector, InvalidRoute> {
    text.parse().map_err(|error| match error {
        InvalidReference::Digest(error) => InvalidRoute::Digest(error),
        InvalidReference::Name(error) => InvalidRoute::Tag(error),
        _ => InvalidRoute::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn every_shape_and_its_variants() {
        let name: RepoName = "shop/api".parse().unwrap();
        let digest: Digest = DIGEST.parse().unwrap();
        for (path, route) in [
            ("/v2", Route::Base),
            ("/v2/", Route::Base),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/shop/api/tags/list", Route::Tags(name.clone())),
            ("/v2/shop/api/manifests/v1", Route::Manifest(name.clone(), "v1".parse().unwrap())),
            (&format!("/v2/shop/api/manifests/{DIGEST}"), Route::Manifest(name.clone(), Selector::Digest(digest))),
            (&format!("/v2/shop/api/blobs/{}", DIGEST.replace(':', "%3A")), Route::Blob(name.clone(), digest)),
            ("/v2/shop/api/blobs/uploads", Route::Uploads(name.clone())),
            ("/v2/shop/api/blobs/uploads/", Route::Uploads(name.clone())),
            ("/v2/shop/api/blobs/uploads/0190-ab", Route::Upload(name.clone(), "0190-ab".parse().unwrap())),
            (&format!("/v2/shop/api/referrers/{DIGEST}"), Route::Referrers(name.clone(), digest)),
            ("/v2/tags/list/tags/list", Route::Tags("tags/list".parse().unwrap())),
            ("/v2/a/blobs/b/manifests/c", Route::Manifest("a/blobs/b".parse().unwrap(), "c".parse().unwrap())),
        ] {
            assert_eq!(Route::parse(path), Ok(route), "{path}");
        }
    }

    #[test]
    fn hostile_paths_are_refused_with_the_reason() {
        for (path, error) in [
            ("/", InvalidRoute::Unknown),
            ("/v3/", InvalidRoute::Unknown),
            ("/v2x/", InvalidRoute::Unknown),
            ("/v2/a", InvalidRoute::Unknown),
            ("/v2/a/b/c", InvalidRoute::Unknown),
            ("/v2/a/blobs/uploads/..", InvalidRoute::Upload),
            ("/v2/a/blobs/sha256:00", InvalidRoute::Digest(InvalidDigest::Encoded { expected: 64 })),
            ("/v2/a/manifests/md5:00", InvalidRoute::Digest(InvalidDigest::Algorithm)),
        ] {
            assert_eq!(Route::parse(path), Err(error), "{path}");
        }
        for path in [
            "/v2/../etc/tags/list",
            "/v2/a/../b/tags/list",
            "/v2/%2e%2e/tags/list",
            "/v2/A/tags/list",
            "/v2//tags/list",
        ] {
            assert!(matches!(Route::parse(path), Err(InvalidRoute::Name(_))), "{path}");
        }
        assert!(matches!(Route::parse("/v2/a/manifests/.."), Err(InvalidRoute::Tag(_))));
    }

    proptest::proptest! {
        #[test]
        fn path_and_parse_are_inverse(name in "[a-z0-9]{1,6}(/(blobs|manifests|tags|list|uploads|[a-z]{1,3})){0,4}", tag in "[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", which in 0..6usize) {
            let name: RepoName = name.parse().unwrap();
            let digest: Digest = DIGEST.parse().unwrap();
            let route = match which {
                0 => Route::Tags(name),
                1 => Route::Manifest(name, Selector::Tag(tag.parse().unwrap())),
                2 => Route::Blob(name, digest),
                3 => Route::Uploads(name),
                4 => Route::Upload(name, "a1-b2".parse().unwrap()),
                _ => Route::Referrers(name, digest),
            };
            proptest::prop_assert_eq!(Route::parse(&route.path()), Ok(route));
        }

        #[test]
        fn parsing_never_panics(path: String) {
            let _ = Route::parse(&path); // only whether it returns matters here
            let _ = Route::parse(&format!("/v2/{path}"));
        }
    }
}
