//! Tickets: what was asked of a workload, to recognise later whether it came true. A ticket can be kept
//! in a file, so that waiting may go on after the process that wrote it died.

use crate::object::ObjectName;
use crate::plan::{Action, Change};
use crate::verdict;
use crate::workload::{self, text};
use oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One workload that is to become what a plan says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The workload.
    pub object: ObjectName,
    /// Which of all objects of that name.
    pub uid: String,
    /// Its generation after our write.
    pub generation: i64,
    /// Its `resourceVersion` after our write; empty in tickets of old files.
    #[serde(default)]
    pub version: String,
    /// Whether we wrote anything.
    pub changed: bool,
    /// Whether we made the object: there is no version before.
    pub created: bool,
    /// By container: the digests that a pod of the new version may report. Empty if no image was given; a
    /// container without digests runs an image whose digests are not known.
    pub want: BTreeMap<String, Vec<Digest>>,
    /// By container: the image that we wrote.
    pub images: BTreeMap<String, String>,
    /// By container: the image that was there before.
    pub before: BTreeMap<String, String>,
    /// The pod template after our write.
    pub template: Option<Digest>,
    /// By container, of all containers: the images after our write.
    pub running: BTreeMap<String, String>,
    /// Whether the version before ran well when we wrote.
    pub was_well: bool,
    /// By container, of all containers: the images of the last version that was seen to run well; empty if none was.
    pub verified: BTreeMap<String, String>,
    /// When we wrote, by this machine's clock.
    pub written: jiff::Timestamp,
}

/// What became of each object of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// The objects, in order.
    pub objects: Vec<(ObjectName, Change)>,
    /// One for each workload whose rollout can be watched.
    pub tickets: Vec<Ticket>,
}

impl Executed {
    /// The objects that were really written.
    pub fn written(&self) -> impl Iterator<Item = String> {
        let written = self.objects.iter().filter(|(_, change)| *change != Change::Nothing);
        written.map(|(object, _)| object.to_string())
    }
}

impl Ticket {
    /// Makes the ticket of an action from the object as the server answered it; `None` for kinds that roll nothing out.
    pub(crate) fn of(action: &Action, answer: &Value, changed: bool, now: jiff::Timestamp) -> Option<Ticket> {
        workload::pod_spec_pointer(&action.object.resource)?;
        let images = action.images.iter();
        Some(Ticket {
            object: action.object.clone(),
            uid: text(&answer["metadata"]["uid"]).to_owned(),
            generation: answer["metadata"]["generation"].as_i64().unwrap_or_default(),
            version: text(&answer["metadata"]["resourceVersion"]).to_owned(),
            changed,
            created: action.change == Change::Create,
            want: images
                .clone()
                .filter(|image| workload::is_reported(&image.container))
                .map(|image| (image.container.clone(), image.digests.clone()))
                .collect(),
            images: images.clone().map(|image| (image.container.clone(), image.to.clone())).collect(),
            before: images.filter_map(|image| Some((image.container.clone(), image.from.clone()?))).collect(),
            template: workload::fingerprint(&action.object.resource, answer),
            running: running(&action.object, answer),
            was_well: verdict::was_well(&action.object.resource, answer),
            verified: verified(answer),
            written: now,
        })
    }

    /// The command of ours about this workload: `lighter rollout status deployment/web -n demo`.
    pub fn command(&self, verb: &str) -> String {
        let namespace = self.object.namespace.as_deref().unwrap_or("default");
        format!("lighter rollout {verb} {} -n {namespace}", self.object.short())
    }
}

/// The images of all containers, by container.
fn running(name: &ObjectName, object: &Value) -> BTreeMap<String, String> {
    let containers = workload::containers(&name.resource, object).into_iter();
    containers.map(|container| (container.name, container.image)).collect()
}

/// Where a workload says which images were last seen to run well. The images themselves are the value, so
/// that it speaks of no other version: the controller copies annotations to every new ReplicaSet.
pub(crate) const VERIFIED: &str = "lighter.dev/verified";

/// Reads [`VERIFIED`]; empty if it is not there, or not written by us.
pub(crate) fn verified(object: &Value) -> BTreeMap<String, String> {
    serde_json::from_str(text(&object["metadata"]["annotations"][VERIFIED])).unwrap_or_default()
}
