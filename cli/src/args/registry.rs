//! What can be typed after `lighter registry`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{BackupArgs, ExportArgs, FsckArgs, GcArgs, ImportArgs, RetentionArgs};

/// Run and look after a registry
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    Init(super::InitArgs),
    Serve(ServeArgs),
    #[command(subcommand)]
    Token(TokenCommand),
    CheckConfig(CheckConfigArgs),
    Gc(GcArgs),
    Retention(RetentionArgs),
    Fsck(FsckArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    Backup(BackupArgs),
}

/// Serve images over the OCI Distribution API
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter registry serve
  lighter registry serve --addr 127.0.0.1:5000 --data /var/lib/lighter
  lighter registry serve --config /etc/lighter/registry.toml
  LIGHTER_REGISTRY_TLS_CERTIFICATE=c.pem LIGHTER_REGISTRY_TLS_KEY=k.pem lighter registry serve

What is typed wins over the environment (LIGHTER_REGISTRY_*), and that over the file. All keys are in
docs/registry.md; `lighter registry check-config` shows what a file means.")]
pub struct ServeArgs {
    /// Where to listen [default: 127.0.0.1:5000] [env: LIGHTER_REGISTRY_ADDR]
    #[arg(long, value_name = "IP:PORT")]
    pub addr: Option<std::net::SocketAddr>,
    /// Where to keep images [default: registry below lighter's data directory] [env: LIGHTER_REGISTRY_DATA]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Settings in a file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Let anybody who reaches an address other than loopback push, pull and delete
    #[arg(long, alias = "allow-anonymous")]
    pub insecure_allow_anonymous: bool,
    /// Take manifests that name content which is not here, such as an index of all platforms with the images of one
    #[arg(long)]
    pub allow_sparse: bool,
}

/// Make, list and end tokens for programs
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    Create(TokenCreateArgs),
    List(TokenFileArgs),
    Revoke(TokenRevokeArgs),
}

/// Make a token; stdout carries it, and nothing shows it again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter registry token create ci --allow pull,push --repository 'shop/**' --expires 90d
  lighter registry token create pull-all --allow pull
  lighter registry token create ci                # its rights come from rules for robot:ci
  lighter registry token create ci --allow push | docker login vm2:5000 -u ci --password-stdin

A running registry knows the token at once, if it has access rules or robots already.")]
pub struct TokenCreateArgs {
    /// What rules and logs call it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it may do: pull, push, delete, overwrite
    #[arg(long, value_name = "RIGHT", value_delimiter = ',')]
    pub allow: Vec<registry::access::Right>,
    /// Where: a pattern of repositories [default: ** if --allow is said] [repeatable]
    #[arg(long, value_name = "PATTERN", requires = "allow")]
    pub repository: Vec<registry::access::Pattern>,
    /// When it ends [default: never]
    #[arg(long, value_name = "TIME")]
    pub expires: Option<registry::keeping::Period>,
    #[command(flatten)]
    pub file: TokenFileArgs,
}

/// List the tokens: id, name, rights, end
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lighter registry token list --data /var/lib/lighter")]
pub struct TokenFileArgs {
    /// The registry's data directory [default: registry below lighter's data directory]
    #[arg(long, value_name = "DIR", env = "LIGHTER_REGISTRY_DATA")]
    pub data: Option<PathBuf>,
}

/// End a token, or all of a name; a running registry refuses it from then on
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter registry token revoke 0f3a9c21d7e84b55
  lighter registry token revoke ci")]
pub struct TokenRevokeArgs {
    /// The id of a token, or a name
    #[arg(value_name = "ID|NAME")]
    pub which: String,
    #[command(flatten)]
    pub file: TokenFileArgs,
}

/// Say what a configuration means, or what is wrong with it
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter registry check-config /etc/lighter/registry.toml

stdout carries everything that holds, defaults and the environment included, with secrets masked. The
exit code is 65 if the configuration is wrong, or a file that it names is.")]
pub struct CheckConfigArgs {
    /// The file; without one, what the environment says alone
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}
