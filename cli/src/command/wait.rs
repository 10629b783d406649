//! Writing a plan, waiting until it came true, and going back if it does not. Ctrl-C only ends the
//! waiting: from the first write on, the cluster goes on by itself, and a ticket lets us look again.

use std::io::Read;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use deployer::{Action, Change, Class, Cluster, End, Error, Held, Outcome as Rollout, Plan, Policy, Ticket, Undone};
use serde::{Deserialize, Serialize};

use super::deploy::{exit, told};
use super::deploy_report::Report;
use super::probe::Prober;
use crate::args::{OnFailure, WaitArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::interrupt::Signals;
use crate::terminal::tell;

/// The format of ticket files.
const TICKET_FORMAT: u32 = 1;

/// What is waited for, as `--ticket FILE` keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub struct TicketFile {
    format: u32,
    /// The API server that the tickets are of.
    pub server: String,
    /// One per workload.
    pub tickets: Vec<Ticket>,
}

/// Largest ticket file that is read, in bytes; one ticket has about one kilobyte.
const TICKET_LIMIT: u64 = 16 << 20;

impl TicketFile {
    /// Reads a ticket that an earlier process kept.
    pub fn read(path: &Path) -> Outcome<Self> {
        let name = format!("cannot read the ticket {}", path.display());
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| Failure::io(name.clone(), &error))?;
        let read = file.take(TICKET_LIMIT).read_to_string(&mut text);
        read.map_err(|error| Failure::io(name.clone(), &error))?;
        let ticket: Self =
            serde_json::from_str(&text).map_err(|error| Failure::because(Exit::BadInput, name.clone(), &error))?;
        if ticket.format != TICKET_FORMAT {
            return Err(Failure::new(Exit::BadInput, format!("{name}: it is of format {}", ticket.format))
                .hint("this lighter knows format 1; use the one that wrote it"));
        }
        Ok(ticket)
    }
}

/// Writes plans, one for each wave, and waits until they came true, with one deadline for all of them. Says whether
/// anything was written.
pub async fn roll_out(
    cluster: &Cluster,
    plans: &[Plan],
    args: &WaitArgs,
    registry: &Prober,
    report: &Report,
) -> Outcome<bool> {
    let registry = Some(registry);
    if let Some(path) = &args.ticket {
        keep(path, cluster, &[])?; // a place that cannot be written is found out before anything is changed
    }
    let mut signals = Signals::listen(); // a signal during the writes waits for their end: they take moments
    let (start, tickets) = (Instant::now(), Vec::new());
    let mut run = Run { cluster, args, registry, report, signals: &mut signals, start, tickets };
    let mut rollout = Rollout { targets: Vec::new() };
    for (number, plan) in plans.iter().enumerate() {
        rollout.targets.extend(run.wave(plan).await?.targets);
        if rollout.class() != Class::Success {
            plans[number + 1..].iter().for_each(|plan| not_begun(&plan.actions));
            break;
        }
    }
    run.conclude(&rollout).await?;
    Ok(plans.iter().any(Plan::changes_anything))
}

/// Waits until tickets came true, and goes back from them if they do not.
pub async fn wait(
    cluster: &Cluster,
    tickets: &[Ticket],
    args: &WaitArgs,
    registry: Option<&Prober>,
    signals: &mut Signals,
    report: &Report,
) -> Outcome<()> {
    let mut run = Run { cluster, args, registry, report, signals, start: Instant::now(), tickets: tickets.to_vec() };
    let rollout = run.watch().await?;
    run.conclude(&rollout).await
}

/// One rollout on its way.
struct Run<'a> {
    cluster: &'a Cluster,
    args: &'a WaitArgs,
    /// Who is asked whether the version before can still be pulled.
    registry: Option<&'a Prober>,
    report: &'a Report,
    signals: &'a mut Signals,
    start: Instant,
    /// Of everything that was written so far.
    tickets: Vec<Ticket>,
}

impl Run<'_> {
    fn policy(&self) -> Policy {
        Policy {
            timeout: self.args.timeout,
            require: self.args.require,
            soak: self.args.soak,
            log_lines: self.args.logs,
            allow_zero: self.args.allow_zero,
            ..Policy::default()
        }
    }

    /// The same for what is left of the time.
    fn policy_now(&self) -> Policy {
        Policy { timeout: self.args.timeout.saturating_sub(self.start.elapsed()), ..self.policy() }
    }

    /// Rolls a wave out, not more of it at a time than may be: as one workload runs well, the next is written. When one
    /// fails, no other begins.
    async fn wave(&mut self, plan: &Plan) -> Outcome<Rollout> {
        let at_once = self.args.parallel.map_or(usize::MAX, NonZeroUsize::get);
        let (cluster, report, policy) = (self.cluster, self.report, self.policy_now());
        let mut watch = cluster.watching(plan.objects(), &policy, |event| report.show(&event));
        let mut written = 0;
        loop {
            let turn = if watch.has_failed() {
                0
            } else {
                plan.turn(written, at_once.saturating_sub(watch.under_way()), self.args.run_once)
            };
            if turn > 0 {
                watch.admit(self.write(plan, written..written + turn).await?);
                written += turn;
            }
            if watch.is_decided() && (written == plan.actions.len() || watch.has_failed()) {
                not_begun(&plan.actions[written..]);
                return Ok(watch.outcome());
            }
            tokio::select! {
                watched = watch.next() => watched.map_err(|error| told(&error))?,
                exit = self.signals.next() => return Err(interrupted(exit, &self.tickets, self.args)),
            }
        }
    }

    /// Writes a part of a plan; the tickets of it.
    async fn write(&mut self, plan: &Plan, part: Range<usize>) -> Outcome<&[Ticket]> {
        let first = self.tickets.len();
        if let Err(error) = self.try_write(plan, &plan.actions[part]).await {
            return Err(self.halfway(&error, told(&error)).await);
        }
        if let Some(path) = &self.args.ticket {
            keep(path, self.cluster, &self.tickets)?;
        }
        Ok(&self.tickets[first..])
    }

    async fn try_write(&mut self, plan: &Plan, actions: &[Action]) -> Result<(), Error> {
        let first = self.tickets.len();
        let executed = if first == 0 {
            self.cluster.execute_actions(plan, actions).await
        } else {
            // What was written before took its time.
            let renewed = self.cluster.renew(plan, actions).await?;
            self.cluster.execute_actions(plan, &renewed).await
        };
        match &executed {
            Ok(executed) => self.tickets.extend(executed.tickets.iter().cloned()),
            Err(Error::Halfway { executed, .. }) => self.tickets.extend(executed.tickets.iter().cloned()),
            Err(_) => {}
        }
        executed?;
        if self.args.run_once {
            self.once(first).await?;
        }
        Ok(())
    }

    /// Runs the CronJobs among the tickets from number `first` on, each as a Job of its own.
    async fn once(&mut self, first: usize) -> Result<(), Error> {
        let mut jobs = Vec::new();
        for ticket in &self.tickets[first..] {
            if let Some(job) = self.cluster.run_once(ticket).await? {
                tell(&format!("{}: runs once, as {}", ticket.object, job.object));
                jobs.push(job);
            }
        }
        self.tickets.extend(jobs);
        Ok(())
    }

    /// Waits for all tickets.
    async fn watch(&mut self) -> Outcome<Rollout> {
        let policy = self.policy_now();
        tokio::select! {
            rollout = self.cluster.watch(&self.tickets, &policy, |event| self.report.show(&event)) => {
                rollout.map_err(|error| told(&error))
            }
            exit = self.signals.next() => Err(interrupted(exit, &self.tickets, self.args)),
        }
    }

    async fn conclude(&mut self, rollout: &Rollout) -> Outcome<()> {
        self.report.ended(rollout);
        if rollout.class() == Class::Success {
            succeed(self.cluster, rollout).await;
            return Ok(());
        }
        if self.args.on_failure == OnFailure::Keep || !rollout.is_undoable() {
            return Err(left(rollout, "the rollout did not succeed"));
        }
        if self.args.on_failure == OnFailure::Pause {
            let failure = left(rollout, "the rollout did not succeed");
            return Err(self.pause(failure).await);
        }
        for target in rollout.targets.iter().filter(|target| target.end.class() != Class::Success) {
            tell(&format!("{}: {}", target.ticket.object, target.end));
        }
        let reasons = rollout
            .targets
            .iter()
            .filter_map(|target| reason(&target.end).map(|reason| format!("{}: {reason}", target.ticket.object)));
        Err(self.go_back(reasons.collect()).await)
    }

    /// Pauses what was changed. The failure stays what it is.
    async fn pause(&mut self, mut failure: Failure) -> Failure {
        let held = tokio::select! {
            held = self.cluster.hold(&self.tickets) => held,
            exit = self.signals.next() => return interrupted(exit, &self.tickets, self.args),
        };
        self.report.held(&held);
        let paused = held.iter().find(|target| target.held == Held::Paused);
        let paused = paused.and_then(|target| self.tickets.iter().find(|ticket| ticket.object == target.object));
        let hint = paused.map(|ticket| {
            format!("`{}` goes on with it; `{}` goes back", ticket.command("resume"), ticket.command("undo"))
        });
        failure.causes.extend(held.iter().map(ToString::to_string));
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    async fn go_back(&mut self, mut causes: Vec<String>) -> Failure {
        tell("the rollout did not succeed; going back to what ran before");
        // What ran before is to be well again as a whole, and need not prove itself for long.
        let policy = Policy { soak: std::time::Duration::ZERO, allow_zero: true, ..self.policy() };
        let registry = self.registry.map(|prober| prober as &dyn deployer::Registry);
        let undone = tokio::select! {
            undone = self.cluster.undo(&self.tickets, &policy, registry, |event| self.report.show(&event)) => undone,
            exit = self.signals.next() => {
                let failure = Failure::new(exit, "interrupted while going back to what ran before");
                return failure.hint(status_hint(&self.tickets));
            }
        };
        self.report.undone(&undone);
        causes.extend(undone.targets.iter().map(ToString::to_string));
        Failure { causes, ..Failure::new(exit(undone.class()), sentence(&undone)) }
    }

    /// Some objects were written, and then the server refused one.
    async fn halfway(&mut self, error: &Error, failure: Failure) -> Failure {
        if self.args.on_failure == OnFailure::Keep || !self.tickets.iter().any(|ticket| ticket.changed) {
            return failure;
        }
        if self.args.on_failure == OnFailure::Pause {
            return self.pause(failure).await;
        }
        let source = if let Error::Halfway { source, .. } = error { source.to_string() } else { error.to_string() };
        self.go_back(vec![source]).await
    }
}

/// Says what was planned and is left as it was.
fn not_begun(actions: &[Action]) {
    for action in actions.iter().filter(|action| action.change != Change::Nothing) {
        tell(&format!("{}: not begun", action.object));
    }
}

async fn succeed(cluster: &Cluster, rollout: &Rollout) {
    for target in &rollout.targets {
        tell(&target.to_string());
    }
    match cluster.remember(rollout).await {
        Ok(unseen) => unseen.iter().for_each(|object| {
            tell(&format!(
                "note: the controller has not seen our note on {object} yet; until then it counts as under way"
            ));
        }),
        Err(error) => tell(&format!("warning: could not note on the workload that this version runs well: {error}")),
    }
}

/// A rollout that did not succeed and stays as it is.
pub fn left(rollout: &Rollout, what: &str) -> Failure {
    let causes = rollout.targets.iter().map(ToString::to_string).collect();
    Failure { causes, ..Failure::new(exit(rollout.class()), what) }
}

/// Why a target did not come true, in one line; the whole of it was told before.
fn reason(end: &End) -> Option<String> {
    match end {
        End::Failed { troubles, .. } => troubles.first().map(ToString::to_string),
        End::Undecided { why, troubles, .. } => {
            let trouble = troubles.first().map(|trouble| format!("; {trouble}")).unwrap_or_default();
            Some(format!("{why}{trouble}"))
        }
        End::Done { .. } => None,
        other => Some(other.to_string()),
    }
}

fn sentence(undone: &Undone) -> &'static str {
    match undone.class() {
        Class::RolledBack => "the rollout failed; what ran before is back, and well",
        Class::RollbackFailed => "the rollout failed, and so did going back",
        Class::Superseded => "the rollout failed, and was overtaken by another change",
        _ => "the rollout failed; the new version is left in place",
    }
}

fn interrupted(exit: Exit, tickets: &[Ticket], args: &WaitArgs) -> Failure {
    let failure = Failure::new(exit, "interrupted; what was written stays, and the cluster goes on with it");
    match &args.ticket {
        Some(path) => failure.hint(format!("go on waiting with `lighter rollout wait --ticket {}`", path.display())),
        None => failure.hint(status_hint(tickets)),
    }
}

fn status_hint(tickets: &[Ticket]) -> String {
    let Some(ticket) = tickets.first() else { return "nothing was written".to_owned() };
    format!("see how it goes with `{}`", ticket.command("status"))
}

/// Replaces the ticket file as a whole: a reader never sees half of one.
fn keep(path: &Path, cluster: &Cluster, tickets: &[Ticket]) -> Outcome<()> {
    let file = TicketFile { format: TICKET_FORMAT, server: cluster.server().to_owned(), tickets: tickets.to_vec() };
    let failed = |error: std::io::Error| Failure::io(format!("cannot write the ticket {}", path.display()), &error);
    let text = serde_json::to_string_pretty(&file).map_err(|error| failed(error.into()))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    std::io::Write::write_all(&mut new, text.as_bytes()).map_err(failed)?;
    new.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
