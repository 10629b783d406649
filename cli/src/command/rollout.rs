//! rollout: looking after workloads that are there. The waiting itself is in [`super::wait`].

use std::path::Path;
use std::time::Duration;

use deployer::{Class, Cluster, ConnectOptions, Error, ImagePath, Policy, Steer, Target, Ticket, Which};
use serde_json::json;

use super::deploy::{connect_options, exit, failed};
use super::deploy_report::Report;
use super::probe::Prober;
use super::wait::{self, TicketFile};
use crate::args::{
    ClusterArgs, HistoryArgs, OutputFormat, RolloutCommand, RolloutWaitArgs, StatusArgs, SteerArgs, UndoArgs, WaitArgs,
};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Signals, until_signal};
use crate::terminal::{out, tell};

/// The format of the JSON documents.
const FORMAT: u32 = 1;

pub async fn run(command: &RolloutCommand) -> Outcome<()> {
    match command {
        RolloutCommand::Status(args) => until_signal(status(args)).await,
        RolloutCommand::Wait(args) => {
            let report = Report::new(&args.report)?;
            report.finish(go_on(args, &report).await)
        }
        RolloutCommand::History(args) => until_signal(history(args)).await,
        RolloutCommand::Undo(args) => {
            let report = Report::new(&args.report)?;
            report.finish(undo(args, &report).await)
        }
        RolloutCommand::Pause(args) => pause(&args.cluster, &args.target).await,
        RolloutCommand::Resume(args) => steer(args, Steer::Resume).await,
        RolloutCommand::Restart(args) => steer(args, Steer::Restart).await,
    }
}

async fn status(args: &StatusArgs) -> Outcome<()> {
    let told = |error: Error| failed("cannot say how it is", &error);
    let cluster = connect(&args.cluster).await?;
    let tickets = tickets(&cluster, &args.target).await?;
    let outcome = cluster.look(&tickets, &Policy::default()).await.map_err(told)?;
    let is_well = outcome.class() == Class::Success;
    match args.output {
        // What is not well is told as the failure that it is.
        OutputFormat::Text if is_well => outcome.targets.iter().for_each(|target| out(&target.to_string())),
        OutputFormat::Text => {}
        OutputFormat::Json => {
            out(&format!("{:#}", json!({"format": FORMAT, "well": is_well, "targets": outcome.targets})));
        }
        OutputFormat::Ndjson => outcome.targets.iter().for_each(|target| out(&json!(target).to_string())),
    }
    if is_well {
        return Ok(());
    }
    Err(wait::left(&outcome, "not all is well"))
}

async fn go_on(args: &RolloutWaitArgs, report: &Report) -> Outcome<()> {
    let mut signals = Signals::listen();
    let registry = Prober::new(&args.registry)?;
    let (cluster, tickets) = until_signal(async {
        let cluster = connect(&args.cluster).await?;
        let tickets = match &args.ticket {
            Some(path) => of_file(path, &cluster)?,
            None => tickets(&cluster, &args.target).await?,
        };
        Ok((cluster, tickets))
    })
    .await?;
    let how = WaitArgs {
        on_failure: args.on_failure,
        ticket: args.ticket.clone(),
        require: args.require,
        soak: args.soak,
        ..patient(args.timeout)
    };
    wait::wait(&cluster, &tickets, &how, Some(&registry), &mut signals, report).await
}

/// The tickets of a file, if they are of this cluster.
fn of_file(path: &Path, cluster: &Cluster) -> Outcome<Vec<Ticket>> {
    let file = TicketFile::read(path)?;
    if file.server != cluster.server() {
        let what = format!("the ticket {} is of {}, not of {}", path.display(), file.server, cluster.server());
        return Err(Failure::new(Exit::Usage, what).hint("name the cluster with --kubeconfig and --context"));
    }
    if file.tickets.is_empty() {
        tell("nothing was written yet when this ticket was kept, so there is nothing to wait for");
    }
    Ok(file.tickets)
}

async fn history(args: &HistoryArgs) -> Outcome<()> {
    let cluster = connect_with(&args.cluster, &args.image_path).await?;
    let history = cluster.history(&target(&args.target)?).await;
    let history = history.map_err(|error| failed("cannot list the versions", &error))?;
    match args.output {
        OutputFormat::Text => history.revisions.iter().for_each(|revision| out(&revision.to_string())),
        OutputFormat::Json => {
            let (object, revisions) = (&history.object, &history.revisions);
            out(&format!("{:#}", json!({"format": FORMAT, "object": object, "revisions": revisions})));
        }
        OutputFormat::Ndjson => history.revisions.iter().for_each(|revision| out(&json!(revision).to_string())),
    }
    Ok(())
}

async fn undo(args: &UndoArgs, report: &Report) -> Outcome<()> {
    let told = |error: Error| failed("cannot go back", &error);
    if let Some(path) = &args.ticket {
        return undo_all(path, args, report).await;
    }
    let mut signals = Signals::listen();
    let (cluster, history) = until_signal(async {
        let cluster = connect_with(&args.cluster, &args.image_path).await?;
        let history = cluster.history(&target(args.target.as_deref().unwrap_or_default())?).await.map_err(told)?;
        Ok((cluster, history))
    })
    .await?;
    let revision = history.find(&args.to).map_err(told)?;
    let line = revision.to_string().replace('\t', "  ");
    if revision.current {
        tell(&format!("{} is at this version already: {line}", history.object));
    } else {
        tell(&format!("{} goes back to revision {line}", history.object));
    }
    if args.dry_run {
        return Ok(());
    }
    let ticket = cluster.go_to(&history, revision).await.map_err(told)?;
    wait::wait(&cluster, &[ticket], &patient(args.timeout), None, &mut signals, report).await
}

/// Goes back from everything that one deploy wrote, to what was there before.
async fn undo_all(path: &Path, args: &UndoArgs, report: &Report) -> Outcome<()> {
    let registry = Prober::new(&args.registry)?;
    let policy = Policy { timeout: args.timeout, ..Policy::default() };
    let undone = until_signal(async {
        let cluster = connect(&args.cluster).await?;
        let tickets = of_file(path, &cluster)?;
        if args.dry_run {
            for ticket in tickets.iter().rev().filter(|ticket| ticket.changed) {
                let images = ticket.before.iter().map(|(name, image)| format!("\n  {name}: {image}"));
                tell(&format!("{} goes back{}", ticket.object, images.collect::<String>()));
            }
            return Ok(None);
        }
        Ok(Some(cluster.undo(&tickets, &policy, Some(&registry), |event| report.show(&event)).await))
    })
    .await?;
    let Some(undone) = undone else { return Ok(()) };
    report.undone(&undone);
    let causes: Vec<String> = undone.targets.iter().map(ToString::to_string).collect();
    if undone.class() == Class::RolledBack {
        causes.iter().for_each(|line| tell(line));
        return Ok(());
    }
    Err(Failure { causes, ..Failure::new(exit(undone.class()), "not all of it went back") })
}

async fn pause(args: &ClusterArgs, targets: &[String]) -> Outcome<()> {
    let (cluster, targets) = until_signal(async { Ok((connect(args).await?, read_all(targets)?)) }).await?;
    for target in &targets {
        let ticket = cluster.steer(target, Steer::Pause).await.map_err(|error| failed("cannot pause", &error))?;
        let state = if ticket.changed { "is paused" } else { "was paused already" };
        tell(&format!("{} {state}", ticket.object));
    }
    Ok(())
}

async fn steer(args: &SteerArgs, steer: Steer) -> Outcome<()> {
    let report = Report::new(&args.report)?;
    report.finish(steer_and_wait(args, steer, &report).await)
}

async fn steer_and_wait(args: &SteerArgs, steer: Steer, report: &Report) -> Outcome<()> {
    let mut signals = Signals::listen();
    let (cluster, targets) =
        until_signal(async { Ok((connect(&args.cluster).await?, read_all(&args.target)?)) }).await?;
    let mut tickets = Vec::new();
    for target in &targets {
        let what = format!("cannot {} {target}", if steer == Steer::Restart { "restart" } else { "resume" });
        tickets.push(cluster.steer(target, steer).await.map_err(|error| failed(&what, &error))?);
    }
    wait::wait(&cluster, &tickets, &patient(args.timeout), None, &mut signals, report).await
}

/// Somebody decided by hand what is to run: nothing decides otherwise.
fn patient(timeout: Duration) -> WaitArgs {
    WaitArgs { timeout, ..WaitArgs::default() }
}

async fn connect(args: &ClusterArgs) -> Outcome<Cluster> {
    connect_with(args, &[]).await
}

async fn connect_with(args: &ClusterArgs, image_paths: &[ImagePath]) -> Outcome<Cluster> {
    let options = ConnectOptions { image_paths: image_paths.to_vec(), ..connect_options(args)? };
    let connected = Cluster::connect(&options).await;
    connected.map_err(|error| failed("cannot talk to the cluster", &error))
}

async fn tickets(cluster: &Cluster, targets: &[String]) -> Outcome<Vec<Ticket>> {
    let mut tickets = Vec::new();
    for target in &read_all(targets)? {
        let ticket = cluster.ticket(target).await;
        tickets.push(ticket.map_err(|error| failed(&format!("cannot look at {target}"), &error))?);
    }
    Ok(tickets)
}

fn read_all(targets: &[String]) -> Outcome<Vec<Target>> {
    targets.iter().map(|text| target(text)).collect()
}

/// `KIND/NAME`; a container makes no sense here.
fn target(text: &str) -> Outcome<Target> {
    let target: Target =
        text.parse().map_err(|error| Failure::because(Exit::Usage, format!("`{text}` is no workload"), &error))?;
    match target.which != Which::Fitting {
        true => Err(Failure::new(Exit::Usage, format!("`{text}` names a container; name the workload, KIND/NAME"))),
        false => Ok(target),
    }
}
