//! One module per command: what it does, and what it says.

#[cfg(feature = "build")]
pub mod build;
#[cfg(feature = "build")]
mod check;
pub mod credential_provider;
#[cfg(feature = "deploy")]
pub mod deploy;
#[cfg(feature = "deploy")]
pub mod diff;
#[cfg(feature = "serve")]
pub mod init;
pub mod inspect;
pub mod login;
pub mod manual;
#[cfg(feature = "build")]
mod output;
#[cfg(feature = "deploy")]
mod probe;
#[cfg(feature = "deploy")]
pub mod pull_secret;
#[cfg(feature = "deploy")]
mod report;
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
#[cfg(feature = "serve")]
pub mod upkeep;
#[cfg(feature = "deploy")]
pub mod wait;
