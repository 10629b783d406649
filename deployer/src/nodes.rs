//! Whether any node can run an image: by platform, and by where a workload's pods may go. Pure.

use crate::error::Error;
use crate::image::Image;
use crate::object::Resource;
use crate::plan::Finding;
use crate::workload::text;
use oci::Platform;
use serde_json::Value;

/// The nodes that a pod spec may run on: cordons, taints, the node selector and what node affinity requires count.
pub(crate) fn eligible<'a>(nodes: &'a [Value], pod_spec: Option<&Value>) -> Vec<&'a Value> {
    let none = Value::Null;
    let spec = pod_spec.unwrap_or(&none);
    let takes = |node: &&Value| {
        node["spec"]["unschedulable"] != true
            && is_selected(node, spec)
            && is_tolerated(node, spec)
            && has_affinity(node, spec)
    };
    nodes.iter().filter(takes).collect()
}

/// Holds an image against the nodes that a workload's pods may run on.
///
/// # Errors
///
/// Fails if there are such nodes and none runs any platform of the image.
pub(crate) fn check(
    image: &Image,
    nodes: &[Value],
    about: &str,
    pod_spec: Option<&Value>,
) -> Result<Vec<Finding>, Error> {
    let eligible = eligible(nodes, pod_spec);
    if eligible.is_empty() {
        return Ok(vec![Finding::warning(
            about,
            "no schedulable node fits it now (node selector, affinity, taints): its pods will wait",
        )]);
    }
    let offered = image.platforms();
    let (able, unable): (Vec<Platform>, Vec<Platform>) =
        eligible.into_iter().filter_map(platform).partition(|node| offered.iter().any(|offer| node.accepts(offer)));
    if offered.is_empty() || unable.is_empty() {
        return Ok(Vec::new());
    }
    let names = |platforms: &[Platform]| {
        let mut names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        names.sort();
        names.dedup();
        names
    };
    if able.is_empty() {
        return Err(Error::Platform {
            image: image.pinned().to_string(),
            offered: names(offered),
            nodes: names(&unable),
        });
    }
    let text =
        format!("the image is not built for {}; pods that come to such a node will fail", names(&unable).join(", "));
    Ok(vec![Finding::warning(about, text)])
}

/// Where nodes are found; they are a core kind, `v1` since ever.
pub(crate) fn resource() -> Resource {
    Resource { namespaced: false, ..Resource::core("Node", "nodes") }
}

pub(crate) fn platform(node: &Value) -> Option<Platform> {
    let info = &node["status"]["nodeInfo"];
    format!("{}/{}", text(&info["operatingSystem"]), text(&info["architecture"])).parse().ok()
}

fn is_selected(node: &Value, spec: &Value) -> bool {
    let selector = spec["nodeSelector"].as_object();
    selector.into_iter().flatten().all(|(key, value)| node["metadata"]["labels"][key] == *value)
}

/// `PreferNoSchedule` keeps nobody away.
fn is_tolerated(node: &Value, spec: &Value) -> bool {
    let tolerations = || spec["tolerations"].as_array().into_iter().flatten();
    let fits = |toleration: &Value, taint: &Value| {
        let key = text(&toleration["key"]);
        let operator = text(&toleration["operator"]);
        let effect = text(&toleration["effect"]);
        (key.is_empty() && operator == "Exists" || key == text(&taint["key"]))
            && (operator == "Exists" || text(&toleration["value"]) == text(&taint["value"]))
            && (effect.is_empty() || effect == text(&taint["effect"]))
    };
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.all(|taint| {
        !matches!(text(&taint["effect"]), "NoSchedule" | "NoExecute") || tolerations().any(|one| fits(one, taint))
    })
}

/// What is required, any one term of which is enough; what is only preferred says nothing.
fn has_affinity(node: &Value, spec: &Value) -> bool {
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(terms) = required["nodeSelectorTerms"].as_array() else { return true };
    let all = |term: &Value, field: &str, holds: &dyn Fn(&Value) -> bool| {
        term[field].as_array().into_iter().flatten().all(holds)
    };
    terms.iter().any(|term| {
        let by_label = |expression: &Value| expression_holds(expression, &node["metadata"]["labels"]);
        let by_name = |expression: &Value| expression_holds(expression, &node["metadata"]);
        all(term, "matchExpressions", &by_label) && all(term, "matchFields", &by_name)
    })
}

fn expression_holds(expression: &Value, fields: &Value) -> bool {
    // Fields are written `metadata.name`, and only that one exists.
    let key = text(&expression["key"]);
    let value = &fields[key.strip_prefix("metadata.").unwrap_or(key)];
    let is_among = || expression["values"].as_array().into_iter().flatten().any(|one| one == value);
    let number = |value: &Value| text(value).parse::<i64>().ok();
    let limit = number(&expression["values"][0]);
    match text(&expression["operator"]) {
        "In" => is_among(),
        "NotIn" => !is_among(),
        "Exists" => !value.is_null(),
        "DoesNotExist" => value.is_null(),
        "Gt" => number(value).zip(limit).is_some_and(|(value, limit)| value > limit),
        "Lt" => number(value).zip(limit).is_some_and(|(value, limit)| value < limit),
        _ => true, // one that we do not know keeps no node away
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::{Digest, Reference};
    use serde_json::json;

    fn node(architecture: &str, cordoned: bool) -> Value {
        json!({"metadata": {"labels": {"kubernetes.io/arch": architecture}}, "spec": {"unschedulable": cordoned},
            "status": {"nodeInfo": {"operatingSystem": "linux", "architecture": architecture}}})
    }

    fn image(platforms: &[&str]) -> Image {
        let reference: Reference = "registry.test/web:1".parse().unwrap();
        Image::new(
            reference.pin(Digest::of(b"web")),
            [],
            platforms.iter().map(|platform| platform.parse().unwrap()).collect(),
        )
    }

    #[test]
    fn nodes_are_asked_what_they_are() {
        let mixed = [node("amd64", false), node("arm64", false)];
        let found = |image: &Image, nodes: &[Value], template: &Value| {
            check(image, nodes, "web", Some(template)).map(|findings| findings.len())
        };
        assert_eq!(found(&image(&["linux/amd64", "linux/arm64"]), &mixed, &json!({})).unwrap(), 0);
        assert_eq!(found(&image(&["linux/amd64"]), &mixed, &json!({})).unwrap(), 1, "a warning");
        assert_eq!(found(&image(&[]), &mixed, &json!({})).unwrap(), 0, "unknown platforms say nothing");
        assert_eq!(found(&image(&["linux/amd64"]), &[], &json!({})).unwrap(), 1, "no node at all is a warning");
        let on_arm = json!({"nodeSelector": {"kubernetes.io/arch": "arm64"}});
        let error = found(&image(&["linux/amd64"]), &mixed, &on_arm).unwrap_err().to_string();
        assert!(error.contains("it is built for linux/amd64, and the nodes are linux/arm64"), "{error}");
        let cordoned = [node("amd64", true), node("arm64", false)];
        assert!(found(&image(&["linux/amd64"]), &cordoned, &json!({})).is_err(), "a cordoned node does not count");
    }

    #[test]
    fn pods_go_where_taints_and_affinity_let_them() {
        let mut tainted = node("amd64", false);
        tainted["spec"]["taints"] = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}, {"key": "soft", "effect": "PreferNoSchedule"}]);
        tainted["metadata"]["name"] = json!("g1");
        let nodes = [tainted, node("arm64", false)];
        let required = |term: Value| {
            json!({"tolerations": [{"operator": "Exists"}], "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
        };
        let label = |operator: &str, values: &[&str]| {
            required(
                json!({"matchExpressions": [{"key": "kubernetes.io/arch", "operator": operator, "values": values}]}),
            )
        };
        for (spec, count) in [
            (json!({}), 1),
            (json!({"tolerations": [{"key": "gpu", "value": "yes"}]}), 2),
            (json!({"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]}), 1),
            (json!({"tolerations": [{"operator": "Exists"}]}), 2),
            (label("In", &["arm64", "riscv64"]), 1),
            (label("NotIn", &["amd64", "arm64"]), 0),
            (label("Exists", &[]), 2),
            (required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["g1"]}]})), 1),
        ] {
            assert_eq!(eligible(&nodes, Some(&spec)).len(), count, "{spec}");
        }
    }
}
