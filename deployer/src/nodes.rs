//! Whether any node can run an image, by platform. Pure.

use crate::error::Error;
use crate::image::Image;
use crate::object::Resource;
use crate::plan::Finding;
use crate::workload::text;
use oci::Platform;
use serde_json::Value;

/// Holds an image against the nodes that a workload's pods may run on (its node selector counts).
///
/// # Errors
///
/// Fails if there are such nodes and none runs any platform of the image.
pub(crate) fn check(
    image: &Image,
    nodes: &[Value],
    about: &str,
    template: Option<&Value>,
) -> Result<Vec<Finding>, Error> {
    let eligible: Vec<&Value> =
        nodes.iter().filter(|node| node["spec"]["unschedulable"] != true && is_selected(node, template)).collect();
    if eligible.is_empty() {
        return Ok(vec![Finding::warning(about, "no schedulable node fits its node selector now: its pods will wait")]);
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
    Resource {
        group: String::new(),
        version: "v1".into(),
        kind: "Node".into(),
        plural: "nodes".into(),
        namespaced: false,
    }
}

fn platform(node: &Value) -> Option<Platform> {
    let info = &node["status"]["nodeInfo"];
    format!("{}/{}", text(&info["operatingSystem"]), text(&info["architecture"])).parse().ok()
}

fn is_selected(node: &Value, template: Option<&Value>) -> bool {
    let selector = template.and_then(|template| template["spec"]["nodeSelector"].as_object());
    selector.into_iter().flatten().all(|(key, value)| node["metadata"]["labels"][key] == *value)
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
        let on_arm = json!({"spec": {"nodeSelector": {"kubernetes.io/arch": "arm64"}}});
        let error = found(&image(&["linux/amd64"]), &mixed, &on_arm).unwrap_err().to_string();
        assert!(error.contains("it is built for linux/amd64, and the nodes are linux/arm64"), "{error}");
        let cordoned = [node("amd64", true), node("arm64", false)];
        assert!(found(&image(&["linux/amd64"]), &cordoned, &json!({})).is_err(), "a cordoned node does not count");
    }
}
