//! Plans for manifests: images put in, then server-side apply. Pure; the dry run that tells whether
//! anything changes is sent by [`crate::Cluster`] and judged by [`differs`].

use crate::assign::{self, Assignment, Taken};
use crate::body::{annotated, set_images};
use crate::image::{CHANGE_CAUSE, OUR_ANNOTATIONS, PIPELINE_IID};
use crate::object::ObjectName;
use crate::plan::{self, Action, Adoption, Change, Finding, ImageChange, Live, Options, Plan, Step};
use crate::preflight::Pull;
use crate::set::Membership;
use crate::workload;
use crate::{Error, Manifest, ownership};
use serde_json::{Value, json};

/// What is known of the cluster, beside the objects themselves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    /// Workloads whose number of pods an autoscaler decides.
    pub autoscaled: Vec<Autoscaled>,
    /// The set that the objects become members of.
    pub set: Option<Membership>,
}

/// A workload that an autoscaler looks after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Autoscaled {
    /// Where.
    pub namespace: String,
    /// `Deployment`
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Plans to apply manifests, each with its full name and the object that the server has, if any.
///
/// An image for which no container is named goes into those whose image is most like it.
///
/// # Errors
///
/// Fails if there is an image and no container for it: nothing is deployed by accident without it. Fails, too, if a
/// container would take two images, a wave is no number, or a guard does not hold.
pub fn plan_apply(
    documents: &[(ObjectName, Manifest, Option<Value>)],
    images: &[Assignment],
    options: &Options,
    around: &Surroundings,
) -> Result<Plan, Error> {
    let containers = documents.iter().map(|(name, manifest, _)| {
        let containers = workload::containers(&name.resource, &manifest.object);
        (name, containers)
    });
    let chosen = assign::to_documents(&containers.collect::<Vec<_>>(), images)?;
    let mut plan = Plan { guard: options.guard.clone(), ..Plan::default() };
    for ((name, manifest, live), chosen) in documents.iter().zip(chosen) {
        if let Some(object) = live {
            options.guard.check(name, object, None)?;
            plan.findings.extend(plan::findings(&Live { name: name.clone(), object: object.clone() }));
        }
        let mut action = apply_action(name, manifest, live.as_ref(), &chosen, options);
        action.wave = manifest.wave()?;
        if around.autoscaled.iter().any(|one| one.is(name)) && leave_replicas(&mut action, live.as_ref()) {
            plan.findings.push(Finding::note(name.to_string(), "its replicas are left to its autoscaler"));
        }
        if let (Some(set), Step::Apply { body, .. }) = (&around.set, &mut action.step) {
            set.label(body);
        }
        plan.actions.push(action);
    }
    Ok(plan)
}

impl Autoscaled {
    fn is(&self, name: &ObjectName) -> bool {
        self.name == name.name && self.kind == name.resource.kind && name.namespace.as_ref() == Some(&self.namespace)
    }
}

/// Takes `spec.replicas` out of what is applied to an object that exists. If it was ours, it goes to an owner
/// who never writes, or the server would set it back to 1.
fn leave_replicas(action: &mut Action, live: Option<&Value>) -> bool {
    let Step::Apply { body, adopt, .. } = &mut action.step else { return false };
    let Some(live) = live else { return false }; // the first number is the manifest's
    let has_replicas = body["spec"].as_object_mut().is_some_and(|spec| spec.remove("replicas").is_some());
    let adopted = adopt.as_ref().map(|adoption| adoption.managed_fields.clone());
    let version = live["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    if let Some(managed_fields) = ownership::hand_over_replicas(live, adopted) {
        *adopt = Some(Adoption { managed_fields, resource_version: version, hands_over: true });
    }
    has_replicas
}

fn apply_action(
    name: &ObjectName,
    manifest: &Manifest,
    live: Option<&Value>,
    taken: &[Taken<'_>],
    options: &Options,
) -> Action {
    let mut body = manifest.object.clone();
    if let Some(namespace) = &name.namespace {
        body["metadata"]["namespace"] = json!(namespace);
    }
    let images = substitute(name, &mut body, live, taken);
    if workload::pod_spec_pointer(&name.resource).is_some() {
        body = annotated(body, &options.provenance.annotations());
    }
    complete_ports(name, &mut body);
    let change = if live.is_some() { Change::Update } else { Change::Create };
    let step = Step::Apply { body, adopt: None, force: false };
    let pull = Pull::of(workload::pod_spec(&name.resource, &manifest.object));
    let action = Action { object: name.clone(), uid: None, generation: None, change, step, images, pull, wave: 0 };
    anew(&action, live, options.guard.is_set())
}

/// The same apply for the object as it is now.
pub(crate) fn anew(action: &Action, live: Option<&Value>, guarded: bool) -> Action {
    let mut action = action.clone();
    let Step::Apply { body, adopt, force } = &mut action.step else { return action };
    action.uid = live.and_then(|live| live["metadata"]["uid"].as_str()).map(str::to_owned);
    action.generation = action.generation.or(live.and_then(|live| live["metadata"]["generation"].as_i64()));
    let handed = body["spec"].is_object() && body["spec"].get("replicas").is_none();
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("uid");
        if let Some(uid) = &action.uid {
            metadata.insert("uid".into(), json!(uid)); // the server refuses it for a namesake created in between
        }
        if let Some(live) = live.filter(|_| guarded) {
            metadata.insert("resourceVersion".into(), live["metadata"]["resourceVersion"].clone());
        }
    }
    *force = false;
    let was_handed = adopt.as_ref().is_some_and(|adoption| adoption.hands_over) && handed;
    *adopt = live.and_then(adoption);
    if was_handed && let Some(live) = live {
        leave_replicas(&mut action, Some(live));
    }
    action
}

fn adoption(live: &Value) -> Option<Adoption> {
    let resource_version = live["metadata"]["resourceVersion"].as_str()?.to_owned();
    Some(Adoption { managed_fields: ownership::adopt(live)?, resource_version, hands_over: false })
}

fn substitute(name: &ObjectName, body: &mut Value, live: Option<&Value>, taken: &[Taken<'_>]) -> Vec<ImageChange> {
    let running = live.map(|live| workload::containers(&name.resource, live)).unwrap_or_default();
    let change = |(container, image): &Taken<'_>| {
        let from = running.iter().find(|running| running.name == container.name).map(|running| running.image.as_str());
        plan::image_change(container, from, image)
    };
    let changes: Vec<ImageChange> = taken.iter().map(change).collect();
    let images = taken.iter().zip(&changes).map(|((container, _), change)| (container, change.to.as_str()));
    set_images(&name.resource, body, &images.collect::<Vec<_>>());
    changes
}

/// Writes `protocol: TCP` where a port leaves it out, as the server would: it is part of the key of the
/// list, and servers until 1.20 refuse to apply a port without it (kubernetes#92332).
fn complete_ports(name: &ObjectName, body: &mut Value) {
    if name.resource.group.is_empty() && name.resource.kind == "Service" && body["spec"]["ports"].is_array() {
        complete(&mut body["spec"]["ports"]);
    }
    let Some(pointer) = workload::pod_spec_pointer(&name.resource) else { return };
    for list in workload::List::CONTAINERS {
        let containers = body.pointer_mut(&format!("{pointer}/{}", list.field())).and_then(Value::as_array_mut);
        containers
            .into_iter()
            .flatten()
            .filter(|container| container["ports"].is_array())
            .for_each(|container| complete(&mut container["ports"]));
    }
}

fn complete(ports: &mut Value) {
    let ports = ports.as_array_mut().into_iter().flatten();
    for port in ports.filter(|port| port.is_object() && port["protocol"].is_null()) {
        port["protocol"] = json!("TCP");
    }
}

/// The same body with the provenance that the live object has: a new commit of the same content is no
/// change, and must not become a generation of its own.
///
/// Where pipelines are compared, the number of the newest must be written all the same: `keeps_iid`.
pub(crate) fn with_old_provenance(body: &Value, live: &Value, keeps_iid: bool) -> Value {
    let is_ours =
        |key: &str| key == CHANGE_CAUSE || (key.starts_with(OUR_ANNOTATIONS) && !(keeps_iid && key == PIPELINE_IID));
    let mut body = body.clone();
    let mut annotations = body["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|key, _| !is_ours(key));
    let live = live["metadata"]["annotations"].as_object();
    annotations.extend(
        live.into_iter().flatten().filter(|(key, _)| is_ours(key)).map(|(key, value)| (key.clone(), value.clone())),
    );
    if annotations.is_empty() {
        if let Some(metadata) = body["metadata"].as_object_mut() {
            metadata.remove("annotations");
        }
    } else {
        body["metadata"]["annotations"] = Value::Object(annotations);
    }
    body
}

/// Whether the server's answer to a dry run is another object than the live one, beyond bookkeeping.
pub(crate) fn differs(live: &Value, answer: &Value) -> bool {
    let content = |object: &Value| {
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(field);
            }
        }
        object
    };
    content(live) != content(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Which;
    use crate::image::Provenance;
    use crate::plan::tests::{image, resource};

    fn document(image: &str, live: Option<Value>) -> (ObjectName, Manifest, Option<Value>) {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side"}, {"name": "web", "image": image}]}}}});
        (
            ObjectName::new(resource("apps", "Deployment"), "demo", "web"),
            Manifest { origin: ("f".into(), 1), object, turn: None },
            live,
        )
    }

    fn plan(documents: &[(ObjectName, Manifest, Option<Value>)], which: &str) -> Result<Plan, Error> {
        let provenance = Provenance { change_cause: Some("commit 2".into()), ..Provenance::default() };
        let options = Options { provenance, ..Options::default() };
        let which = if which.is_empty() { Which::Fitting } else { which.parse().unwrap() };
        plan_apply(documents, &[Assignment { image: image(), which }], &options, &Surroundings::default())
    }

    #[test]
    fn the_image_is_put_into_the_manifest() {
        let plan = plan(&[document("web", None)], "").unwrap();
        let Step::Apply { body, adopt: None, force: false } = &plan.actions[0].step else { panic!("{plan:?}") };
        let containers = &body["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0]["image"], "side");
        assert_eq!(containers[1]["image"], image().pinned().to_string());
        assert_eq!(
            body["metadata"],
            json!({"name": "web", "namespace": "demo", "annotations": {"kubernetes.io/change-cause": "commit 2"}})
        );
        assert_eq!((plan.actions[0].change, plan.actions[0].images[0].from.as_deref()), (Change::Create, None));
    }

    #[test]
    fn a_full_repository_beats_a_last_part() {
        let documents = [document("web", None), document("registry.test/shop/web:1", None)];
        let plan = plan(&documents, "").unwrap();
        assert!(plan.actions[0].images.is_empty());
        assert_eq!(plan.actions[1].images.len(), 1);
    }

    #[test]
    fn an_image_that_fits_nowhere_is_an_error() {
        for (container, written) in [("", "other"), ("nobody", "web")] {
            let error = plan(&[document(written, None)], container).unwrap_err();
            assert!(matches!(&error, Error::NoImageFits { known, .. } if known.len() == 2), "{error:?}");
        }
        let plan = plan(&[document("other", None)], "web").unwrap();
        assert_eq!(plan.actions[0].images[0].container, "web");
    }

    #[test]
    fn replicas_are_left_to_an_autoscaler_and_not_to_the_default() {
        let fields = json!([{"manager": "lighter", "operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
        let live =
            json!({"metadata": {"uid": "u", "resourceVersion": "7", "managedFields": fields}, "spec": {"replicas": 5}});
        let mut documents = [document("web", Some(live))];
        documents[0].1.object["spec"]["replicas"] = json!(1);
        let one = Autoscaled { namespace: "demo".into(), kind: "Deployment".into(), name: "web".into() };
        let around = Surroundings { autoscaled: vec![one], set: None };
        let plan = plan_apply(&documents, &[], &Options::default(), &around).unwrap();
        let Step::Apply { body, adopt: Some(adoption), .. } = &plan.actions[0].step else { panic!("{plan:?}") };
        assert_eq!(body["spec"].get("replicas"), None);
        assert!(adoption.hands_over && adoption.resource_version == "7");
        assert!(plan.to_string().contains("left to its autoscaler"), "{plan}");
        documents[0].2 = None;
        let plan = plan_apply(&documents, &[], &Options::default(), &around).unwrap();
        let Step::Apply { body, adopt: None, .. } = &plan.actions[0].step else { panic!("{plan:?}") };
        assert_eq!(body["spec"]["replicas"], 1, "the first number is the manifest's");
    }

    #[test]
    fn provenance_alone_is_no_change() {
        let live =
            json!({"metadata": {"uid": "u", "annotations": {"kubernetes.io/change-cause": "commit 1", "x": "y"}}});
        let body = json!({"metadata": {"annotations": {"kubernetes.io/change-cause": "commit 2", "a": "b"}}});
        let quiet = with_old_provenance(&body, &live, false);
        assert_eq!(quiet["metadata"]["annotations"], json!({"kubernetes.io/change-cause": "commit 1", "a": "b"}));
        assert_eq!(with_old_provenance(&body, &json!({}), false)["metadata"]["annotations"], json!({"a": "b"}));
    }

    #[test]
    fn bookkeeping_is_no_difference() {
        let live = json!({"metadata": {"name": "a", "resourceVersion": "1", "generation": 1}, "spec": {"x": 1}, "status": {"y": 1}});
        let mut answer = live.clone();
        answer["metadata"]["resourceVersion"] = json!("2");
        answer["status"] = json!({});
        assert!(!differs(&live, &answer));
        answer["spec"]["x"] = json!(2);
        assert!(differs(&live, &answer));
    }
}
