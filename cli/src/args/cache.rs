//! What can be typed about build caches.

use clap::{Args, Subcommand};

use super::StoreArgs;

/// Caches that a build shares with other machines.
#[derive(Debug, Args, Default)]
pub struct ExchangeArgs {
    /// A cache to look steps up in: type=registry,ref=NAME, type=local,src=DIR, or an image with an inline cache
    /// [repeatable]
    #[arg(long, value_name = "type=KIND,…|NAME")]
    pub cache_from: Vec<String>,

    /// Where to keep what was built for others: type=registry,ref=NAME, type=local,dest=DIR (mode=min|max), or
    /// type=inline [repeatable]
    #[arg(long, value_name = "type=KIND,…")]
    pub cache_to: Vec<String>,

    /// Where RUN --mount=type=cache begins if it is not here yet, and is kept for others: type=registry,ref=NAME or
    /// type=local,dir=DIR (max=SIZE of each, 2g if nobody says)
    #[arg(long, value_name = "type=KIND,…")]
    pub cache_mounts: Option<String>,

    /// As kaniko: look steps up in --cache-repo, and keep them there
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cache: Option<bool>,

    /// As kaniko: the repository of --cache
    #[arg(long, value_name = "HOST/NAME[:TAG]")]
    pub cache_repo: Option<String>,
}

/// Look into the build cache, and make room
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Say what the build cache holds and how large it is
    #[command(after_help = "Example:\n  lighter cache ls")]
    Ls(CacheLsArgs),
    /// Remove what was not used for longest, until the cache is small and young enough
    #[command(after_help = "\
Examples:
  lighter cache prune --keep 10g
  lighter cache prune --older 7d
  lighter cache prune --all

Nothing is removed while a build runs.")]
    Prune(CachePruneArgs),
    /// Check every layer of the cache against its digest, and forget what is damaged
    #[command(after_help = "Example:\n  lighter cache verify")]
    Verify(CacheVerifyArgs),
}

/// lighter cache ls
#[derive(Debug, Args)]
pub struct CacheLsArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}

/// lighter cache prune
#[derive(Debug, Args)]
pub struct CachePruneArgs {
    /// How large the cache may stay [default: 20g, or LIGHTER_CACHE_SIZE]
    #[arg(long, value_name = "BYTES")]
    pub keep: Option<String>,
    /// Remove what was not used for so long: 12h, 7d
    #[arg(long, value_name = "TIME")]
    pub older: Option<String>,
    /// Remove everything
    #[arg(long, conflicts_with_all = ["keep", "older"])]
    pub all: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// lighter cache verify
#[derive(Debug, Args)]
pub struct CacheVerifyArgs {
    #[command(flatten)]
    pub store: StoreArgs,
}
