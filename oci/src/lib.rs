//! What images are: digests, references, manifests, platforms, and the wire protocol.
//!
//! Everything here is a value or a pure function. There are no files, sockets, clocks or threads in
//! this crate; `content` knows where images live, `registry` and `content::remote` speak [`wire`].
//! Text is parsed once, at the door ([`std::str::FromStr`]), into types that cannot hold anything
//! invalid; serde goes through the same doors.

mod descriptor;
mod digest;
mod manifest;
pub mod media_type;
mod name;
mod platform;
mod reference;
pub mod wire;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, DiffId, Digest, InvalidDigest, Mismatch, Verified, Verifier};
pub use manifest::{InvalidManifest, MANIFEST_LIMIT, Manifest, ManifestKind};
pub use name::{InvalidName, RepoName, Tag};
pub use platform::{InvalidPlatform, Platform};
pub use reference::{Host, InvalidReference, Pinned, Reference, Selector};
