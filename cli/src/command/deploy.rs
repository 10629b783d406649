//! deploy: from a tag to a plan. Resolves to a digest, looks, shows what would be written; the rest is in
//! [`super::wait`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use content::remote::{Client, Through};
use content::{Source, collect};
use deployer::{
    Action, Assignment, Change, Checks, Class, Cluster, ConnectOptions, Error, Extent, Force, Guard, Image,
    Impersonate, Manifest, Plan, Provenance, Proxy, Request, Set, Target, What, Which,
};
use oci::{ManifestKind, Pinned, Platform, Reference};

use super::deploy_report::Report;
use super::manifests;
use super::probe::Prober;
use super::wait;
use crate::args::{
    ClusterArgs, DeployArgs, DeployCommand, DryRun, HowArgs, RbacArgs, RegistryArgs, SetImageArgs, SubjectArgs,
};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::settings;
use crate::terminal::{out, tell};

/// Largest image config that is read, in bytes.
const CONFIG_LIMIT: usize = 8 << 20;

pub async fn deploy(mut args: DeployArgs) -> Outcome<()> {
    match args.command.take() {
        Some(DeployCommand::Rbac(args)) => return rbac(&args),
        Some(DeployCommand::Check(check)) => args = DeployArgs::from(*check),
        None => {}
    }
    if let Some(path) = args.subject.file.iter().find(|path| args.write && manifests::url(path).is_some()) {
        let what = format!("--write writes into files, and {} is none", manifests::shown(path));
        return Err(Failure::new(Exit::Usage, what).hint("fetch it into a file first"));
    }
    let report = Report::new(&args.report)?;
    let outcome = deploy_and_report(&args, &report).await;
    report.finish(outcome)
}

/// `set image`: the same as a deploy, in kubectl's words.
pub async fn set_image(args: SetImageArgs) -> Outcome<()> {
    let args = DeployArgs::from(args);
    let missing = |what: &str| {
        Failure::new(Exit::Usage, format!("no {what} is named"))
            .hint("lighter set image deployment/api web=vm2:5000/shop/api:v2")
    };
    if args.subject.image.is_empty() {
        return Err(missing("image"));
    }
    if args.subject.target.is_empty() {
        return Err(missing("workload"));
    }
    deploy(args).await
}

async fn deploy_and_report(args: &DeployArgs, report: &Report) -> Outcome<()> {
    let planned = interrupt::until_signal(async {
        let planned =
            plan(&args.subject, &args.how, &args.cluster, &args.registry, args.dry_run != Some(DryRun::Client)).await?;
        report.planned(&planned.plans, &planned.images);
        if args.diff {
            for diff in diffs(&planned).await? {
                tell(&diff.to_string());
            }
        }
        check(&planned, args, report).await?;
        Ok(planned)
    })
    .await?;
    if args.dry_run.is_none() {
        wait::roll_out(&planned.cluster, &planned.plans, &args.wait, &Prober::new(&args.registry)?, report).await?;
        if args.write {
            write(args, &planned)?;
        }
    }
    Ok(())
}

/// What is to be done, before anything is.
pub struct Planned {
    pub cluster: Cluster,
    /// One per wave.
    pub plans: Vec<Plan>,
    pub images: Vec<Assignment>,
}

/// Looks and plans; writes nothing.
pub async fn plan(
    subject: &SubjectArgs,
    how: &HowArgs,
    cluster: &ClusterArgs,
    registry: &RegistryArgs,
    rehearse: bool,
) -> Outcome<Planned> {
    let client = settings::client(registry)?;
    let named = images(&subject.image)?;
    let what = what(subject, named.len(), &client).await?;
    let options = ConnectOptions { image_paths: how.image_path.clone(), ..connect_options(cluster)? };
    let cluster = Cluster::connect(&options).await.map_err(|error| told(&error))?;
    let mut images = Vec::new();
    for (which, reference) in named {
        images.push(Assignment { image: resolve(&client, &reference).await?, which });
    }
    let request = Request { rehearse, images: images.clone(), ..request(how, what)? };
    let plans = match cluster.plan(&request).await {
        Err(error @ Error::NothingSelected { .. }) if subject.allow_empty => {
            tell(&format!("nothing to do: {error}"));
            Vec::new()
        }
        plan => plan.map_err(|error| told(&error))?.waves(),
    };
    Ok(Planned { cluster, plans, images })
}

fn request(how: &HowArgs, what: What) -> Outcome<Request> {
    let provenance = provenance();
    let newer_than_live = if how.newer_than_live {
        let ours = settings::variable("CI_PIPELINE_IID").and_then(|text| text.parse().ok());
        let none = || {
            Failure::new(Exit::Usage, "--newer-than-live needs the number of this pipeline")
                .hint("set CI_PIPELINE_IID, as GitLab does")
        };
        Some(ours.ok_or_else(none)?)
    } else {
        None
    };
    let force = match &how.force_conflicts {
        None => Force::Nothing,
        Some(fields) if fields.iter().all(String::is_empty) => Force::All,
        Some(fields) => Force::Fields(fields.iter().filter(|field| !field.is_empty()).cloned().collect()),
    };
    let set =
        how.set.as_ref().map(|name| Set { name: name.clone(), prune: how.prune, prune_precious: how.prune_precious });
    let guard = Guard { if_unchanged: how.if_unchanged, newer_than_live };
    Ok(Request { provenance, guard, replace_jobs: how.replace_jobs, force, set, ..Request::new(None, what) })
}

/// Everything that can be known before the first write.
async fn check(planned: &Planned, args: &DeployArgs, report: &Report) -> Outcome<()> {
    let prober = Prober::new(&args.registry)?;
    let run_once = args.wait.run_once;
    let is_cron_job = |action: &Action| action.runs_by_the_clock();
    if run_once && !planned.plans.iter().flat_map(|plan| &plan.actions).any(is_cron_job) {
        return Err(Failure::new(Exit::Usage, "--run-once: there is no CronJob among what is deployed"));
    }
    let checks = Checks { registry: Some(&prober), nodes_log_in: args.how.nodes_log_in, run_once };
    for plan in &planned.plans {
        let findings = planned.cluster.preflight(plan, &planned.images, checks).await.map_err(|error| told(&error))?;
        report.found(&findings);
        if args.dry_run == Some(DryRun::Server) {
            planned.cluster.dry_run(plan).await.map_err(|error| told(&error))?;
        }
    }
    let changes = planned.plans.iter().any(Plan::changes_anything);
    match args.dry_run {
        Some(_) if !changes => tell("dry run: nothing would change"),
        Some(DryRun::Server) => tell("dry run: the server would take this; nothing was written"),
        Some(DryRun::Client) => {
            tell("dry run: nothing was written, and the server was not asked whether it would take this")
        }
        None => {}
    }
    Ok(())
}

/// What each object would become.
pub async fn diffs(planned: &Planned) -> Outcome<Vec<deployer::ObjectDiff>> {
    let mut diffs = Vec::new();
    for plan in &planned.plans {
        diffs.extend(planned.cluster.diff(plan).await.map_err(|error| told(&error))?);
    }
    diffs.retain(|diff| diff.change == Change::Delete || !diff.differences.is_empty());
    Ok(diffs)
}

/// Writes the pinned images into the files that were applied.
fn write(args: &DeployArgs, planned: &Planned) -> Outcome<()> {
    let mut texts = BTreeMap::new();
    let mut manifests = Vec::new();
    for path in args.subject.file.iter().filter(|path| manifests::is_local(path)) {
        for (name, text) in manifests::texts(path)? {
            manifests.extend(manifests::parse(&name, &text)?);
            texts.insert(name, text);
        }
    }
    let written = deployer::rewrite(&manifests, &planned.images, &texts)
        .map_err(|error| failed("it runs, and the manifest is as it was", &error))?;
    for (name, text) in written {
        let failed = |error: std::io::Error| Failure::io(format!("it runs, and {name} cannot be written"), &error);
        let path = Path::new(&name).canonicalize().map_err(failed)?; // through a link, into the file itself
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        std::io::Write::write_all(&mut new, text.as_bytes()).map_err(failed)?;
        new.as_file().set_permissions(std::fs::metadata(&path).map_err(failed)?.permissions()).map_err(failed)?;
        new.persist(&path).map_err(|error| failed(error.error))?;
        tell(&format!("{name}: the image is written into it"));
    }
    Ok(())
}

fn rbac(args: &RbacArgs) -> Outcome<()> {
    let targets = args.target.iter().map(|text| target(text)).collect::<Outcome<Vec<_>>>()?;
    let extent = Extent { optional: !args.minimal, run_once: args.run_once };
    let rules = deployer::rules(&targets, &args.namespace, extent).map_err(|error| {
        failed("cannot name the rules", &error)
            .hint("write kinds beyond Kubernetes' own as PLURAL.GROUP: rollouts.argoproj.io/api")
    })?;
    out(deployer::role(&args.name, &rules).trim_end());
    Ok(())
}

/// `[CONTAINER=]REFERENCE`.
fn image(text: &str) -> Outcome<(Which, Reference)> {
    let wrong = |error: oci::InvalidReference| {
        Failure::because(Exit::Usage, format!("--image `{text}` names no image"), &error)
            .hint("an unset variable in a CI job ends up here")
    };
    let (container, reference) = text.split_once('=').map_or((None, text), |(name, reference)| (Some(name), reference));
    let which = container.map_or(Ok(Which::Fitting), str::parse);
    let which = which.map_err(|error| Failure::because(Exit::Usage, format!("--image `{text}`"), &error))?;
    Ok((which, reference.parse().map_err(wrong)?))
}

/// All of them; the same container cannot be said to take two.
fn images(texts: &[String]) -> Outcome<Vec<(Which, Reference)>> {
    let mut images: Vec<(Which, Reference)> = Vec::new();
    for text in texts {
        let (which, reference) = image(text)?;
        let same = images.iter().find(|(other, _)| *other == which && which != Which::Fitting);
        if let Some((_, other)) = same.filter(|(_, other)| *other != reference) {
            return Err(Failure::new(
                Exit::Usage,
                format!("--image `{text}`: that container is to run `{other}` already"),
            )
            .hint("name each container once"));
        }
        if !images.contains(&(which.clone(), reference.clone())) {
            images.push((which, reference));
        }
    }
    Ok(images)
}

/// What is to be done.
async fn what(args: &SubjectArgs, images: usize, client: &Client) -> Outcome<What> {
    if let Some(selector) = &args.selector {
        return Ok(What::Selected { kinds: args.kind.clone(), selector: selector.clone() });
    }
    if !args.file.is_empty() {
        let mut manifests = Vec::new();
        for path in &args.file {
            manifests.extend(manifests::read(path, client).await?);
        }
        place(&mut manifests, &args.wave)?;
        Manifest::sort(&mut manifests); // over all files
        return Ok(What::Manifests(manifests));
    }
    let waves: Vec<Vec<&str>> = match args.wave.as_slice() {
        [] => vec![args.target.iter().map(String::as_str).collect()],
        waves => waves.iter().map(|wave| wave.split(',').collect()).collect(),
    };
    let mut targets = Vec::new();
    for (wave, texts) in (0..).zip(waves) {
        for text in texts {
            let target = Target { wave, ..target(text)? };
            if images > 1 && target.which != Which::Fitting {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("`{text}` names a container, and there are {images} images"),
                )
                .hint("name the container with each image: --image CONTAINER=HOST/NAME:TAG"));
            }
            targets.push(target);
        }
    }
    Ok(What::Targets(targets))
}

/// Puts manifests into the waves that name them; what none names keeps its own, which is the first unless it says so.
fn place(manifests: &mut [Manifest], waves: &[String]) -> Outcome<()> {
    for (turn, wave) in (0..).zip(waves) {
        for text in wave.split(',') {
            let target = target(text)?;
            if target.which != Which::Fitting {
                let what = format!("--wave `{text}` names a container; of manifests, name the object: KIND/NAME");
                return Err(Failure::new(Exit::Usage, what));
            }
            let mut named = manifests.iter_mut().filter(|manifest| manifest.is_called(&target)).peekable();
            if named.peek().is_none() {
                return Err(Failure::new(Exit::Usage, format!("--wave `{text}`: no manifest of -f is called so")));
            }
            for manifest in named {
                if manifest.turn.replace(turn).is_some_and(|other| other != turn) {
                    return Err(Failure::new(Exit::Usage, format!("--wave: `{text}` stands in two waves")));
                }
            }
        }
    }
    Ok(())
}

fn target(text: &str) -> Outcome<Target> {
    text.parse().map_err(|error| Failure::because(Exit::Usage, format!("--target `{text}`"), &error))
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
pub fn connect_options(args: &ClusterArgs) -> Outcome<ConnectOptions> {
    let listed = settings::variable("KUBECONFIG")
        .map(|list| std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect::<Vec<_>>());
    let home =
        || settings::variable("HOME").map(|home| vec![PathBuf::from(home).join(".kube/config")]).unwrap_or_default();
    let kubeconfig = match &args.kubeconfig {
        Some(path) => vec![path.clone()],
        None => listed.unwrap_or_else(home),
    };
    let unset = |name: &String| {
        Failure::new(Exit::Usage, format!("--token-env: the variable {name} is not set"))
            .hint("in GitLab, name it below `id_tokens:` of the job")
    };
    let token = args.token_env.as_ref().map(|name| settings::variable(name).ok_or_else(|| unset(name))).transpose()?;
    Ok(ConnectOptions {
        kubeconfig,
        must_exist: args.kubeconfig.is_some(),
        context: args.context.clone(),
        namespace: args.namespace.clone(),
        in_cluster: settings::variable("KUBERNETES_SERVICE_HOST").is_some(),
        server: args.server.clone(),
        token,
        certificate_authority: args.certificate_authority.clone(),
        impersonate: Impersonate { user: args.as_user.clone(), groups: args.as_group.clone() },
        image_paths: Vec::new(),
        discovery: settings::cache_directory().map(|cache| cache.join("discovery")),
        proxies: Some(proxies()?),
    })
}

/// The proxy that a kubeconfig names counts for its server, wherever that is; else the environment decides.
fn proxies() -> Outcome<deployer::Proxies> {
    let environment = settings::proxies()?;
    Ok(Arc::new(move |server, named| {
        let through = match named {
            Some(named) => Some(
                Through::named(named)
                    .map_err(|reason| format!("the `proxy-url` of the kubeconfig is no URL of a proxy: {reason}"))?,
            ),
            None => environment.through(server),
        };
        Ok(through.map(|Through { url, authorization, login }| Proxy { url, authorization, login }))
    }))
}

/// Which commit and pipeline a deploy comes from, where CI says so.
pub fn provenance() -> Provenance {
    let first = |names: &[&str]| names.iter().find_map(|name| settings::variable(name));
    let commit = first(&["CI_COMMIT_SHA", "GITHUB_SHA", "CI_COMMIT"]);
    let pipeline = first(&["CI_PIPELINE_URL", "CI_PIPELINE_ID", "GITHUB_RUN_ID", "BUILD_URL"]);
    let cause = commit.as_ref().map(|commit| format!("lighter deploy of commit {commit}"));
    let facts = [("commit", commit), ("pipeline", pipeline), ("pipeline-iid", first(&["CI_PIPELINE_IID"]))];
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
        Error::TwoImages { .. } => failure.hint("--image CONTAINER=HOST/NAME:TAG"),
        Error::NotPullable { .. } => {
            failure.hint("`lighter pull-secret ensure` gives the pods a login; --nodes-log-in if the nodes have one")
        }
        Error::Conflict { .. } => failure.hint("take them with --force-conflicts, or --force-conflicts=FIELD"),
        Error::Rejected { message, .. } if message.contains("field is immutable") && message.contains("Job") => {
            failure.hint("a Job cannot be changed; --replace-jobs deletes it and makes it anew")
        }
        _ => failure,
    }
}
