//! Tables for [`super::plan_images`].

use super::*;
use crate::object::Resource;
use oci::{Digest, Reference};
use serde_json::json;

pub(crate) fn resource(group: &str, kind: &str) -> Resource {
    Resource {
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural: format!("{}s", kind.to_lowercase()),
        namespaced: true,
        image_path: None,
    }
}

pub(crate) fn image() -> Image {
    let reference: Reference = "registry.test/shop/web:2".parse().unwrap();
    Image::new(reference.pin(Digest::of(b"web 2")), [], vec![])
}

fn live(kind: &str, containers: Value) -> Live {
    let template = json!({"spec": {"containers": containers, "initContainers": [{"name": "migrate", "image": "registry.test/shop/migrate:1"}]}});
    let (group, spec) = match kind {
        "CronJob" => ("batch", json!({"jobTemplate": {"spec": {"template": template}}})),
        _ => ("apps", json!({"template": template})),
    };
    Live {
        name: ObjectName::new(resource(group, kind), "demo", "web"),
        object: json!({"metadata": {"uid": "u-1"}, "spec": spec}),
    }
}

fn two() -> Value {
    json!([{"name": "app", "image": "registry.test/shop/web:1"}, {"name": "side", "image": "registry.test/other/side:1"}])
}

fn plan(target: &str, live: Live) -> Result<Plan, Error> {
    let provenance =
        Provenance { change_cause: Some("commit abc".into()), facts: [("commit".into(), "abc".into())].into() };
    plan_images(&[(target.parse().unwrap(), live)], &[image().into()], &Options { provenance, ..Options::default() })
}

#[test]
fn one_patch_holds_uid_image_and_annotations() {
    let plan = plan("deployment/web", live("Deployment", two())).unwrap();
    let to = image().pinned().to_string();
    let expected = json!({
        "metadata": {"uid": "u-1", "annotations": {"kubernetes.io/change-cause": "commit abc", "lighter.dev/commit": "abc"}},
        "spec": {"template": {"spec": {"containers": [{"name": "app", "image": to}]}}},
    });
    assert_eq!(plan.actions[0].step, Step::Patch(expected));
    assert_eq!(plan.actions[0].images[0].from.as_deref(), Some("registry.test/shop/web:1"));
    assert_eq!(
        plan.to_string(),
        format!("change deployment/web in namespace demo\n  app: registry.test/shop/web:1 -> {to}\n")
    );
}

#[test]
fn what_an_earlier_deploy_said_of_its_image_goes_with_the_image() {
    let mut live = live("Deployment", two());
    live.object["metadata"]["annotations"] = json!({"kubernetes.io/change-cause": "lighter deploy of commit 1",
        "lighter.dev/commit": "1", "lighter.dev/pipeline": "7", "lighter.dev/pipeline-iid": "7", "theirs": "x"});
    let options = |facts: &[(&str, &str)]| {
        let facts = facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Options { provenance: Provenance { change_cause: None, facts }, ..Options::default() }
    };
    let written = |options: &Options| {
        let plan = plan_images(&[("deployment/web".parse().unwrap(), live.clone())], &[image().into()], options);
        let Step::Patch(body) = plan.unwrap().actions[0].step.clone() else { panic!("nothing is written") };
        body["metadata"]["annotations"].clone()
    };
    let by_hand = json!({"kubernetes.io/change-cause": null, "lighter.dev/commit": null, "lighter.dev/pipeline": null});
    assert_eq!(written(&options(&[])), by_hand, "a late pipeline is still known by its number");
    let of_commit =
        json!({"kubernetes.io/change-cause": null, "lighter.dev/commit": "2", "lighter.dev/pipeline": null});
    assert_eq!(written(&options(&[("commit", "2")])), of_commit);
}

#[test]
fn the_template_of_a_cron_job_lies_deeper() {
    let plan = plan("cronjob/web/app", live("CronJob", two())).unwrap();
    let Step::Patch(body) = &plan.actions[0].step else { panic!("{plan:?}") };
    assert_eq!(body["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["name"], "app");
}

#[test]
fn an_init_container_is_patched_in_its_own_list() {
    let plan = plan("deployment/web/migrate", live("Deployment", two())).unwrap();
    let Step::Patch(body) = &plan.actions[0].step else { panic!("{plan:?}") };
    assert_eq!(
        body["spec"]["template"]["spec"],
        json!({"initContainers": [{"name": "migrate", "image": image().pinned().to_string()}]})
    );
}

#[test]
fn two_containers_of_one_object_are_one_patch() {
    let targets = ["deployment/web/side", "deployment/web/app", "deployment/web/app"];
    let live: Vec<_> = targets.iter().map(|target| (target.parse().unwrap(), live("Deployment", two()))).collect();
    let plan = plan_images(&live, &[image().into()], &Options::default()).unwrap();
    assert_eq!(plan.actions.len(), 1);
    let Step::Patch(body) = &plan.actions[0].step else { panic!("{plan:?}") };
    assert_eq!(body["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
}

#[test]
fn the_same_image_is_nothing_to_do() {
    let live = live("Deployment", json!([{"name": "app", "image": image().pinned().to_string()}]));
    let plan = plan("deployment/web/app", live).unwrap();
    assert_eq!((plan.actions[0].change, &plan.actions[0].step), (Change::Nothing, &Step::Nothing));
    assert!(!plan.changes_anything());
}

#[test]
fn a_container_that_is_not_there_is_never_added() {
    let error = plan("deployment/web/wbe", live("Deployment", two())).unwrap_err();
    let Error::UnknownContainer { known, .. } = &error else { panic!("{error:?}") };
    assert_eq!(known, &["app", "side", "migrate"]);
}

#[test]
fn no_fitting_container_is_an_error_that_names_all() {
    let error =
        plan("deployment/web", live("Deployment", json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}])))
            .unwrap_err();
    assert!(matches!(&error, Error::WhichContainer { known, .. } if known.len() == 3), "{error:?}");
}

#[test]
fn kinds_whose_template_cannot_change_are_refused() {
    let mut live = live("Deployment", two());
    live.name.resource = resource("batch", "Job");
    assert!(matches!(plan("job/web", live), Err(Error::Unpatchable { .. })));
}

#[test]
fn what_will_keep_a_rollout_from_showing_is_found_before() {
    for (spec, word) in [
        (json!({"paused": true}), "paused"),
        (json!({"replicas": 0}), "zero replicas"),
        (json!({"updateStrategy": {"type": "OnDelete"}}), "OnDelete"),
    ] {
        let live = Live {
            name: ObjectName::new(resource("apps", "Deployment"), "demo", "web"),
            object: json!({"spec": spec}),
        };
        assert!(findings(&live)[0].text.contains(word), "{word}");
    }
}

#[test]
fn as_many_begin_as_may_and_what_rolls_nothing_out_goes_along() {
    let action = |group: &str, kind: &str, change: Change| {
        Action::written(ObjectName::new(resource(group, kind), "demo", "x"), change, Vec::new())
    };
    let plan = Plan {
        actions: vec![
            action("", "Service", Change::Create),
            action("apps", "Deployment", Change::Update),
            action("apps", "Deployment", Change::Nothing),
            action("apps", "Deployment", Change::Create),
            action("apps", "Deployment", Change::Delete),
            action("batch", "CronJob", Change::Update),
        ],
        ..Plan::default()
    };
    let expected = [(0, 0, 1), (0, 1, 3), (0, 2, 6), (1, 0, 0), (3, 1, 3), (0, usize::MAX, 6), (6, 1, 0)];
    for (first, rollouts, turn) in expected {
        assert_eq!(plan.turn(first, rollouts, false), turn, "{first} {rollouts}");
    }
    assert_eq!([plan.turn(3, 1, true), plan.turn(3, 2, true)], [2, 3], "a CronJob that runs once is one of them");
    assert_eq!(plan.objects().count(), 5);
}
