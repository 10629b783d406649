//! registry gc, retention, fsck, export, import, backup: looking after a registry's data. A registry
//! that serves has its data locked; then the process that serves is asked to do it (`registry::upkeep`),
//! and what is told here is the same.

use std::path::{Path, PathBuf};

use oci::Digest;
use registry::upkeep::{self, AskError, Done, Failed, Kind, Request, Said, Stop, Task, Transfer, What};
use registry::{
    BackupError, Checked, Doubt, Explanation, JudgedTag, Keeping, KeptManifest, Moved, OpenError, Pass, Planned, Store,
};

use super::serve::{self, embedded_data};
use crate::args::{BackupArgs, ExportArgs, FsckArgs, GcArgs, ImportArgs, RegistryDataArgs, RetentionArgs, StoreArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::{bytes, out, tell};

/// Where the data is, and the policies to look after it by.
struct Meant {
    data: PathBuf,
    keeping: Keeping,
    /// Whether somebody wrote the policies down for this command: else a registry that serves has its own.
    is_said: bool,
}

/// What is meant, where the data must be there.
fn meant(args: &RegistryDataArgs) -> Outcome<Meant> {
    let meant = meant_for_new(args)?;
    if !meant.data.join("VERSION").is_file() {
        let what = format!("{} is no registry's data directory", meant.data.display());
        return Err(Failure::new(Exit::NoInput, what).hint("say which one it is with --data DIR"));
    }
    Ok(meant)
}

/// The same, where the data may be made.
fn meant_for_new(args: &RegistryDataArgs) -> Outcome<Meant> {
    let config = serve::read(args.config.as_deref())?;
    let data = match args.data.clone().or_else(|| config.data.clone()) {
        Some(data) => data,
        None => embedded_data(&StoreArgs { data: settings::variable("LIGHTER_DATA").map(PathBuf::from) })?,
    };
    Ok(Meant { data, keeping: config.keeping(), is_said: args.config.is_some() })
}

/// The data of a registry: ours, while it is stopped, or that of a process that serves it.
enum Registry {
    Stopped(Store),
    Serving(Meant),
}

impl Registry {
    fn open(meant: Meant) -> Outcome<Self> {
        match Store::open_offline(&meant.data, meant.keeping.clone()) {
            Ok(store) => Ok(Self::Stopped(store)),
            Err(OpenError::InUse { .. }) => Ok(Self::Serving(meant)),
            Err(error) => Err(not_opened(&error)),
        }
    }

    /// Does something, or has it done. `what` says what failed if it does.
    async fn perform(self, task: Task, what: &str, said: fn(Said)) -> Outcome<Done> {
        match self {
            Self::Stopped(store) => {
                let performing = store.clone();
                let (_until_dropped, stop) = Stop::by_drop(); // a signal drops this, and the thread must end
                let work = move || upkeep::perform(&performing, &task, &mut |told| said(told), &stop);
                let done = match tokio::task::spawn_blocking(work).await {
                    Ok(done) => done.map_err(|failed| not_done(what, &failed)),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                };
                store.close().await;
                done
            }
            Self::Serving(meant) => meant.ask(What::Task(task), None, what, said).await,
        }
    }

    /// Moves images from or to a layout, or has them moved.
    async fn transfer(self, transfer: Transfer, directory: &Path, what: &str) -> Outcome<Moved> {
        let done = match self {
            Self::Stopped(store) => {
                let done = upkeep::transfer(&store, &transfer, directory, &show).await;
                store.close().await;
                done.map_err(|failed| not_done(what, &failed))?
            }
            Self::Serving(meant) => meant.ask(What::Transfer(transfer), Some(directory), what, show).await?,
        };
        match done {
            Done::Moved(moved) => Ok(moved),
            other => Err(unexpected(&other)),
        }
    }
}

impl Meant {
    async fn ask(self, wanted: What, directory: Option<&Path>, what: &str, said: fn(Said)) -> Outcome<Done> {
        let request = Request {
            what: wanted,
            keeping: self.is_said.then_some(self.keeping),
            directory: directory.map(|directory| directory.display().to_string()),
        };
        upkeep::ask(&self.data, &request, directory, &mut |told| said(told)).await.map_err(|error| match &error {
            AskError::Failed(failed) => not_done(what, failed),
            AskError::Silent { .. } => Failure::because(Exit::Unavailable, what, &error)
                .hint("stop what uses the data, or wait until it is done; a registry of this version answers"),
            AskError::BrokeOff | AskError::Foreign(_) => Failure::because(Exit::Unavailable, what, &error)
                .hint("run this as the user that the registry runs as, with the same version of lighter"),
        })
    }
}

fn not_opened(error: &OpenError) -> Failure {
    Failure::because(Exit::Disk, "cannot open the registry's data", error)
}

fn not_done(what: &str, failed: &Failed) -> Failure {
    let failure = |exit| Failure::because(exit, what, failed);
    match failed.kind {
        Kind::Disk => failure(Exit::Disk),
        Kind::Full => failure(Exit::Disk).hint("the disk is full: make room there"),
        Kind::NoInput => failure(Exit::NoInput),
        Kind::BadInput => failure(Exit::BadInput),
        Kind::Nameless => failure(Exit::Usage).hint("say which with --repository REPOSITORY"),
        Kind::NoRules => Failure::new(Exit::Usage, "there are no retention rules")
            .hint("name the configuration that has them with --config FILE"),
        Kind::Missing => {
            failure(Exit::Unavailable).hint("check the name and the tag; `lighter inspect` shows what is there")
        }
        Kind::Stopped => failure(Exit::Transient).hint("run it again once the registry is there"),
    }
}

/// What a registry of another version may say, and ours never does.
fn unexpected(done: &Done) -> Failure {
    Failure::new(Exit::Bug, format!("the registry answers another question: {done:?}"))
}

/// A line on stdout for each thing that is told.
fn show(said: Said) {
    out(&match said {
        Said::Planned(planned) => line(&planned),
        Said::Judged(JudgedTag { repo, tag, digest, keeps, reason }) => {
            format!("{} {repo}:{tag} {digest} {reason}", if keeps { "keep" } else { "delete" })
        }
        Said::Found(finding) => finding.to_string(),
        Said::Image(name) => name,
    });
}

pub async fn gc(args: &GcArgs) -> Outcome<()> {
    let registry = Registry::open(meant(&args.data)?)?;
    let task = match (args.explain, args.dry_run) {
        (Some(digest), _) => Task::Explain { digest },
        (None, true) => Task::PlanCollection,
        (None, false) => Task::Collect,
    };
    match (registry.perform(task, "garbage could not be collected", show).await?, args.explain) {
        (Done::Explained(explained), Some(digest)) => explain(&digest, &explained),
        (Done::Planned(planned), _) => tell(&format!("{} would go now", count(planned, "thing"))),
        (Done::Collected(pass), _) => {
            let Pass { manifests, condemned, blobs, freed_bytes, .. } = pass;
            tell(&format!(
                "{} deleted, {} put into the trash, {} removed from it ({} freed)",
                count(manifests, "manifest"),
                count(condemned, "file"),
                count(blobs, "file"),
                bytes(freed_bytes)
            ));
        }
        (other, _) => return Err(unexpected(&other)),
    }
    Ok(())
}

fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

fn line(planned: &Planned) -> String {
    match planned {
        Planned::Manifest { repo, digest } => format!("delete manifest {repo}@{digest}"),
        Planned::Link { repo, digest } => format!("unlink blob {repo}@{digest}"),
        Planned::Content { digest, size } => format!("trash file {digest} {size}"),
        Planned::Trash { digest, size } => format!("remove file {digest} {size}"),
    }
}

fn explain(digest: &Digest, explained: &Explanation) {
    match explained.stored {
        Some(size) => out(&format!("{digest}: a file of {size} bytes")),
        None => out(&format!("{digest}: no file of its own")),
    }
    for KeptManifest { repo, tags, parent, subject } in &explained.manifests {
        let mut kept: Vec<String> = tags.iter().map(|tag| format!("tag {tag}")).collect();
        kept.extend(parent.map(|parent| format!("index {parent}")));
        kept.extend(subject.map(|subject| format!("subject {subject}")));
        let kept = if kept.is_empty() { "nothing".to_owned() } else { kept.join(", ") };
        out(&format!("manifest in {repo}, kept by {kept}"));
    }
    for (repo, parent) in &explained.blobs {
        match parent {
            Some(parent) => out(&format!("blob in {repo}, named by {parent}")),
            None => out(&format!("blob in {repo}, named by nothing")),
        }
    }
    for Doubt { why, since, due } in &explained.doubts {
        match due {
            Some(due) => out(&format!("doubted since {since} {why}; looked at again from {due}")),
            None => out(&format!("doubted since {since} {why}; kept for ever by policy")),
        }
    }
    if explained.doubts.is_empty() {
        out("not doubted: it stays while what keeps it stays");
    }
}

pub async fn retention(args: &RetentionArgs) -> Outcome<()> {
    let registry = Registry::open(meant(&args.data)?)?;
    let task = Task::Retain { dry_run: args.dry_run, force: args.force };
    match registry.perform(task, "retention could not be applied", show).await? {
        Done::Retained(deleted) => {
            tell(&format!("{} {}deleted", count(deleted, "tag"), if args.dry_run { "would be " } else { "" }));
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}

pub async fn fsck(args: &FsckArgs) -> Outcome<()> {
    let meant = meant(&args.data)?;
    let registry = match args.repair {
        true => match Store::open_rebuilt(&meant.data, meant.keeping.clone()) {
            Ok(store) => Registry::Stopped(store),
            Err(OpenError::InUse { .. }) => Registry::Serving(meant), // with an index that it has in use
            Err(error) => return Err(not_opened(&error)),
        },
        false => Registry::open(meant)?,
    };
    let task = Task::Check { repair: args.repair };
    let checked = match registry.perform(task, "the check could not be ended", show).await? {
        Done::Checked(checked) => checked,
        other => return Err(unexpected(&other)),
    };
    let Checked { files, bytes: size, manifests, findings, repaired } = checked;
    tell(&format!(
        "{} ({}) and {} checked, {}, {repaired} put right",
        count(files, "file"),
        bytes(size),
        count(manifests, "manifest"),
        count(findings, "finding"),
    ));
    if findings > repaired {
        let failure = Failure::new(Exit::Failed, "not everything is as it should be");
        return Err(match args.repair {
            true => failure.hint("push again what is missing or incomplete, or bring it back from a backup"),
            false => failure.hint("run it again with --repair"),
        });
    }
    Ok(())
}

pub async fn export(args: &ExportArgs) -> Outcome<()> {
    let meant = meant(&args.data)?;
    let destination = &args.destination;
    std::fs::create_dir_all(destination)
        .map_err(|error| Failure::io(format!("cannot write to {}", destination.display()), &error))?;
    let registry = Registry::open(meant)?;
    let transfer = Transfer::Export { repositories: args.repositories.clone() };
    let moved = registry.transfer(transfer, destination, "the export stopped").await?;
    tell(&format!("{} exported ({} copied)", count(moved.images, "image"), bytes(moved.bytes)));
    Ok(())
}

pub async fn import(args: &ImportArgs) -> Outcome<()> {
    let what = "the import stopped";
    let meant = meant_for_new(&args.data)?;
    // Before a store is made for it.
    content::Disk::open(&args.source).map_err(|error| Failure::content(what, &error))?;
    let registry = Registry::open(meant)?;
    let transfer = Transfer::Import { repository: args.repository.clone() };
    let moved = registry.transfer(transfer, &args.source, what).await?;
    tell(&format!("{} imported ({} copied)", count(moved.images, "image"), bytes(moved.bytes)));
    Ok(())
}

pub fn backup(args: &BackupArgs) -> Outcome<()> {
    let Meant { data, .. } = meant(&args.data)?;
    let done = registry::backup(&data, &args.destination, args.copy).map_err(|error| {
        let exit = match error {
            BackupError::Source(_) | BackupError::Foreign(_) => Exit::Usage,
            BackupError::Busy(_) | BackupError::Restless => Exit::Transient,
            BackupError::Io { .. } | BackupError::Metadata(_) => Exit::Disk,
        };
        Failure::because(exit, "there is no new backup", &error)
    })?;
    out(&args.destination.display().to_string());
    tell(&format!(
        "{} ({}) up to record {}: {} new, {} removed",
        count(done.blobs, "file"),
        bytes(done.bytes),
        done.record,
        done.new,
        done.removed
    ));
    match done.first_missing {
        None => Ok(()),
        Some(first) => {
            let what = format!("{} could not be copied, {first} first", count(done.missing, "file"));
            Err(Failure::new(Exit::Failed, what).hint("run it again; if that does not help, `lighter registry fsck`"))
        }
    }
}
