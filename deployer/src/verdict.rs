//! Whether a rollout is done, and how we know. Pure: the same snapshot gives the same verdict, so it is
//! tested on recorded objects. Stricter than `kubectl rollout status` and kube's own condition: nothing
//! is believed before our generation was observed, and pods must report the digest that was asked for.

use crate::custom;
use crate::diagnose::{Cause, Trouble, diagnose, pod_name};
use crate::finite;
use crate::object::Resource;
use crate::require::Require;
use crate::ticket::Ticket;
use crate::watch::Policy;
use crate::workload::{self, text};
use crate::world::{Snapshot, condition, container_statuses};
use jiff::{SignedDuration, Timestamp};
use oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// What can be said about a ticket now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet decided.
    Waiting(Waiting),
    /// It came true.
    Done(Evidence),
    /// It will not come true; the causes, worst first.
    Failed(Vec<Trouble>),
    /// Somebody else has changed the same thing since; the images that are there now.
    Superseded(String),
    /// It is written down, and nobody acts on it until the workload is resumed.
    Paused,
    /// The workload does not exist any more.
    Gone,
}

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// The controller has not looked at our change yet.
    Observed,
    /// New pods are being made.
    Updated {
        /// So many exist.
        have: i64,
        /// Of so many.
        want: i64,
    },
    /// Pods of the old version are ending.
    OldPods(i64),
    /// New pods are not available yet.
    Available {
        /// So many are.
        have: i64,
        /// Of so many.
        want: i64,
    },
    /// The counts are right; pods have not all reported their image yet.
    Reported {
        /// So many have.
        have: i64,
        /// Of so many.
        want: i64,
    },
    /// A Job is at work.
    Working {
        /// So many of its pods have done their work.
        have: i64,
        /// Of so many.
        want: i64,
    },
    /// The controller of a custom kind does not say yet that it is satisfied.
    Ready,
    /// All is well, and must stay so for a while.
    Soaking {
        /// So many seconds.
        seconds: i64,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Observed => f.write_str("the controller has not seen the change yet"),
            Waiting::Updated { have, want } => write!(f, "{have} of {want} new pods made"),
            Waiting::OldPods(count) => write!(f, "{count} old pods are ending"),
            Waiting::Available { have, want } => write!(f, "{have} of {want} new pods available"),
            Waiting::Reported { have, want } => write!(f, "{have} of {want} new pods have reported their image"),
            Waiting::Working { have, want } => write!(f, "{have} of {want} pods have done their work"),
            Waiting::Ready => f.write_str("its controller does not say yet that it is ready"),
            Waiting::Soaking { seconds } => write!(f, "all is well, and watched for {seconds} s without a restart"),
        }
    }
}

/// How we know that it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// All pods are available and report the digest that was asked for.
    Verified {
        /// So many.
        pods: i64,
    },
    /// All pods are available; no image was asked for, or the runtime reports none that can be compared.
    Available {
        /// So many.
        pods: i64,
    },
    /// As many pods as were required run the image that was asked for; the others do not yet.
    Partial {
        /// So many.
        pods: i64,
        /// Of so many.
        want: i64,
    },
    /// A Job has done its work.
    Completed,
    /// It is to have zero replicas: nothing runs, nothing is verified.
    NoReplicas,
    /// A DaemonSet that no node fits: nothing runs, nothing is verified.
    NoNodes,
    /// Its update strategy is OnDelete: somebody has to delete the pods.
    OnDelete,
    /// A kind that starts pods at another time.
    NoRollout,
    /// A custom kind whose controller says that it is satisfied; no pod of its own was seen to run our image.
    Settled,
    /// A custom kind whose status says nothing of how it is rolled out.
    Unknown,
}

impl Evidence {
    /// Whether pods were seen to run.
    pub fn has_pods(&self) -> bool {
        match self {
            Evidence::Verified { pods } | Evidence::Available { pods } => *pods > 0,
            // Some of them may be failing at this moment.
            _ => false,
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::Verified { pods } => write!(f, "{pods} of {pods} pods run the image that was asked for"),
            Evidence::Available { pods } => write!(f, "{pods} of {pods} pods are available"),
            Evidence::NoReplicas => {
                f.write_str("applied; it has zero replicas, so nothing runs and nothing is verified")
            }
            Evidence::NoNodes => f.write_str("applied; no node fits it, so nothing runs and nothing is verified"),
            Evidence::OnDelete => f.write_str("applied; its pods are replaced when somebody deletes them (OnDelete)"),
            Evidence::NoRollout => f.write_str("applied; its pods start at another time"),
            Evidence::Settled => {
                f.write_str("its controller says that it is ready; no pods of its own were seen to run the image")
            }
            Evidence::Unknown => f.write_str(
                "applied; its status does not say how its rollout goes (observedGeneration, conditions), so nothing is verified",
            ),
            Evidence::Partial { pods, want } => {
                write!(f, "{pods} of {want} pods run the image that was asked for, which is as many as were required")
            }
            Evidence::Completed => f.write_str("it has done its work"),
        }
    }
}

/// Decides what a snapshot means for a ticket.
pub fn classify(snapshot: &Snapshot<'_>, ticket: &Ticket, policy: &Policy, now: Timestamp) -> Verdict {
    let Some(workload) = snapshot.workload else { return Verdict::Gone };
    let is_ours = workload["metadata"]["uid"] == ticket.uid.as_str();
    if is_ours && generation(workload) < ticket.generation {
        return Verdict::Waiting(Waiting::Observed); // the watch itself is behind
    }
    if let Some(by) = superseded(workload, ticket) {
        return Verdict::Superseded(by);
    }
    if workload::is_finite(&ticket.object.resource) {
        return finite::classify(workload, snapshot, ticket, policy, now);
    }
    if workload::is_custom(&ticket.object.resource) {
        return match workload["spec"]["paused"] == true {
            true => Verdict::Paused,
            false => custom::classify(workload, snapshot, ticket, policy, now),
        };
    }
    let Some(rollout) = Rollout::of(&ticket.object.resource, workload) else {
        return Verdict::Done(without_rollout(&ticket.object.resource));
    };
    if workload["spec"]["paused"] == true {
        return Verdict::Paused;
    }
    // Everything in `status` speaks of an older version until this is true.
    if number(&workload["status"]["observedGeneration"]) < generation(workload).max(ticket.generation) {
        return Verdict::Waiting(Waiting::Observed);
    }
    let mut troubles = diagnose(snapshot, ticket, policy, now);
    if let Some(text) = deadline(workload, ticket, now) {
        let object = ticket.object.short();
        troubles.push(Trouble { cause: Cause::Deadline, object, container: None, text, fatal: true });
    }
    let need = policy.require.of(rollout.verifiable, workload);
    if policy.require != Require::Full
        && rollout.want > 0
        && let Some(evidence) = enough(snapshot, ticket, need, rollout.verifiable)
    {
        return Verdict::Done(evidence);
    }
    if is_hopeless(&troubles, rollout.verifiable - need) {
        return Verdict::Failed(troubles);
    }
    if let Some(evidence) = rollout.nothing_to_verify() {
        return evidence.map_or_else(Verdict::Waiting, Verdict::Done);
    }
    match rollout.waiting() {
        Some(waiting) => Verdict::Waiting(waiting),
        None => verify(snapshot, ticket, rollout.verifiable),
    }
}

/// What can be said of kinds that are not watched.
pub(crate) fn without_rollout(resource: &Resource) -> Evidence {
    match resource.kind.as_str() {
        _ if workload::is_custom(resource) => Evidence::Unknown,
        "ReplicaSet" | "ReplicationController" => Evidence::OnDelete,
        _ => Evidence::NoRollout,
    }
}

/// Whether more pods have failed than may.
fn is_hopeless(troubles: &[Trouble], may_fail: i64) -> bool {
    let fatal = || troubles.iter().filter(|trouble| trouble.fatal);
    let pods: BTreeSet<&str> =
        fatal().filter(|trouble| trouble.object.starts_with("pod/")).map(|trouble| trouble.object.as_str()).collect();
    fatal().any(|trouble| !trouble.object.starts_with("pod/"))
        || i64::try_from(pods.len()).unwrap_or(i64::MAX) > may_fail
}

/// Whether so many ready pods as are needed report the right image.
fn enough(snapshot: &Snapshot<'_>, ticket: &Ticket, need: i64, want: i64) -> Option<Evidence> {
    let is_right = |pod: &&&Value| is_ready(pod) && matches!(report(pod, ticket), Report::Right | Report::Unknown);
    let pods = i64::try_from(snapshot.pods.iter().filter(is_right).count()).unwrap_or(i64::MAX);
    (pods >= need && need > 0).then_some(Evidence::Partial { pods, want })
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

/// Whether the version before ran well, by the server's answer to a write: its status is still the old one.
pub(crate) fn was_well(resource: &Resource, answer: &Value) -> bool {
    let is_current = number(&answer["status"]["observedGeneration"]) + 1 >= generation(answer);
    let is_well = |rollout: Rollout| rollout.want > 0 && rollout.waiting().is_none();
    is_current && Rollout::of(resource, answer).is_some_and(is_well)
}

/// Whether the controller has seen everything that an object is to be; true of what has no controller that says so.
pub(crate) fn is_observed(object: &Value) -> bool {
    let observed = &object["status"]["observedGeneration"];
    observed.is_null() || number(observed) >= generation(object)
}

/// Another object of that name, or other images, or (where no image was given) another template.
pub(crate) fn superseded(workload: &Value, ticket: &Ticket) -> Option<String> {
    if workload["metadata"]["uid"] != ticket.uid.as_str() {
        return Some("it was deleted and made anew".into());
    }
    let containers = workload::containers(&ticket.object.resource, workload);
    let image_of = |name: &str| {
        containers.iter().find(|container| container.name == name).map(|container| container.image.as_str())
    };
    let other: Vec<String> = ticket
        .images
        .iter()
        .filter(|(name, image)| image_of(name) != Some(image.as_str()))
        .map(|(name, _)| format!("{name} runs {}", image_of(name).unwrap_or("nothing")))
        .collect();
    if !other.is_empty() {
        return Some(other.join(", "));
    }
    let template_changed =
        ticket.images.is_empty() && workload::fingerprint(&ticket.object.resource, workload) != ticket.template;
    template_changed.then(|| "its pod template was changed".into())
}

/// The deadline of the deployment controller, unless it is that of the rollout before ours: while a
/// Deployment goes back to a template that it had before, the old condition stays, and its old time is
/// counted on. Ours cannot have run out before it is over by our own clock.
pub(crate) fn deadline(workload: &Value, ticket: &Ticket, now: Timestamp) -> Option<String> {
    let condition =
        condition(workload, "Progressing").filter(|condition| condition["reason"] == "ProgressDeadlineExceeded")?;
    let seconds = workload["spec"]["progressDeadlineSeconds"].as_i64().unwrap_or(600);
    let is_early = now.duration_since(ticket.written) <= SignedDuration::from_secs(seconds.saturating_add(1));
    (!(ticket.changed && is_early)).then(|| text(&condition["message"]).to_owned())
}

/// The counts of a rollout, in one shape for all kinds.
struct Rollout {
    /// Pods that are to exist.
    want: i64,
    /// Pods that are to be of the new version: fewer with a partition.
    want_updated: i64,
    updated: i64,
    available: i64,
    total: i64,
    /// Pods of the new version that are to report their image.
    verifiable: i64,
    on_delete: bool,
    /// What zero pods mean.
    empty: Evidence,
}

impl Rollout {
    fn of(resource: &Resource, workload: &Value) -> Option<Rollout> {
        let (spec, status) = (&workload["spec"], &workload["status"]);
        let on_delete = spec["updateStrategy"]["type"] == "OnDelete";
        let replicas = spec["replicas"].as_i64().unwrap_or(1);
        let rollout = match resource.kind.as_str() {
            "Deployment" => Rollout {
                want: replicas,
                want_updated: replicas,
                updated: number(&status["updatedReplicas"]),
                available: number(&status["availableReplicas"]),
                total: number(&status["replicas"]),
                verifiable: replicas,
                on_delete,
                empty: Evidence::NoReplicas,
            },
            "StatefulSet" => {
                let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"]);
                let updated = (replicas - partition).max(0);
                Rollout {
                    want: replicas,
                    want_updated: updated,
                    updated: number(&status["updatedReplicas"]),
                    // Served from 1.22 on; before, ready is the best there is.
                    available: status["availableReplicas"].as_i64().unwrap_or_else(|| number(&status["readyReplicas"])),
                    total: number(&status["replicas"]),
                    verifiable: updated,
                    on_delete,
                    empty: Evidence::NoReplicas,
                }
            }
            "DaemonSet" => {
                let desired = number(&status["desiredNumberScheduled"]);
                Rollout {
                    want: desired,
                    want_updated: desired,
                    updated: number(&status["updatedNumberScheduled"]),
                    available: number(&status["numberAvailable"]),
                    total: desired,
                    verifiable: desired,
                    on_delete,
                    empty: Evidence::NoNodes,
                }
            }
            _ => return None,
        };
        Some(rollout)
    }

    /// Cases in which no new pod will tell us anything.
    fn nothing_to_verify(&self) -> Option<Result<Evidence, Waiting>> {
        if self.on_delete {
            return Some(Ok(Evidence::OnDelete));
        }
        if self.want > 0 {
            return None;
        }
        Some(if self.total > 0 { Err(Waiting::OldPods(self.total)) } else { Ok(self.empty) })
    }

    fn waiting(&self) -> Option<Waiting> {
        let old = self.total - self.want;
        if self.updated < self.want_updated {
            Some(Waiting::Updated { have: self.updated, want: self.want_updated })
        } else if old > 0 {
            Some(Waiting::OldPods(old))
        } else if self.available < self.want {
            Some(Waiting::Available { have: self.available, want: self.want })
        } else {
            None
        }
    }
}

/// Asks the pods themselves.
fn verify(snapshot: &Snapshot<'_>, ticket: &Ticket, want: i64) -> Verdict {
    let mut have = 0;
    let mut comparable = true;
    for pod in snapshot.pods.iter().filter(|pod| is_ready(pod)) {
        match report(pod, ticket) {
            Report::Missing => {}
            Report::Right => have += 1,
            Report::Unknown => {
                have += 1;
                comparable = false;
            }
            Report::Wrong(container, image) => {
                let text = format!("it reports {image}");
                return Verdict::Failed(vec![Trouble {
                    cause: Cause::WrongImage,
                    object: pod_name(pod),
                    container: Some(container),
                    text,
                    fatal: true,
                }]);
            }
        }
    }
    if have < want {
        return Verdict::Waiting(Waiting::Reported { have, want });
    }
    Verdict::Done(if comparable && !ticket.want.is_empty() {
        Evidence::Verified { pods: have }
    } else {
        Evidence::Available { pods: have }
    })
}

/// What a pod says about the images that it runs.
pub(crate) enum Report {
    /// Not yet for every container.
    Missing,
    Right,
    /// Something that is no digest of a manifest.
    Unknown,
    Wrong(String, String),
}

pub(crate) fn report(pod: &Value, ticket: &Ticket) -> Report {
    let mut unknown = false;
    for (container, digests) in &ticket.want {
        let status = container_statuses(pod).find(|status| status["name"] == container.as_str());
        let image = status.map(|status| text(&status["imageID"])).unwrap_or_default();
        if image.is_empty() {
            return Report::Missing;
        }
        match digest(image) {
            Some(digest) if digests.contains(&digest) => {}
            Some(_) if digests.is_empty() => unknown = true,
            Some(_) => return Report::Wrong(container.clone(), image.to_owned()),
            None => unknown = true,
        }
    }
    if unknown { Report::Unknown } else { Report::Right }
}

/// `docker-pullable://repo@sha256:…` and `repo@sha256:…` name a manifest. The repository may be another
/// one with the same content; a bare `sha256:…` is the hash of the config, and says nothing here.
fn digest(image: &str) -> Option<Digest> {
    image.rsplit_once('@')?.1.parse().ok()
}

pub(crate) fn generation(object: &Value) -> i64 {
    number(&object["metadata"]["generation"])
}

pub(crate) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
pub(crate) mod tests;
