//! Pods by themselves, and Jobs: nobody counts new pods for them, so they are judged by what they say of
//! themselves. Pure; the rest is in [`crate::verdict`].

use crate::diagnose::{Cause, Trouble, diagnose, trouble};
use crate::ticket::Ticket;
use crate::verdict::{Evidence, Report, Verdict, Waiting, is_ready, number, report};
use crate::watch::Policy;
use crate::workload::text;
use crate::world::{Snapshot, condition};
use jiff::Timestamp;
use serde_json::Value;

pub(crate) fn classify(
    workload: &Value,
    snapshot: &Snapshot<'_>,
    ticket: &Ticket,
    policy: &Policy,
    now: Timestamp,
) -> Verdict {
    let troubles = diagnose(snapshot, ticket, policy, now);
    if ticket.object.resource.kind == "Job" { job(workload, troubles, ticket) } else { pod(workload, troubles, ticket) }
}

/// A Pod whose image changed restarts its container in place: until then, it reports the old image.
fn pod(pod: &Value, mut troubles: Vec<Trouble>, ticket: &Ticket) -> Verdict {
    let is_right = matches!(report(pod, ticket), Report::Right | Report::Unknown);
    match text(&pod["status"]["phase"]) {
        "Succeeded" => return Verdict::Done(Evidence::Completed),
        "Failed" => {
            troubles.iter_mut().for_each(|trouble| trouble.fatal = true);
            return Verdict::Failed(troubles);
        }
        _ => {}
    }
    if troubles.iter().any(|trouble| trouble.fatal) {
        return Verdict::Failed(troubles);
    }
    if !is_right {
        return Verdict::Waiting(Waiting::Reported { have: 0, want: 1 });
    }
    if !is_ready(pod) {
        return Verdict::Waiting(Waiting::Available { have: 0, want: 1 });
    }
    let is_known = !ticket.want.is_empty() && matches!(report(pod, ticket), Report::Right);
    Verdict::Done(if is_known { Evidence::Verified { pods: 1 } } else { Evidence::Available { pods: 1 } })
}

/// A Job decides itself how often its pods may fail; only what keeps them from starting is decided here.
fn job(job: &Value, mut troubles: Vec<Trouble>, ticket: &Ticket) -> Verdict {
    let is_true = |kind: &str| condition(job, kind).filter(|condition| condition["status"] == "True");
    if is_true("Complete").is_some() {
        return Verdict::Done(Evidence::Completed);
    }
    if job["spec"]["suspend"] == true {
        return Verdict::Paused;
    }
    if let Some(failed) = is_true("Failed") {
        let words = format!("{}: {}", text(&failed["reason"]), text(&failed["message"]));
        troubles.insert(0, trouble(Cause::Job, &ticket.object.short(), None, &words, true));
        return Verdict::Failed(troubles);
    }
    let is_its_own = |cause: Cause| matches!(cause, Cause::Crash | Cause::Memory | Cause::Evicted);
    if troubles.iter().any(|trouble| trouble.fatal && !is_its_own(trouble.cause)) {
        return Verdict::Failed(troubles);
    }
    let want = job["spec"]["completions"].as_i64().or(job["spec"]["parallelism"].as_i64()).unwrap_or(1);
    Verdict::Waiting(Waiting::Working { have: number(&job["status"]["succeeded"]), want })
}
