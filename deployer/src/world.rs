//! What the watches have told us so far, and the part of it that concerns one ticket. Pure: time and
//! objects come from outside.

use crate::object::Resource;
use crate::ticket::Ticket;
use crate::verdict::{self, generation};
use crate::workload::{self, text};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a stream of objects is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Workloads of one kind.
    Workload(Resource),
    /// ReplicaSets.
    ReplicaSet,
    /// Pods.
    Pod,
    /// Events of type Warning.
    Event,
}

/// One list-and-watch.
#[derive(Debug)]
struct Stream {
    kind: Kind,
    namespace: String,
    synced: bool,
    objects: BTreeMap<String, Value>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct World {
    streams: Vec<Stream>,
    /// When a container was first seen in a state, and the last words of a pull that failed: kubelets
    /// before 1.28 show them for a moment only and then say just "Back-off pulling image".
    first_seen: BTreeMap<(String, String), Timestamp>,
    pull_errors: BTreeMap<(String, String), String>,
    /// Events that were there when we came, and their versions then. They may speak of earlier deploys;
    /// those that matter still come again. No clocks are compared for this.
    old_events: BTreeMap<String, String>,
}

impl World {
    /// Adds a stream and returns its number.
    pub fn add_stream(&mut self, kind: Kind, namespace: &str) -> usize {
        self.streams.push(Stream { kind, namespace: namespace.to_owned(), synced: false, objects: BTreeMap::new() });
        self.streams.len() - 1
    }

    /// Whether every stream has been listed once.
    pub fn is_complete(&self) -> bool {
        self.streams.iter().all(|stream| stream.synced)
    }

    /// Replaces everything in a stream, after a list.
    pub fn replace(&mut self, stream: usize, objects: Vec<Value>, now: Timestamp) {
        self.streams[stream].objects.clear();
        let is_first = !std::mem::replace(&mut self.streams[stream].synced, true);
        if is_first && self.streams[stream].kind == Kind::Event {
            self.old_events.extend(objects.iter().map(version_of));
        }
        for object in objects {
            self.put(stream, object, now);
        }
    }

    /// Adds or changes an object.
    pub fn put(&mut self, stream: usize, mut object: Value, now: Timestamp) {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields"); // half of the bytes, and nobody here reads it
        }
        match self.streams[stream].kind.clone() {
            Kind::Pod => self.notice_pod(&object, now),
            Kind::ReplicaSet => self.notice_condition(&object, now),
            Kind::Event => drop(self.first_seen.entry((uid_of(&object).to_owned(), "Event".to_owned())).or_insert(now)),
            Kind::Workload(ref resource) if resource.is("", &["Pod"]) => self.notice_pod(&object, now),
            Kind::Workload(_) => {}
        }
        let uid = uid_of(&object).to_owned();
        self.streams[stream].objects.insert(uid, object);
    }

    /// Forgets an object.
    pub fn remove(&mut self, stream: usize, uid: &str) {
        self.streams[stream].objects.remove(uid);
        self.first_seen.retain(|(seen, _), _| seen != uid);
        self.pull_errors.retain(|(seen, _), _| seen != uid);
    }

    fn notice_pod(&mut self, pod: &Value, now: Timestamp) {
        let uid = uid_of(pod);
        for status in container_statuses(pod) {
            let container = text(&status["name"]);
            let waiting = &status["state"]["waiting"];
            let reason = state_of(text(&waiting["reason"]));
            if !reason.is_empty() {
                self.first_seen.entry((uid.to_owned(), format!("{container}/{reason}"))).or_insert(now);
            }
            if waiting["reason"] == "ErrImagePull" {
                self.pull_errors.insert((uid.to_owned(), container.to_owned()), text(&waiting["message"]).to_owned());
            }
            if !status["state"]["running"].is_null() {
                self.first_seen.retain(|(seen, state), _| seen != uid || !state.starts_with(&format!("{container}/")));
            }
        }
    }

    fn notice_condition(&mut self, replica_set: &Value, now: Timestamp) {
        let key = (uid_of(replica_set).to_owned(), "ReplicaFailure".to_owned());
        if condition(replica_set, "ReplicaFailure").is_some_and(|condition| condition["status"] == "True") {
            self.first_seen.entry(key).or_insert(now);
        } else {
            self.first_seen.remove(&key);
        }
    }

    /// A rollout of a workload begins: what events have said of it so far is of the version before.
    pub fn begin(&mut self, ticket: &Ticket) {
        let is_its_own = |event: &&Value| event["involvedObject"]["uid"] == ticket.uid.as_str();
        let events = self.streams.iter().filter(|stream| stream.kind == Kind::Event);
        let events = events.flat_map(|stream| stream.objects.values()).filter(is_its_own);
        self.old_events.extend(events.map(version_of));
    }

    /// Whether what is known of a workload is older than the write that a ticket is of, if it was watched before that.
    /// A list that has not come yet may have been made before the write.
    pub fn is_behind(&self, ticket: &Ticket) -> bool {
        let Some(workload) = self.snapshot(ticket).workload else { return true };
        // Pods have no generation; where versions cannot be told either, those of before run other images.
        uid_of(workload) != ticket.uid
            || is_older(workload, ticket)
                .unwrap_or_else(|| generation(workload) == 0 && verdict::superseded(workload, ticket).is_some())
    }

    /// Whether what is known of a workload is surely older than the write. What has gone is not.
    pub fn is_surely_behind(&self, ticket: &Ticket) -> bool {
        let workload = self.snapshot(ticket).workload.filter(|workload| uid_of(workload) == ticket.uid);
        workload.and_then(|workload| is_older(workload, ticket)).unwrap_or(false)
    }

    /// What concerns one ticket.
    pub fn snapshot(&self, ticket: &Ticket) -> Snapshot<'_> {
        let is_its_kind = |kind: &Kind| matches!(kind, Kind::Workload(resource) if *resource == ticket.object.resource);
        let namespace = ticket.object.namespace.as_deref().unwrap_or_default();
        let workloads = self.objects(namespace, is_its_kind);
        let workload = workloads.into_iter().find(|object| object["metadata"]["name"] == ticket.object.name.as_str());
        let mut snapshot = Snapshot { workload, replica_set: None, pods: Vec::new(), events: Vec::new(), world: self };
        let Some(workload) = workload else { return snapshot };
        let replica_sets = self.objects(namespace, |kind| *kind == Kind::ReplicaSet);
        snapshot.replica_set =
            newest_replica_set(replica_sets.into_iter().filter(|set| is_owned(set, workload)), workload);
        if ticket.object.resource.is("", &["Pod"]) {
            snapshot.pods = vec![workload];
            snapshot.events = self.objects(namespace, |kind| *kind == Kind::Event);
            return snapshot;
        }
        if workload::is_custom(&ticket.object.resource) {
            snapshot.replica_set = None; // it may have several, and its controller speaks for them
            snapshot.pods = self.objects(namespace, |kind| *kind == Kind::Pod);
            snapshot.pods.retain(|pod| self.is_custom_pod(pod, workload, ticket, namespace));
            snapshot.events = self.objects(namespace, |kind| *kind == Kind::Event);
            return snapshot;
        }
        let is_job = ticket.object.resource.is("batch", &["Job"]);
        let is_new: &dyn Fn(&Value) -> bool = match (ticket.object.resource.kind.as_str(), snapshot.replica_set) {
            ("Deployment", Some(replica_set)) => &|pod| is_owned(pod, replica_set),
            ("Deployment", None) => &|_| false,
            _ if is_job => &|pod| is_owned(pod, workload),
            _ => &|pod| is_owned(pod, workload) && is_of_newest_revision(pod, workload),
        };
        let is_living = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
        snapshot.pods = self.objects(namespace, |kind| *kind == Kind::Pod);
        snapshot.pods.retain(|pod| is_living(pod) && is_new(pod));
        snapshot.events = self.objects(namespace, |kind| *kind == Kind::Event);
        snapshot
    }

    /// A living pod that a custom resource owns, itself or through a ReplicaSet, and that is to run one of our images:
    /// what its controller calls the new version is not known here.
    fn is_custom_pod(&self, pod: &Value, workload: &Value, ticket: &Ticket, namespace: &str) -> bool {
        let is_ours = |container: workload::Container| ticket.images.values().any(|image| *image == container.image);
        let is_new = || workload::template_containers(pod).into_iter().any(is_ours);
        let owns = |owner: &Value| is_owned(pod, owner);
        let through = || {
            let sets = self.objects(namespace, |kind| *kind == Kind::ReplicaSet);
            sets.into_iter().any(|set| is_owned(set, workload) && owns(set))
        };
        pod["metadata"]["deletionTimestamp"].is_null() && is_new() && (owns(workload) || through())
    }

    fn objects(&self, namespace: &str, is_wanted: impl Fn(&Kind) -> bool) -> Vec<&Value> {
        let streams = self.streams.iter().filter(|stream| stream.namespace == namespace && is_wanted(&stream.kind));
        streams.flat_map(|stream| stream.objects.values()).collect()
    }
}

/// What is known about one ticket's workload.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The workload; `None` if it does not exist.
    pub workload: Option<&'a Value>,
    /// Of a Deployment: the ReplicaSet of its present template.
    pub replica_set: Option<&'a Value>,
    /// The living pods of the present template, and no others.
    pub pods: Vec<&'a Value>,
    /// All warnings of the namespace.
    pub events: Vec<&'a Value>,
    world: &'a World,
}

impl Snapshot<'_> {
    /// Since when a container of a pod is in a state.
    pub(crate) fn since(&self, uid: &str, state: &str) -> Option<Timestamp> {
        self.world.first_seen.get(&(uid.to_owned(), state.to_owned())).copied()
    }

    /// Whether an event was written after we began to watch.
    pub(crate) fn is_fresh(&self, event: &Value) -> bool {
        let version = self.world.old_events.get(uid_of(event));
        version.is_none_or(|version| event["metadata"]["resourceVersion"] != version.as_str())
    }

    /// What the node last said about a pull that failed.
    pub(crate) fn pull_error(&self, uid: &str, container: &str) -> Option<&str> {
        self.world.pull_errors.get(&(uid.to_owned(), container.to_owned())).map(String::as_str)
    }
}

/// Which event, and which version of it.
/// Whether a state of a workload is older than a write of ours; unknown where the server numbers neither what is wished
/// nor its versions. Versions of one resource are decimal numbers that grow (KEP-5504).
fn is_older(workload: &Value, ticket: &Ticket) -> Option<bool> {
    if generation(workload) > 0 {
        return Some(generation(workload) < ticket.generation);
    }
    let seen: u128 = text(&workload["metadata"]["resourceVersion"]).parse().ok()?;
    Some(seen < ticket.version.parse().ok()?)
}

fn version_of(event: &Value) -> (String, String) {
    (uid_of(event).to_owned(), text(&event["metadata"]["resourceVersion"]).to_owned())
}

pub(crate) fn uid_of(object: &Value) -> &str {
    text(&object["metadata"]["uid"])
}

/// `ErrImagePull` and `ImagePullBackOff` alternate, and are one state.
pub(crate) fn state_of(reason: &str) -> &str {
    if reason == "ImagePullBackOff" { "ErrImagePull" } else { reason }
}

/// The statuses of all containers of a pod, init containers first: they fail first.
pub(crate) fn container_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let list = |field: &str| pod["status"][field].as_array().into_iter().flatten();
    list("initContainerStatuses").chain(list("containerStatuses"))
}

/// The condition of this type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether `owner` is the controller of an object.
pub(crate) fn is_owned(object: &Value, owner: &Value) -> bool {
    let mut owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.any(|reference| reference["controller"] == true && reference["uid"] == owner["metadata"]["uid"])
}

/// The ReplicaSet whose template is the Deployment's, as the deployment controller finds it: not by age
/// or revision, since an undo brings an old one back. Of several equal ones the oldest counts.
fn newest_replica_set<'a>(all: impl Iterator<Item = &'a Value>, deployment: &Value) -> Option<&'a Value> {
    let wanted = &deployment["spec"]["template"];
    all.filter(|replica_set| {
        let mut template = replica_set["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        template == *wanted
    })
    .min_by_key(|replica_set| text(&replica_set["metadata"]["creationTimestamp"]))
}

/// StatefulSets mark their pods with the revision's hash, DaemonSets with the template's generation.
fn is_of_newest_revision(pod: &Value, workload: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    if let Some(revision) = workload["status"]["updateRevision"].as_str() {
        return labels["controller-revision-hash"] == revision;
    }
    let generation = &workload["metadata"]["annotations"]["deprecated.daemonset.template.generation"];
    match generation.as_str() {
        Some(generation) => labels["pod-template-generation"] == generation,
        None => runs_the_same_images(pod, workload),
    }
}

fn runs_the_same_images(pod: &Value, workload: &Value) -> bool {
    let images = |spec: &Value| -> Vec<String> {
        workload::List::CONTAINERS
            .iter()
            .flat_map(|list| spec[list.field()].as_array().into_iter().flatten())
            .map(|container| text(&container["image"]).to_owned())
            .collect()
    };
    images(&pod["spec"]) == images(&workload["spec"]["template"]["spec"])
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
