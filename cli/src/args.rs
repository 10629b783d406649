//! What can be typed. `settings` says what it means.

#[cfg(feature = "build")]
pub mod build;
#[cfg(feature = "deploy")]
mod deploy;
mod images;
#[cfg(feature = "build")]
pub mod index;
mod install;
#[cfg(feature = "deploy")]
mod pull_secret;
#[cfg(feature = "serve")]
mod registry;
#[cfg(feature = "deploy")]
mod rollout;
#[cfg(feature = "serve")]
mod upkeep;

#[cfg(feature = "deploy")]
pub use deploy::*;
pub use images::*;
#[cfg(feature = "deploy")]
pub use pull_secret::*;
#[cfg(feature = "deploy")]
pub use rollout::*;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "serve")]
pub use self::registry::{
    CheckConfigArgs, RegistryCommand, ServeArgs, TokenCommand, TokenCreateArgs, TokenFileArgs, TokenRevokeArgs,
};
use crate::exit;
#[cfg(feature = "serve")]
pub use upkeep::{BackupArgs, ExportArgs, FsckArgs, GcArgs, ImportArgs, RegistryDataArgs, RetentionArgs};

#[cfg(feature = "serve")]
pub use install::InitArgs;
pub use install::{CompletionsArgs, CredentialProviderArgs, ManArgs};

#[cfg(feature = "build")]
mod cache;
#[cfg(feature = "build")]
pub use cache::{CacheCommand, CacheLsArgs, CachePruneArgs, CacheVerifyArgs, ExchangeArgs};

/// Builds images without a daemon, serves them, and rolls them out.
#[derive(Debug, Parser)]
#[command(name = "lighter", version, max_term_width = 100, after_help = exit::TABLE, arg_required_else_help = true)]
pub struct Cli {
    /// Say more on stderr: -v for what is decided, -vv for every request
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[cfg(feature = "build")]
    Build(Box<BuildArgs>),
    #[cfg(feature = "build")]
    #[command(subcommand)]
    Cache(CacheCommand),
    Push(PushArgs),
    Pull(PullArgs),
    Copy(CopyArgs),
    #[cfg(feature = "build")]
    #[command(subcommand)]
    Index(index::IndexCommand),
    Inspect(InspectArgs),
    Images(ImagesArgs),
    #[cfg(feature = "build")]
    Tag(TagArgs),
    #[cfg(feature = "build")]
    Rmi(RmiArgs),
    Login(LoginArgs),
    Logout(LogoutArgs),
    #[cfg(feature = "serve")]
    #[command(subcommand)]
    Registry(RegistryCommand),
    #[cfg(feature = "deploy")]
    Deploy(Box<DeployArgs>),
    #[cfg(feature = "deploy")]
    Diff(Box<DiffArgs>),
    #[cfg(feature = "deploy")]
    Inventory(Box<InventoryArgs>),
    #[cfg(feature = "deploy")]
    #[command(subcommand)]
    PullSecret(PullSecretCommand),
    #[cfg(feature = "deploy")]
    #[command(subcommand)]
    Rollout(RolloutCommand),
    #[cfg(feature = "deploy")]
    #[command(subcommand)]
    Set(SetCommand),
    #[cfg(all(feature = "build", feature = "serve", feature = "deploy"))]
    Ship(Box<ShipArgs>),
    CredentialProvider(CredentialProviderArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Where lighter keeps images, caches and the embedded registry.
#[derive(Debug, Args, Clone)]
pub struct StoreArgs {
    /// Directory for images and caches [default: $XDG_DATA_HOME/lighter or ~/.local/share/lighter]
    #[arg(long, value_name = "DIR", env = "LIGHTER_DATA")]
    pub data: Option<PathBuf>,
}

/// How registries are spoken to.
#[derive(Debug, Args, Clone)]
pub struct RegistryArgs {
    /// A registry that is spoken to over plain HTTP; loopback needs no mention [repeatable]
    #[arg(long, value_name = "HOST[:PORT]", env = "LIGHTER_INSECURE_REGISTRY", value_delimiter = ',')]
    pub insecure_registry: Vec<String>,

    /// A CA certificate (PEM) that registries may be signed by, beside the machine's own [repeatable]
    #[arg(long, value_name = "FILE", env = "LIGHTER_REGISTRY_CA", value_delimiter = ',')]
    pub registry_ca: Vec<PathBuf>,

    /// Ask another registry for all that names one, there below PREFIX [repeatable]
    #[arg(long, value_name = "HOST=HOST[/PREFIX]", env = "LIGHTER_REGISTRY_MAP", value_delimiter = ',')]
    pub registry_map: Vec<String>,

    /// A certificate of ours for a registry that wants one, and its key if it is in another file [repeatable]
    #[arg(long, value_name = "HOST=CERT[,KEY]", env = "LIGHTER_REGISTRY_CLIENT_CERT", value_delimiter = ' ')]
    pub registry_client_cert: Vec<String>,

    /// Logins in docker's format [default: REGISTRY_AUTH_FILE, DOCKER_AUTH_CONFIG, ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
}

/// How a build tells what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressKind {
    /// `tty` on a terminal, else `plain`
    Auto,
    /// Lines, in order
    Plain,
    /// A live picture
    Tty,
    /// One JSON object a line, on stderr
    Rawjson,
    /// Nothing but errors
    Quiet,
}

/// Build an image from a Dockerfile
#[cfg(feature = "build")]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter build -t vm2:5000/shop/api:v1 --push .
  lighter build -f docker/Dockerfile --target test --build-arg VERSION=3 .
  lighter build -o type=oci,dest=image.tar .
  lighter build -o type=local,dest=out --target artifacts .
  lighter build --check .
  lighter build --call=outline --target test .
  lighter build --plan .
  lighter build --platform linux/amd64,linux/arm64 -t vm2:5000/shop/api:v1 --push .
  lighter build https://git.corp/shop/api.git#main:docker
  tar c . | lighter build -t api -
  lighter build --secret id=npm,env=NPM_TOKEN --ssh default .

stdout carries the image, pinned to its digest; everything else goes to stderr. With --check it
carries the findings, and the exit code is 1 if there are any; with --call=outline and --call=targets
it carries the answer.")]
pub struct BuildArgs {
    /// What the Dockerfile may copy: a directory, - for a tar (or a Dockerfile) on stdin, or a URL
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: PathBuf,

    /// The Dockerfile [default: CONTEXT/Dockerfile]; - for stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// A name for the image [repeatable]
    #[arg(short, long, value_name = "[HOST/]NAME[:TAG]")]
    pub tag: Vec<String>,

    /// A value for an ARG; without =VALUE it is taken from the environment [repeatable]
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,

    /// The stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,

    /// The platform to build for, or several for an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT],…", value_delimiter = ',')]
    pub platform: Vec<oci::Platform>,

    /// A named source for FROM and --from: a directory, docker-image://REF, oci-layout://DIR, a URL [repeatable]
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,

    #[command(flatten)]
    pub image: build::ImageArgs,

    #[command(flatten)]
    pub run: RunArgs,

    /// Use nothing of earlier builds
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub no_cache: bool,

    /// Work at so many stages at the same time, 0 for all; as many as there are cores otherwise
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,

    #[command(flatten)]
    pub exchange: ExchangeArgs,

    /// Build twice, the second time without any cache, and tell the first difference
    #[arg(long)]
    pub reproducible_check: bool,

    /// Ask the registry for base images, even where the local store has them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true, value_parser = build::pull, value_name = "BOOL|always|newer|missing")]
    pub pull: bool,

    /// How to tell what is being done
    #[arg(long, value_enum, value_name = "KIND", default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: ProgressKind,

    /// Tell nothing but errors: --progress=quiet
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub quiet: bool,

    /// Write the image's config digest to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,

    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,

    /// Write the result: type=oci|docker|tar|local,dest=PATH (- is stdout) or type=image,name=NAME,push=true [repeatable]
    #[arg(short, long, value_name = "type=KIND,dest=PATH")]
    pub output: Vec<String>,

    /// Push every --tag to its registry
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub push: bool,

    /// Build nothing, but say what would be done: stages, steps, what is cached, what would be fetched
    #[arg(long, alias = "dry-run", conflicts_with_all = ["check", "call"])]
    pub plan: bool,

    /// Build nothing, but say what in the Dockerfile is probably not meant: --call=check
    #[arg(long, conflicts_with = "call")]
    pub check: bool,

    /// What to do with the Dockerfile: build it, check it (or lint), or say what it can be given (outline) or which
    /// stages it has (targets); format=json is BuildKit's, and with ignorestatus=true findings give exit code 0
    #[arg(
        long,
        alias = "print",
        value_name = "METHOD[,format=text|json][,ignorestatus=BOOL]",
        default_value = "build"
    )]
    pub call: build::Call,

    #[command(flatten)]
    pub docker: build::DockerArgs,
    #[command(flatten)]
    pub buildah: build::BuildahArgs,
    #[command(flatten)]
    pub kaniko: build::KanikoArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

#[cfg(feature = "build")]
impl BuildArgs {
    /// What the Dockerfile is for.
    pub fn call(&self) -> build::Call {
        if self.check { build::Call::CHECK } else { self.call }
    }
}

/// What the commands of RUN get.
#[cfg(feature = "build")]
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A secret for RUN --mount=type=secret; the file or variable named like ID if neither is said [repeatable]
    #[arg(long, value_name = "id=ID[,src=FILE|,env=NAME]")]
    pub secret: Vec<String>,

    /// An SSH agent for RUN --mount=type=ssh [default socket: SSH_AUTH_SOCK] [repeatable]
    #[arg(long, value_name = "default|ID[=SOCKET]")]
    pub ssh: Vec<String>,

    /// How RUN steps are kept apart from this machine; auto takes the first that is allowed here
    #[arg(long, value_name = "auto|namespaces|tree|chroot", default_value = "auto", env = "LIGHTER_ISOLATION")]
    pub isolation: builder::sandbox::Isolation,

    /// The network of RUN steps that do not say theirs
    #[arg(long, value_enum, value_name = "NETWORK", default_value = "default")]
    pub network: NetworkKind,

    /// A line for /etc/hosts of RUN steps [repeatable]
    #[arg(long, value_name = "NAME=IP")]
    pub add_host: Vec<String>,

    /// A resource limit of RUN steps, as in docker: nofile=1024:4096; -1 is none [repeatable]
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,

    /// The size of /dev/shm of RUN steps [default: 64m]
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
}

/// Which network RUN steps see.
#[cfg(feature = "build")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkKind {
    /// The network of the builder
    Default,
    /// The same
    Host,
    /// Loopback only
    None,
}

/// Keep a login for a registry, after trying it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter login vm2:5000
  echo \"$TOKEN\" | lighter login vm2:5000 -u ci --password-stdin")]
pub struct LoginArgs {
    /// The registry
    #[arg(value_name = "HOST[:PORT]")]
    pub host: String,
    /// The user
    #[arg(short, long)]
    pub username: Option<String>,
    /// Read the password from stdin
    #[arg(long)]
    pub password_stdin: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Forget the login for a registry
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lighter logout vm2:5000")]
pub struct LogoutArgs {
    /// The registry
    #[arg(value_name = "HOST[:PORT]")]
    pub host: String,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Build, push and deploy in one go
#[cfg(all(feature = "build", feature = "serve", feature = "deploy"))]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter ship fixtures/hello
  lighter ship . --registry vm2:5000 -n shop

Builds CONTEXT/Dockerfile, pushes to the registry (an embedded one on this machine where none is
named), and deploys CONTEXT/deployment.yaml pinned to the digest, to the current context of the
kubeconfig if there is one. CONTEXT/lighter.toml may give defaults: see docs/ship.md.")]
pub struct ShipArgs {
    /// Directory with the Dockerfile and deployment.yaml
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub context: PathBuf,
    /// The registry [default: an embedded one, on 127.0.0.1:5000 or the next free port]
    #[arg(long = "registry", value_name = "HOST[:PORT]", env = "LIGHTER_REGISTRY")]
    pub registry_host: Option<String>,
    /// The repository and tag [default: the directory's name, :latest]
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Option<String>,
    /// Manifests to apply [default: CONTEXT/deployment.yaml, if it is there]
    #[arg(short = 'm', long, value_name = "FILE|DIR|URL")]
    pub manifests: Option<PathBuf>,
    /// A value for an ARG [repeatable]
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// How RUN steps are kept apart from this machine; auto takes the first that is allowed here
    #[arg(long, value_name = "auto|namespaces|tree|chroot", default_value = "auto", env = "LIGHTER_ISOLATION")]
    pub isolation: builder::sandbox::Isolation,
    /// How to tell what is being done
    #[arg(long, value_enum, value_name = "KIND", default_value = "auto")]
    pub progress: ProgressKind,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_agree_with_themselves() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                if sub.has_subcommands() {
                    check(sub);
                    continue;
                }
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("lighter "), "{} has no example", sub.get_name());
                assert!(sub.get_about().is_some(), "{} says not what it does", sub.get_name());
                for arg in sub.get_arguments().filter(|arg| arg.get_id() != "help") {
                    assert!(arg.get_help().is_some(), "{} {} has no help", sub.get_name(), arg.get_id());
                }
            }
        }
        check(&Cli::command());
    }
}
