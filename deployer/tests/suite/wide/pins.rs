//! Which kinds and containers take an image.

use super::patient;
use crate::stage::{DEPLOYMENTS, Stage, deployment, image, pinned};
use deployer::{
    Assignment, Change, Class, Cluster, ConnectOptions, End, Error, Evidence, Manifest, Outcome, Policy, Request, What,
    Which,
};
use fixtures::kubernetes::User;
use fixtures::kubernetes::kubelet::Fate;
use serde_json::{Value, json};
use std::time::Duration;

const JOBS: &str = "/apis/batch/v1/jobs";
const PODS: &str = "/api/v1/pods";

fn runs(pod: &Value, version: u32) -> bool {
    pod["spec"]["containers"][0]["image"] == pinned(version).as_str()
}

fn job(version: u32) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "migrate"}, "spec": {"backoffLimit": 0, "template": {
        "spec": {"restartPolicy": "Never", "containers": [{"name": "web", "image": pinned(version)}]}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_made_anew_only_if_asked() {
    let stage = Stage::new("jobs", |pod| {
        if runs(pod, 3) { Fate::PullFails("manifest unknown: not found".into()) } else { Fate::Succeeds }
    })
    .await;
    stage.create(JOBS, &job(1));
    let error = stage.plan_image("job/migrate", image(2)).await.unwrap_err();
    assert!(matches!(error, Error::Unpatchable { .. }) && error.to_string().contains("--replace-jobs"), "{error}");

    let before = stage.object(JOBS, "migrate");
    let request = |version| Request { replace_jobs: true, ..stage.request(&["job/migrate"], image(version)) };
    let plan = stage.cluster.plan(&request(2)).await.unwrap();
    assert!(plan.to_string().starts_with("delete and make anew job/migrate"), "{plan}");
    stage.cluster.dry_run(&plan).await.unwrap();
    assert_eq!(stage.object(JOBS, "migrate")["metadata"]["uid"], before["metadata"]["uid"]);
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Completed });
    let after = stage.object(JOBS, "migrate");
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"]["template"]["spec"]["containers"][0]["image"], pinned(2));

    let plan = stage.cluster.plan(&request(3)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.class(), Class::Failed, "{outcome:?}");

    let manifests = Manifest::parse_all("job.yaml", &job(4).to_string()).unwrap();
    let what = What::Manifests(manifests);
    let error = stage.cluster.plan(&Request::new(None, what.clone())).await.unwrap_err();
    assert!(error.to_string().contains("immutable"), "{error}");
    let plan = stage.cluster.plan(&Request { replace_jobs: true, ..Request::new(None, what) }).await.unwrap();
    assert_eq!(plan.actions[0].change, Change::Replace);
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Completed });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_changes_in_place_and_a_replica_set_does_not_change_its_pods() {
    let stage = Stage::new("pods", |_| Fate::Runs).await;
    let pod = json!({"metadata": {"name": "web"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": pinned(1)}]}});
    stage.create(PODS, &pod);
    let outcome = stage.deploy("pod/web", image(2), &patient()).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 1 } });
    assert_eq!(stage.object(PODS, "web")["spec"]["containers"][0]["image"], pinned(2));

    stage.create("/apis/apps/v1/replicasets", &deployment(1, 1));
    let plan = stage.plan_image("rs/web", image(2)).await.unwrap();
    assert!(plan.to_string().contains("until somebody deletes them"), "{plan}");
    let outcome = stage.deploy("rs/web", image(2), &patient()).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::OnDelete });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_is_every_container_and_labels_choose_workloads() {
    let stage = Stage::new("choose", |_| Fate::Runs).await;
    for name in ["a", "b", "c"] {
        let mut object = deployment(1, 1);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["labels"] = json!({"team": if name == "c" { "other" } else { "shop" }});
        object["spec"]["selector"]["matchLabels"]["app"] = json!(name);
        object["spec"]["template"]["metadata"]["labels"]["app"] = json!(name);
        stage.create(DEPLOYMENTS, &object);
    }
    let select = |selector: &str, which: Which| {
        let what = What::Selected { kinds: vec!["deploy".into()], selector: selector.into() };
        Request { images: vec![Assignment { image: image(2), which }], ..Request::new(None, what) }
    };
    let plan = stage.cluster.plan(&select("team=shop", Which::All)).await.unwrap();
    assert_eq!(plan.actions.len(), 2);
    stage.cluster.execute(&plan).await.unwrap();
    assert_eq!(stage.images("a"), [pinned(2), pinned(2)]);
    assert_eq!(stage.images("c"), [pinned(1), "registry.test/side:1".to_owned()]);
    let error = stage.cluster.plan(&select("team=nobody", Which::Fitting)).await.unwrap_err();
    assert!(matches!(error, Error::NothingSelected { .. }), "`kubectl rollout status` exits with 0 here: {error}");
    assert_eq!(error.class(), Class::Refused);
    let error = stage.cluster.plan(&select("a in (", Which::Fitting)).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
}

fn definition() -> Value {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.test"},
        "spec": {"group": "example.test", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": any, "status": any}}}}]}})
}

/// A custom kind is waited for by what its controller, which is played here, says of each generation.
async fn follow_the_status(stage: &Stage, widgets: &str) {
    let say = |generation: &Value, ready: &str, reason: &str| {
        let condition = json!({"type": "Ready", "status": ready, "reason": reason, "message": "the widget"});
        let body = json!({"status": {"observedGeneration": generation, "conditions": [condition]}});
        let path = format!("{}/status", stage.path(widgets, "w"));
        stage.admin.merge(&path, &body).expect_ok();
    };
    let options = ConnectOptions {
        kubeconfig: vec![stage.fixture.kubeconfig(User::Admin, "custom")],
        image_paths: vec!["example.test/Widget=.spec.template.spec".parse().unwrap()],
        ..ConnectOptions::default()
    };
    let cluster = Cluster::connect(&options).await.unwrap();
    let roll_out = async |version: u32, ready: &str, reason: &str, policy: &Policy| {
        say(&stage.object(widgets, "w")["metadata"]["generation"], "True", "Before");
        let plan = cluster.plan(&stage.request(&["widget/w"], image(version))).await.unwrap();
        let executed = cluster.execute(&plan).await.unwrap();
        let early = cluster.look(&executed.tickets, &patient()).await.unwrap();
        assert_eq!(early.class(), Class::Undecided, "what the status says is of the version before");
        if !ready.is_empty() {
            say(&json!(executed.tickets[0].generation), ready, reason);
        }
        cluster.watch(&executed.tickets, policy, |_| {}).await.unwrap().targets.remove(0)
    };
    let well = roll_out(3, "True", "Done", &patient()).await;
    assert_eq!(well.end, End::Done { evidence: Evidence::Settled });
    let hurried = Policy { timeout: Duration::from_secs(2), ..Policy::default() };
    let bad = roll_out(4, "False", "NoSuchPart", &hurried).await;
    assert!(bad.end.to_string().contains("NoSuchPart: the widget"), "{bad}");
    let back = cluster.undo(&[bad.ticket], &hurried, None, |_| {}).await;
    let containers = &stage.object(widgets, "w")["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[1]["image"], pinned(3), "{back:?}");

    // Pods of its own say what they run.
    let owner = json!([{"apiVersion": "example.test/v1", "kind": "Widget", "name": "w", "controller": true,
        "uid": stage.object(widgets, "w")["metadata"]["uid"]}]);
    let pod = json!({"metadata": {"name": "of-widget", "ownerReferences": owner}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "side", "image": "s"}, {"name": "web", "image": pinned(5)}]}});
    stage.create("/api/v1/pods", &pod);
    let status = || stage.object("/api/v1/pods", "of-widget")["status"]["conditions"].to_string();
    stage.until("the pod runs", || status().contains("Ready")).await;
    let seen = roll_out(5, "True", "Done", &patient()).await;
    assert_eq!(seen.end, End::Done { evidence: Evidence::Verified { pods: 1 } });
    cluster.remember(&Outcome { targets: vec![seen] }).await.unwrap();
    let note = &stage.object(widgets, "w")["metadata"]["annotations"]["lighter.dev/verified"];
    assert!(note.as_str().is_some_and(|note| note.contains(&pinned(5))), "{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_and_its_objects_come_from_one_file_and_take_an_image_where_they_are_told() {
    let stage = Stage::new("custom", |_| Fate::Runs).await;
    let widget = json!({"apiVersion": "example.test/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {
        "image": "registry.test/shop/web:1", "template": {"spec": {"containers": [{"name": "side", "image": "s"}, {"name": "web", "image": "registry.test/shop/web:1", "args": ["x"]}]}}}});
    let text = format!("{widget}\n---\n{}", definition());
    let plan = stage.plan_manifests(&text, None, "x").await.unwrap();
    stage.cluster.execute(&plan).await.unwrap();
    let widgets = "/apis/example.test/v1/widgets";
    assert!(stage.exists(widgets, "w"));

    let error = stage.plan_image("widget/w", image(2)).await.unwrap_err();
    assert!(error.to_string().contains("--image-path"), "{error}");
    for (path, changed) in [
        ("example.test/Widget=.spec.template.spec", "/spec/template/spec/containers/1/image"),
        ("example.test/Widget=.spec.image", "/spec/image"),
    ] {
        let options = ConnectOptions {
            kubeconfig: vec![stage.fixture.kubeconfig(User::Admin, "custom")],
            image_paths: vec![path.parse().unwrap()],
            ..ConnectOptions::default()
        };
        let cluster = Cluster::connect(&options).await.unwrap();
        let before = stage.object(widgets, "w");
        let plan = cluster.plan(&stage.request(&["widget/w"], image(2))).await.unwrap();
        let executed = cluster.execute(&plan).await.unwrap();
        let outcome = cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
        assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Unknown }, "nothing is claimed");
        let mut expected = before["spec"].clone();
        *expected.pointer_mut(changed.strip_prefix("/spec").unwrap()).unwrap() = json!(pinned(2));
        assert_eq!(stage.object(widgets, "w")["spec"], expected, "the rest of the list stays");
    }
    follow_the_status(&stage, widgets).await;
    stage.admin.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.test").expect_ok();
}
