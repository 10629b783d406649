//! The way back after a rollout that failed: which images go back, and what became of it. Only images that
//! we changed are put back, and only while they are still ours; what else a manifest changed stays.

use crate::api::Patch;
use crate::body::{images_body, images_patch};
use crate::cluster::Cluster;
use crate::error::{Class, Error};
use crate::image::{CHANGE_CAUSE, Image, OUR_ANNOTATIONS};
use crate::object::ObjectName;
use crate::outcome::{End, Outcome, TargetOutcome};
use crate::plan::{Action, Change, ImageChange, Live};
use crate::preflight::{Pullable, Registry};
use crate::ticket::{Ticket, VERIFIED};
use crate::watch::{self, Event, Policy};
use crate::workload::{self, Container};
use futures_util::future::join_all;
use jiff::Timestamp;
use oci::Pinned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// How often a write is planned anew because somebody else, mostly a controller, wrote in between.
pub(crate) const ATTEMPTS: usize = 10;
/// Pause between two such attempts.
pub(crate) const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);

/// What became of an undo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// One for each target that we had written, the last written first.
    pub targets: Vec<UndoneTarget>,
}

/// What became of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoneTarget {
    /// The target.
    pub object: ObjectName,
    /// What became of it.
    pub back: Back,
}

/// What became of one target's way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "back")]
pub enum Back {
    /// The images were put back.
    Restored {
        /// By container: the images.
        images: BTreeMap<String, String>,
        /// Whether they run well; boxed, since it is by far the largest of all.
        end: Box<End>,
    },
    /// Something else than ours is there: nothing is put back.
    Superseded {
        /// What is there.
        by: String,
    },
    /// There is nothing to put back.
    Left {
        /// Why.
        why: String,
    },
    /// It could not be done.
    Failed {
        /// Why.
        why: String,
    },
}

impl Undone {
    /// What it means for who ran us: the worst of all targets.
    pub fn class(&self) -> Class {
        let rank = |class: &Class| match class {
            Class::Superseded => 0,
            Class::RolledBack => 1,
            Class::Failed => 2,
            _ => 3,
        };
        self.targets.iter().map(|target| target.back.class()).max_by_key(rank).unwrap_or(Class::Failed)
    }
}

impl Back {
    fn class(&self) -> Class {
        match self {
            Back::Restored { end, .. } => match end.class() {
                Class::Success => Class::RolledBack,
                Class::Superseded => Class::Superseded,
                _ => Class::RollbackFailed,
            },
            Back::Superseded { .. } => Class::Superseded,
            Back::Left { .. } => Class::Failed,
            Back::Failed { .. } => Class::RollbackFailed,
        }
    }
}

impl fmt::Display for UndoneTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        match &self.back {
            Back::Restored { images, end } => {
                let verdict = match end.class() {
                    Class::Success => "back to",
                    Class::Superseded => "was put back to, and then overtaken,",
                    _ => "was put back, and does not run well:",
                };
                write!(f, "{verdict} {}; {end}", listed(images))
            }
            Back::Superseded { by } => write!(f, "nothing is put back, since it is not ours any more: {by}"),
            Back::Left { why } => write!(f, "the new version is left in place: {why}"),
            Back::Failed { why } => write!(f, "could not be put back: {why}"),
        }
    }
}

fn listed(images: &BTreeMap<String, String>) -> String {
    images.iter().map(|(container, image)| format!("{container}: {image}")).collect::<Vec<_>>().join(", ")
}

/// What can be done about one target.
#[derive(Clone, Debug, PartialEq)]
enum Way {
    /// Send this patch; the images are in it.
    Back { body: Value, images: BTreeMap<String, String> },
    /// Nothing, for this reason.
    None(Back),
}

/// Decides which way back there is from a ticket, given the object as it is now.
fn way_back(ticket: &Ticket, object: Option<&Value>) -> Way {
    let Some(object) = object.filter(|object| object["metadata"]["uid"] == ticket.uid.as_str()) else {
        return Way::None(Back::Superseded { by: "it was deleted".into() });
    };
    if ticket.created {
        return Way::None(Back::Left { why: "there is no version before it".into() });
    }
    let containers = workload::containers(&ticket.object.resource, object);
    let ours = ticket.images.iter().filter(|(name, image)| ticket.before.get(*name) != Some(image));
    let mut images = BTreeMap::new();
    let mut entries: Vec<(&Container, &str)> = Vec::new();
    for (name, image) in ours {
        let Some(container) = containers.iter().find(|container| container.name == *name) else {
            return Way::None(Back::Superseded { by: format!("there is no container {name} any more") });
        };
        if container.image != *image {
            return Way::None(Back::Superseded { by: format!("{name} runs {}", container.image) });
        }
        if let Some(before) = version_before(ticket, name) {
            images.insert(name.clone(), before.to_owned());
            entries.push((container, before));
        }
    }
    if entries.is_empty() {
        return Way::None(Back::Left { why: "it was not its image that was changed".into() });
    }
    let mut body = images_body(&Live { name: ticket.object.clone(), object: object.clone() }, &entries);
    // Whoever writes between our look and our patch makes the server refuse it.
    body["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    body["metadata"]["annotations"] = annotations(object, &images);
    Way::Back { body, images }
}

/// The image that a container had in the last version that ran well: that before ours if it did, else the
/// one that the workload remembers, else that before ours all the same.
fn version_before<'a>(ticket: &'a Ticket, container: &str) -> Option<&'a str> {
    let ours = ticket.images.get(container);
    let remembered = ticket.verified.get(container).filter(|image| !ticket.was_well && Some(*image) != ours);
    remembered.or_else(|| ticket.before.get(container)).map(String::as_str).filter(|image| !image.is_empty())
}

/// Commit and pipeline of the version that failed are no longer true, and those before are not known.
fn annotations(object: &Value, images: &BTreeMap<String, String>) -> Value {
    let there = object["metadata"]["annotations"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let untrue = there.filter(|key| key.starts_with(OUR_ANNOTATIONS) && *key != VERIFIED);
    let mut annotations: Value = untrue.map(|key| (key.to_owned(), Value::Null)).collect();
    annotations[CHANGE_CAUSE] = json!(format!("lighter went back to {}", listed(images)));
    annotations
}

impl Cluster {
    /// Goes back from tickets whose rollout failed, all of them, the last first, and waits until the
    /// versions before are well again; the waiting has the whole time of `policy` once more.
    ///
    /// What cannot be done is said in the answer, target by target: one that fails stops no other.
    ///
    /// With a registry to ask, images that it does not have any more are told of before. They are put back all the
    /// same: what of the old version still runs goes on, and nodes may have the image; whether it comes to run well is
    /// in the answer.
    pub async fn undo(
        &self,
        tickets: &[Ticket],
        policy: &Policy,
        registry: Option<&dyn Registry>,
        mut on_event: impl FnMut(Event),
    ) -> Undone {
        if let Some(registry) = registry {
            for text in lost_images(tickets, registry).await {
                on_event(Event::Note { text });
            }
        }
        let mut undone = Undone::default();
        let mut restoring: Vec<(usize, Ticket)> = Vec::new();
        for ticket in tickets.iter().rev().filter(|ticket| ticket.changed) {
            let back = match self.put_back(ticket).await {
                Ok((Ok(images), new)) => {
                    on_event(Event::Undoing { object: ticket.object.clone(), images: images.clone() });
                    restoring.extend(new.map(|new| (undone.targets.len(), new)));
                    Back::Restored { images, end: Box::new(undecided("not waited for")) }
                }
                Ok((Err(back), _)) => back,
                Err(error) => Back::Failed { why: error.to_string() },
            };
            undone.targets.push(UndoneTarget { object: ticket.object.clone(), back });
        }
        let (places, tickets): (Vec<usize>, Vec<Ticket>) = restoring.into_iter().unzip();
        let ends = match self.watch(&tickets, policy, on_event).await {
            Ok(outcome) => outcome.targets.into_iter().map(|target| target.end).collect(),
            Err(error) => vec![undecided(&error.to_string()); tickets.len()],
        };
        for (place, new) in places.into_iter().zip(ends) {
            if let Back::Restored { end, .. } = &mut undone.targets[place].back {
                **end = new;
            }
        }
        undone
    }

    /// Puts the images of one target back. Somebody who writes at the same moment makes us look again.
    async fn put_back(
        &self,
        ticket: &Ticket,
    ) -> Result<(Result<BTreeMap<String, String>, Back>, Option<Ticket>), Error> {
        let mut attempts = 1;
        loop {
            let object = self.api.get(&ticket.object).await?;
            let (body, images) = match way_back(ticket, object.as_ref()) {
                Way::Back { body, images } => (body, images),
                Way::None(back) => return Ok((Err(back), None)),
            };
            let answer = match self.api.patch(&ticket.object, images_patch(&ticket.object.resource), &body, false).await
            {
                Err(Error::Changed { .. }) if attempts < ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(ATTEMPT_PAUSE).await;
                    continue;
                }
                answer => answer?,
            };
            let new = Ticket::of(&undoing(ticket, &images), &answer, true, Timestamp::now());
            return Ok((Ok(images), new));
        }
    }

    /// Writes on each workload that came true which images were seen to run well: where an undo goes
    /// back to. No write where it says so already. Who looks next finds a rollout that is done: to a Deployment, every
    /// annotation is a new generation, so this ends when the controller has seen that one, too. The answer are those
    /// whose controller has not within a few seconds: until it has, they are said to be under way.
    ///
    /// # Errors
    ///
    /// Fails if the server does not take it. The rollout itself is done all the same.
    pub async fn remember(&self, outcome: &Outcome) -> Result<Vec<ObjectName>, Error> {
        let mut noted = Vec::new();
        for TargetOutcome { ticket, end } in &outcome.targets {
            let ran = matches!(end, End::Done { evidence } if evidence.has_pods());
            if !ran || ticket.running == ticket.verified {
                continue;
            }
            let custom = workload::is_custom(&ticket.object.resource);
            let note = Patch::Note { custom };
            let images = json!(ticket.running).to_string();
            let body = json!({"metadata": {"uid": ticket.uid, "annotations": {VERIFIED: images}}});
            noted.push((&ticket.object, self.api.patch(&ticket.object, note, &body, false).await?));
        }
        let seen =
            join_all(noted.iter().map(|(object, answer)| watch::until_observed(&self.api, object, answer))).await;
        let unseen = noted.into_iter().zip(seen).filter(|(_, seen)| !seen);
        Ok(unseen.map(|((object, _), _)| object.clone()).collect())
    }
}

/// What is to be said of images that cannot be pulled any more. A tag alone says nothing of what it was, and a registry
/// that refuses us or is away says nothing of what nodes may have.
async fn lost_images(tickets: &[Ticket], registry: &dyn Registry) -> Vec<String> {
    let ours = tickets.iter().filter(|ticket| ticket.changed).flat_map(|ticket| {
        ticket.images.keys().filter_map(|container| version_before(ticket, container)).collect::<Vec<_>>()
    });
    let images: BTreeSet<&str> = ours.collect();
    let mut lost = Vec::new();
    for image in images {
        let Ok(pinned) = image.parse::<Pinned>() else { continue };
        match registry.probe(&Image::new(pinned, [], Vec::new()), &[], None).await {
            Pullable::Missing(why) => lost.push(format!(
                "{image}, which ran before, cannot be pulled any more ({why}): only nodes that have it can start it"
            )),
            Pullable::Yes => {}
            Pullable::Denied(why) | Pullable::Unknown(why) => {
                tracing::debug!(image, why, "nobody knows whether the image before can be pulled");
            }
        }
    }
    lost
}

/// The undo as an action, of which a ticket can be made. Which digests a node reports for the old images is
/// not known: an index is reported by some runtimes under the digest of its platform's manifest.
fn undoing(ticket: &Ticket, images: &BTreeMap<String, String>) -> Action {
    let change = |(container, to): (&String, &String)| ImageChange {
        container: container.clone(),
        from: ticket.images.get(container).cloned(),
        to: to.clone(),
        digests: Vec::new(),
    };
    Action::written(ticket.object.clone(), Change::Update, images.iter().map(change).collect())
}

fn undecided(why: &str) -> End {
    End::Undecided { why: why.to_owned(), waiting: None, troubles: Vec::new() }
}

#[cfg(test)]
#[path = "undo_tests.rs"]
mod tests;
