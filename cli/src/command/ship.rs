//! ship: build, push, check, deploy, and a short account of all of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use builder::Built;
use builder::build::LayerOrigin;
use content::remote::{Client, Repository};
use content::{Copied, Source as _};
use deployer::{Cluster, Image, Plan, Request, What};
use futures_util::StreamExt;
use oci::{Host, Pinned, Reference, RepoName, Selector, Tag, Verifier};
use tokio::runtime::Runtime;

use super::build::{Job, Prepared};
use super::deploy_report::Report;
use super::named::Source;
use super::probe::Prober;
use super::{build, deploy, manifests, serve, transfer, wait};
use crate::args::ShipArgs;
use crate::embedded::Embedded;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::location::Location;
use crate::place::Opener;
use crate::project::Project;
use crate::settings;
use crate::terminal::{bytes, out, seconds, tell};

/// What happened, for the account at the end.
struct Account {
    pinned: Pinned,
    built: Built,
    pushed: Copied,
    deployed: Deployed,
    times: [(&'static str, Duration); 4],
}

/// How far the deploy went.
enum Deployed {
    /// There is nothing to apply.
    NoManifests,
    /// There is no cluster; this would be applied.
    NoCluster(String),
    /// It runs; whether anything was written for that.
    Runs { server: String, changed: bool },
}

pub fn run(args: &ShipArgs) -> Outcome<()> {
    let project = Project::read(&args.context)?;
    let data = settings::data_directory(&args.store)?;
    let (name, tag) = name(args, &project)?;
    let prepared = build::prepare(&job(args, &project)?, &data)?;
    let local = settings::local_store(&data)?;
    let opener = Opener { data, local, client: settings::client(&args.registry)?, _in_use: None };
    let runtime = crate::runtime()?;
    let read = |path: PathBuf| until_signal(&runtime, manifests::read(&path, &opener.client));
    let documents = manifests_of(args, &project).map(read).transpose()?;
    let embedded = start_registry(args, &runtime, &opener.client)?;
    let host = match (&args.registry_host, &embedded) {
        (Some(host), _) => parse_host(host)?,
        (None, Some(embedded)) => embedded.host.clone(),
        (None, None) => return Err(Failure::new(Exit::Bug, "there is no registry to push to")),
    };
    let reference = Reference::new(host, name, Some(tag), None);
    let shipped = ship(args, &runtime, &opener, prepared, &reference, documents);
    let (kept, ours) =
        embedded.as_ref().map_or((None, false), |embedded| (Some(embedded.data.clone()), embedded.is_ours()));
    if let Some(embedded) = embedded {
        runtime.block_on(embedded.stop());
    }
    let account = shipped?;
    tell(&told(&account, kept.as_deref(), ours));
    out(&account.pinned.to_string());
    Ok(())
}

fn ship(
    args: &ShipArgs,
    runtime: &Runtime,
    opener: &Opener,
    mut prepared: Prepared,
    reference: &Reference,
    documents: Option<Vec<deployer::Manifest>>,
) -> Outcome<Account> {
    let (built, build_time) = timed(|| {
        prepared.request.names = vec![reference.clone()];
        build::build(&prepared, runtime, &opener.local, &opener.client)
    })?;
    let pinned = reference.pin(built.manifest.digest());
    let (pushed, push_time) = timed(|| until_signal(runtime, push(opener, reference)))?;
    let ((), check_time) = timed(|| until_signal(runtime, check(opener, &pinned, &pushed)))?;
    let (deployed, deploy_time) = timed(|| match documents {
        None => Ok(Deployed::NoManifests),
        Some(documents) => runtime.block_on(roll_out(args, &opener.client, &pinned, documents)),
    })?;
    let times = [("build", build_time), ("push", push_time), ("check", check_time), ("deploy", deploy_time)];
    Ok(Account { pinned, built, pushed, deployed, times })
}

fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Duration)> {
    let start = Instant::now();
    Ok((work()?, start.elapsed()))
}

/// Waits for network work; Ctrl-C ends the waiting.
fn until_signal<T>(runtime: &Runtime, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    runtime.block_on(interrupt::until_signal(work))
}

async fn push(opener: &Opener, reference: &Reference) -> Outcome<Copied> {
    let destination = Location::Registry(reference.clone());
    let opened = opener.in_local_store(reference);
    let target = opener.target(&destination)?;
    let copied = transfer::run(&opened, &target, &destination.to_string(), &settings::copy_options(None)).await?;
    tell(&transfer::summary(&copied, &destination));
    Ok(copied)
}

/// Reads the image back by digest: what was just sent to its last byte, what was there already by name.
async fn check(opener: &Opener, pinned: &Pinned, pushed: &Copied) -> Outcome<()> {
    let failed = |error: content::Error| Failure::content(format!("`{pinned}` cannot be read back"), &error);
    let repository = opener.client.repository(pinned.reference().host(), pinned.reference().name());
    let manifest = repository.manifest(&Selector::Digest(pinned.digest())).await.map_err(failed)?;
    for blob in manifest.blobs() {
        if pushed.sent.0 == 0 {
            let there = content::Sink::has_blob(&repository, blob.digest).await.map_err(failed)?;
            let missing = || content::Error::NoBlob { place: pinned.to_string(), digest: blob.digest };
            there.then_some(()).ok_or_else(missing).map_err(failed)?;
        } else {
            read_back(&repository, blob).await.map_err(failed)?;
        }
    }
    Ok(())
}

async fn read_back(repository: &Repository, blob: &oci::Descriptor) -> content::Result<()> {
    let mut verifier = Verifier::new(blob.digest.algorithm());
    let mut body = repository.blob(blob, 0).await?;
    while let Some(part) = body.next().await {
        verifier.update(&part?);
    }
    let wrong = |mismatch| content::Error::Wrong { place: "the registry".to_owned(), mismatch };
    verifier.finish(blob.digest).map(drop).map_err(wrong)
}

async fn roll_out(
    args: &ShipArgs,
    client: &Client,
    pinned: &Pinned,
    documents: Vec<deployer::Manifest>,
) -> Outcome<Deployed> {
    let (cluster, plan) = match interrupt::until_signal(plan(args, client, pinned, documents)).await? {
        Planned::Plan(cluster, plan) => (cluster, plan),
        Planned::NoCluster(text) => return Ok(Deployed::NoCluster(text)),
    };
    tell(plan.to_string().trim_end());
    let changed =
        wait::roll_out(&cluster, &plan.waves(), &args.wait, &Prober::new(&args.registry)?, &Report::quiet()).await?;
    Ok(Deployed::Runs { server: cluster.server().to_owned(), changed })
}

/// What is to be written, and where.
enum Planned {
    Plan(Box<Cluster>, Plan),
    NoCluster(String),
}

async fn plan(
    args: &ShipArgs,
    client: &Client,
    pinned: &Pinned,
    documents: Vec<deployer::Manifest>,
) -> Outcome<Planned> {
    let image: Image = deploy::resolve(client, pinned.reference()).await?;
    let cluster = match Cluster::connect(&deploy::connect_options(&args.cluster)?).await {
        Ok(cluster) => cluster,
        Err(deployer::Error::NoCluster) => {
            let text = deployer::render(&documents, &[image.into()]).map_err(|error| deploy::told(&error))?;
            return Ok(Planned::NoCluster(text));
        }
        Err(error) => return Err(deploy::told(&error)),
    };
    warn_of_distance(&cluster, pinned);
    let what = What::Manifests(documents);
    let request = Request { provenance: deploy::provenance(), ..Request::new(Some(image), what) };
    let plan = cluster.plan(&request).await.map_err(|error| deploy::told(&error))?;
    Ok(Planned::Plan(Box::new(cluster), plan))
}

/// Nodes elsewhere cannot pull from a registry on this machine's loopback.
fn warn_of_distance(cluster: &Cluster, pinned: &Pinned) {
    let authority = cluster.server().split("://").last().unwrap_or_default().split('/').next().unwrap_or_default();
    let is_here = authority.parse::<Host>().is_ok_and(|server| server.is_loopback());
    let registry = pinned.reference().host();
    if registry.is_loopback() && !is_here {
        tell(&format!(
            "warning: the nodes of {} cannot pull from {registry}, which is this machine alone; name a registry that they reach with --registry HOST[:PORT]",
            cluster.server()
        ));
    }
}

fn start_registry(args: &ShipArgs, runtime: &Runtime, client: &Client) -> Outcome<Option<Embedded>> {
    if args.registry_host.is_some() {
        return Ok(None);
    }
    let data = serve::embedded_data(&args.store)?;
    runtime.block_on(Embedded::start(data, client)).map(Some)
}

fn parse_host(text: &str) -> Outcome<Host> {
    text.parse().map_err(|error| Failure::because(Exit::Usage, format!("--registry `{text}`"), &error))
}

fn job(args: &ShipArgs, project: &Project) -> Outcome<Job> {
    Ok(Job {
        context: args.context.clone().into(),
        file: project.build.file.as_ref().map(|file| args.context.join(file)),
        target: project.build.target.clone(),
        platforms: Vec::new(),
        build_args: args.build_arg.clone(),
        contexts: directories(project.contexts(&args.context)?),
        no_cache: false,
        no_cache_stages: Vec::new(),
        jobs: None,
        pull: false,
        run: builder::build::RunOptions { isolation: args.isolation, ..Default::default() },
        image: super::image_options::ImageOptions::default(),
        outputs: Vec::new(),
        progress: args.progress,
        registry: args.registry.clone(),
    })
}

fn directories(paths: BTreeMap<String, PathBuf>) -> BTreeMap<String, Source> {
    paths.into_iter().map(|(name, path)| (builder::plan::context_name(&name), Source::Directory(path))).collect()
}

/// The repository and tag: typed, else the project's, else the name of the directory.
fn name(args: &ShipArgs, project: &Project) -> Outcome<(RepoName, Tag)> {
    let typed = args.tag.clone().or_else(|| project.ship.tag.clone());
    let text = match typed {
        Some(text) => text,
        None => directory_name(&args.context)?,
    };
    let wrong = |error: oci::InvalidName| {
        Failure::because(Exit::Usage, format!("`{text}` is no NAME[:TAG]"), &error)
            .hint("name the image with --tag NAME[:TAG]; the registry goes into --registry")
    };
    let (name, tag) = text.split_once(':').map_or((text.as_str(), None), |(name, tag)| (name, Some(tag)));
    let tag = tag.map_or(Ok(Tag::latest()), str::parse).map_err(wrong)?;
    Ok((name.parse().map_err(wrong)?, tag))
}

fn directory_name(context: &Path) -> Outcome<String> {
    let real = context
        .canonicalize()
        .map_err(|error| Failure::io(format!("the context `{}` cannot be used", context.display()), &error))?;
    let name = real.file_name().map(|name| name.to_string_lossy().to_lowercase());
    name.ok_or_else(|| {
        Failure::new(Exit::Usage, "the root directory gives the image no name").hint("name it with --tag NAME")
    })
}

fn manifests_of(args: &ShipArgs, project: &Project) -> Option<PathBuf> {
    let of_project = |path: &PathBuf| match manifests::url(path) {
        Some(_) => path.clone(),
        None => args.context.join(path),
    };
    let usual = || Some(args.context.join("deployment.yaml")).filter(|usual| usual.exists());
    args.manifests.clone().or_else(|| project.ship.manifests.as_ref().map(of_project)).or_else(usual)
}

fn told(account: &Account, kept: Option<&Path>, ours: bool) -> String {
    let Account { pinned, built, pushed, deployed, times } = account;
    let count = |origin: LayerOrigin| built.layers.iter().filter(|layer| layer.origin == origin).count();
    let made = count(LayerOrigin::Built);
    let reused = built.layers.len() - made;
    let size: u64 = built.manifest.blobs().map(|blob| blob.size).sum();
    let mut lines = Vec::new();
    if let Deployed::NoCluster(text) = deployed {
        lines.push("there is no cluster (no kubeconfig was found); this is what would be applied:\n".to_owned());
        lines.push(text.trim_end().to_owned());
        lines.push(String::new());
    }
    let unchanged = made == 0 && pushed.unchanged && !matches!(deployed, Deployed::Runs { changed: true, .. });
    lines.push(if unchanged {
        match deployed {
            Deployed::Runs { .. } => "nothing has changed: built, pushed and deployed before",
            Deployed::NoCluster(_) | Deployed::NoManifests => "nothing has changed: built and pushed before",
        }
        .to_owned()
    } else {
        "shipped".to_owned()
    });
    lines.push(format!("  image    {}", pinned.reference().repository()));
    lines.push(format!("  digest   {}", pinned.digest()));
    lines.push(format!("  size     {}", bytes(size)));
    lines.push(format!(
        "  layers   {} reused, {made} built; {} sent, {} there already",
        reused,
        pushed.sent.0,
        pushed.present.0 + pushed.mounted.0
    ));
    match deployed {
        Deployed::Runs { server, changed } => {
            lines.push(format!("  cluster  {server}: {}", if *changed { "rolled out" } else { "unchanged, and well" }));
        }
        Deployed::NoCluster(_) => lines.push("  cluster  none".to_owned()),
        Deployed::NoManifests => lines.push("  cluster  nothing to deploy: there is no deployment.yaml".to_owned()),
    }
    let times: Vec<String> = times.iter().map(|(part, time)| format!("{part} {}", seconds(*time))).collect();
    lines.push(format!("  time     {}", times.join(", ")));
    lines.push("next:".to_owned());
    lines.extend(next(pinned, deployed, kept, ours));
    lines.join("\n")
}

/// What to type now.
fn next(pinned: &Pinned, deployed: &Deployed, kept: Option<&Path>, ours: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if ours && let Some(data) = kept {
        lines.push(format!("  lighter registry serve --addr {} --data {}", pinned.reference().host(), data.display()));
    }
    lines.push(format!("  docker pull {}", pinned.without_tag()));
    match deployed {
        Deployed::Runs { .. } => lines.push("  kubectl get pods".to_owned()),
        Deployed::NoCluster(_) => lines
            .push(format!("  lighter deploy --image {} -f deployment.yaml    # with a kubeconfig", pinned.reference())),
        Deployed::NoManifests => {}
    }
    lines
}
