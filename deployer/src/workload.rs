//! Where each kind of workload keeps its pod template and its images, on JSON values. Typed structs
//! are not used for bodies: they write fields that nobody set, and would claim or change them.

use crate::object::Resource;
use crate::target::VOLUME;
use oci::Digest;
use serde_json::Value;
use std::borrow::Cow;

/// Where in a pod spec an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Containers,
    /// Sidecars are among them.
    InitContainers,
    /// Volumes whose content is an image.
    Volumes,
    /// No pod spec at all: a custom resource's field that holds the image itself.
    Field,
}

impl List {
    /// The lists of containers.
    pub(crate) const CONTAINERS: [List; 2] = [List::Containers, List::InitContainers];
    const ALL: [List; 3] = [List::Containers, List::InitContainers, List::Volumes];

    /// The field of the pod spec.
    pub(crate) fn field(self) -> &'static str {
        match self {
            List::Containers => "containers",
            List::InitContainers => "initContainers",
            List::Volumes => "volumes",
            List::Field => "",
        }
    }
}

/// One place for an image; names are unique over all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) list: List,
    pub(crate) index: usize,
    /// Of a volume, `volume:` and its name: a container may be called the same.
    pub(crate) name: String,
    /// Empty if the template names none.
    pub(crate) image: String,
}

impl Container {
    /// Its name in its own list.
    pub(crate) fn bare_name(&self) -> &str {
        self.name.strip_prefix(VOLUME).unwrap_or(&self.name)
    }

    /// Where its image is, as a JSON pointer.
    pub(crate) fn image_pointer(&self, pod_spec: &str) -> String {
        let entry = format!("{pod_spec}/{}/{}", self.list.field(), self.index);
        match self.list {
            List::Containers | List::InitContainers => entry + "/image",
            List::Volumes => entry + "/image/reference",
            List::Field => pod_spec.to_owned(),
        }
    }
}

/// Whether pods report the digest of what is called so: they do not of volumes.
pub(crate) fn is_reported(name: &str) -> bool {
    !name.starts_with(VOLUME)
}

/// Kinds of others whose pod spec is where a Deployment's is.
const CUSTOM: [(&str, &str); 5] = [
    ("argoproj.io", "Rollout"),
    ("serving.knative.dev", "Service"),
    ("apps.kruise.io", "CloneSet"),
    ("apps.kruise.io", "StatefulSet"),
    ("apps.kruise.io", "DaemonSet"),
];

/// Where the pod (template) of this kind is, as a JSON pointer; `None` for kinds without pods that we know.
fn template_pointer(resource: &Resource) -> Option<&'static str> {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") => Some("/spec/template"),
        ("batch", "Job") | ("", "ReplicationController") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        ("", "Pod") => Some(""),
        _ => None,
    }
}

/// Whether the kind is none of Kubernetes' own: its lists have no merge keys.
pub(crate) fn is_custom(resource: &Resource) -> bool {
    template_pointer(resource).is_none()
}

/// Where the pod spec of this kind is, or its image, as a JSON pointer; `None` for kinds without images.
pub(crate) fn pod_spec_pointer(resource: &Resource) -> Option<Cow<'_, str>> {
    if let Some(path) = &resource.image_path {
        return Some(Cow::Borrowed(path));
    }
    if CUSTOM.contains(&(resource.group.as_str(), resource.kind.as_str())) {
        return Some(Cow::Borrowed("/spec/template/spec"));
    }
    template_pointer(resource).map(|template| Cow::Owned(format!("{template}/spec")))
}

/// Whether the image of a live object of this kind can be changed in place.
pub(crate) fn is_patchable(resource: &Resource) -> bool {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("batch", "Job") => false,
        _ => pod_spec_pointer(resource).is_some(),
    }
}

/// Whether anything is to be seen of the rollout of this kind.
pub(crate) fn is_watched(resource: &Resource) -> bool {
    resource.is("apps", &["Deployment", "StatefulSet", "DaemonSet"])
        || is_finite(resource)
        || (is_custom(resource) && pod_spec_pointer(resource).is_some())
}

/// Pods themselves, and Jobs: nobody counts new pods for them.
pub(crate) fn is_finite(resource: &Resource) -> bool {
    resource.is("", &["Pod"]) || resource.is("batch", &["Job"])
}

/// The pod spec of an object; of a custom resource, what stands where its image is.
pub(crate) fn pod_spec<'a>(resource: &Resource, object: &'a Value) -> Option<&'a Value> {
    object.pointer(&pod_spec_pointer(resource)?)
}

/// All places for images in an object: regular containers first.
pub(crate) fn containers(resource: &Resource, object: &Value) -> Vec<Container> {
    match pod_spec(resource, object) {
        Some(Value::String(image)) => {
            let pointer = pod_spec_pointer(resource).unwrap_or_default();
            let name = pointer.rsplit('/').next().unwrap_or_default().to_owned();
            vec![Container { list: List::Field, index: 0, name, image: image.clone() }]
        }
        Some(spec) => spec_containers(spec),
        None => Vec::new(),
    }
}

/// All places for images in a template: regular containers first.
pub(crate) fn template_containers(template: &Value) -> Vec<Container> {
    spec_containers(&template["spec"])
}

fn spec_containers(spec: &Value) -> Vec<Container> {
    let of_list = |list: List| {
        let entries = spec[list.field()].as_array();
        entries.into_iter().flatten().enumerate().filter_map(move |(index, entry)| place(list, index, entry))
    };
    List::ALL.into_iter().flat_map(of_list).collect()
}

fn place(list: List, index: usize, entry: &Value) -> Option<Container> {
    let name = text(&entry["name"]);
    let (name, image) = match list {
        List::Volumes => (format!("{VOLUME}{name}"), entry["image"].get("reference")?),
        _ => (name.to_owned(), &entry["image"]),
    };
    Some(Container { list, index, name, image: text(image).to_owned() })
}

/// A fingerprint of the template: the same as long as nobody changes it.
pub(crate) fn fingerprint(resource: &Resource, object: &Value) -> Option<Digest> {
    let template = match template_pointer(resource) {
        Some(pointer) => object.pointer(pointer),
        None => pod_spec(resource, object),
    };
    Some(Digest::of(canonical(template?).as_bytes()))
}

/// JSON with sorted keys, whatever order the parser keeps.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            let fields: Vec<String> = fields
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// A string field, or the empty string.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
