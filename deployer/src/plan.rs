//! Plans: what would be written, and why, before anything is. Pure: from live objects and a request to
//! actions; `lighter deploy --dry-run` prints one. What is sent then is in [`crate::body`]. The declarative half (`-f`) is in [`crate::apply`].

use crate::assign::{self, Assignment, Taken};
use crate::body::{annotated, images_body, new_job, take_untrue};
use crate::guard::Guard;
use crate::image::{Image, PIPELINE_IID, Provenance};
use crate::object::{ObjectName, Resource};
use crate::once;
use crate::ownership::Force;
use crate::preflight::Pull;
use crate::workload::{self, Container, text};
use crate::{Error, Target};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// What will happen, in this order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// One per object.
    pub actions: Vec<Action>,
    /// What people should know before they agree.
    pub findings: Vec<Finding>,
    /// What must still be true when it is written.
    #[serde(default)]
    pub guard: Guard,
    /// Which fields of others may be taken.
    #[serde(default)]
    pub force: Force,
}

/// What happens to one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// The object.
    pub object: ObjectName,
    /// Its `metadata.uid`, where it exists: a namesake that comes later is another object.
    pub uid: Option<String>,
    /// Its `metadata.generation` when it was looked at.
    #[serde(default)]
    pub generation: Option<i64>,
    /// What this means for the object.
    pub change: Change,
    /// The request that does it.
    pub step: Step,
    /// The images that change, and those of ours that are there already.
    pub images: Vec<ImageChange>,
    /// What its pods pull images with.
    #[serde(default)]
    pub pull: Pull,
    /// When its turn is: lower numbers first.
    #[serde(default)]
    pub wave: i32,
}

/// What an action means for its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It does not exist yet.
    Create,
    /// It exists and changes.
    Update,
    /// It exists, and is deleted and made anew: its pod template cannot change.
    Replace,
    /// It is of our set, no manifest speaks of it any more, and it is deleted.
    Delete,
    /// It is as wanted already; nothing is written.
    Nothing,
}

/// The request that an action sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// None.
    Nothing,
    /// One strategic merge patch; of a custom resource, one merge patch with whole lists in it.
    Patch(Value),
    /// The object is deleted, and created anew from this body.
    Replace(Value),
    /// The object is deleted.
    Delete,
    /// One server-side apply, after taking over the fields of client-side apply where it owned some.
    Apply {
        /// The body: the manifest with the images in it.
        body: Value,
        /// The new `metadata.managedFields`, if ownership has to move first, and the version it is for.
        adopt: Option<Adoption>,
        /// Whether fields may be taken: only when all in conflict belong to imperative kubectl commands.
        force: bool,
    },
}

/// A new list of field owners; see [`crate::ownership`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adoption {
    /// The whole new `metadata.managedFields`.
    pub managed_fields: Value,
    /// The `metadata.resourceVersion` it was computed from.
    pub resource_version: String,
    /// Whether it lets go of `spec.replicas`, which an autoscaler decides.
    #[serde(default)]
    pub hands_over: bool,
}

/// One container's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageChange {
    /// The container's name.
    pub container: String,
    /// What it runs now; `None` where the object does not exist yet.
    pub from: Option<String>,
    /// What it will run.
    pub to: String,
    /// All digests under which a node may report it.
    pub digests: Vec<oci::Digest>,
}

/// How serious a finding is; errors stop before a plan exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// May be why it does not work later.
    Warning,
}

/// Something that people should know about a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// The object it is about, or empty.
    pub about: String,
    /// The sentence.
    pub text: String,
}

impl Finding {
    pub(crate) fn warning(about: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding { severity: Severity::Warning, about: about.into(), text: text.into() }
    }

    pub(crate) fn note(about: impl Into<String>, text: impl Into<String>) -> Finding {
        Finding { severity: Severity::Note, about: about.into(), text: text.into() }
    }
}

impl Action {
    /// Whether it is about a CronJob, whose pods start at another time.
    pub fn runs_by_the_clock(&self) -> bool {
        once::is_cron_job(&self.object.resource)
    }

    /// Whether pods are started or replaced by it, which takes its time.
    pub fn rolls_out(&self) -> bool {
        !matches!(self.change, Change::Nothing | Change::Delete) && workload::is_watched(&self.object.resource)
    }

    /// An action that only says what was written, of which a ticket can be made.
    pub(crate) fn written(object: ObjectName, change: Change, images: Vec<ImageChange>) -> Action {
        Action {
            object,
            uid: None,
            generation: None,
            change,
            step: Step::Nothing,
            images,
            pull: Pull::default(),
            wave: 0,
        }
    }
}

impl Plan {
    /// The plan in parts, one for each wave: each is to run well before the next is written.
    pub fn waves(self) -> Vec<Plan> {
        let numbers: BTreeSet<i32> = self.actions.iter().map(|action| action.wave).collect();
        let mut findings = self.findings;
        let part = |number: &i32| Plan {
            actions: self.actions.iter().filter(|action| action.wave == *number).cloned().collect(),
            findings: std::mem::take(&mut findings), // said once, before the first
            guard: self.guard.clone(),
            force: self.force.clone(),
        };
        numbers.iter().map(part).collect()
    }

    /// The objects that will be there, in order.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        let stays = |action: &&Action| action.change != Change::Delete;
        self.actions.iter().filter(stays).map(|action| &action.object)
    }

    /// How many of the actions from number `first` on may be done now, in their order, if no more than so many
    /// workloads may begin to roll out; CronJobs are among these if they run once.
    pub fn turn(&self, first: usize, rollouts: usize, run_once: bool) -> usize {
        let mut begun = 0;
        let runs = |action: &Action| run_once && action.runs_by_the_clock() && action.change != Change::Delete;
        let may_begin = |action: &&Action| {
            begun += usize::from(action.rolls_out() || runs(action));
            begun <= rollouts
        };
        self.actions[first..].iter().take_while(may_begin).count()
    }

    /// Whether anything would be written.
    pub fn changes_anything(&self) -> bool {
        self.actions.iter().any(|action| action.change != Change::Nothing)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            writeln!(f, "{action}")?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.change {
            Change::Create => "create",
            Change::Update => "change",
            Change::Replace => "delete and make anew",
            Change::Delete => "delete",
            Change::Nothing => "unchanged",
        };
        write!(f, "{verb} {}", self.object)?;
        for image in &self.images {
            match &image.from {
                Some(from) if *from == image.to => write!(f, "\n  {}: {} (already)", image.container, image.to)?,
                Some(from) => write!(f, "\n  {}: {from} -> {}", image.container, image.to)?,
                None => write!(f, "\n  {}: {}", image.container, image.to)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
        };
        match self.about.as_str() {
            "" => write!(f, "{severity}: {}", self.text),
            about => write!(f, "{severity}: {about}: {}", self.text),
        }
    }
}

/// An object as the server has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// Its name.
    pub name: ObjectName,
    /// The object.
    pub object: Value,
}

/// How targets are planned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Where the change comes from.
    pub provenance: Provenance,
    /// What must be true of the objects.
    pub guard: Guard,
    /// Whether a Job may be deleted and made anew: its template cannot change.
    pub replace_jobs: bool,
}

/// Plans to run images in each target: one patch per object, none where they run already.
///
/// # Errors
///
/// Fails if a kind cannot be changed in place, a container does not exist, none can be chosen, or one would take
/// two images; the error lists the containers that there are. A container is never added. Fails, too, if a guard does not hold.
pub fn plan_images(live: &[(Target, Live)], images: &[Assignment], options: &Options) -> Result<Plan, Error> {
    let mut chosen: Vec<(&Live, i32, Vec<Taken<'_>>)> = Vec::new();
    let mut known: Vec<Container> = Vec::new();
    for (target, live) in live {
        let replaced = options.replace_jobs && is_job(&live.name.resource);
        if !workload::is_patchable(&live.name.resource) && !replaced {
            return Err(Error::Unpatchable { object: live.name.clone().into() });
        }
        options.guard.check(&live.name, &live.object, None)?;
        let all = workload::containers(&live.name.resource, &live.object);
        let more = assign::to_object(&live.name, &all, &target.which, images)?;
        // Two containers of one object are one write, and one rollout.
        match chosen.iter_mut().find(|(other, ..)| other.name == live.name) {
            Some((_, wave, _)) if *wave != target.wave => {
                let what = "stands in two waves; one rollout is one wave".into();
                return Err(Error::Unfit { object: live.name.clone().into(), what });
            }
            Some((.., taken)) => taken.extend(more),
            None => chosen.push((live, target.wave, more)),
        }
        known.extend(all);
    }
    let is_placed =
        |one: &&Assignment| chosen.iter().flat_map(|(.., taken)| taken).any(|(_, image)| **image == one.image);
    if let Some(homeless) = images.iter().find(|one| !is_placed(one)) {
        return Err(assign::no_place(&known, homeless));
    }
    let mut plan = Plan { guard: options.guard.clone(), ..Plan::default() };
    for (live, wave, taken) in chosen {
        let taken = assign::once_each(&live.name, taken)?;
        plan.findings.extend(findings(live));
        plan.actions.push(Action { wave, ..patch_action(live, &taken, options) });
    }
    Ok(plan)
}

pub(crate) fn is_job(resource: &Resource) -> bool {
    resource.is("batch", &["Job"])
}

fn patch_action(live: &Live, taken: &[Taken<'_>], options: &Options) -> Action {
    let change = |(container, image): &Taken<'_>| image_change(container, Some(&container.image), image);
    let images: Vec<ImageChange> = taken.iter().map(change).collect();
    let wanted = taken.iter().zip(&images).map(|((container, _), image)| (container, image.to.as_str()));
    let changing: Vec<(&Container, &str)> = wanted.filter(|(container, to)| container.image != *to).collect();
    let annotations = options.provenance.annotations();
    let (change, step) = if changing.is_empty() && !is_newer(live, options) {
        (Change::Nothing, Step::Nothing)
    } else if is_job(&live.name.resource) {
        (Change::Replace, Step::Replace(annotated(new_job(live, &changing), &annotations)))
    } else {
        let mut body = annotated(images_body(live, &changing), &annotations);
        if !changing.is_empty() {
            take_untrue(live, &annotations, &mut body);
        }
        if options.guard.is_set() {
            body["metadata"]["resourceVersion"] = live.object["metadata"]["resourceVersion"].clone();
        }
        (Change::Update, Step::Patch(body))
    };
    let uid = live.object["metadata"]["uid"].as_str().map(str::to_owned);
    let generation = live.object["metadata"]["generation"].as_i64();
    let pull = Pull::of(workload::pod_spec(&live.name.resource, &live.object));
    Action { object: live.name.clone(), uid, generation, change, step, images, pull, wave: 0 }
}

/// Whether the number of our pipeline must be written although nothing else changes: else a pipeline between
/// the two could take its older image for newer.
fn is_newer(live: &Live, options: &Options) -> bool {
    let theirs = text(&live.object["metadata"]["annotations"][PIPELINE_IID]).parse::<u64>().ok();
    options.guard.newer_than_live.is_some_and(|ours| theirs.is_none_or(|theirs| theirs < ours))
        && !is_job(&live.name.resource)
}

pub(crate) fn image_change(container: &Container, from: Option<&str>, image: &Image) -> ImageChange {
    ImageChange {
        container: container.name.clone(),
        from: from.map(str::to_owned),
        to: image.pinned().to_string(),
        digests: image.digests().iter().copied().collect(),
    }
}

/// What the live object itself says about how a rollout will go.
pub(crate) fn findings(live: &Live) -> Vec<Finding> {
    let spec = &live.object["spec"];
    let about = live.name.to_string();
    let mut findings = Vec::new();
    if spec["paused"] == true {
        findings.push(Finding::warning(
            &about,
            "it is paused: the change is recorded, and no pod is replaced until it is resumed",
        ));
    }
    if spec["replicas"] == 0 {
        findings.push(Finding::warning(&about, "it has zero replicas: no pod will start, so nothing can be verified"));
    }
    if spec["updateStrategy"]["type"] == "OnDelete" {
        findings.push(Finding::warning(
            &about,
            "its update strategy is OnDelete: pods keep running the old image until somebody deletes them",
        ));
    }
    if live.name.resource.kind == "ReplicaSet" || live.name.resource.kind == "ReplicationController" {
        let owner = &live.object["metadata"]["ownerReferences"][0];
        let text = match text(&owner["kind"]) {
            "" => "its pods keep running the old image until somebody deletes them".to_owned(),
            kind => {
                format!("it belongs to {kind} {}, which will undo the change: change that one", text(&owner["name"]))
            }
        };
        findings.push(Finding::warning(&about, text));
    }
    findings
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(crate) mod tests;
