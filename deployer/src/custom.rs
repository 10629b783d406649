//! Custom kinds: whether one has settled, by the standard words of its status (kstatus' rules: `observedGeneration`,
//! the conditions Ready, Available, Progressing, Reconciling and Stalled), and by the pods that it owns. A kind that
//! says none of this is never called verified. Pure; the rest is in [`crate::verdict`].

use crate::diagnose::{Cause, Trouble, diagnose, trouble};
use crate::object::Resource;
use crate::ticket::Ticket;
use crate::verdict::{Evidence, Report, Verdict, Waiting, deadline, is_ready, number, report};
use crate::watch::Policy;
use crate::workload::text;
use crate::world::{Snapshot, condition};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How long a new object may be without any status before its kind counts as one that has none.
const SILENCE: SignedDuration = SignedDuration::from_secs(5);

/// What the status of an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing that we can read, or nothing that is sure to be about this generation.
    Silent,
    /// Its controller has not looked at this generation.
    Behind,
    /// Its controller is at work.
    Working(Waiting),
    /// Its controller waits for somebody.
    Paused,
    /// Its controller has given up.
    Stalled(String),
    /// Its controller is satisfied.
    Settled,
}

pub(crate) fn classify(
    workload: &Value,
    snapshot: &Snapshot<'_>,
    ticket: &Ticket,
    policy: &Policy,
    now: Timestamp,
) -> Verdict {
    let is_new = ticket.created && now.duration_since(ticket.written) < SILENCE;
    let standing = standing(&ticket.object.resource, workload, ticket);
    match &standing {
        Standing::Silent if is_new => return Verdict::Waiting(Waiting::Observed),
        Standing::Silent => return Verdict::Done(Evidence::Unknown),
        Standing::Behind => return Verdict::Waiting(Waiting::Observed),
        Standing::Paused => return Verdict::Paused,
        Standing::Working(_) | Standing::Stalled(_) | Standing::Settled => {}
    }
    let mut troubles = diagnose(snapshot, ticket, policy, now);
    if let Standing::Stalled(why) = &standing {
        troubles.insert(0, trouble(Cause::Stalled, &ticket.object.short(), None, why, true));
    }
    if let Some(text) = deadline(workload, ticket, now) {
        troubles.insert(0, trouble(Cause::Deadline, &ticket.object.short(), None, &text, true));
    }
    if troubles.iter().any(|trouble| trouble.fatal) {
        return Verdict::Failed(troubles);
    }
    match standing {
        Standing::Working(waiting) => Verdict::Waiting(waiting),
        _ => settled(snapshot, ticket),
    }
}

/// What its controller says of not being done, in its own words.
pub(crate) fn complaint(snapshot: &Snapshot<'_>, ticket: &Ticket) -> Option<Trouble> {
    let ready = ["Ready", "Available"].iter().find_map(|kind| condition(snapshot.workload?, kind))?;
    if ready["status"] == "True" {
        return None;
    }
    let words = format!("{}: {}", text(&ready["reason"]), text(&ready["message"]));
    Some(trouble(Cause::NotReady, &ticket.object.short(), None, words.trim_matches([':', ' ']), false))
}

fn standing(resource: &Resource, workload: &Value, ticket: &Ticket) -> Standing {
    let is = |kind: &str, status: &str| condition(workload, kind).is_some_and(|one| one["status"] == status);
    let words = |kind: &str| {
        let condition = condition(workload, kind).cloned().unwrap_or_default();
        format!("{}: {}", text(&condition["reason"]), text(&condition["message"]))
    };
    let generation = number(&workload["metadata"]["generation"]);
    match observed(workload) {
        Some(observed) if observed < generation.max(ticket.generation) => return Standing::Behind,
        // Without a number, a status that was there before our write may speak of the version before.
        None if ticket.changed && !ticket.created => return Standing::Silent,
        _ => {}
    }
    if resource.group == "argoproj.io" && resource.kind == "Rollout" {
        return match text(&workload["status"]["phase"]) {
            "Healthy" => Standing::Settled,
            "Degraded" => Standing::Stalled(text(&workload["status"]["message"]).to_owned()),
            "Paused" => Standing::Paused,
            _ => Standing::Working(Waiting::Ready),
        };
    }
    if is("Stalled", "True") {
        return Standing::Stalled(words("Stalled"));
    }
    if let Some(waiting) = counts(workload) {
        return Standing::Working(waiting);
    }
    if is("Reconciling", "True") {
        return Standing::Working(Waiting::Ready);
    }
    match ["Ready", "Available"].iter().find(|kind| condition(workload, kind).is_some()) {
        Some(kind) if is(kind, "True") => Standing::Settled,
        Some(_) => Standing::Working(Waiting::Ready),
        None if observed(workload).is_some() => Standing::Settled,
        None => Standing::Silent,
    }
}

/// The generation that the status is about: its own word, else that of the condition that decides. Argo writes it as
/// a string.
fn observed(workload: &Value) -> Option<i64> {
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let of_condition = |kind: &&str| number(&condition(workload, kind)?["observedGeneration"]);
    number(&workload["status"]["observedGeneration"])
        .or_else(|| ["Ready", "Available", "Stalled"].iter().find_map(of_condition))
}

/// Kinds that count their pods as Deployments do say more with that than with a condition.
fn counts(workload: &Value) -> Option<Waiting> {
    let (spec, status) = (&workload["spec"], &workload["status"]);
    let (updated, want) = (status["updatedReplicas"].as_i64()?, spec["replicas"].as_i64()?);
    let partition =
        number(&spec["updateStrategy"]["partition"]).max(number(&spec["updateStrategy"]["rollingUpdate"]["partition"]));
    let want_updated = (want - partition).max(0);
    let old = number(&status["replicas"]) - want;
    let available = status["availableReplicas"].as_i64().or(status["readyReplicas"].as_i64()).unwrap_or(want);
    if updated < want_updated {
        Some(Waiting::Updated { have: updated, want: want_updated })
    } else if old > 0 {
        Some(Waiting::OldPods(old))
    } else if available < want {
        Some(Waiting::Available { have: available, want })
    } else {
        None
    }
}

/// Its controller is satisfied: the pods of the new version, if it has any, say what they run.
fn settled(snapshot: &Snapshot<'_>, ticket: &Ticket) -> Verdict {
    let (mut pods, mut comparable) = (0, true);
    for pod in snapshot.pods.iter().filter(|pod| is_ready(pod)) {
        match report(pod, ticket) {
            Report::Right => pods += 1,
            Report::Unknown => (pods, comparable) = (pods + 1, false),
            Report::Missing | Report::Wrong(..) => {}
        }
    }
    Verdict::Done(match pods {
        0 => Evidence::Settled,
        pods if comparable => Evidence::Verified { pods },
        pods => Evidence::Available { pods },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ObjectName;
    use crate::plan::{Action, Change};
    use crate::world::{Kind, World};
    use serde_json::json;

    const NOW: &str = "2026-01-01T00:01:00Z";

    fn verdict(group: &str, kind: &str, changed: bool, object: &Value) -> Verdict {
        let resource =
            Resource { image_path: Some("/spec/image".into()), ..Resource::new(group, "v1", kind, "things") };
        let mut world = World::default();
        let stream = world.add_stream(Kind::Workload(resource.clone()), "demo");
        let now: Timestamp = NOW.parse().unwrap();
        world.replace(stream, vec![object.clone()], now);
        let action = Action::written(ObjectName::new(resource, "demo", "w"), Change::Update, Vec::new());
        let ticket = Ticket::of(&action, object, changed, now).unwrap();
        classify(object, &world.snapshot(&ticket), &ticket, &Policy::default(), now)
    }

    fn thing(status: Value) -> Value {
        json!({"metadata": {"name": "w", "uid": "u", "generation": 2}, "spec": {"image": "x", "replicas": 2}, "status": status})
    }

    fn ready(status: &str) -> Value {
        json!([{"type": "Ready", "status": status, "reason": "Because", "message": "of this"}])
    }

    #[test]
    fn a_status_is_read_by_its_standard_words() {
        let settled = Verdict::Done(Evidence::Settled);
        let unknown = Verdict::Done(Evidence::Unknown);
        let waiting = Verdict::Waiting;
        for (status, changed, expected) in [
            (json!({}), true, unknown.clone()),
            (json!({"phase": "Bound"}), true, unknown.clone()),
            (json!({"conditions": ready("True")}), true, unknown), // of which generation?
            (json!({"conditions": ready("True")}), false, settled.clone()),
            (json!({"observedGeneration": 1, "conditions": ready("True")}), true, waiting(Waiting::Observed)),
            (json!({"observedGeneration": 2, "conditions": ready("True")}), true, settled.clone()),
            (json!({"observedGeneration": "2", "conditions": ready("True")}), true, settled.clone()),
            (json!({"observedGeneration": 2, "conditions": ready("False")}), true, waiting(Waiting::Ready)),
            (json!({"observedGeneration": 2, "conditions": ready("Unknown")}), true, waiting(Waiting::Ready)),
            (
                json!({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1}]}),
                true,
                waiting(Waiting::Observed),
            ),
            (
                json!({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}]}),
                true,
                settled.clone(),
            ),
            (json!({"observedGeneration": 2}), true, settled.clone()),
            (
                json!({"observedGeneration": 2, "conditions": [{"type": "Reconciling", "status": "True"}]}),
                true,
                waiting(Waiting::Ready),
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 2}),
                true,
                waiting(Waiting::Updated { have: 1, want: 2 }),
            ),
            (json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 3}), true, waiting(Waiting::OldPods(1))),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}),
                true,
                waiting(Waiting::Available { have: 1, want: 2 }),
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 2}),
                true,
                settled,
            ),
        ] {
            assert_eq!(
                verdict("example.test", "Thing", changed, &thing(status.clone())),
                expected,
                "{status} {changed}"
            );
        }
    }

    #[test]
    fn who_has_given_up_has_failed() {
        let stalled = json!([{"type": "Stalled", "status": "True", "reason": "BadImage", "message": "no such image"}]);
        for (group, kind, status, text) in [
            (
                "example.test",
                "Thing",
                json!({"observedGeneration": 2, "conditions": stalled}),
                "BadImage: no such image",
            ),
            (
                "argoproj.io",
                "Rollout",
                json!({"observedGeneration": "2", "phase": "Degraded", "message": "aborted"}),
                "aborted",
            ),
        ] {
            let Verdict::Failed(troubles) = verdict(group, kind, true, &thing(status.clone())) else {
                panic!("{status}")
            };
            assert_eq!((troubles[0].cause, troubles[0].text.as_str()), (Cause::Stalled, text));
        }
        let phase = |phase: &str| {
            verdict("argoproj.io", "Rollout", true, &thing(json!({"observedGeneration": "2", "phase": phase})))
        };
        assert_eq!(phase("Healthy"), Verdict::Done(Evidence::Settled));
        assert_eq!(phase("Progressing"), Verdict::Waiting(Waiting::Ready));
        assert_eq!(phase("Paused"), Verdict::Paused);
    }
}
