//! The registry from outside: HTTP as clients speak it, hostile input, and what survives a crash.

mod access;
mod blobs;
mod client;
mod collection;
mod conformance;
mod contract;
mod durability;
mod hostile;
mod issuers;
mod lists;
mod manifests;
mod operation;
mod power;
mod privileged;
mod sending;
mod tls;
