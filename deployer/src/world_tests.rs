//! What counts of what was seen, and from when on.

use super::*;
use crate::diagnose::Cause;
use crate::verdict::Verdict;
use crate::verdict::tests::{NEW, OLD, Scene, UID, failed, finished, now, resource, template, ticket, workload};
use serde_json::json;

#[test]
fn events_of_earlier_deploys_are_not_ours() {
    let status = json!({"observedGeneration": 2, "replicas": 1, "updateRevision": "web-2"});
    let event = |version: &str| json!({"metadata": {"uid": "e", "resourceVersion": version}, "involvedObject": {"uid": UID}, "reason": "FailedCreate", "message": "denied"});
    let mut world = World::default();
    for (kind, objects) in [
        (Kind::Workload(resource("StatefulSet")), vec![workload(json!({"replicas": 1}), status)]),
        (Kind::Pod, vec![]),
        (Kind::Event, vec![event("7")]),
    ] {
        let stream = world.add_stream(kind, "demo");
        world.replace(stream, objects, now());
    }
    let mut scene = Scene { world, ticket: ticket("StatefulSet") };
    assert!(matches!(scene.verdict_at(100), Verdict::Waiting(_)));
    scene.put(2, event("8"));
    assert_eq!(failed(scene.verdict_at(10)), [(Cause::Refused, "denied".into())], "it happened again");
}

/// What a watch showed before a write is the version before, and an object that is not there yet is no object that is gone.
#[test]
fn what_was_seen_before_a_write_is_behind_it() {
    let at = |generation: i64, image: &str| {
        let mut object = workload(json!({"replicas": 2}), finished());
        object["metadata"]["generation"] = json!(generation);
        object["spec"]["template"] = template(image);
        object
    };
    let is_behind = |kind: &str, object: Option<Value>| {
        let scene = Scene::new(kind, object);
        scene.world.is_behind(&scene.ticket)
    };
    assert!(is_behind("Deployment", None), "not made yet");
    assert!(is_behind("Deployment", Some(at(1, OLD))));
    assert!(!is_behind("Deployment", Some(at(2, NEW))));
    assert!(!is_behind("Deployment", Some(at(3, OLD))), "somebody was faster");
    let mut namesake = at(9, NEW);
    namesake["metadata"]["uid"] = json!("another");
    assert!(is_behind("Deployment", Some(namesake)), "the one that was deleted");

    let mut world = World::default();
    world.add_stream(Kind::Workload(resource("Deployment")), "demo");
    assert!(world.is_behind(&ticket("Deployment")), "its list may have been made before");
}

/// A bare pod has no generation, and events of the version before may come after our write.
#[test]
fn states_of_a_pod_from_before_a_write_are_behind_it() {
    let pod = |image: &str, version: &str| {
        let mut pod = json!({"metadata": {"name": "web", "uid": UID, "resourceVersion": version}});
        pod["spec"] = template(image)["spec"].clone();
        pod
    };
    let scene = |ticket: Ticket, pod: Value| Scene { ticket, ..Scene::new("Pod", Some(pod)) };
    for (image, version, is_behind) in [
        (OLD, "9", true), // by their numbers, not by their texts
        (NEW, "19", true),
        (NEW, "20", false),
        (OLD, "21", false), // somebody was faster
        (NEW, "36893488147419103232", false),
    ] {
        let Scene { world, ticket } = scene(ticket("Pod"), pod(image, version));
        assert_eq!(world.is_behind(&ticket), is_behind, "{image} {version}");
        assert_eq!(world.is_surely_behind(&ticket), is_behind, "{image} {version}");
    }
    // A ticket of an old file, or a server whose versions are no numbers.
    for (ours, seen) in [("", "9"), ("20", "x9")] {
        let of_unknown = || Ticket { version: ours.into(), ..ticket("Pod") };
        for (image, is_behind) in [(OLD, true), (NEW, false)] {
            let Scene { world, ticket } = scene(of_unknown(), pod(image, seen));
            assert_eq!(world.is_behind(&ticket), is_behind, "{image}");
            assert!(!world.is_surely_behind(&ticket));
        }
    }
    let gone = Scene::new("Pod", None);
    assert!(gone.world.is_behind(&gone.ticket) && !gone.world.is_surely_behind(&gone.ticket));
}

/// What events said of a workload before its turn came is of the version before.
#[test]
fn events_from_before_its_turn_are_not_its_own() {
    let status = json!({"observedGeneration": 2, "replicas": 1, "updateRevision": "web-2"});
    let event = |version: &str| json!({"metadata": {"uid": "e", "resourceVersion": version}, "involvedObject": {"uid": UID}, "reason": "FailedCreate", "message": "denied"});
    let mut scene = Scene::new("StatefulSet", Some(workload(json!({"replicas": 1}), status)));
    scene.put(3, event("7"));
    assert_eq!(failed(scene.verdict_at(10)), [(Cause::Refused, "denied".into())]);
    scene.world.begin(&scene.ticket);
    assert!(matches!(scene.verdict_at(100), Verdict::Waiting(_)));
    scene.put(3, event("8"));
    assert_eq!(failed(scene.verdict_at(10)), [(Cause::Refused, "denied".into())]);
}
