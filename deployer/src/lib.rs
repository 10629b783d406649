//! Rolls images out: pins, patches or applies, watches, and says why a rollout fails.
//!
//! ```text
//! ConnectOptions ──> Cluster ── plan ──> Plan ── execute ──> Ticket… ── watch ──> Outcome
//!                                 │                                        │
//!                     pure: plan_images, plan_apply            pure: World, diagnose, classify
//! ```
//!
//! Deciding is pure and works on JSON values as the API server sends them; acting is thin. What images
//! are and where they live is not known here: the caller brings a pinned [`Image`]. Nothing is printed
//! and no environment is read; files are read for kubeconfigs only.

mod api;
mod apply;
mod cluster;
mod connect;
mod diagnose;
mod error;
mod history;
mod image;
mod kinds;
mod manifest;
mod nodes;
mod object;
mod outcome;
mod ownership;
mod plan;
mod redact;
mod render;
mod steer;
mod target;
mod ticket;
mod undo;
mod verdict;
mod watch;
mod workload;
mod world;

pub use apply::plan_apply;
pub use cluster::{Cluster, Request, What};
pub use connect::ConnectOptions;
pub use diagnose::{Cause, Trouble, diagnose};
pub use error::{Class, Error, RoleRule};
pub use history::{Goal, History, Revision};
pub use image::{Image, Provenance};
pub use manifest::{InvalidManifest, Manifest};
pub use object::{ObjectName, Resource};
pub use outcome::{End, LogTail, Outcome, TargetOutcome};
pub use ownership::Conflict;
pub use plan::{Action, Change, Finding, ImageChange, Live, Plan, Severity, Step, plan_images};
pub use render::render;
pub use steer::Steer;
pub use target::{InvalidTarget, Target};
pub use ticket::{Executed, Ticket};
pub use undo::{Back, Undone, UndoneTarget};
pub use verdict::{Evidence, Verdict, Waiting, classify};
pub use watch::{Event, Policy};
pub use world::{Kind, Snapshot, World};

#[cfg(test)]
mod properties;
