//! One module per command: what it does, and what it says.

#[cfg(feature = "build")]
pub mod build;
#[cfg(feature = "build")]
mod buildah;
pub mod cache;
#[cfg(feature = "build")]
mod call;
#[cfg(feature = "build")]
mod check;
#[cfg(feature = "build")]
mod context;
pub mod credential_provider;
#[cfg(feature = "deploy")]
pub mod deploy;
#[cfg(feature = "deploy")]
mod deploy_report;
#[cfg(feature = "deploy")]
pub mod diff;
#[cfg(feature = "build")]
mod docker;
#[cfg(feature = "build")]
mod image_options;
pub mod images;
#[cfg(feature = "build")]
pub mod index;
#[cfg(feature = "serve")]
pub mod init;
pub mod inspect;
#[cfg(feature = "deploy")]
pub mod inventory;
#[cfg(feature = "build")]
mod kaniko;
pub mod login;
#[cfg(feature = "deploy")]
mod manifests;
pub mod manual;
#[cfg(feature = "build")]
mod named;
#[cfg(feature = "build")]
pub mod naming;
#[cfg(feature = "build")]
mod output;
#[cfg(feature = "build")]
mod plan;
#[cfg(feature = "build")]
mod platforms;
#[cfg(feature = "deploy")]
mod probe;
#[cfg(feature = "deploy")]
pub mod pull_secret;
#[cfg(feature = "build")]
mod report;
#[cfg(feature = "build")]
mod request;
#[cfg(feature = "serve")]
pub mod robot;
#[cfg(feature = "deploy")]
pub mod rollout;
#[cfg(feature = "build")]
mod run_options;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(all(feature = "build", feature = "serve", feature = "deploy"))]
pub mod ship;
#[cfg(feature = "deploy")]
mod table;
pub mod transfer;
#[cfg(feature = "build")]
mod twice;
#[cfg(feature = "serve")]
pub mod upkeep;
#[cfg(feature = "deploy")]
pub mod wait;

#[cfg(feature = "build")]
pub use named::LayoutImage;
