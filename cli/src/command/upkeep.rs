//! registry gc, retention, fsck, export, import, backup: looking after a registry's data. All but
//! `backup` want the registry stopped: the lock of its data directory says whether it is.

use std::path::{Path, PathBuf};

use content::Disk;
use oci::Digest;
use registry::{BackupError, Doubt, Explanation, Keeping, KeptManifest, OpenError, Planned, PortableError, Store};

use super::serve::{self, embedded_data};
use crate::args::{BackupArgs, ExportArgs, FsckArgs, GcArgs, ImportArgs, RegistryDataArgs, RetentionArgs, StoreArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings;
use crate::terminal::{bytes, out, tell};

/// Where the data is, which must be there, and the policies.
fn meant(args: &RegistryDataArgs) -> Outcome<(PathBuf, Keeping)> {
    let (data, keeping) = meant_for_new(args)?;
    if !data.join("VERSION").is_file() {
        let what = format!("{} is no registry's data directory", data.display());
        return Err(Failure::new(Exit::NoInput, what).hint("say which one it is with --data DIR"));
    }
    Ok((data, keeping))
}

/// The same, where the data may be made.
fn meant_for_new(args: &RegistryDataArgs) -> Outcome<(PathBuf, Keeping)> {
    let config = serve::read(args.config.as_deref())?;
    let data = match args.data.clone().or_else(|| config.data.clone()) {
        Some(data) => data,
        None => embedded_data(&StoreArgs { data: settings::variable("LIGHTER_DATA").map(PathBuf::from) })?,
    };
    Ok((data, config.keeping()))
}

fn open(data: &Path, keeping: Keeping) -> Outcome<Store> {
    Store::open_offline(data, keeping).map_err(|error| not_opened(&error))
}

fn not_opened(error: &OpenError) -> Failure {
    match error {
        OpenError::InUse { .. } => Failure::because(Exit::Unavailable, "the registry is running", error)
            .hint("stop it first; it collects garbage and applies retention by itself"),
        _ => Failure::because(Exit::Disk, "cannot open the registry's data", error),
    }
}

fn failed<E: std::error::Error + 'static>(what: &str) -> impl Fn(E) -> Failure + '_ {
    move |error| Failure::because(Exit::Disk, what, &error)
}

/// Closes a store from a thread without a runtime.
fn close(store: &Store) -> Outcome<()> {
    crate::runtime()?.block_on(store.close());
    Ok(())
}

pub fn gc(args: &GcArgs) -> Outcome<()> {
    let (data, keeping) = meant(&args.data)?;
    let store = open(&data, keeping)?;
    let what = failed("garbage could not be collected");
    if let Some(digest) = &args.explain {
        explain(digest, &store.explain(digest).map_err(what)?);
        return close(&store);
    }
    if args.dry_run {
        let planned = store.plan_collection().map_err(what)?;
        planned.iter().for_each(|planned| out(&line(planned)));
        tell(&format!("{} would go now", count(planned.len() as u64, "thing")));
        return close(&store);
    }
    store.adopt_all().map_err(&what)?;
    let (mut manifests, mut blobs, mut freed, mut condemned) = (0, 0, 0, 0);
    // One pass leads to the next: manifest, its blobs, their files.
    loop {
        let pass = store.collect().map_err(&what)?;
        manifests += pass.manifests;
        blobs += pass.blobs;
        freed += pass.freed_bytes;
        condemned += pass.condemned;
        if pass.reviewed == 0 {
            break;
        }
    }
    tell(&format!(
        "{} deleted, {} put into the trash, {} removed from it ({} freed)",
        count(manifests, "manifest"),
        count(condemned, "file"),
        count(blobs, "file"),
        bytes(freed)
    ));
    close(&store)
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

pub fn retention(args: &RetentionArgs) -> Outcome<()> {
    let (data, mut keeping) = meant(&args.data)?;
    if keeping.retention.rules.is_empty() {
        return Err(Failure::new(Exit::Usage, "there are no retention rules")
            .hint("name the configuration that has them with --config FILE"));
    }
    keeping.retention.may_empty |= args.force;
    let store = open(&data, keeping)?;
    let judged = store.retain(args.dry_run).map_err(failed("retention could not be applied"))?;
    let deleted = judged.iter().filter(|judged| !judged.keeps).count() as u64;
    for judged in judged {
        let verb = if judged.keeps { "keep" } else { "delete" };
        out(&format!("{verb} {}:{} {} {}", judged.repo, judged.tag, judged.digest, judged.reason));
    }
    tell(&format!("{} {}deleted", count(deleted, "tag"), if args.dry_run { "would be " } else { "" }));
    close(&store)
}

pub fn fsck(args: &FsckArgs) -> Outcome<()> {
    let (data, keeping) = meant(&args.data)?;
    let opened = if args.repair { Store::open_rebuilt(&data, keeping) } else { Store::open_offline(&data, keeping) };
    let store = opened.map_err(|error| not_opened(&error))?;
    let checked = store.fsck(args.repair, &mut |finding| out(&finding.to_string()));
    let checked = checked.map_err(failed("the check could not be ended"))?;
    close(&store)?;
    tell(&format!(
        "{} ({}) and {} checked, {}, {} put right",
        count(checked.files, "file"),
        bytes(checked.bytes),
        count(checked.manifests, "manifest"),
        count(checked.findings, "finding"),
        checked.repaired
    ));
    if checked.findings > checked.repaired {
        let failure = Failure::new(Exit::Failed, "not everything is as it should be");
        return Err(match args.repair {
            true => failure.hint("push again what is missing or incomplete, or bring it back from a backup"),
            false => failure.hint("run it again with --repair"),
        });
    }
    Ok(())
}

fn not_moved(what: &str) -> impl Fn(PortableError) -> Failure + '_ {
    move |error| match &error {
        PortableError::Content(content) => Failure::content(what, content),
        PortableError::Nameless(_) => {
            Failure::because(Exit::Usage, what, &error).hint("say which with --repository REPOSITORY")
        }
        PortableError::Name(_) => Failure::because(Exit::BadInput, what, &error),
        PortableError::Store(_) => Failure::because(Exit::Disk, what, &error),
    }
}

pub async fn export(args: &ExportArgs) -> Outcome<()> {
    let (data, keeping) = meant(&args.data)?;
    let what = "the export stopped";
    let disk = Disk::create(&args.destination).map_err(|error| Failure::content(what, &error))?;
    let store = open(&data, keeping)?;
    let moved = store.export(&disk, &args.repositories, &|name| out(name)).await.map_err(not_moved(what))?;
    tell(&format!("{} exported ({} copied)", count(moved.images, "image"), bytes(moved.bytes)));
    store.close().await;
    Ok(())
}

pub async fn import(args: &ImportArgs) -> Outcome<()> {
    let (data, keeping) = meant_for_new(&args.data)?;
    let what = "the import stopped";
    let disk = Disk::open(&args.source).map_err(|error| Failure::content(what, &error))?;
    let store = open(&data, keeping)?;
    let moved = store.import(&disk, args.repository.as_ref(), &|name| out(name)).await.map_err(not_moved(what))?;
    tell(&format!("{} imported ({} copied)", count(moved.images, "image"), bytes(moved.bytes)));
    store.close().await;
    Ok(())
}

pub fn backup(args: &BackupArgs) -> Outcome<()> {
    let (data, _) = meant(&args.data)?;
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
