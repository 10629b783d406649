//! What can be typed about looking after rollouts.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use deployer::{ImagePath, Require};

use super::RegistryArgs;
use super::deploy::{ClusterArgs, OnFailure, OutputFormat, ReportArgs, duration, duration_or_none};

/// Look after rollouts: see, wait, go back, pause, restart
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    Status(StatusArgs),
    Wait(RolloutWaitArgs),
    History(HistoryArgs),
    Undo(UndoArgs),
    Pause(PauseArgs),
    /// Act on the recorded changes of a paused deployment, and wait until they run
    #[command(after_help = "Example:\n  lighter rollout resume deployment/api -n shop")]
    Resume(SteerArgs),
    /// Replace all pods by new ones of the same version, and wait until they run
    #[command(after_help = "Example:\n  lighter rollout restart deployment/api statefulset/db -n shop")]
    Restart(SteerArgs),
}

/// Say how workloads are doing now, and why
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter rollout status deployment/api deployment/web -n shop

Exits with 0 if all are well, 20 if one has failed, 23 if one is under way or paused.")]
pub struct StatusArgs {
    /// The workloads
    #[arg(value_name = "KIND/NAME", required = true)]
    pub target: Vec<String>,
    /// How stdout says it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Wait until workloads run what they are to run
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
    /// How many of the pods must run: full, maxUnavailable (as many as a rollout may leave), or a percentage
    #[arg(long, value_name = "full|N%|maxUnavailable", default_value = "full")]
    pub require: Require,
    /// How long they must run on, without a restart, before it counts
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration_or_none)]
    pub soak: std::time::Duration,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// List the versions of a workload, and which of them ran well
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter rollout history deployment/api -n shop

stdout carries one line per version, with tabs between: number, marks, images, cause; or with -o JSON.
Of custom kinds, nobody keeps versions: the present one is known, and the last that lighter saw run well.")]
pub struct HistoryArgs {
    /// The workload
    #[arg(value_name = "KIND/NAME")]
    pub target: String,
    /// How stdout says it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    /// Where a custom kind has its pod spec, or its image: argoproj.io/Rollout=.spec.template.spec [repeatable]
    #[arg(long, value_name = "GROUP/KIND=PATH")]
    pub image_path: Vec<ImagePath>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Go back to an earlier version, and wait until it runs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter rollout undo deployment/api -n shop
  lighter rollout undo deployment/api --to 3
  lighter rollout undo deployment/api --to sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  lighter rollout undo --ticket deploy.json

The whole pod template goes back, not the image alone; of custom kinds, the images. A version that does not run is
not taken back again. With the ticket of a deploy, the images that it wrote go back to those before, in all targets,
where they are still what it wrote.")]
pub struct UndoArgs {
    /// The workload
    #[arg(value_name = "KIND/NAME", required_unless_present = "ticket")]
    pub target: Option<String>,
    /// What a deploy wrote, kept by its --ticket
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target", "to", "image_path"])]
    pub ticket: Option<PathBuf>,
    /// Where a custom kind has its pod spec, or its image: argoproj.io/Rollout=.spec.template.spec [repeatable]
    #[arg(long, value_name = "GROUP/KIND=PATH")]
    pub image_path: Vec<ImagePath>,
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
    pub report: ReportArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// List the images that a cluster runs or would go back to, and keep them in their registries
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter inventory -n shop
  lighter inventory --all-namespaces -o json
  lighter inventory --all-namespaces --pin --registry vm2:5000

stdout carries one line per use, with tabs between: image, why, object, container; or with -o JSON.

--pin gives each image, by its digest, a tag in its own repository (in-use-…), so that no retention and no garbage
collection takes it. There is a new tag each week: let the registry keep those of the last two (docs/operations.md).")]
pub struct InventoryArgs {
    /// Look through all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Set a tag on each image that is in use
    #[arg(long)]
    pub pin: bool,
    /// Pin only what is in these registries [repeatable]
    #[arg(long, value_name = "HOST[:PORT]", requires = "pin", value_delimiter = ',')]
    pub registry: Vec<oci::Host>,
    /// How stdout says it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub registries: RegistryArgs,
}

/// Record changes of a deployment without replacing pods
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lighter rollout pause deployment/api -n shop")]
pub struct PauseArgs {
    /// The deployments
    #[arg(value_name = "KIND/NAME", required = true)]
    pub target: Vec<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Workloads to act on, and how long to wait for them.
#[derive(Debug, Args)]
pub struct SteerArgs {
    /// The workloads
    #[arg(value_name = "KIND/NAME", required = true)]
    pub target: Vec<String>,
    /// How long to wait until everything runs
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: std::time::Duration,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}
