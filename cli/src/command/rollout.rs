//! rollout: looking after workloads that are there. The waiting itself is in [`super::wait`].

use std::path::Path;
use std::time::Duration;

use deployer::{Class, Cluster, Error, Policy, Steer, Target, Ticket, Which};

use super::deploy::{connect_options, failed};
use super::deploy_report::Report;
use super::wait::{self, TicketFile};
use crate::args::{
    ClusterArgs, HistoryArgs, OnFailure, RolloutCommand, RolloutWaitArgs, StatusArgs, UndoArgs, WaitArgs,
};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Signals, until_signal};
use crate::terminal::{out, tell};

pub async fn run(command: &RolloutCommand) -> Outcome<()> {
    match command {
        RolloutCommand::Status(args) => until_signal(status(args)).await,
        RolloutCommand::Wait(args) => go_on(args).await,
        RolloutCommand::History(args) => until_signal(history(args)).await,
        RolloutCommand::Undo(args) => undo(args).await,
        RolloutCommand::Pause(args) => pause(&args.cluster, &args.target).await,
        RolloutCommand::Resume(args) => steer(&args.cluster, &args.target, Steer::Resume, args.timeout).await,
        RolloutCommand::Restart(args) => steer(&args.cluster, &args.target, Steer::Restart, args.timeout).await,
    }
}

async fn status(args: &StatusArgs) -> Outcome<()> {
    let told = |error: Error| failed("cannot say how it is", &error);
    let cluster = connect(&args.cluster).await?;
    let tickets = tickets(&cluster, &args.target).await?;
    let outcome = cluster.look(&tickets, &Policy::default()).await.map_err(told)?;
    if outcome.class() == Class::Success {
        outcome.targets.iter().for_each(|target| out(&target.to_string()));
        return Ok(());
    }
    Err(wait::left(&outcome, "not all is well"))
}

async fn go_on(args: &RolloutWaitArgs) -> Outcome<()> {
    let mut signals = Signals::listen();
    let (cluster, tickets) = until_signal(async {
        let cluster = connect(&args.cluster).await?;
        let tickets = match &args.ticket {
            Some(path) => of_file(path, &cluster)?,
            None => tickets(&cluster, &args.target).await?,
        };
        Ok((cluster, tickets))
    })
    .await?;
    let how = WaitArgs { on_failure: args.on_failure, ticket: args.ticket.clone(), ..patient(args.timeout) };
    wait::wait(&cluster, &tickets, &how, &mut signals, &Report::quiet()).await
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
    let cluster = connect(&args.cluster).await?;
    let history = cluster.history(&target(&args.target)?).await;
    let history = history.map_err(|error| failed("cannot list the versions", &error))?;
    history.revisions.iter().for_each(|revision| out(&revision.to_string()));
    Ok(())
}

async fn undo(args: &UndoArgs) -> Outcome<()> {
    let told = |error: Error| failed("cannot go back", &error);
    let mut signals = Signals::listen();
    let (cluster, history) = until_signal(async {
        let cluster = connect(&args.cluster).await?;
        let history = cluster.history(&target(&args.target)?).await.map_err(told)?;
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
    wait::wait(&cluster, &[ticket], &patient(args.timeout), &mut signals, &Report::quiet()).await
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

async fn steer(args: &ClusterArgs, targets: &[String], steer: Steer, timeout: Duration) -> Outcome<()> {
    let mut signals = Signals::listen();
    let (cluster, targets) = until_signal(async { Ok((connect(args).await?, read_all(targets)?)) }).await?;
    let mut tickets = Vec::new();
    for target in &targets {
        let what = format!("cannot {} {target}", if steer == Steer::Restart { "restart" } else { "resume" });
        tickets.push(cluster.steer(target, steer).await.map_err(|error| failed(&what, &error))?);
    }
    wait::wait(&cluster, &tickets, &patient(timeout), &mut signals, &Report::quiet()).await
}

/// Somebody decided by hand what is to run: nothing decides otherwise.
fn patient(timeout: Duration) -> WaitArgs {
    let usual = Policy::default();
    let (require, soak, logs) = (usual.require, usual.soak, usual.log_lines);
    WaitArgs { timeout, on_failure: OnFailure::Keep, ticket: None, require, soak, logs }
}

async fn connect(args: &ClusterArgs) -> Outcome<Cluster> {
    let connected = Cluster::connect(&connect_options(args)?).await;
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
