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
//! and no environment is read; files are read for kubeconfigs, and for what is remembered of a server where
//! the caller names a place for it.

mod api;
mod apply;
mod assign;
mod body;
mod builtin;
mod cluster;
mod connect;
mod crd;
mod custom;
mod diagnose;
mod dial;
mod diff;
mod discovery;
mod error;
mod finite;
mod guard;
mod history;
mod image;
mod inventory;
mod kinds;
mod manifest;
mod manifests;
mod nodes;
mod object;
mod once;
mod outcome;
mod ownership;
mod plan;
mod preflight;
mod pull_secret;
mod redact;
mod render;
mod require;
mod rewrite;
mod rights;
mod set;
mod soak;
mod steer;
mod target;
mod ticket;
mod undo;
mod verdict;
mod watch;
mod workload;
mod world;
mod write;
mod yaml;

pub use apply::{Autoscaled, Surroundings, plan_apply};
pub use assign::Assignment;
pub use cluster::{Cluster, Request, What};
pub use connect::{ConnectOptions, Impersonate};
pub use diagnose::{Cause, Trouble, diagnose};
pub use dial::{Proxies, Proxy};
pub use diff::{Difference, ObjectDiff};
pub use error::{Class, Error};
pub use guard::Guard;
pub use history::{Goal, History, Revision};
pub use image::{Image, Provenance};
pub use inventory::{InUse, Why};
pub use kinds::ImagePath;
pub use manifest::{InvalidManifest, Manifest};
pub use object::{ObjectName, Resource};
pub use outcome::{End, LogTail, Outcome, TargetOutcome};
pub use ownership::{Conflict, Force};
pub use plan::{Action, Change, Finding, ImageChange, Live, Options, Plan, Severity, Step, plan_images};
pub use preflight::{Checks, Probe, Pull, PullSecret, Pullable, Registry};
pub use pull_secret::{KeptPullSecret, WantedPullSecret};
pub use render::render;
pub use require::Require;
pub use rewrite::rewrite;
pub use rights::{Extent, RoleRule, role, rules};
pub use set::{Membership, Set};
pub use steer::{Held, HeldTarget, Steer};
pub use target::{InvalidTarget, Target, Which};
pub use ticket::{Executed, Ticket};
pub use undo::{Back, Undone, UndoneTarget};
pub use verdict::{Evidence, Verdict, Waiting, classify};
pub use watch::{Event, Policy, Watch};
pub use world::{Kind, Snapshot, World};

#[cfg(test)]
mod properties;
