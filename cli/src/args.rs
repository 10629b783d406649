//! What can be typed. `settings` says what it means.

mod install;
#[cfg(feature = "serve")]
mod registry;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[cfg(feature = "serve")]
pub use self::registry::{
    CheckConfigArgs, RegistryCommand, ServeArgs, TokenCommand, TokenCreateArgs, TokenFileArgs, TokenRevokeArgs,
};
use crate::exit;

#[cfg(feature = "serve")]
pub use install::InitArgs;
pub use install::{CompletionsArgs, CredentialProviderArgs, ManArgs};

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
    Push(PushArgs),
    Pull(PullArgs),
    Copy(CopyArgs),
    Inspect(InspectArgs),
    Images(ImagesArgs),
    Login(LoginArgs),
    Logout(LogoutArgs),
    #[cfg(feature = "serve")]
    #[command(subcommand)]
    Registry(RegistryCommand),
    #[cfg(feature = "deploy")]
    Deploy(Box<DeployArgs>),
    #[cfg(feature = "deploy")]
    #[command(subcommand)]
    Rollout(RolloutCommand),
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

/// What a build is asked for.
#[cfg(feature = "build")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Call {
    /// An image
    Build,
    /// Findings in the Dockerfile
    Check,
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
  lighter build --secret id=npm,env=NPM_TOKEN --ssh default .

stdout carries the image, pinned to its digest; everything else goes to stderr. With --check it
carries the findings, and the exit code is 1 if there are any.")]
pub struct BuildArgs {
    /// Directory whose files the Dockerfile may copy
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

    /// The platform to build for [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<oci::Platform>,

    /// A named source for --from: a directory [repeatable]
    #[arg(long, value_name = "NAME=DIR")]
    pub build_context: Vec<String>,

    #[command(flatten)]
    pub run: RunArgs,

    /// Use nothing of earlier builds
    #[arg(long)]
    pub no_cache: bool,

    /// Ask the registry for base images, even where the local store has them
    #[arg(long)]
    pub pull: bool,

    /// How to tell what is being done
    #[arg(long, value_enum, value_name = "KIND", default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: ProgressKind,

    /// Tell nothing but errors: --progress=quiet
    #[arg(short, long)]
    pub quiet: bool,

    /// Write the image's config digest to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,

    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,

    /// Write the result: type=oci|docker|tar|local,dest=PATH (- is stdout) [repeatable]
    #[arg(short, long, value_name = "type=KIND,dest=PATH")]
    pub output: Vec<String>,

    /// Push every --tag to its registry
    #[arg(long)]
    pub push: bool,

    /// Build nothing, but say what in the Dockerfile is probably not meant: --call=check
    #[arg(long, conflicts_with = "call")]
    pub check: bool,

    /// What to do with the Dockerfile
    #[arg(long, value_enum, value_name = "WHAT", default_value = "build")]
    pub call: Call,

    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

#[cfg(feature = "build")]
impl BuildArgs {
    /// Whether the Dockerfile is only to be checked.
    pub fn is_check(&self) -> bool {
        self.check || self.call == Call::Check
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
#[command(after_help = "Example:\n  lighter images")]
pub struct ImagesArgs {
    #[command(flatten)]
    pub store: StoreArgs,
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

/// Roll an image out, and wait until it runs
#[cfg(feature = "deploy")]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter deploy --image vm2:5000/shop/api:v2 --target deployment/api
  lighter deploy --image vm2:5000/shop/api:v2 --target deployment/api/web -n shop --timeout 5m
  lighter deploy --image vm2:5000/shop/api:v2 -f deployment.yaml
  lighter deploy --image vm2:5000/shop/api:v2 -f deployment.yaml --dry-run")]
pub struct DeployArgs {
    /// The image; a tag is resolved to the digest that it means now
    #[arg(long, value_name = "[CONTAINER=]HOST/NAME[:TAG][@DIGEST]", required = true)]
    pub image: String,
    /// What to patch: deployment, statefulset, daemonset, cronjob … [repeatable]
    #[arg(long, value_name = "KIND/NAME[/CONTAINER]", required_unless_present = "file", conflicts_with = "file")]
    pub target: Vec<String>,
    /// Manifests to apply with the image put in: a file, a directory or - for stdin [repeatable]
    #[arg(short, long, value_name = "FILE|DIR|-")]
    pub file: Vec<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Say what would be done, ask the server whether it would take it, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Which cluster.
#[cfg(feature = "deploy")]
#[derive(Debug, Args, Clone)]
pub struct ClusterArgs {
    /// The namespace [default: the context's]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig [default: KUBECONFIG, ~/.kube/config, or the pod's own]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// How long to wait for a rollout, and what to do if it fails.
#[cfg(feature = "deploy")]
#[derive(Debug, Args, Clone)]
pub struct WaitArgs {
    /// How long to wait until everything runs; going back may take as long again
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: std::time::Duration,
    /// What to do with the new version if it does not come to run in time
    #[arg(long, value_enum, value_name = "WHAT", default_value = "rollback")]
    pub on_failure: OnFailure,
    /// Keep in a file what is waited for; `lighter rollout wait --ticket FILE` goes on after an interruption
    #[arg(long, value_name = "FILE")]
    pub ticket: Option<PathBuf>,
}

/// What becomes of a version that failed.
#[cfg(feature = "deploy")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Put the images back that ran before, in all targets of the run
    Rollback,
    /// Leave it in place
    Keep,
}

/// Look after rollouts: see, wait, go back, pause, restart
#[cfg(feature = "deploy")]
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    Status(StatusArgs),
    Wait(RolloutWaitArgs),
    History(HistoryArgs),
    Undo(UndoArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Restart(RestartArgs),
}

/// Say how workloads are doing now, and why
#[cfg(feature = "deploy")]
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter rollout status deployment/api deployment/web -n shop

Exits with 0 if all are well, 20 if one has failed, 23 if one is under way or paused.")]
pub struct StatusArgs {
    /// The workloads
    #[arg(value_name = "KIND/NAME", required = true)]
    pub target: Vec<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Wait until workloads run what they are to run
#[cfg(feature = "deploy")]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter rollout wait deployment/api -n shop --timeout 5m
  lighter rollout wait --ticket deploy.json

With the ticket of a deploy that was interrupted, that deploy goes on: a version that fails is taken
back unless --on-failure keep is given. Of workloads that are only named, nothing is taken back.
A version that runs well is noted on the workload (lighter.dev/verified), for a later undo.")]
pub struct RolloutWaitArgs {
    /// The workloads
    #[arg(value_name = "KIND/NAME", required_unless_present = "ticket", conflicts_with = "ticket")]
    pub target: Vec<String>,
    /// What an interrupted deploy waited for
    #[arg(long, value_name = "FILE")]
    pub ticket: Option<PathBuf>,
    /// How long to wait until everything runs; going back may take as long again
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: std::time::Duration,
    /// What to do with the new version of a ticket if it does not come to run in time
    #[arg(long, value_enum, value_name = "WHAT", default_value = "rollback")]
    pub on_failure: OnFailure,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// List the versions of a workload, and which of them ran well
#[cfg(feature = "deploy")]
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter rollout history deployment/api -n shop

stdout carries one line per version, with tabs between: number, marks, images, cause.")]
pub struct HistoryArgs {
    /// The workload
    #[arg(value_name = "KIND/NAME")]
    pub target: String,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Go back to an earlier version, and wait until it runs
#[cfg(feature = "deploy")]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter rollout undo deployment/api -n shop
  lighter rollout undo deployment/api --to 3
  lighter rollout undo deployment/api --to sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

The whole pod template goes back, not the image alone. A version that does not run is not taken back again.")]
pub struct UndoArgs {
    /// The workload
    #[arg(value_name = "KIND/NAME")]
    pub target: String,
    /// The version: last-good (the newest other one that was seen to run well), a number of `history`, or a digest
    #[arg(long, value_name = "last-good|REVISION|DIGEST", default_value = "last-good")]
    pub to: deployer::Goal,
    /// Say which version it would be, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait until everything runs
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: std::time::Duration,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Record changes of a deployment without replacing pods
#[cfg(feature = "deploy")]
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lighter rollout pause deployment/api -n shop")]
pub struct PauseArgs {
    /// The deployments
    #[arg(value_name = "KIND/NAME", required = true)]
    pub target: Vec<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Act on the recorded changes of a paused deployment, and wait until they run
#[cfg(feature = "deploy")]
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lighter rollout resume deployment/api -n shop")]
pub struct ResumeArgs {
    /// The deployments
    #[arg(value_name = "KIND/NAME", required = true)]
    pub target: Vec<String>,
    /// How long to wait until everything runs
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: std::time::Duration,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Replace all pods by new ones of the same version, and wait until they run
#[cfg(feature = "deploy")]
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lighter rollout restart deployment/api statefulset/db -n shop")]
pub struct RestartArgs {
    /// The workloads
    #[arg(value_name = "KIND/NAME", required = true)]
    pub target: Vec<String>,
    /// How long to wait until everything runs
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: std::time::Duration,
    #[command(flatten)]
    pub cluster: ClusterArgs,
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
    #[arg(short = 'm', long, value_name = "FILE|DIR")]
    pub manifests: Option<PathBuf>,
    /// A value for an ARG [repeatable]
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
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

/// A time as kubectl writes it: 90s, 5m, 1h30m; a bare number means seconds.
#[cfg(feature = "deploy")]
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a time; write it as 90s, 5m or 1h30m");
    let mut seconds: u64 = 0;
    let mut digits = String::new();
    for char in text.chars() {
        if char.is_ascii_digit() {
            digits.push(char);
            continue;
        }
        let factor = match char {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        seconds = number.checked_mul(factor).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        digits.clear();
    }
    if !digits.is_empty() {
        let bare: u64 = digits.parse().map_err(|_| wrong())?;
        seconds = seconds.checked_add(bare).ok_or_else(wrong)?;
    }
    if text.is_empty() || seconds == 0 || seconds > 7 * 24 * 3600 {
        Err(wrong())
    } else {
        Ok(std::time::Duration::from_secs(seconds))
    }
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

    #[test]
    fn times_are_written_as_kubectl_writes_them() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("45", 45)] {
            assert_eq!(duration(text), Ok(std::time::Duration::from_secs(seconds)));
        }
        for bad in ["", "0", "s", "5d", "-1s", "99999999999999999999h", "10000h", "1.5h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
