//! What can be typed about the logins of pods.

#[cfg(feature = "serve")]
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::RegistryArgs;
use super::deploy::{ClusterArgs, lifetime};

/// Look after the logins that pods pull images with
#[derive(Debug, Subcommand)]
pub enum PullSecretCommand {
    Ensure(EnsureArgs),
}

/// Make a pull secret or bring it up to date, and let a service account use it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter pull-secret ensure --repo vm2:5000/shop -n shop
  printf %s \"$TOKEN\" | lighter pull-secret ensure --repo vm2:5000/shop -n shop --username robot --password-stdin

  lighter pull-secret ensure --repo vm2:5000/shop -n shop --robot shop-pull --registry-data /var/lib/lighter

Without --username and --robot, the login is the one that lighter itself has for the repository. The
registry is asked whether it takes the login. Nothing is written where it is so already, so it can run
in every pipeline; when the password ends is noted on the Secret (lighter.dev/expires).")]
pub struct EnsureArgs {
    /// The registry, or the repositories below a path, that the login is for
    #[arg(long, value_name = "HOST[:PORT][/PATH]")]
    pub repo: String,
    /// The service account whose pods pull with it
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub service_account: String,
    /// The name of the Secret
    #[arg(long, value_name = "NAME", default_value = "lighter-pull")]
    pub name: String,
    /// The user
    #[arg(short, long, value_name = "USER", requires = "password_stdin")]
    pub username: Option<String>,
    /// Read the password from stdin
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
    /// Make a robot token of this name that may pull from --repo and nothing else; wants --registry-data
    #[cfg(feature = "serve")]
    #[arg(long, value_name = "NAME", requires = "registry_data", conflicts_with = "username")]
    pub robot: Option<String>,
    /// The data directory of the registry, which may be running
    #[cfg(feature = "serve")]
    #[arg(long, value_name = "DIR", requires = "robot")]
    pub registry_data: Option<PathBuf>,
    /// How long the password is good for; a token of JSON (JWT) says so itself [default with --robot: 90d]
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub expires: Option<std::time::Duration>,
    /// Of a --robot: when less than this is left, a new token is made
    #[cfg(feature = "serve")]
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lifetime, requires = "robot")]
    pub renew_before: std::time::Duration,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}
