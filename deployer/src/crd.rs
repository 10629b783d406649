//! Custom resource definitions: which kinds they define, and whether the server serves them. Pure.

use crate::object::Resource;
use crate::workload::text;
use crate::world::condition;
use serde_json::Value;

/// Whether objects of this kind define kinds.
pub(crate) fn is_definition(resource: &Resource) -> bool {
    resource.is("apiextensions.k8s.io", &["CustomResourceDefinition"])
}

/// The kinds that a definition will make, one per served version; only `apiextensions.k8s.io/v1`.
pub(crate) fn resources(definition: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let versions = spec["versions"].as_array().into_iter().flatten();
    let served = versions.filter(|version| version["served"] == true);
    let resource = |version: &Value| Resource {
        namespaced: spec["scope"] != "Cluster",
        ..Resource::new(
            text(&spec["group"]),
            text(&version["name"]),
            text(&spec["names"]["kind"]),
            text(&spec["names"]["plural"]),
        )
    };
    served.map(resource).collect()
}

/// Whether the server has taken a definition up.
pub(crate) fn is_established(definition: &Value) -> bool {
    condition(definition, "Established").is_some_and(|condition| condition["status"] == "True")
}
