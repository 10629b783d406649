//! What can be typed about deploying and looking after rollouts.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use deployer::{ImagePath, Policy, Require};

use super::RegistryArgs;

/// Roll an image out, and wait until it runs
#[derive(Debug, Args)]
#[command(visible_alias = "apply", args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Examples:
  lighter deploy --image vm2:5000/shop/api:v2 --target deployment/api
  lighter deploy --image vm2:5000/shop/api:v2 --target deployment/api/web -n shop --timeout 5m
  lighter deploy --image vm2:5000/shop/api:v2 -l app=api
  lighter deploy --image web=vm2:5000/shop/api:v2 --image sidecar=vm2:5000/shop/proxy:v7 --target deployment/api
  lighter deploy --image vm2:5000/shop/api:v2 --wave job/migrate --wave deployment/api,deployment/web --replace-jobs
  lighter deploy --image vm2:5000/shop/api:v2 -f deployment.yaml --dry-run
  lighter apply -f manifests/ --set shop --prune
  lighter apply -f https://vm1/shop/deploy/-/raw/main/web.yaml

stdout carries the pinned images, or with -o what is done, for machines; all else goes to stderr.")]
pub struct DeployArgs {
    #[command(subcommand)]
    pub command: Option<DeployCommand>,
    #[command(flatten)]
    pub subject: SubjectArgs,
    #[command(flatten)]
    pub how: HowArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Do nothing, but say what would be done; server: and ask the server whether it would take it
    #[arg(long, value_enum, value_name = "WHO", num_args = 0..=1, require_equals = true, default_missing_value = "server")]
    pub dry_run: Option<DryRun>,
    /// Show each field that changes before anything is written
    #[arg(long)]
    pub diff: bool,
    /// When it runs, write the pinned images into the manifests of -f; comments stay
    #[arg(long, requires = "file", requires = "image")]
    pub write: bool,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// What belongs to deploying and is no deploy.
#[derive(Debug, Subcommand)]
pub enum DeployCommand {
    Check(Box<CheckArgs>),
    Rbac(RbacArgs),
}

/// Check all that can be known before a deploy, and write nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter deploy check --image vm2:5000/shop/api:v2 --target deployment/api -n shop
  lighter deploy check --image vm2:5000/shop/api:v2 -f deployment.yaml

Rights, the image and its layers with the logins of the pods, platforms of nodes, and whether the server takes
the manifests. Exits with 0 if a deploy may begin, 10 if not.")]
pub struct CheckArgs {
    #[command(flatten)]
    pub subject: SubjectArgs,
    #[command(flatten)]
    pub how: HowArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

impl From<CheckArgs> for DeployArgs {
    fn from(check: CheckArgs) -> Self {
        Self {
            command: None,
            subject: check.subject,
            how: check.how,
            cluster: check.cluster,
            wait: WaitArgs::default(),
            dry_run: Some(DryRun::Server),
            diff: false,
            write: false,
            report: check.report,
            registry: check.registry,
        }
    }
}

/// Print the smallest Role that lets somebody deploy to targets
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  lighter deploy rbac --target deployment/api --target cronjob/report -n shop | kubectl apply -f -

No cluster is asked. Kinds beyond Kubernetes' own are written as PLURAL.GROUP: rollouts.argoproj.io/api.")]
pub struct RbacArgs {
    /// The workloads [repeatable]
    #[arg(long, value_name = "KIND/NAME", required = true)]
    pub target: Vec<String>,
    /// Their namespace
    #[arg(short, long, value_name = "NAME", default_value = "default")]
    pub namespace: String,
    /// The name of the Role
    #[arg(long, value_name = "NAME", default_value = "lighter-deployer")]
    pub name: String,
    /// Also what --run-once needs
    #[arg(long)]
    pub run_once: bool,
    /// Leave out what only makes checks and explanations better: events, logs, nodes, pull secrets
    #[arg(long)]
    pub minimal: bool,
}

/// Change what workloads are to be, as `kubectl set` does
#[derive(Debug, Subcommand)]
pub enum SetCommand {
    Image(Box<SetImageArgs>),
}

/// Set the images of containers, and wait until they run: a deploy in kubectl's words
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter set image deployment/api web=vm2:5000/shop/api:v2
  lighter set image deployment/api deployment/jobs '*=vm2:5000/shop/api:v2' -n shop

It is `lighter deploy --image CONTAINER=IMAGE --target KIND/NAME`, with all that this checks.")]
pub struct SetImageArgs {
    /// The workloads, and what their containers are to run
    #[arg(value_name = "KIND/NAME|CONTAINER=IMAGE", required = true)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Do nothing, but say what would be done; server: and ask the server whether it would take it
    #[arg(long, value_enum, value_name = "WHO", num_args = 0..=1, require_equals = true, default_missing_value = "server")]
    pub dry_run: Option<DryRun>,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

impl From<SetImageArgs> for DeployArgs {
    fn from(set: SetImageArgs) -> Self {
        let (image, target) = set.words.into_iter().partition(|word| word.contains('='));
        Self {
            command: None,
            subject: SubjectArgs { image, target, ..SubjectArgs::default() },
            how: HowArgs::default(),
            cluster: set.cluster,
            wait: set.wait,
            dry_run: set.dry_run,
            diff: false,
            write: false,
            report: set.report,
            registry: set.registry,
        }
    }
}

/// Say what a deploy would change, field by field
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lighter diff -f deployment.yaml --image vm2:5000/shop/api:v2
  lighter diff --image vm2:5000/shop/api:v2 --target deployment/api -n shop

Exits with 0 if nothing would change, 1 if something would, and more if that cannot be said.
The content of Secrets is never shown.")]
pub struct DiffArgs {
    #[command(flatten)]
    pub subject: SubjectArgs,
    #[command(flatten)]
    pub how: HowArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How stdout says it
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Which image, and where it goes.
#[derive(Debug, Args, Clone, Default)]
#[group(skip)]
pub struct SubjectArgs {
    /// The image; a tag is resolved to the digest that it means now. CONTAINER may be * for all [repeatable]
    #[arg(long, value_name = "[CONTAINER=]HOST/NAME[:TAG][@DIGEST]", required_unless_present = "file")]
    pub image: Vec<String>,
    /// What to patch: deployment, statefulset, daemonset, cronjob, job, pod … CONTAINER may be * or volume:NAME [repeatable]
    #[arg(long, value_name = "KIND/NAME[/CONTAINER]", required_unless_present_any = ["file", "selector", "wave"], conflicts_with_all = ["file", "selector", "wave"])]
    pub target: Vec<String>,
    /// Patch everything with these labels
    #[arg(short = 'l', long, value_name = "LABEL=VALUE,…", conflicts_with_all = ["file", "wave"])]
    pub selector: Option<String>,
    /// That nothing has these labels is no error
    #[arg(long, requires = "selector")]
    pub allow_empty: bool,
    /// The kinds to look through for --selector [default: deployment,statefulset,daemonset]
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', requires = "selector")]
    pub kind: Vec<String>,
    /// Targets, or objects of -f, that are to run well before those of the next --wave are written; what else is in -f
    /// goes with the first [repeatable]
    #[arg(long, value_name = "KIND/NAME[/CONTAINER],…")]
    pub wave: Vec<String>,
    /// Manifests to apply with the images put in: a file, a directory, a URL or - for stdin [repeatable]
    #[arg(short, long, value_name = "FILE|DIR|URL|-")]
    pub file: Vec<PathBuf>,
}

/// How things may be changed.
#[derive(Debug, Args, Clone, Default)]
#[group(skip)]
pub struct HowArgs {
    /// Write nothing to what somebody changes while we look (exit code 12)
    #[arg(long)]
    pub if_unchanged: bool,
    /// Write nothing to what a later pipeline deployed (exit code 12); this one's number is CI_PIPELINE_IID
    #[arg(long)]
    pub newer_than_live: bool,
    /// Delete a Job and make it anew: its image cannot be changed
    #[arg(long)]
    pub replace_jobs: bool,
    /// Where a custom kind has its pod spec, or its image: argoproj.io/Rollout=.spec.template.spec [repeatable]
    #[arg(long, value_name = "GROUP/KIND=PATH")]
    pub image_path: Vec<ImagePath>,
    /// Take fields that belong to others: all, or these and what is below them
    #[arg(long, value_name = "FIELD,…", num_args = 0..=1, require_equals = true, value_delimiter = ',', default_missing_value = "", requires = "file")]
    pub force_conflicts: Option<Vec<String>>,
    /// The set that the manifests are the whole of; its members are labelled
    #[arg(long, value_name = "NAME", requires = "file")]
    pub set: Option<String>,
    /// Delete what is of the set and in no manifest any more
    #[arg(long, requires = "set")]
    pub prune: bool,
    /// Delete, with --prune, also namespaces, volume claims, volumes and definitions of kinds
    #[arg(long, requires = "prune")]
    pub prune_precious: bool,
    /// Nodes have registry logins of their own: a refusal of the pods' logins is only warned of
    #[arg(long)]
    pub nodes_log_in: bool,
}

/// Who says what a dry run would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Only what can be known by looking
    Client,
    /// The server is shown every write, and checks it
    Server,
}

/// How it is told to machines.
#[derive(Debug, Args, Clone, Default)]
#[group(skip)]
pub struct ReportArgs {
    /// What stdout carries: the pinned images, one JSON document at the end, or one line of JSON per event
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: OutputFormat,
    /// Write the JSON document to a file, too
    #[arg(long, value_name = "FILE")]
    pub output_json: Option<PathBuf>,
    /// Write a JUnit report, one test per target
    #[arg(long, value_name = "FILE")]
    pub report_junit: Option<PathBuf>,
}

/// What stdout carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum OutputFormat {
    /// For people
    #[default]
    Text,
    /// One JSON document
    Json,
    /// JSON, one event per line
    Ndjson,
}

/// Which cluster.
#[derive(Debug, Args, Clone)]
#[group(skip)]
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
    /// The API server, instead of a kubeconfig
    #[arg(long, value_name = "URL", conflicts_with_all = ["kubeconfig", "context"])]
    pub server: Option<String>,
    /// The variable that holds the token for --server: an id_token of the CI job
    #[arg(long, value_name = "NAME", requires = "server")]
    pub token_env: Option<String>,
    /// The certificate (PEM) that the one of --server is signed by
    #[arg(long, value_name = "FILE", requires = "server")]
    pub certificate_authority: Option<PathBuf>,
    /// Act in the name of this user, where the login may
    #[arg(long = "as", value_name = "USER")]
    pub as_user: Option<String>,
    /// Act as a member of this group, together with --as [repeatable]
    #[arg(long, value_name = "GROUP", requires = "as_user")]
    pub as_group: Vec<String>,
}

/// How long to wait for a rollout, and what to do if it fails.
#[derive(Debug, Args, Clone)]
#[group(skip)]
pub struct WaitArgs {
    /// How long to wait until everything runs; going back may take as long again
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub timeout: std::time::Duration,
    /// What to do with the new version if it does not come to run in time
    #[arg(long, value_enum, value_name = "WHAT", default_value = "rollback")]
    pub on_failure: OnFailure,
    /// Roll out at most so many workloads of a wave at a time: as one runs well, the next is written
    #[arg(long, value_name = "N")]
    pub parallel: Option<NonZeroUsize>,
    /// Run each CronJob once now, with the new image, and wait until that Job has done its work
    #[arg(long)]
    pub run_once: bool,
    /// A DaemonSet that no node fits is done, although nothing runs
    #[arg(long)]
    pub allow_zero: bool,
    /// Keep in a file what is waited for; `lighter rollout wait --ticket FILE` goes on after an interruption
    #[arg(long, value_name = "FILE")]
    pub ticket: Option<PathBuf>,
    /// How many of the pods must run: full, maxUnavailable (as many as a rollout may leave), or a percentage
    #[arg(long, value_name = "full|N%|maxUnavailable", default_value = "full")]
    pub require: Require,
    /// How long they must run on, without a restart, before it counts
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration_or_none)]
    pub soak: std::time::Duration,
    /// How many lines of a failed container's log to show
    #[arg(long, value_name = "LINES", default_value = "20")]
    pub logs: usize,
}

impl Default for WaitArgs {
    /// What is meant where nothing can be typed.
    fn default() -> Self {
        let usual = Policy::default();
        Self {
            timeout: usual.timeout,
            on_failure: OnFailure::Keep,
            parallel: None,
            run_once: false,
            allow_zero: usual.allow_zero,
            ticket: None,
            require: usual.require,
            soak: usual.soak,
            logs: usual.log_lines,
        }
    }
}

/// What becomes of a version that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Put the images back that ran before, in all targets of the run
    #[value(alias = "undo")]
    Rollback,
    /// Leave it in place
    Keep,
    /// Pause it: no more pods are replaced, and those of the old version that still run go on serving
    Pause,
}

/// A time as kubectl writes it: 90s, 5m, 1h30m; a bare number means seconds.
pub(super) fn duration(text: &str) -> Result<std::time::Duration, String> {
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

/// The same, and days: 90d.
pub(super) fn lifetime(text: &str) -> Result<std::time::Duration, String> {
    const LONGEST: u64 = 3650;
    let wrong = || format!("{text:?} is not a time; write it as 90d, 12h or 30m");
    let Some(days) = text.strip_suffix('d') else { return duration(text).map_err(|_| wrong()) };
    let days: u64 = days.parse().map_err(|_| wrong())?;
    if (1..=LONGEST).contains(&days) { Ok(std::time::Duration::from_secs(days * 24 * 3600)) } else { Err(wrong()) }
}

/// The same, and none at all.
pub fn duration_or_none(text: &str) -> Result<std::time::Duration, String> {
    if matches!(text, "0" | "0s") { Ok(std::time::Duration::ZERO) } else { duration(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_kubectl_writes_them() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("45", 45)] {
            assert_eq!(duration(text), Ok(std::time::Duration::from_secs(seconds)));
        }
        assert_eq!(lifetime("90d").unwrap().as_secs(), 90 * 24 * 3600);
        assert_eq!(lifetime("12h").unwrap().as_secs(), 12 * 3600);
        for bad in ["0d", "d", "4000d", "-1d", "1w"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "s", "5d", "-1s", "99999999999999999999h", "10000h", "1.5h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
