//! Registries, as a client sees them.
//!
//! [`Client`] holds connections, logins and tokens; [`Repository`] is one repository of one registry
//! and is a [`crate::Source`] and [`crate::Sink`]. `transport` sends one request, `auth` answers
//! challenges, `upload` takes up broken uploads where they stopped. `map` puts registries in place of
//! others. [`Proxies`] says who is spoken to through a proxy. `download` fetches files behind URLs and [`Web`] asks other servers, neither of which has to do
//! with registries.

mod auth;
mod certificates;
mod client;
mod distrust;
mod download;
mod map;
mod proxy;
mod repository;
mod transport;
mod upload;
mod web;

pub use client::{Client, Settings};
pub use distrust::Distrust;
pub use download::{Download, Version};
pub use map::{InvalidMapping, Mapping, Mappings};
pub use proxy::{InvalidProxy, Proxies, Through};
pub use repository::Repository;
pub use transport::ClientCertificate;
pub use web::Web;
