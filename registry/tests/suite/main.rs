//! The registry from outside: HTTP as clients speak it, hostile input, and what survives a crash.

mod blobs;
mod client;
mod collection;
mod conformance;
mod contract;
mod durability;
mod hostile;
mod lists;
mod manifests;
mod privileged;
mod sending;
