//! What can be typed to look after a registry's data.

use std::path::PathBuf;

use clap::Args;

/// Which data, and which policies.
#[derive(Debug, Args, Clone)]
pub struct RegistryDataArgs {
    /// The registry's data directory [default: registry below lighter's data directory]
    #[arg(long, value_name = "DIR", env = "LIGHTER_REGISTRY_DATA")]
    pub data: Option<PathBuf>,
    /// The registry's configuration: its [gc] and [retention] apply, and its data directory
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Collect what nothing needs any more
#[derive(Debug, Args)]
#[command(after_help = "\
A registry does this by itself while it serves. This is to do it at once, and to see what would go, whether it
serves or is stopped; its own policies apply while it serves, unless --config names others.

Examples:
  lighter registry gc --dry-run
  lighter registry gc --data /var/lib/lighter
  lighter registry gc --explain sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

stdout carries a line for each thing that would go, or what is known about the digest.")]
pub struct GcArgs {
    /// Only say what would go now
    #[arg(long)]
    pub dry_run: bool,
    /// Say what keeps a digest, or speaks against it, and when it is looked at again
    #[arg(long, value_name = "DIGEST", conflicts_with = "dry_run")]
    pub explain: Option<oci::Digest>,
    #[command(flatten)]
    pub data: RegistryDataArgs,
}

/// Delete tags that no rule of the configuration keeps
#[derive(Debug, Args)]
#[command(after_help = "\
A registry does this by itself while it serves. This is to do it at once, and to see what would go, whether it
serves or is stopped; its own policies apply while it serves, unless --config names others.

Examples:
  lighter registry retention --config /etc/lighter/registry.toml --dry-run
  lighter registry retention --config /etc/lighter/registry.toml

stdout carries a line for each tag of a repository that a rule is about: keep or delete, and why.")]
pub struct RetentionArgs {
    /// Only say which tags would go
    #[arg(long)]
    pub dry_run: bool,
    /// Let the rules take the last tag of a repository
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub data: RegistryDataArgs,
}

/// Check everything that a registry keeps, and put right what can be
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter registry fsck
  lighter registry fsck --repair --data /var/lib/lighter

Every file is hashed, while the registry serves or is stopped. With --repair, damaged files go to quarantine/;
small ones that were pushed lately are written again from the journal, and the others are forgotten, so that
clients send them again; files that nothing knows about are taken in; the index of a stopped registry is made
again from the journal.

stdout carries a line for each finding; the exit code is 1 if there is any left.")]
pub struct FsckArgs {
    /// Put right what can be
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub data: RegistryDataArgs,
}

/// Write repositories of a registry, which may be running, to an OCI image layout
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter registry export /mnt/disk/images
  lighter registry export /mnt/disk/images shop/api shop/web

An image is named REPOSITORY:TAG in the layout, and one that no tag names REPOSITORY@DIGEST. A running registry
writes there itself, so its user has to be allowed to.")]
pub struct ExportArgs {
    /// The layout; made if it is missing
    #[arg(value_name = "DEST")]
    pub destination: PathBuf,
    /// Which repositories [default: all]
    #[arg(value_name = "REPOSITORY")]
    pub repositories: Vec<oci::RepoName>,
    #[command(flatten)]
    pub data: RegistryDataArgs,
}

/// Take the images of an OCI image layout into a registry, which may be running
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter registry import /mnt/disk/images
  lighter registry import --repository shop/api build/out

A running registry reads it there itself, so its user has to be allowed to.")]
pub struct ImportArgs {
    /// The layout
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Where images go whose name in the layout is only a tag
    #[arg(long, value_name = "REPOSITORY")]
    pub repository: Option<oci::RepoName>,
    #[command(flatten)]
    pub data: RegistryDataArgs,
}

/// Copy the data directory of a registry, which may be running
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter registry backup /mnt/backup/registry
  lighter registry serve --data /mnt/backup/registry     # restoring is using it (after the last backup)

The same command again brings the copy up to date. On one file system the files are hard links: that
protects from deletion, not from a broken disk.")]
pub struct BackupArgs {
    /// Where to; made if it is missing
    #[arg(value_name = "DEST")]
    pub destination: PathBuf,
    /// Copy files even where hard links would do
    #[arg(long)]
    pub copy: bool,
    #[command(flatten)]
    pub data: RegistryDataArgs,
}
