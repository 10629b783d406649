//! Plans: what would be written, and why, before anything is. Pure: from live objects and a request to
//! actions; `lighter deploy --dry-run` prints one. The declarative half (`-f`) is in [`crate::apply`].

use crate::image::{Image, Likeness, Provenance};
use crate::object::ObjectName;
use crate::workload::{self, Container, List};
use crate::{Error, Target};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;

/// What will happen, in this order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// One per object.
    pub actions: Vec<Action>,
    /// What people should know before they agree.
    pub findings: Vec<Finding>,
}

/// What happens to one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// The object.
    pub object: ObjectName,
    /// Its `metadata.uid`, where it exists: a namesake that comes later is another object.
    pub uid: Option<String>,
    /// What this means for the object.
    pub change: Change,
    /// The request that does it.
    pub step: Step,
    /// The images that change, and those of ours that are there already.
    pub images: Vec<ImageChange>,
}

/// What an action means for its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It does not exist yet.
    Create,
    /// It exists and changes.
    Update,
    /// It is as wanted already; nothing is written.
    Nothing,
}

/// The request that an action sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// None.
    Nothing,
    /// One strategic merge patch.
    Patch(Value),
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

impl Plan {
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

/// Plans to run `image` in each target: one patch per object, none where it runs already.
///
/// # Errors
///
/// Fails if a kind cannot be changed in place, a container does not exist, or none can be chosen; the
/// error lists the containers that there are. A container is never added.
pub fn plan_images(live: &[(Target, Live)], image: &Image, provenance: &Provenance) -> Result<Plan, Error> {
    let mut chosen: Vec<(&Live, Vec<Container>)> = Vec::new();
    for (target, live) in live {
        if !workload::is_patchable(&live.name.resource) {
            return Err(Error::Unpatchable { object: live.name.clone().into() });
        }
        let all = workload::containers(&live.name.resource, &live.object);
        let more = choose(&live.name, &all, target.container.as_deref(), image)?;
        // Two containers of one object are one write, and one rollout.
        match chosen.iter_mut().find(|(other, _)| other.name == live.name) {
            Some((_, containers)) => containers.extend(more),
            None => chosen.push((live, more)),
        }
    }
    let mut plan = Plan::default();
    for (live, mut containers) in chosen {
        let mut seen = BTreeSet::new();
        containers.retain(|container| seen.insert(container.name.clone()));
        plan.findings.extend(findings(live));
        plan.actions.push(patch_action(live, &containers, image, provenance));
    }
    Ok(plan)
}

/// Chooses the containers that are meant: the named one, else those whose image is the same repository,
/// else the only one.
pub(crate) fn choose(
    object: &ObjectName,
    all: &[Container],
    named: Option<&str>,
    image: &Image,
) -> Result<Vec<Container>, Error> {
    let names = || all.iter().map(|container| container.name.clone()).collect();
    if let Some(named) = named {
        let found: Vec<Container> = all.iter().filter(|container| container.name == named).cloned().collect();
        return if found.is_empty() {
            Err(Error::UnknownContainer { object: object.clone().into(), container: named.to_owned(), known: names() })
        } else {
            Ok(found)
        };
    }
    let fitting = best_fits(all, image);
    if !fitting.is_empty() {
        return Ok(fitting);
    }
    let mut regular = all.iter().filter(|container| container.list == List::Containers);
    match (regular.next(), regular.next()) {
        (Some(only), None) => Ok(vec![only.clone()]),
        _ => Err(Error::WhichContainer {
            object: object.clone().into(),
            image: image.pinned().to_string(),
            known: names(),
        }),
    }
}

/// The containers whose image is most like ours, if any is like it at all.
pub(crate) fn best_fits(all: &[Container], image: &Image) -> Vec<Container> {
    let best = all.iter().map(|container| image.likeness(&container.image)).max().unwrap_or(Likeness::None);
    all.iter().filter(|container| best != Likeness::None && image.likeness(&container.image) == best).cloned().collect()
}

fn patch_action(live: &Live, chosen: &[Container], image: &Image, provenance: &Provenance) -> Action {
    let to = image.pinned().to_string();
    let images: Vec<ImageChange> =
        chosen.iter().map(|container| image_change(container, Some(&container.image), image)).collect();
    let changing: Vec<&Container> = chosen.iter().filter(|container| container.image != to).collect();
    let uid = live.object["metadata"]["uid"].as_str().map(str::to_owned);
    let (change, step) = if changing.is_empty() {
        (Change::Nothing, Step::Nothing)
    } else {
        let images: Vec<(&Container, &str)> = changing.iter().map(|container| (*container, to.as_str())).collect();
        let mut body = images_body(live, &images);
        let annotations = provenance.annotations();
        if !annotations.is_empty() {
            body["metadata"]["annotations"] = json!(annotations);
        }
        (Change::Update, Step::Patch(body))
    };
    Action { object: live.name.clone(), uid, change, step, images }
}

pub(crate) fn image_change(container: &Container, from: Option<&str>, image: &Image) -> ImageChange {
    ImageChange {
        container: container.name.clone(),
        from: from.map(str::to_owned),
        to: image.pinned().to_string(),
        digests: image.digests().iter().copied().collect(),
    }
}

/// The patch that puts images into containers; annotations go into the same one, since each write of its
/// own would be a generation of its own. The uid makes the server refuse it for a namesake that was
/// created in between.
pub(crate) fn images_body(live: &Live, images: &[(&Container, &str)]) -> Value {
    let mut pod_spec = json!({});
    for (container, image) in images {
        let entry = json!({"name": container.name, "image": image});
        match pod_spec[container.list.field()].as_array_mut() {
            Some(list) => list.push(entry),
            None => pod_spec[container.list.field()] = json!([entry]),
        }
    }
    let pointer = workload::template_pointer(&live.name.resource).unwrap_or_default();
    let mut body = pointer
        .rsplit('/')
        .filter(|part| !part.is_empty())
        .fold(json!({"spec": pod_spec}), |inner, part| json!({part: inner}));
    body["metadata"] = json!({"uid": live.object["metadata"]["uid"]});
    body
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
    findings
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(crate) mod tests;
