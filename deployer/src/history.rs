//! The versions that a workload has had: which ran well, and going back to one of them by hand. A
//! revision is a whole pod template, not the image alone; who only wants the image deploys it.

use crate::api::Patch;
use crate::body::images_body;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::image::{CHANGE_CAUSE, OUR_ANNOTATIONS};
use crate::object::{ObjectName, Resource};
use crate::plan::{Action, Change, ImageChange, Live};
use crate::ticket::{Ticket, VERIFIED, verified};
use crate::undo::{ATTEMPT_PAUSE, ATTEMPTS};
use crate::workload::{Container, template_containers, text};
use crate::world::is_owned;
use crate::{Target, workload};
use jiff::Timestamp;
use oci::Digest;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Where the deployment controller counts.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// The versions of one workload that the cluster still knows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct History {
    /// The workload.
    pub object: ObjectName,
    /// Its `metadata.uid`.
    pub uid: String,
    /// The oldest first.
    pub revisions: Vec<Revision>,
}

/// One version of a workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Revision {
    /// The controller's number for it; going back to a version gives it a new number.
    pub number: i64,
    /// By container: the images.
    pub images: BTreeMap<String, String>,
    /// Why it was made, where somebody said so.
    pub change_cause: Option<String>,
    /// Whether we saw it run well.
    pub verified: bool,
    /// Whether it is the one that is to run now.
    pub current: bool,
    #[serde(skip)]
    template: Value,
    /// What we wrote about it: commit, pipeline.
    #[serde(skip)]
    facts: BTreeMap<String, String>,
}

/// Which version to go back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The newest that was seen to run well and is not the present one.
    LastGood,
    /// The one with this number.
    Revision(i64),
    /// The newest that runs this image.
    Digest(Digest),
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Goal, String> {
        if text == "last-good" {
            return Ok(Goal::LastGood);
        }
        let number = text.parse().ok().filter(|number| *number > 0).map(Goal::Revision);
        let digest = || text.parse().ok().map(Goal::Digest);
        number
            .or_else(digest)
            .ok_or_else(|| format!("{text:?} is no version; write last-good, the number of a revision, or sha256:…"))
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::LastGood => f.write_str("that was seen to run well, beside the present one"),
            Goal::Revision(number) => write!(f, "with the number {number}"),
            Goal::Digest(digest) => write!(f, "with the image {digest}"),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let images: Vec<String> = self.images.iter().map(|(name, image)| format!("{name}: {image}")).collect();
        let marks = [(self.current, "current"), (self.verified, "ran well")];
        let marks: Vec<&str> = marks.into_iter().filter(|(is_so, _)| *is_so).map(|(_, mark)| mark).collect();
        write!(f, "{}\t{}\t{}", self.number, marks.join(", "), images.join(", "))?;
        match &self.change_cause {
            // One line each, whatever somebody wrote there.
            Some(cause) => write!(f, "\t{}", cause.replace(char::is_control, " ")),
            None => f.write_str("\t"),
        }
    }
}

impl History {
    /// Finds a version.
    ///
    /// # Errors
    ///
    /// Fails if there is none like that; the error lists those that there are.
    pub fn find(&self, goal: &Goal) -> Result<&Revision, Error> {
        let is_it = |revision: &&Revision| match goal {
            Goal::LastGood => revision.verified && !revision.current,
            Goal::Revision(number) => revision.number == *number,
            Goal::Digest(digest) => {
                let end = format!("@{digest}");
                revision.images.values().any(|image| image.ends_with(&end))
            }
        };
        self.revisions.iter().rev().find(is_it).ok_or_else(|| Error::NoRevision {
            object: Box::new(self.object.clone()),
            goal: goal.to_string(),
            known: self.revisions.iter().map(|revision| revision.to_string().replace('\t', "  ")).collect(),
        })
    }
}

/// Reads the versions from what the controllers keep: ReplicaSets of a Deployment, ControllerRevisions of others.
fn revisions(name: &ObjectName, workload: &Value, kept: &[Value]) -> Vec<Revision> {
    let owned = kept.iter().filter(|object| is_owned(object, workload));
    let mut revisions: Vec<Revision> = match name.resource.kind.as_str() {
        "Deployment" => owned.map(|replica_set| of_replica_set(replica_set, workload)).collect(),
        _ => owned.map(|kept| of_controller_revision(kept, workload)).collect(),
    };
    revisions.sort_by_key(|revision| revision.number);
    if name.resource.kind == "DaemonSet"
        && let Some(newest) = revisions.last_mut()
    {
        newest.current = true;
    }
    let well = verified(workload);
    for revision in revisions.iter_mut().filter(|revision| !well.is_empty() && revision.images == well) {
        revision.verified = true;
    }
    revisions
}

fn of_replica_set(replica_set: &Value, deployment: &Value) -> Revision {
    let mut template = replica_set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    let annotations = &replica_set["metadata"]["annotations"];
    let number = text(&annotations[REVISION]).parse().unwrap_or_default();
    let current = template == deployment["spec"]["template"];
    let revision = revision(number, template, annotations, current);
    // Every ReplicaSet carries what was known when it was made: only the same images speak of itself.
    let well = verified(replica_set);
    Revision { verified: !well.is_empty() && well == revision.images, ..revision }
}

fn of_controller_revision(kept: &Value, workload: &Value) -> Revision {
    let mut template = kept["data"]["spec"]["template"].clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    let current = workload["status"]["updateRevision"].as_str().is_some_and(|name| kept["metadata"]["name"] == name);
    revision(kept["revision"].as_i64().unwrap_or_default(), template, &kept["metadata"]["annotations"], current)
}

/// Nobody keeps versions of a custom kind. What is known is what we noted on it: the images that were seen to run well.
fn of_custom(resource: &Resource, live: &Value) -> Vec<Revision> {
    let containers = workload::containers(resource, live).into_iter();
    let running: BTreeMap<String, String> = containers.map(|container| (container.name, container.image)).collect();
    let well = verified(live);
    let mut current = revision(1, Value::Null, &live["metadata"]["annotations"], true);
    let is_known = |(name, image): (&String, &String)| running.get(name).is_some_and(|now| now != image);
    let before = well.iter().any(is_known).then(|| {
        let images = running.keys().filter_map(|name| Some((name.clone(), well.get(name)?.clone()))).collect();
        let none = revision(1, Value::Null, &Value::Null, false);
        Revision { images, verified: true, ..none }
    });
    current.number += i64::from(before.is_some());
    (current.verified, current.images) = (well == running, running);
    before.into_iter().chain([current]).collect()
}

/// Its controller has the rest of the object from somebody else: only images go back.
fn custom_body(object: &ObjectName, live: &Value, revision: &Revision) -> Value {
    let live = Live { name: object.clone(), object: live.clone() };
    let containers = workload::containers(&object.resource, &live.object);
    let images: Vec<(&Container, &str)> = containers
        .iter()
        .filter_map(|container| Some((container, revision.images.get(&container.name)?.as_str())))
        .collect();
    let mut body = images_body(&live, &images);
    let there = live.object["metadata"]["annotations"].as_object().into_iter().flatten().map(|(key, _)| key);
    let mut annotations: Map<String, Value> = there
        .filter(|key| key.starts_with(OUR_ANNOTATIONS) && *key != VERIFIED)
        .map(|key| (key.clone(), Value::Null))
        .collect();
    annotations.insert(CHANGE_CAUSE.to_owned(), json!(format!("back to revision {}", revision.number)));
    body["metadata"]["annotations"] = Value::Object(annotations);
    body
}

fn revision(number: i64, template: Value, annotations: &Value, current: bool) -> Revision {
    let images =
        template_containers(&template).into_iter().map(|container| (container.name, container.image)).collect();
    let annotations = || annotations.as_object().into_iter().flatten();
    let facts = annotations().filter(|(key, _)| key.starts_with(OUR_ANNOTATIONS) && *key != VERIFIED);
    Revision {
        number,
        images,
        change_cause: annotations().find(|(key, _)| *key == CHANGE_CAUSE).map(|(_, cause)| text(cause).to_owned()),
        verified: false,
        current,
        facts: facts.map(|(key, value)| (key.clone(), text(value).to_owned())).collect(),
        template,
    }
}

/// The JSON patch that makes a version the present one. The resource version makes the server refuse it if
/// anybody wrote in between, so that no write is lost; annotations of others stay.
fn body(object: &Value, revision: &Revision) -> Value {
    let mut operations = vec![
        json!({"op": "replace", "path": "/metadata/resourceVersion", "value": object["metadata"]["resourceVersion"]}),
        json!({"op": "replace", "path": "/spec/template", "value": revision.template}),
    ];
    let annotations = object["metadata"]["annotations"].as_object();
    if annotations.is_none() {
        operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
    }
    let there = annotations.into_iter().flatten().map(|(key, _)| key);
    let untrue = there.filter(|key| key.starts_with(OUR_ANNOTATIONS) && *key != VERIFIED);
    operations.extend(untrue.map(|key| json!({"op": "remove", "path": pointer(key)})));
    let cause = revision.change_cause.clone().unwrap_or_else(|| format!("back to revision {}", revision.number));
    let facts = revision.facts.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let wanted = facts.chain([(CHANGE_CAUSE, cause.as_str())]);
    operations.extend(wanted.map(|(key, value)| json!({"op": "add", "path": pointer(key), "value": value})));
    Value::Array(operations)
}

fn pointer(annotation: &str) -> String {
    format!("/metadata/annotations/{}", annotation.replace('~', "~0").replace('/', "~1"))
}

impl Cluster {
    /// The versions of a workload.
    ///
    /// # Errors
    ///
    /// Fails if it does not exist, or is of a kind that keeps no versions.
    pub async fn history(&self, target: &Target) -> Result<History, Error> {
        let (object, live) = self.live(target).await?;
        let resource = &object.resource;
        let kept = match (resource.group.as_str(), resource.kind.as_str()) {
            ("apps", "Deployment") => ("ReplicaSet", "replicasets"),
            ("apps", "StatefulSet" | "DaemonSet") => ("ControllerRevision", "controllerrevisions"),
            _ if workload::is_custom(resource) && !workload::containers(resource, &live).is_empty() => {
                let revisions = of_custom(resource, &live);
                return Ok(History { uid: text(&live["metadata"]["uid"]).to_owned(), object, revisions });
            }
            _ => return Err(Error::Unfit { object: Box::new(object), what: "keeps no versions".into() }),
        };
        let kept = Resource { kind: kept.0.into(), plural: kept.1.into(), ..resource.clone() };
        let kept = self.api.list(&kept, object.namespace.as_deref()).await?;
        let revisions = revisions(&object, &live, &kept);
        Ok(History { uid: text(&live["metadata"]["uid"]).to_owned(), object, revisions })
    }

    /// Makes a version the present one; nothing is written if it is already. Watch the ticket to see it come true.
    ///
    /// # Errors
    ///
    /// Fails if the workload is another one meanwhile, or the server refuses.
    pub async fn go_to(&self, history: &History, revision: &Revision) -> Result<Ticket, Error> {
        let object = &history.object;
        let changed = || Error::Changed { object: object.clone().into(), message: "it was deleted".into() };
        let mut attempts = 1;
        loop {
            let live = self.api.get(object).await?.ok_or_else(changed)?;
            if live["metadata"]["uid"] != history.uid.as_str() {
                return Err(changed());
            }
            let ticket = |answer: &Value, changed: bool| {
                let action = going(object, &live, revision);
                let unfit = || Error::Unfit { object: object.clone().into(), what: "has no pods".into() };
                Ticket::of(&action, answer, changed, Timestamp::now()).ok_or_else(unfit)
            };
            if revision.current {
                return ticket(&live, false);
            }
            let (kind, body) = match workload::is_custom(&object.resource) {
                true => (Patch::Plain, custom_body(object, &live, revision)),
                false => (Patch::Json, body(&live, revision)),
            };
            match self.api.patch(object, kind, &body, false).await {
                Err(Error::Changed { .. }) if attempts < ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(ATTEMPT_PAUSE).await;
                }
                answer => return ticket(&answer?, true),
            }
        }
    }
}

/// The change as an action, of which a ticket can be made; see [`crate::undo`] for why digests are not known.
fn going(object: &ObjectName, live: &Value, revision: &Revision) -> Action {
    let running = workload::containers(&object.resource, live);
    let from =
        |name: &String| running.iter().find(|container| container.name == *name).map(|found| found.image.clone());
    let change = |(container, to): (&String, &String)| ImageChange {
        container: container.clone(),
        from: from(container),
        to: to.clone(),
        digests: Vec::new(),
    };
    Action::written(object.clone(), Change::Update, revision.images.iter().map(change).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::resource;

    fn template(image: &str) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image}]}})
    }

    fn owned(image: &str, number: &str, well: Option<&str>) -> Value {
        let mut template = template(image);
        template["metadata"]["labels"]["pod-template-hash"] = json!("abc");
        let mut annotations =
            json!({REVISION: number, CHANGE_CAUSE: format!("made {image}"), "lighter.dev/commit": image});
        if let Some(well) = well {
            annotations[VERIFIED] = json!(json!({"web": well}).to_string());
        }
        json!({"metadata": {"annotations": annotations, "ownerReferences": [{"controller": true, "uid": "u"}]}, "spec": {"template": template}})
    }

    fn deployment(image: &str) -> Value {
        json!({"metadata": {"uid": "u", "resourceVersion": "7", "annotations": {"lighter.dev/commit": "bad", "theirs/x": "y"}}, "spec": {"template": template(image)}})
    }

    fn history(kept: &[Value]) -> History {
        let object = ObjectName::new(resource("apps", "Deployment"), "demo", "web");
        let revisions = revisions(&object, &deployment("web:3"), kept);
        History { object, uid: "u".into(), revisions }
    }

    /// The second bad version in a row; `kubectl rollout undo` goes to the first one.
    #[test]
    fn the_last_good_version_is_one_that_was_seen_to_run_well() {
        let mut strange = owned("web:9", "9", Some("web:9"));
        strange["metadata"]["ownerReferences"][0]["uid"] = json!("another");
        // The controller copies the annotation of version 1 to every later ReplicaSet.
        let kept = [
            owned("web:3", "3", Some("web:1")),
            strange,
            owned("web:2", "2", Some("web:1")),
            owned("web:1", "1", Some("web:1")),
        ];
        let history = history(&kept);
        let marks: Vec<_> = history.revisions.iter().map(|one| (one.number, one.verified, one.current)).collect();
        assert_eq!(marks, [(1, true, false), (2, false, false), (3, false, true)]);
        assert_eq!(history.find(&Goal::LastGood).unwrap().number, 1);
        assert_eq!(history.find(&Goal::Revision(2)).unwrap().images["web"], "web:2");
        assert_eq!(history.revisions[0].to_string(), "1\tran well\tweb: web:1\tmade web:1");
        let error = history.find(&Goal::Revision(9)).unwrap_err().to_string();
        assert!(error.contains("number 9") && error.contains("2    web: web:2"), "{error}");
    }

    #[test]
    fn what_no_longer_is_true_goes_and_annotations_of_others_stay() {
        let history = history(&[owned("web:1", "1", None)]);
        let body = body(&deployment("web:3"), &history.revisions[0]);
        assert_eq!(
            body,
            json!([
                {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "replace", "path": "/spec/template", "value": template("web:1")},
                {"op": "remove", "path": "/metadata/annotations/lighter.dev~1commit"},
                {"op": "add", "path": "/metadata/annotations/lighter.dev~1commit", "value": "web:1"},
                {"op": "add", "path": "/metadata/annotations/kubernetes.io~1change-cause", "value": "made web:1"},
            ])
        );
    }

    #[test]
    fn goals_are_read() {
        let digest = Digest::of(b"x");
        assert_eq!("last-good".parse(), Ok(Goal::LastGood));
        assert_eq!("3".parse(), Ok(Goal::Revision(3)));
        assert_eq!(digest.to_string().parse(), Ok(Goal::Digest(digest)));
        for bad in ["", "0", "-1", "last", "sha256:12"] {
            assert!(bad.parse::<Goal>().is_err(), "{bad}");
        }
    }
}
