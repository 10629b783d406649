//! Plans for manifests: images put in, then server-side apply. Pure; the dry run that tells whether
//! anything changes is sent by [`crate::Cluster`] and judged by [`differs`].

use crate::image::{CHANGE_CAUSE, Image, Likeness, OUR_ANNOTATIONS, Provenance};
use crate::object::ObjectName;
use crate::plan::{self, Action, Adoption, Change, ImageChange, Live, Plan, Step};
use crate::workload::{self, Container};
use crate::{Error, Manifest, ownership};
use serde_json::{Value, json};

/// Plans to apply manifests, each with its full name and the object that the server has, if any.
///
/// The image goes into every container called `container`, or, without that, into those whose image is
/// most like ours.
///
/// # Errors
///
/// Fails if there is an image and no container for it: nothing is deployed by accident without it.
pub fn plan_apply(
    documents: &[(ObjectName, Manifest, Option<Value>)],
    image: Option<&Image>,
    container: Option<&str>,
    provenance: &Provenance,
) -> Result<Plan, Error> {
    let containers: Vec<Vec<Container>> =
        documents.iter().map(|(name, manifest, _)| workload::containers(&name.resource, &manifest.object)).collect();
    let chosen = match image {
        Some(image) => choose(&containers, image, container)?,
        None => vec![Vec::new(); documents.len()],
    };
    let mut plan = Plan::default();
    for ((name, manifest, live), chosen) in documents.iter().zip(chosen) {
        let ours = image.map(|image| (image, chosen));
        if let Some(object) = live {
            plan.findings.extend(plan::findings(&Live { name: name.clone(), object: object.clone() }));
        }
        plan.actions.push(apply_action(name, manifest, live.as_ref(), ours, provenance));
    }
    Ok(plan)
}

/// Chooses containers in all documents at once, so that the best fit wins wherever it stands.
fn choose(all: &[Vec<Container>], image: &Image, named: Option<&str>) -> Result<Vec<Vec<Container>>, Error> {
    let best = all.iter().flatten().map(|container| image.likeness(&container.image)).max().unwrap_or(Likeness::None);
    let fits = |container: &Container| match named {
        Some(named) => !named.is_empty() && container.name == named,
        None => best != Likeness::None && image.likeness(&container.image) == best,
    };
    let chosen: Vec<Vec<Container>> =
        all.iter().map(|containers| containers.iter().filter(|c| fits(c)).cloned().collect()).collect();
    if chosen.iter().all(Vec::is_empty) {
        let known = all.iter().flatten().map(|container| format!("{} ({})", container.name, container.image)).collect();
        return Err(Error::NoImageFits {
            image: image.pinned().to_string(),
            container: named.map(str::to_owned),
            known,
        });
    }
    Ok(chosen)
}

fn apply_action(
    name: &ObjectName,
    manifest: &Manifest,
    live: Option<&Value>,
    ours: Option<(&Image, Vec<Container>)>,
    provenance: &Provenance,
) -> Action {
    let mut body = manifest.object.clone();
    if let Some(namespace) = &name.namespace {
        body["metadata"]["namespace"] = json!(namespace);
    }
    let uid = live.and_then(|live| live["metadata"]["uid"].as_str()).map(str::to_owned);
    if let Some(uid) = &uid {
        body["metadata"]["uid"] = json!(uid); // the server refuses it for a namesake created in between
    }
    let images = ours.map(|(image, chosen)| substitute(name, &mut body, live, &chosen, image)).unwrap_or_default();
    if workload::template_pointer(&name.resource).is_some() {
        annotate(&mut body, provenance);
    }
    complete_ports(name, &mut body);
    let adopt = live.and_then(adoption);
    let change = if live.is_some() { Change::Update } else { Change::Create };
    Action { object: name.clone(), uid, change, step: Step::Apply { body, adopt, force: false }, images }
}

fn adoption(live: &Value) -> Option<Adoption> {
    let resource_version = live["metadata"]["resourceVersion"].as_str()?.to_owned();
    Some(Adoption { managed_fields: ownership::adopt(live)?, resource_version })
}

fn substitute(
    name: &ObjectName,
    body: &mut Value,
    live: Option<&Value>,
    chosen: &[Container],
    image: &Image,
) -> Vec<ImageChange> {
    let running = live.map(|live| workload::containers(&name.resource, live)).unwrap_or_default();
    let pointer = workload::template_pointer(&name.resource).unwrap_or_default();
    let mut changes = Vec::new();
    for container in chosen {
        let path = format!("{pointer}/spec/{}/{}/image", container.list.field(), container.index);
        let holder = path.trim_end_matches("/image");
        if let Some(holder) = body.pointer_mut(holder).filter(|holder| holder.is_object()) {
            holder["image"] = json!(image.pinned().to_string());
        }
        let from = running.iter().find(|running| running.name == container.name).map(|running| running.image.as_str());
        changes.push(plan::image_change(container, from, image));
    }
    changes
}

/// Writes `protocol: TCP` where a port leaves it out, as the server would: it is part of the key of the
/// list, and servers until 1.20 refuse to apply a port without it (kubernetes#92332).
fn complete_ports(name: &ObjectName, body: &mut Value) {
    if name.resource.group.is_empty() && name.resource.kind == "Service" && body["spec"]["ports"].is_array() {
        complete(&mut body["spec"]["ports"]);
    }
    let Some(pointer) = workload::template_pointer(&name.resource) else { return };
    for list in workload::List::ALL {
        let containers = body.pointer_mut(&format!("{pointer}/spec/{}", list.field())).and_then(Value::as_array_mut);
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

fn annotate(body: &mut Value, provenance: &Provenance) {
    let annotations = provenance.annotations();
    if annotations.is_empty() {
        return;
    }
    if !body["metadata"]["annotations"].is_object() {
        body["metadata"]["annotations"] = json!({});
    }
    for (key, value) in annotations {
        body["metadata"]["annotations"][key] = json!(value);
    }
}

/// The same body with the provenance that the live object has: a new commit of the same content is no
/// change, and must not become a generation of its own.
pub(crate) fn with_old_provenance(body: &Value, live: &Value) -> Value {
    let is_ours = |key: &str| key == CHANGE_CAUSE || key.starts_with(OUR_ANNOTATIONS);
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
    use crate::plan::tests::{image, resource};

    fn document(image: &str, live: Option<Value>) -> (ObjectName, Manifest, Option<Value>) {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side"}, {"name": "web", "image": image}]}}}});
        (
            ObjectName::new(resource("apps", "Deployment"), "demo", "web"),
            Manifest { origin: ("f".into(), 1), object },
            live,
        )
    }

    fn provenance() -> Provenance {
        Provenance { change_cause: Some("commit 2".into()), ..Provenance::default() }
    }

    #[test]
    fn the_image_is_put_into_the_manifest() {
        let plan = plan_apply(&[document("web", None)], Some(&image()), None, &provenance()).unwrap();
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
        let plan = plan_apply(&documents, Some(&image()), None, &provenance()).unwrap();
        assert!(plan.actions[0].images.is_empty());
        assert_eq!(plan.actions[1].images.len(), 1);
    }

    #[test]
    fn an_image_that_fits_nowhere_is_an_error() {
        for (container, written) in [(None, "other"), (Some("nobody"), "web")] {
            let error = plan_apply(&[document(written, None)], Some(&image()), container, &provenance()).unwrap_err();
            assert!(matches!(&error, Error::NoImageFits { known, .. } if known.len() == 2), "{error:?}");
        }
        let plan = plan_apply(&[document("other", None)], Some(&image()), Some("web"), &provenance()).unwrap();
        assert_eq!(plan.actions[0].images[0].container, "web");
    }

    #[test]
    fn provenance_alone_is_no_change() {
        let live =
            json!({"metadata": {"uid": "u", "annotations": {"kubernetes.io/change-cause": "commit 1", "x": "y"}}});
        let body = json!({"metadata": {"annotations": {"kubernetes.io/change-cause": "commit 2", "a": "b"}}});
        let quiet = with_old_provenance(&body, &live);
        assert_eq!(quiet["metadata"]["annotations"], json!({"kubernetes.io/change-cause": "commit 1", "a": "b"}));
        assert_eq!(with_old_provenance(&body, &json!({}))["metadata"]["annotations"], json!({"a": "b"}));
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
