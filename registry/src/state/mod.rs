//! What the registry knows and how that may change, as values and pure functions. No files, no
//! threads, no clock, no sled: `journal` keeps the records, `index` the rows, `store` the time.
//!
//! ```text
//! Transaction ──decide(view, now)──▶ Record of Facts ──writes()──▶ row changes
//!   (wanted)      or a Refusal        (journal: truth)               (index)
//! ```
//!
//! A [`Transaction`] is what a client wants. [`decide`] looks at the rows as they are and either
//! refuses it or says which [`Fact`]s follow. Facts are self-contained: which rows they change can be
//! told without looking at any row, so replaying them in order over older *or newer* rows always ends
//! in the same state.

mod doubt;
#[cfg(test)]
mod explore;
mod fact;
mod review;
mod rows;
mod transaction;
mod usage;
mod view;

pub(crate) use doubt::{Item, Kind};
pub(crate) use fact::{Asked, Fact, InvalidRecord, Mounted, Pull, Record, Write};
pub(crate) use review::is_needed;
pub(crate) use rows::{Changes, Damaged, Layer, MemoryRows, Overlay, Rows, RowsError, key, prefix_end};
pub use transaction::Refusal;
pub(crate) use transaction::{Condition, Decision, Frozen, MountSource, Terms, Transaction, decide};
pub(crate) use usage::Usage;
pub(crate) use view::View;
