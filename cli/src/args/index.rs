//! What can be typed for indexes: images for several platforms under one name.

use clap::{Args, Subcommand};

use super::{RegistryArgs, StoreArgs};

/// Put images for several platforms under one name
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    Create(CreateArgs),
}

/// Join images, or the parts of indexes, to an index
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter index create vm2:5000/shop/api:v1 vm2:5000/shop/api:v1-amd64 vm2:5000/shop/api:v1-arm64
  lighter index create oci:out:v1 oci:amd64 oci:arm64

Everything that the parts consist of is copied to where the index goes; what is there already is not
sent again. A platform that two parts are for is an error. stdout carries the index, pinned to its digest.")]
pub struct CreateArgs {
    /// The index: a registry's, local:, oci:
    pub destination: String,
    /// The parts, anywhere
    #[arg(required = true)]
    pub source: Vec<String>,
    /// An annotation of the index [repeatable]
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}
