//! Manifests: fields of others, autoscalers, sets.

use crate::stage::{DEPLOYMENTS, Stage, deployment, image, pinned};
use deployer::{Change, Error, Force, Manifest, ObjectDiff, Request, Set, What};
use fixtures::kubernetes::kubelet::Fate;
use serde_json::{Value, json};

fn kind(mut object: Value, api_version: &str, kind: &str) -> Value {
    (object["apiVersion"], object["kind"]) = (json!(api_version), json!(kind));
    object
}

fn web(version: u32, replicas: u32) -> Value {
    kind(deployment(version, replicas), "apps/v1", "Deployment")
}

fn request(text: &str) -> Request {
    let manifests = Manifest::parse_all("web.yaml", text).unwrap();
    Request::new(None, What::Manifests(manifests))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_named_fields_are_taken() {
    let stage = Stage::new("force", |_| Fate::Ignored).await;
    let path = stage.path(DEPLOYMENTS, "web");
    let theirs = web(1, 2);
    stage.admin.apply(&path, "argocd", &theirs).expect_ok();
    let ours = web(2, 3).to_string();
    let error = stage.cluster.plan(&request(&ours)).await.unwrap_err();
    assert!(matches!(&error, Error::Conflict { conflicts, .. } if conflicts.len() == 2), "{error}");
    let force = |fields: &[&str]| Force::Fields(fields.iter().map(|field| (*field).to_owned()).collect());
    let error = stage.cluster.plan(&Request { force: force(&["spec.replicas"]), ..request(&ours) }).await.unwrap_err();
    let Error::Conflict { conflicts, .. } = &error else { panic!("{error}") };
    assert_eq!(conflicts.len(), 1);
    assert!(conflicts[0].field.ends_with(".image") && conflicts[0].owner == "argocd", "{conflicts:?}");

    let both = force(&["spec.replicas", ".spec.template"]);
    let plan = stage.cluster.plan(&Request { force: both.clone(), ..request(&ours) }).await.unwrap();
    assert!(plan.to_string().contains("takes fields set by others"), "{plan}");
    // Somebody takes another of our fields in between: it was not named, and is not taken.
    let more = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"minReadySeconds": 3}});
    stage.admin.apply(&path, "third", &more).expect_ok();
    stage.cluster.execute(&plan).await.unwrap();
    let after = stage.object(DEPLOYMENTS, "web");
    assert_eq!((&after["spec"]["replicas"], &after["spec"]["minReadySeconds"]), (&json!(3), &json!(3)));
    assert_eq!(stage.images("web")[0], pinned(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_left_to_an_autoscaler() {
    let stage = Stage::new("autoscaled", |_| Fate::Ignored).await;
    let apply = async |object: Value| {
        let plan = stage.cluster.plan(&request(&object.to_string())).await.unwrap();
        stage.cluster.execute(&plan).await.unwrap();
        plan
    };
    apply(web(1, 2)).await;
    stage.create(
        "/apis/autoscaling/v1/horizontalpodautoscalers",
        &json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 9,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}),
    );
    stage.admin.patch(&stage.path(DEPLOYMENTS, "web"), &json!({"spec": {"replicas": 5}})).expect_ok();
    for version in [2, 3] {
        let plan = apply(web(version, 2)).await;
        assert!(plan.to_string().contains("left to its autoscaler"), "{plan}");
        assert_eq!(stage.object(DEPLOYMENTS, "web")["spec"]["replicas"], 5, "neither 2 nor the default 1");
        assert_eq!(stage.images("web")[0], pinned(version));
    }
    let plan = apply(web(3, 2)).await;
    assert!(!plan.changes_anything(), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_the_set_is_deleted_and_nothing_else() {
    let stage = Stage::new("sets", |_| Fate::Ignored).await;
    let maps = "/api/v1/configmaps";
    let map = |name: &str| kind(json!({"metadata": {"name": name}, "data": {"a": "1"}}), "v1", "ConfigMap");
    let claim = kind(
        json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        "v1",
        "PersistentVolumeClaim",
    );
    let joined = |objects: &[Value]| objects.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n---\n");
    let with = |objects: &[Value], prune: bool, precious: bool| Request {
        set: Some(Set { name: "shop".into(), prune, prune_precious: precious }),
        ..request(&joined(objects))
    };
    let apply = async |request: Request| {
        let plan = stage.cluster.plan(&request).await.unwrap();
        stage.cluster.execute(&plan).await.unwrap();
        plan
    };
    stage.create(maps, &map("stranger"));
    apply(with(&[map("a"), map("b"), web(1, 1), claim], true, false)).await;
    let parent = stage.object("/api/v1/secrets", "shop");
    let annotations = &parent["metadata"]["annotations"];
    assert_eq!(
        annotations["applyset.kubernetes.io/contains-group-kinds"],
        "ConfigMap,Deployment.apps,PersistentVolumeClaim"
    );
    assert_eq!(
        stage.object(maps, "a")["metadata"]["labels"]["applyset.kubernetes.io/part-of"],
        parent["metadata"]["labels"]["applyset.kubernetes.io/id"]
    );

    let plan = apply(with(&[map("a")], false, false)).await;
    assert!(plan.to_string().contains("--prune was not asked for"), "{plan}");
    assert!(stage.exists(maps, "b"));

    let plan = stage.cluster.plan(&with(&[map("a")], true, false)).await.unwrap();
    let deleted: Vec<&str> = plan
        .actions
        .iter()
        .filter(|action| action.change == Change::Delete)
        .map(|action| action.object.name.as_str())
        .collect();
    assert_eq!(deleted, ["web", "b"], "the plan says it first, in the order of need");
    assert!(stage.exists(maps, "b"));
    stage.cluster.execute(&plan).await.unwrap();
    stage.until("they are gone", || !stage.exists(maps, "b") && !stage.exists(DEPLOYMENTS, "web")).await;
    assert!(stage.exists(maps, "a") && stage.exists(maps, "stranger"));
    assert!(stage.exists("/api/v1/persistentvolumeclaims", "data"), "data does not go by the way");
    let parent = stage.object("/api/v1/secrets", "shop");
    assert_eq!(
        parent["metadata"]["annotations"]["applyset.kubernetes.io/contains-group-kinds"],
        "ConfigMap,PersistentVolumeClaim"
    );
    let plan = stage.cluster.plan(&with(&[map("a")], true, false)).await.unwrap();
    assert!(!plan.changes_anything(), "{plan}");
    let plan = stage.cluster.plan(&with(&[map("a")], true, true)).await.unwrap();
    assert!(
        plan.actions.iter().any(|action| action.change == Change::Delete && action.object.name == "data"),
        "{plan}"
    );

    stage.create("/api/v1/secrets", &json!({"metadata": {"name": "taken"}}));
    let taken = Request {
        set: Some(Set { name: "taken".into(), prune: true, prune_precious: false }),
        ..request(&map("a").to_string())
    };
    let error = stage.cluster.plan(&taken).await.unwrap_err();
    assert!(error.to_string().contains("is no set of objects"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diff_says_what_the_server_would_make_and_shows_no_secret() {
    let stage = Stage::with_deployment("diffs", |_| Fate::Runs).await;
    let lines = |diffs: &[ObjectDiff]| diffs.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let told = lines(&stage.cluster.diff(&plan).await.unwrap());
    let expected = format!(
        "change deployment/web in namespace diffs\n  + metadata.annotations.kubernetes.io/change-cause: test\n  ~ spec.template.spec.containers[web].image: {} -> {}",
        pinned(1),
        pinned(2)
    );
    assert_eq!(told, expected);
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    let plan = stage.plan_manifests(&secret.to_string(), None, "x").await.unwrap();
    let told = lines(&stage.cluster.diff(&plan).await.unwrap());
    assert!(
        told.contains("+ data.password: ***") && !told.contains("hunter2") && !told.contains("aHVudGVyMg"),
        "{told}"
    );
    assert!(!stage.exists("/api/v1/secrets", "s"));
}
