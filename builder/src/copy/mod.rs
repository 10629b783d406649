//! COPY and ADD without a root file system: sources become the entries of one new layer, written straight
//! from where they lie. What is copied ends up where BuildKit would put it (its `fsutil/copy`, the names
//! of which are given where a rule surprises).
//!
//! ```text
//! source    where files come from: a context directory, a stage, texts in the Dockerfile
//! pattern   Go's filepath.Match
//! select    patterns -> the files that are meant, without reading them
//! digest    what they hold, for the cache key; contents only, never times
//! owner     --chown          mode   --chmod
//! upper     the changes to the tree below, as an overlay's upper directory would hold them
//! place     files + destination rules -> upper
//! archive   tars that ADD extracts
//! ```
//!
//! The way of a step: [`select()`], [`Selection::hash`] and [`Hashed::digest`] for the key; on a miss
//! [`place()`] and [`Placed::write`] into a [`crate::layer::Pipeline`]. Instructions and caches are not known here.

mod archive;
mod digest;
mod error;
mod mode;
mod owner;
mod pattern;
mod place;
mod select;
mod source;
mod upper;

pub use digest::{Hashed, Known};
pub use error::Error;
pub use mode::Chmod;
pub use owner::{Owner, Resolved, needs_database, resolve_owner};
pub use place::{Placed, Target, place};
pub use select::{Options, Selection, select};
pub use source::{Contents, Context, Ignore, Inline, Inode, Item, Source, Stage};
