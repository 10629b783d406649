//! Where images live, and how they move: disk, registry, memory.
//!
//! [`Source`] gives manifests and blobs, [`Sink`] takes them; [`Disk`], [`Memory`],
//! [`remote::Repository`] and the registry's own store are both. One [`copy`] moves an image between
//! any two of them: blobs in parallel, a manifest only after everything that it names. Nothing here
//! makes images, serves HTTP or knows what a tag means to a cluster.

mod archive;
#[cfg(feature = "contract")]
pub mod contract;
mod copy;
pub mod credentials;
mod disk;
mod error;
mod lazy;
mod memory;
pub mod place;
pub mod remote;
mod store;

pub use archive::{Archive, ArchiveKind};
pub use copy::{Copied, CopyOptions, Progress, copy, select_platform};
pub use disk::{Disk, DiskRepository};
pub use error::{Error, Result};
pub use lazy::WithOrigins;
pub use memory::Memory;
pub use store::{Body, OpenBlob, Origin, Sink, Source, Swap, body_of, collect};
