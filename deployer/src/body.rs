//! The bodies of writes that put images into objects that are there. Pure; which images go where is decided in
//! [`crate::plan`], and manifests are in [`crate::apply`].

use crate::api::Patch;
use crate::image::OF_ONE_IMAGE;
use crate::object::Resource;
use crate::plan::Live;
use crate::workload::{self, Container, List};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Takes away what an earlier deploy said of the images that go, where this one says nothing in its place: a deploy by
/// hand after one by a pipeline is not of its commit.
pub(crate) fn take_untrue(live: &Live, annotations: &BTreeMap<String, String>, body: &mut Value) {
    let there = |key: &&&str| !live.object["metadata"]["annotations"][**key].is_null();
    for key in OF_ONE_IMAGE.iter().filter(there).filter(|key| !annotations.contains_key(**key)) {
        body["metadata"]["annotations"][*key] = Value::Null;
    }
}

pub(crate) fn annotated(mut body: Value, annotations: &BTreeMap<String, String>) -> Value {
    if !annotations.is_empty() && !body["metadata"]["annotations"].is_object() {
        body["metadata"]["annotations"] = json!({});
    }
    for (key, value) in annotations {
        body["metadata"]["annotations"][key] = json!(value);
    }
    body
}

/// A Job like the one that exists, with other images. What the server and the controller wrote into it
/// goes: the selector and its labels name the old one.
pub(crate) fn new_job(live: &Live, images: &[(&Container, &str)]) -> Value {
    let mut job = live.object.clone();
    set_images(&live.name.resource, &mut job, images);
    job["apiVersion"] = json!(live.name.resource.api_version());
    job["kind"] = json!(live.name.resource.kind);
    forget_identity(&mut job);
    job
}

/// Removes what only the server writes, so that the object can be created anew.
pub(crate) fn forget_identity(job: &mut Value) {
    const GENERATED: [&str; 4] =
        ["controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];
    let remove = |value: &mut Value, fields: &[&str]| {
        if let Some(object) = value.as_object_mut() {
            fields.iter().for_each(|field| drop(object.remove(*field)));
        }
    };
    remove(job, &["status"]);
    let server = ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"];
    remove(&mut job["metadata"], &server);
    if job["spec"]["manualSelector"] != true {
        remove(&mut job["spec"], &["selector"]);
        for pointer in ["/metadata/labels", "/spec/template/metadata/labels"] {
            if let Some(labels) = job.pointer_mut(pointer) {
                remove(labels, &GENERATED);
            }
        }
    }
}

/// Puts images into a whole object.
pub(crate) fn set_images(resource: &Resource, object: &mut Value, images: &[(&Container, &str)]) {
    let pod_spec = workload::pod_spec_pointer(resource).unwrap_or_default();
    for (container, image) in images {
        let pointer = container.image_pointer(&pod_spec);
        // The field may be missing; its holder was seen.
        if let Some((holder, field)) = pointer.rsplit_once('/')
            && let Some(Value::Object(holder)) = object.pointer_mut(holder)
        {
            holder.insert(field.to_owned(), json!(image));
        }
    }
}

/// What kind of patch puts images into an object of this kind.
pub(crate) fn images_patch(resource: &Resource) -> Patch {
    if workload::is_custom(resource) { Patch::Plain } else { Patch::Merge }
}

/// The patch that puts images into containers; annotations go into the same one, since each write of its
/// own would be a generation of its own. The uid makes the server refuse it for a namesake that was
/// created in between.
pub(crate) fn images_body(live: &Live, images: &[(&Container, &str)]) -> Value {
    let resource = &live.name.resource;
    let pointer = workload::pod_spec_pointer(resource).unwrap_or_default();
    let custom = workload::is_custom(resource);
    let mut body = nested(&pointer, if custom { custom_spec(live, images) } else { merged_spec(images) });
    body["metadata"] = json!({"uid": live.object["metadata"]["uid"]});
    if custom {
        // Whole lists are written: nobody may have changed another entry meanwhile.
        body["metadata"]["resourceVersion"] = live.object["metadata"]["resourceVersion"].clone();
    }
    body
}

/// A strategic merge: entries of lists are known by their name.
fn merged_spec(images: &[(&Container, &str)]) -> Value {
    let mut spec = json!({});
    for (container, image) in images {
        let entry = match container.list {
            List::Volumes => json!({"name": container.bare_name(), "image": {"reference": image}}),
            _ => json!({"name": container.name, "image": image}),
        };
        match spec[container.list.field()].as_array_mut() {
            Some(list) => list.push(entry),
            None => spec[container.list.field()] = json!([entry]),
        }
    }
    spec
}

/// A custom resource's lists have no merge keys for a patch: those that change are written as a whole.
fn custom_spec(live: &Live, images: &[(&Container, &str)]) -> Value {
    let mut object = live.object.clone();
    set_images(&live.name.resource, &mut object, images);
    let Some(spec) = workload::pod_spec(&live.name.resource, &object) else { return json!({}) };
    if spec.is_string() {
        return spec.clone();
    }
    let mut fields: Vec<&str> = images.iter().map(|(container, _)| container.list.field()).collect();
    fields.dedup();
    fields.into_iter().map(|field| (field.to_owned(), spec[field].clone())).collect()
}

/// Wraps a value so that it stands at a JSON pointer.
fn nested(pointer: &str, value: Value) -> Value {
    let parts = pointer.rsplit('/').filter(|part| !part.is_empty());
    parts.fold(value, |inner, part| {
        let key = part.replace("~1", "/").replace("~0", "~");
        json!({key: inner})
    })
}
