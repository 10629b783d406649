//! Makes images: a Dockerfile and a build context become layers and a config.
//!
//! [`dockerfile`] reads the language, [`plan`] decides what to do, [`ignore`] says which files of the
//! context count, [`config`] is what an image says about itself: pure functions of values, all of them.
//! [`copy`] and [`layer`] make layers of files, [`sandbox`] runs the commands, [`cache`] remembers what
//! was made, [`remote`] fetches what lies elsewhere, and [`build()`] puts it together; [`output`] writes the
//! image where it is wanted.

pub mod build;
pub mod cache;
pub mod call;
pub mod check;
pub mod config;
pub mod copy;
pub mod dockerfile;
pub mod event;
pub mod ignore;
pub mod layer;
pub mod output;
pub mod plan;
pub mod remote;
pub mod sandbox;
pub mod secret;

pub use build::{Built, Error, Request, Workshop, build};
