//! Registries, as a client sees them.
//!
//! [`Client`] holds connections, logins and tokens; [`Repository`] is one repository of one registry
//! and is a [`crate::Source`] and [`crate::Sink`]. `transport` sends one request, `auth` answers
//! challenges, `upload` takes up broken uploads where they stopped. [`Web`] is for servers that are no registries.

mod auth;
mod client;
mod distrust;
mod repository;
mod transport;
mod upload;
mod web;

pub use client::{Client, Settings};
pub use distrust::Distrust;
pub use repository::Repository;
pub use web::Web;
