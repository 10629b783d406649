//! Where each kind of workload keeps its pod template and its containers, on JSON values. Typed structs
//! are not used for bodies: they write fields that nobody set, and would claim or change them.

use crate::object::Resource;
use oci::Digest;
use serde_json::Value;

/// Which of the two container lists of a pod a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Containers,
    InitContainers,
}

impl List {
    pub(crate) const ALL: [List; 2] = [List::Containers, List::InitContainers];

    /// The field of the pod spec.
    pub(crate) fn field(self) -> &'static str {
        match self {
            List::Containers => "containers",
            List::InitContainers => "initContainers",
        }
    }
}

/// One container of a template; names are unique over both lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) list: List,
    pub(crate) index: usize,
    pub(crate) name: String,
    /// Empty if the template names none.
    pub(crate) image: String,
}

/// Where the pod (template) of this kind is, as a JSON pointer; `None` for kinds without pods.
pub(crate) fn template_pointer(resource: &Resource) -> Option<&'static str> {
    match (resource.group.as_str(), resource.kind.as_str()) {
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") => Some("/spec/template"),
        ("batch", "Job") | ("", "ReplicationController") => Some("/spec/template"),
        ("batch", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        ("", "Pod") => Some(""),
        _ => None,
    }
}

/// Whether the image of a live object of this kind can be changed in place.
pub(crate) fn is_patchable(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.kind.as_str()),
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet") | ("batch", "CronJob")
    )
}

/// The pod template of an object.
pub(crate) fn template<'a>(resource: &Resource, object: &'a Value) -> Option<&'a Value> {
    object.pointer(template_pointer(resource)?)
}

/// All containers of an object's template: regular ones first.
pub(crate) fn containers(resource: &Resource, object: &Value) -> Vec<Container> {
    template(resource, object).map(template_containers).unwrap_or_default()
}

/// All containers of a template: regular ones first.
pub(crate) fn template_containers(template: &Value) -> Vec<Container> {
    let of_list = |list: List| {
        let entries = template["spec"][list.field()].as_array();
        entries.into_iter().flatten().enumerate().map(move |(index, container)| Container {
            list,
            index,
            name: text(&container["name"]).to_owned(),
            image: text(&container["image"]).to_owned(),
        })
    };
    List::ALL.into_iter().flat_map(of_list).collect()
}

/// A fingerprint of the template: the same as long as nobody changes it.
pub(crate) fn fingerprint(resource: &Resource, object: &Value) -> Option<Digest> {
    template(resource, object).map(|template| Digest::of(canonical(template).as_bytes()))
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
