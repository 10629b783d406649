//! deploy: from a tag to a plan. Resolves to a digest, looks, shows what would be written; the rest is in
//! [`super::wait`].

use std::io::Read;
use std::path::{Path, PathBuf};

use content::remote::Client;
use content::{Source, collect};
use deployer::{Class, Cluster, ConnectOptions, Error, Image, Manifest, Plan, Provenance, Request, What};
use oci::{ManifestKind, Pinned, Platform, Reference};

use super::wait;
use crate::args::{ClusterArgs, DeployArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::settings;
use crate::terminal::{out, tell};

/// Largest image config that is read, in bytes.
const CONFIG_LIMIT: usize = 8 << 20;
/// Largest manifest file that is read, in bytes; etcd takes 1.5 MB per object.
const MANIFEST_LIMIT: u64 = 16 << 20;

pub async fn deploy(args: &DeployArgs) -> Outcome<()> {
    let (cluster, plan, image) = interrupt::until_signal(plan(args)).await?;
    if !args.dry_run {
        wait::roll_out(&cluster, &plan, &args.wait).await?;
    }
    out(&image.pinned().to_string());
    Ok(())
}

/// Everything up to the first write.
async fn plan(args: &DeployArgs) -> Outcome<(Cluster, Plan, Image)> {
    let client = settings::client(&args.registry)?;
    let (container, reference) = image(&args.image)?;
    let what = what(args, container)?;
    let cluster = Cluster::connect(&connect_options(&args.cluster)).await.map_err(|error| told(&error))?;
    let image = resolve(&client, &reference).await?;
    let request = Request { image: Some(image.clone()), what, provenance: provenance() };
    let plan = cluster.plan(&request).await.map_err(|error| told(&error))?;
    tell(plan.to_string().trim_end());
    if args.dry_run {
        cluster.dry_run(&plan).await.map_err(|error| told(&error))?;
        tell(if plan.changes_anything() {
            "dry run: the server would take this; nothing was written"
        } else {
            "dry run: nothing would change"
        });
    }
    Ok((cluster, plan, image))
}

/// `[CONTAINER=]REFERENCE`.
fn image(text: &str) -> Outcome<(Option<String>, Reference)> {
    let wrong = |error: oci::InvalidReference| {
        Failure::because(Exit::Usage, format!("--image `{text}` names no image"), &error)
            .hint("an unset variable in a CI job ends up here")
    };
    let (container, reference) = match text.split_once('=') {
        Some((container, reference)) => (Some(container.to_owned()), reference),
        None => (None, text),
    };
    Ok((container, reference.parse().map_err(wrong)?))
}

fn what(args: &DeployArgs, container: Option<String>) -> Outcome<What> {
    if !args.file.is_empty() {
        let mut manifests = Vec::new();
        for path in &args.file {
            manifests.extend(read_manifests(path)?);
        }
        return Ok(What::Manifests { manifests, container });
    }
    let mut targets = Vec::new();
    for text in &args.target {
        let mut target: deployer::Target =
            text.parse().map_err(|error| Failure::because(Exit::Usage, format!("--target `{text}`"), &error))?;
        target.container = target.container.or_else(|| container.clone());
        targets.push(target);
    }
    Ok(What::Targets(targets))
}

/// The manifests of a file, of all files in a directory by name, or of stdin.
pub fn read_manifests(path: &Path) -> Outcome<Vec<Manifest>> {
    let parse = |name: &str, text: &str| {
        Manifest::parse_all(name, text)
            .map_err(|error| Failure::because(Exit::BadInput, "cannot read the manifest", &error))
    };
    if path == Path::new("-") {
        return parse("stdin", &read_text(&mut std::io::stdin().lock(), "stdin")?);
    }
    let failed = |error: std::io::Error| Failure::io(format!("cannot read {}", path.display()), &error);
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        let mut file = std::fs::File::open(path).map_err(failed)?;
        return parse(&path.display().to_string(), &read_text(&mut file, &path.display().to_string())?);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known)) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::new(Exit::NoInput, format!("{} holds no .yaml, .yml or .json file", path.display())));
    }
    let mut manifests = Vec::new();
    for file in files {
        manifests.extend(read_manifests(&file)?);
    }
    Ok(manifests)
}

fn read_text(from: &mut dyn Read, name: &str) -> Outcome<String> {
    let mut text = String::new();
    let read = from.take(MANIFEST_LIMIT + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Failure::io(format!("cannot read {name}"), &error))?;
    if read as u64 > MANIFEST_LIMIT {
        return Err(Failure::new(Exit::BadInput, format!("{name} is larger than {MANIFEST_LIMIT} bytes")));
    }
    Ok(text)
}

/// Finds out which digest the reference means now, under which further digests nodes may report it,
/// and what it runs on.
pub async fn resolve(client: &Client, reference: &Reference) -> Outcome<Image> {
    let failed = |error: content::Error| Failure::content(format!("cannot resolve `{reference}`"), &error);
    let repository = client.repository(reference.host(), reference.name());
    let manifest = repository.manifest(&reference.selector()).await.map_err(failed)?;
    let pinned: Pinned = reference.pin(manifest.digest());
    match manifest.kind() {
        ManifestKind::Index { manifests } => {
            let known = |platform: &&Platform| platform.os != "unknown"; // attestations
            let platforms =
                manifests.iter().filter_map(|entry| entry.platform.as_ref()).filter(known).cloned().collect();
            Ok(Image::new(pinned, manifests.iter().map(|entry| entry.digest), platforms))
        }
        ManifestKind::Image { config, .. } => {
            let body = repository.blob(config, 0).await.map_err(failed)?;
            let config = collect(body, CONFIG_LIMIT).await.map_err(failed)?.unwrap_or_default();
            let platform = serde_json::from_slice::<Platform>(&config).ok(); // an artifact has none
            Ok(Image::new(pinned, [], platform.into_iter().collect()))
        }
    }
}

/// The kubeconfig of the flag, of KUBECONFIG, or of the home directory; inside a pod, its own account.
pub fn connect_options(args: &ClusterArgs) -> ConnectOptions {
    let listed = settings::variable("KUBECONFIG")
        .map(|list| std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect::<Vec<_>>());
    let home =
        || settings::variable("HOME").map(|home| vec![PathBuf::from(home).join(".kube/config")]).unwrap_or_default();
    let kubeconfig = match &args.kubeconfig {
        Some(path) => vec![path.clone()],
        None => listed.unwrap_or_else(home),
    };
    ConnectOptions {
        kubeconfig,
        must_exist: args.kubeconfig.is_some(),
        context: args.context.clone(),
        namespace: args.namespace.clone(),
        in_cluster: settings::variable("KUBERNETES_SERVICE_HOST").is_some(),
    }
}

/// Which commit and pipeline a deploy comes from, where CI says so.
pub fn provenance() -> Provenance {
    let first = |names: &[&str]| names.iter().find_map(|name| settings::variable(name));
    let commit = first(&["CI_COMMIT_SHA", "GITHUB_SHA", "CI_COMMIT"]);
    let pipeline = first(&["CI_PIPELINE_URL", "CI_PIPELINE_ID", "GITHUB_RUN_ID", "BUILD_URL"]);
    let cause = commit.as_ref().map(|commit| format!("lighter deploy of commit {commit}"));
    let facts = [("commit", commit), ("pipeline", pipeline)];
    let facts = facts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    Provenance { change_cause: cause, facts }
}

/// The exit code of a class.
pub fn exit(class: Class) -> Exit {
    match class {
        Class::Success => Exit::Bug, // nobody asks for the failure of a success
        Class::Refused => Exit::Preflight,
        Class::Ownership => Exit::Conflict,
        Class::Superseded => Exit::Superseded,
        Class::Failed => Exit::RolloutFailed,
        Class::RolledBack => Exit::RolledBack,
        Class::RollbackFailed => Exit::RollbackFailed,
        Class::Undecided => Exit::TimedOut,
        Class::Usage => Exit::Usage,
        Class::Manifest => Exit::BadInput,
        Class::Unreachable => Exit::Unavailable,
        Class::Transient => Exit::Transient,
        Class::Forbidden => Exit::Forbidden,
    }
}

/// A failure of the deployer, with what to do where that is known.
pub fn told(error: &Error) -> Failure {
    failed("cannot deploy", error)
}

/// The same, with another sentence about what failed.
pub fn failed(what: &str, error: &Error) -> Failure {
    let mut failure = Failure::because(exit(error.class()), what, error);
    if let Error::Kubeconfig { path, .. } = error {
        failure.exit = if path.exists() { Exit::BadInput } else { Exit::NoInput };
    }
    match error {
        Error::NoCluster => failure.hint("name a kubeconfig with --kubeconfig FILE or KUBECONFIG"),
        Error::Kubeconfig { .. } => failure.hint("`kubectl config view` shows what is in it"),
        Error::NoImageFits { .. } => {
            failure.hint("write `image: NAME` with the image's own name in the manifest, or name the container")
        }
        _ => failure,
    }
}
