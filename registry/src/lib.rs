//! Serves images: the OCI Distribution API over a durable, content-addressed store.
//!
//! ```text
//! Server ─▶ api (HTTP) ─▶ store (content, uploads, commits) ─▶ state (what is allowed, pure)
//!                               │                                 journal (the truth, on disk)
//!                               └▶ content::place (files)         index (sled: rows for reading)
//! ```
//!
//! An answer of success means durable. A push that fails changes nothing that was visible. Bytes
//! served under a digest hash to it. This crate never prints, exits, or reads the environment; it
//! reports by typed errors and `tracing`.

mod api;
mod index;
mod journal;
mod promise;
mod server;
mod state;
mod store;

pub use journal::JournalError;
pub use server::{BindError, Limits, Server, Settings};
pub use store::{OpenError, Refusal, Repository, Store, StoreError};
