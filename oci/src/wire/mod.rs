//! The OCI distribution protocol, written once for the client and the server.
//!
//! [`Route`] is a URL path under `/v2/` and back; [`range`] is what `Range` and `Content-Range` say;
//! [`challenge`] is `WWW-Authenticate`; [`problem`] is the JSON of an error. None of them sends or
//! receives anything.

pub mod challenge;
pub mod problem;
pub mod range;
mod route;

pub use challenge::{Challenge, Scope};
pub use problem::{ErrorCode, Problem, Problems};
pub use route::{InvalidRoute, Route, UploadId};

/// The header that names the digest of what is served or was stored.
pub const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";
/// The header that names an upload session.
pub const DOCKER_UPLOAD_UUID: &str = "docker-upload-uuid";
/// The header by which old clients know a registry.
pub const DOCKER_API_VERSION: &str = "docker-distribution-api-version";
/// The value of [`DOCKER_API_VERSION`].
pub const DOCKER_API_VERSION_2: &str = "registry/2.0";
/// The header by which a push learns that its `subject` was understood.
pub const OCI_SUBJECT: &str = "oci-subject";
/// The header that says which filters a list of referrers went through.
pub const OCI_FILTERS_APPLIED: &str = "oci-filters-applied";
/// The header that lists the tags made by a push by digest.
pub const OCI_TAG: &str = "oci-tag";
