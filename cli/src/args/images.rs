//! Images: moved between the local store, registries, layouts and archives; looked at, named and removed.

use clap::Args;

use super::{RegistryArgs, StoreArgs};

/// Send an image to a registry
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter push vm2:5000/shop/api:v1
  lighter push local:api:v1 vm2:5000/shop/api:v1
  lighter push oci:build/out vm2:5000/shop/api:v1

stdout carries the image, pinned to its digest.")]
pub struct PushArgs {
    /// The image: in the local store, or local:, oci:, oci-archive:, docker-archive:
    pub image: String,
    /// Where to [default: the registry in the image's own name]
    pub destination: Option<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Fetch an image from a registry into the local store
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter pull vm2:5000/shop/api:v1

stdout carries the image, pinned to its digest.")]
pub struct PullArgs {
    /// The image
    pub image: String,
    /// Of an image for several platforms, this one [default: this machine's; all: every one]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]|all")]
    pub platform: Option<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Copy an image from any place to any other
#[derive(Debug, Args)]
#[command(after_help = "\
Places:
  docker://HOST/NAME:TAG   a registry (also without docker://)
  local:NAME:TAG           the local store
  oci:DIR[:TAG]            an OCI image layout
  oci-archive:FILE[:TAG]   a tar of one
  docker-archive:FILE[:NAME:TAG]  what docker save writes and docker load reads

Examples:
  lighter copy vm2:5000/shop/api:v1 oci:out:v1
  lighter copy docker-archive:api.tar vm2:5000/shop/api:v1
  lighter copy vm2:5000/shop/api:v1 vm3:5000/shop/api:v1")]
pub struct CopyArgs {
    /// From where
    pub source: String,
    /// To where
    pub destination: String,
    /// Of an image for several platforms, only this one [default: all]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]|all")]
    pub platform: Option<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Show an image: manifest, config, layers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter inspect vm2:5000/shop/api:v1
  lighter inspect --raw oci:out:v1
  lighter inspect --config api:v1")]
pub struct InspectArgs {
    /// The image; a bare name is looked for in the local store, then in its registry
    pub image: String,
    /// Print the manifest, to the byte
    #[arg(long, conflicts_with = "config")]
    pub raw: bool,
    /// Print the image config, to the byte
    #[arg(long)]
    pub config: bool,
    /// Of an image for several platforms, this one [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<oci::Platform>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// List the images in the local store
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter images
  lighter images shop/api
  lighter images --quiet shop/api | xargs lighter rmi

stdout carries one line an image: its name, pinned to its digest; when it was made; its size.")]
pub struct ImagesArgs {
    /// Only those of this name; without a tag, all tags
    #[arg(value_name = "[HOST/]NAME[:TAG]")]
    pub name: Option<String>,
    /// Print the names only
    #[arg(short, long)]
    pub quiet: bool,
    /// Print one JSON document
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Give an image of the local store another name
#[cfg(feature = "build")]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter tag api:v1 vm2:5000/shop/api:v1
  lighter tag sha256:5f70bf18a086 api:v1 api:latest

An image that had the name before loses it. stdout carries the new names, pinned to the digest.")]
pub struct TagArgs {
    /// The image: a name, or the digest of its manifest or the beginning of that
    pub image: String,
    /// The names
    #[arg(required = true, value_name = "[HOST/]NAME[:TAG]")]
    pub names: Vec<oci::Reference>,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Remove images from the local store
#[cfg(feature = "build")]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter rmi api:v1
  lighter rmi sha256:5f70bf18a086

A name is taken away; with the last name the image goes. Layers that its build left in the cache stay there,
until `lighter cache prune` makes room. stdout carries what was removed.")]
pub struct RmiArgs {
    /// The images: names, or digests of manifests or the beginning of those, for all names of one
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Images that are not there are no mistake
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}
