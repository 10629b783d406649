//! Serves images: the OCI Distribution API over a durable, content-addressed store.
//!
//! ```text
//! Server ─▶ api (HTTP) ─▶ store (content, uploads, commits) ─▶ state (what is allowed, pure)
//!                               │                                 journal (the truth, on disk)
//!                               │                                 index (sled: rows for reading)
//!                               ├▶ keeping (policies, pure)
//!                               └▶ content::place (files)
//! ```
//!
//! An answer of success means durable. A push that fails changes nothing that was visible. Bytes
//! served under a digest hash to it. This crate never prints, exits, or reads the environment; it
//! reports by typed errors and `tracing`.

pub mod access;
mod api;
pub mod config;
mod hooks;
mod index;
mod journal;
pub mod keeping;
mod limit;
mod metrics;
mod patience;
mod pattern;
mod promise;
mod server;
mod state;
mod store;
mod tls;
pub mod upkeep;
mod watched;

pub use api::{Front, InvalidNetwork, Network};
pub use hooks::{Action, Format, HookSettings};
pub use journal::JournalError;
pub use keeping::Keeping;
pub use limit::Rate;
pub use server::{BindError, Limits, Server, Settings};
pub use store::{
    BackedUp, BackupError, Checked, Doubt, Explanation, Finding, GcStatus, JudgedTag, KeptManifest, Moved, OpenError,
    Pass, Planned, PortableError, Refusal, Repository, Store, StoreError, backup,
};
pub use tls::{ClientAuthority, TlsSettings};
pub use watched::ReadError;
