//! Why a rollout does not get on: what pods, ReplicaSets and events of the new version complain about,
//! in the words of who knows, and whether waiting can help. Pure; only pods of the new version count.

use crate::custom;
use crate::redact::redact;
use crate::ticket::Ticket;
use crate::verdict::is_ready;
use crate::watch::Policy;
use crate::workload::{self, text};
use crate::world::{Snapshot, condition, container_statuses, state_of, uid_of};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Longest text of a trouble, in characters.
const TEXT_LIMIT: usize = 2000;

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The image's name is none.
    ImageName,
    /// The registry does not have the image.
    ImageMissing,
    /// The registry does not let the node have the image.
    ImageDenied,
    /// The image is not built for the node.
    ImagePlatform,
    /// The image must be on the node already (`imagePullPolicy: Never`), and is not.
    ImageNeverPulled,
    /// The image cannot be pulled for another reason: the network, TLS, a registry that is down.
    ImagePull,
    /// A Secret or ConfigMap is missing, or a key of one.
    Config,
    /// The container cannot be made or started.
    Start,
    /// The container starts and ends again and again.
    Crash,
    /// The container needs more memory than it may have.
    Memory,
    /// A Job gave up.
    Job,
    /// The controller of a custom kind gave up.
    Stalled,
    /// The controller of a custom kind says that it is not ready.
    NotReady,
    /// A volume cannot be mounted.
    Mount,
    /// The container runs, and its probe says that it is not well.
    Unready,
    /// No node takes the pod.
    Unschedulable,
    /// A quota lets no pod be made.
    Quota,
    /// The server refuses to make pods: admission, security policy, limits.
    Refused,
    /// The pod was ended by its node.
    Evicted,
    /// The Deployment's own deadline is over.
    Deadline,
    /// A pod runs another image than the one that was asked for.
    WrongImage,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::ImageName => "the image's name is invalid",
            Cause::ImageMissing => "the image does not exist in the registry",
            Cause::ImageDenied => "the registry refuses the node",
            Cause::ImagePlatform => "the image is not built for the node",
            Cause::ImageNeverPulled => "the image is not on the node, and may not be pulled",
            Cause::ImagePull => "the image cannot be pulled",
            Cause::Config => "its configuration is incomplete",
            Cause::Start => "the container cannot start",
            Cause::Crash => "the container ends again and again",
            Cause::Memory => "the container ran out of memory",
            Cause::Job => "the job gave up",
            Cause::Stalled => "its controller gave up",
            Cause::NotReady => "its controller says that it is not ready",
            Cause::Mount => "a volume cannot be mounted",
            Cause::Unready => "it runs, and its probe fails",
            Cause::Unschedulable => "no node takes the pod",
            Cause::Quota => "the quota is used up",
            Cause::Refused => "the cluster refuses to make the pod",
            Cause::Evicted => "the node ended the pod",
            Cause::Deadline => "the deployment's progress deadline is over",
            Cause::WrongImage => "a pod runs another image",
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What kind it is.
    pub cause: Cause,
    /// The pod or other object that has it: `pod/web-5d8c-x7`.
    pub object: String,
    /// The container that has it.
    pub container: Option<String>,
    /// The words of the node, scheduler or server.
    pub text: String,
    /// Whether it is time to give up: waiting is not expected to help.
    pub fatal: bool,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if let Some(container) = &self.container {
            write!(f, ", container {container}")?;
        }
        write!(f, ": {}", self.cause)?;
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

/// Finds what is wrong with the new version now; the worst first.
pub fn diagnose(snapshot: &Snapshot<'_>, ticket: &Ticket, policy: &Policy, now: Timestamp) -> Vec<Trouble> {
    let look = Look { snapshot, policy, now };
    let mut troubles: Vec<Trouble> = snapshot.pods.iter().flat_map(|pod| look.pod(pod)).collect();
    troubles.extend(look.refused_replica_set());
    troubles.extend(look.refused_by_event(ticket));
    if workload::is_custom(&ticket.object.resource) {
        troubles.extend(custom::complaint(snapshot, ticket));
    }
    troubles.sort_by_key(|trouble| (!trouble.fatal, trouble.cause));
    troubles
}

struct Look<'a> {
    snapshot: &'a Snapshot<'a>,
    policy: &'a Policy,
    now: Timestamp,
}

impl Look<'_> {
    fn pod(&self, pod: &Value) -> Vec<Trouble> {
        let mut troubles: Vec<Trouble> =
            container_statuses(pod).filter_map(|status| self.container(pod, status)).collect();
        let scheduled = condition(pod, "PodScheduled");
        if let Some(condition) =
            scheduled.filter(|condition| condition["status"] == "False" && condition["reason"] == "Unschedulable")
        {
            // An autoscaler may be adding a node, so this alone is no reason to give up.
            troubles.push(trouble(Cause::Unschedulable, &pod_name(pod), None, text(&condition["message"]), false));
        }
        if !is_ready(pod) {
            troubles.extend(self.pod_events(pod));
        }
        if pod["status"]["phase"] == "Failed" {
            let words = format!("{} {}", text(&pod["status"]["reason"]), text(&pod["status"]["message"]));
            troubles.push(trouble(Cause::Evicted, &pod_name(pod), None, words.trim(), false));
        }
        troubles
    }

    fn container(&self, pod: &Value, status: &Value) -> Option<Trouble> {
        let name = text(&status["name"]);
        let waiting = &status["state"]["waiting"];
        let reason = text(&waiting["reason"]);
        let message = text(&waiting["message"]);
        let is_old = |patience: Duration| self.is_old(pod, &format!("{name}/{}", state_of(reason)), patience);
        let found = |cause, words: &str, fatal| Some(trouble(cause, &pod_name(pod), Some(name), words, fatal));
        match reason {
            "InvalidImageName" => found(Cause::ImageName, message, true),
            "ErrImageNeverPull" => found(Cause::ImageNeverPulled, message, true),
            "ErrImagePull"
            | "ImagePullBackOff"
            | "RegistryUnavailable"
            | "ImageInspectError"
            | "SignatureValidationFailed" => {
                let words = self.pull_error(pod, name).unwrap_or_else(|| message.to_owned());
                let cause = pull_cause(&words);
                let final_cause = cause != Cause::ImagePull || reason == "SignatureValidationFailed";
                found(cause, &words, final_cause || is_old(self.policy.pull_patience))
            }
            "CreateContainerConfigError" => found(Cause::Config, message, is_old(self.policy.config_patience)),
            "CreateContainerError" | "RunContainerError" | "PostStartHookError" | "PreCreateHookError" => {
                found(Cause::Start, &format!("{reason}: {message}"), is_old(self.policy.pull_patience))
            }
            "CrashLoopBackOff" => self.crash(pod, status, name),
            _ if !status["state"]["terminated"].is_null() => self.crash(pod, status, name),
            _ if status["restartCount"].as_i64() >= Some(1) && status["ready"] != true => self.crash(pod, status, name),
            _ => None,
        }
    }

    /// What only events say of a pod that is not well: mounts, sandboxes, probes. The last of each kind.
    fn pod_events(&self, pod: &Value) -> Vec<Trouble> {
        let of_pod = |event: &&&Value| event["involvedObject"]["uid"] == pod["metadata"]["uid"];
        let mut last: BTreeMap<&str, &Value> = BTreeMap::new();
        for event in self.snapshot.events.iter().filter(of_pod) {
            let newer = |other: &&Value| seen_at(other) <= seen_at(event);
            if last.get(text(&event["reason"])).is_none_or(newer) {
                last.insert(text(&event["reason"]), event);
            }
        }
        let told = |(reason, event): (&str, &Value)| {
            let message = text(&event["message"]);
            let is_missing =
                message.contains("not found") && (message.contains("secret \"") || message.contains("configmap \""));
            let (cause, fatal) = match reason {
                "FailedMount" if is_missing => {
                    (Cause::Config, self.is_old(event, "Event", self.policy.config_patience))
                }
                "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => (Cause::Mount, false),
                "FailedCreatePodSandBox" => (Cause::Start, false),
                "Unhealthy" => (Cause::Unready, false),
                _ => return None,
            };
            Some(trouble(cause, &pod_name(pod), container_of(event), message, fatal))
        };
        last.into_iter().filter_map(told).collect()
    }

    fn crash(&self, pod: &Value, status: &Value, name: &str) -> Option<Trouble> {
        let now = &status["state"]["terminated"];
        let end = if now.is_null() { &status["lastState"]["terminated"] } else { now };
        let code = end["exitCode"].as_i64()?;
        let reason = text(&end["reason"]);
        let is_done = code == 0 && !now.is_null(); // an init container that did its work
        if is_done {
            return None;
        }
        let restarts = status["restartCount"].as_i64().unwrap_or_default();
        let cause = match reason {
            "OOMKilled" => Cause::Memory,
            "StartError" | "ContainerCannotRun" => Cause::Start,
            _ => Cause::Crash,
        };
        let message = text(&end["message"]).trim();
        let detail = if message.is_empty() { String::new() } else { format!(": {message}") };
        let words = format!("exit code {code} ({reason}), restarted {restarts} times{detail}");
        // A container that runs again may be well by now, however often it ended months ago.
        let is_running = !status["state"]["running"].is_null();
        let fatal = !is_running && restarts >= i64::from(self.policy.restarts);
        Some(trouble(cause, &pod_name(pod), Some(name), &words, fatal))
    }

    /// What the node said when it last tried; later it only says that it waits.
    fn pull_error(&self, pod: &Value, container: &str) -> Option<String> {
        let uid = uid_of(pod);
        if let Some(words) = self.snapshot.pull_error(uid, container) {
            return Some(words.to_owned());
        }
        let mut events = self.snapshot.events.iter().rev().filter(|event| event["involvedObject"]["uid"] == uid);
        let event = events.find(|event| text(&event["message"]).starts_with("Failed to pull image"))?;
        Some(text(&event["message"]).to_owned())
    }

    /// The deployment controller could not make a pod.
    fn refused_replica_set(&self) -> Option<Trouble> {
        let replica_set = self.snapshot.replica_set?;
        let condition = condition(replica_set, "ReplicaFailure").filter(|condition| condition["status"] == "True")?;
        let name = format!("replicaset/{}", text(&replica_set["metadata"]["name"]));
        let is_old = self.is_old(replica_set, "ReplicaFailure", self.policy.refusal_patience);
        Some(refusal(&name, text(&condition["message"]), is_old))
    }

    /// StatefulSets and DaemonSets say it in events only, and events of earlier deploys lie about for an hour.
    fn refused_by_event(&self, ticket: &Ticket) -> Option<Trouble> {
        let workload = self.snapshot.workload?;
        let mut events = self.snapshot.events.iter().filter(|event| {
            event["involvedObject"]["uid"] == workload["metadata"]["uid"] && text(&event["reason"]) == "FailedCreate"
        });
        let event = events.find(|event| self.snapshot.is_fresh(event))?;
        let is_old = self.is_old(event, "Event", self.policy.refusal_patience);
        Some(refusal(&ticket.object.short(), text(&event["message"]), is_old))
    }

    fn is_old(&self, object: &Value, state: &str, patience: Duration) -> bool {
        let since = self.snapshot.since(uid_of(object), state);
        since.is_some_and(|since| is_past(since, patience, self.now))
    }
}

/// Events without a last time, of newer writers, have the time that they were made.
fn seen_at(event: &Value) -> &str {
    let times = [&event["lastTimestamp"], &event["series"]["lastObservedTime"], &event["eventTime"]];
    times.into_iter().find_map(Value::as_str).unwrap_or_default()
}

/// `spec.containers{web}`
fn container_of(event: &Value) -> Option<&str> {
    text(&event["involvedObject"]["fieldPath"]).split_once('{')?.1.strip_suffix('}')
}

/// A quota may be freed by the old pods that go; other refusals stay what they are.
fn refusal(object: &str, message: &str, is_old: bool) -> Trouble {
    let is_quota = message.contains("exceeded quota");
    let cause = if is_quota { Cause::Quota } else { Cause::Refused };
    trouble(cause, object, None, message, is_old && !is_quota)
}

pub(crate) fn trouble(cause: Cause, object: &str, container: Option<&str>, words: &str, fatal: bool) -> Trouble {
    let text: String = redact(words.trim()).chars().take(TEXT_LIMIT).collect();
    Trouble { cause, object: object.to_owned(), container: container.map(str::to_owned), text, fatal }
}

pub(crate) fn pod_name(pod: &Value) -> String {
    format!("pod/{}", text(&pod["metadata"]["name"]))
}

fn is_past(since: Timestamp, patience: Duration, now: Timestamp) -> bool {
    now.duration_since(since) >= SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX)
}

/// Reads a runtime's or registry's words. Only what no retry can help is told apart from the rest.
fn pull_cause(words: &str) -> Cause {
    let words = words.to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| words.contains(phrase));
    if says(&[
        "no such host",
        "i/o timeout",
        "connection refused",
        "tls handshake",
        "server misbehaving",
        "too many requests",
    ]) {
        Cause::ImagePull
    } else if says(&["no match for platform", "no matching manifest", "does not match the specified platform"]) {
        Cause::ImagePlatform
    } else if says(&[
        "unauthorized",
        "authorization failed",
        "authentication required",
        "access denied",
        "forbidden",
        "no basic auth",
        "insufficient_scope",
        "anonymous token",
    ]) {
        Cause::ImageDenied
    } else if says(&[
        "not found",
        "manifest unknown",
        "name unknown",
        "name_unknown",
        "manifest_unknown",
        "does not exist",
    ]) {
        Cause::ImageMissing
    } else {
        Cause::ImagePull
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_runtimes_are_understood() {
        for (words, cause) in [
            (
                "rpc error: code = NotFound desc = failed to pull and unpack image \"r/app@sha256:1\": failed to resolve reference: r/app@sha256:1: not found",
                Cause::ImageMissing,
            ),
            ("manifest for r/app:9 not found: manifest unknown: manifest unknown", Cause::ImageMissing),
            ("failed with status code [manifests a1]: 401 Unauthorized", Cause::ImageDenied),
            ("pull access denied for app, repository does not exist or may require 'docker login'", Cause::ImageDenied),
            ("failed to fetch anonymous token: unexpected status: 401 Unauthorized", Cause::ImageDenied),
            ("no match for platform in manifest sha256:1: not found", Cause::ImagePlatform),
            ("dial tcp: lookup registry on 10.0.0.10:53: no such host", Cause::ImagePull),
            ("dial tcp 127.0.0.1:5000: connect: connection refused", Cause::ImagePull),
            ("http: server gave HTTP response to HTTPS client", Cause::ImagePull),
            ("", Cause::ImagePull),
        ] {
            assert_eq!(pull_cause(words), cause, "{words}");
        }
    }
}
