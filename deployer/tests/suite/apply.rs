//! Manifests on a real API server: what server-side apply does to objects that we, kubectl or others made.

use crate::stage::{DEPLOYMENTS, SERVICES, Stage, deployment, image, image_for, pinned};
use deployer::{Change, Class, Conflict, End, Error, Evidence, Policy, Step};
use fixtures::kubernetes::User;
use fixtures::kubernetes::kubelet::Fate;
use serde_json::{Value, json};

/// A Service and a Deployment as people write them: the image has no registry yet.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: web
        ports: [{containerPort: 8080}]
        env: [{name: COLOR, value: blue}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"#;

async fn apply(
    stage: &Stage,
    text: &str,
    version: u32,
    cause: &str,
) -> Result<(Vec<Change>, deployer::Outcome), Error> {
    let plan = stage.plan_manifests(text, Some(image(version)), cause).await?;
    let executed = stage.cluster.execute(&plan).await?;
    let outcome = stage.cluster.watch(&executed.tickets, &Policy::default(), |_| {}).await?;
    Ok((executed.objects.into_iter().map(|(_, change)| change).collect(), outcome))
}

fn done(pods: i64) -> End {
    End::Done { evidence: Evidence::Verified { pods } }
}

fn annotation(object: &Value) -> &Value {
    &object["metadata"]["annotations"]["kubernetes.io/change-cause"]
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_created_left_alone_and_changed() {
    let stage = Stage::new("create", |_| Fate::Runs).await;
    let (changes, outcome) = apply(&stage, WEB, 1, "first").await.unwrap();
    assert_eq!(changes, [Change::Create, Change::Create]);
    assert_eq!(outcome.targets.len(), 1, "a Service rolls nothing out");
    assert_eq!(outcome.targets[0].end, done(1));
    assert!(outcome.targets[0].ticket.created);
    let made = stage.object(DEPLOYMENTS, "web");
    assert_eq!((stage.images("web"), annotation(&made)), (vec![pinned(1)], &json!("first")));
    let service = stage.object(SERVICES, "web");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 8080);

    let (changes, outcome) = apply(&stage, WEB, 1, "second").await.unwrap();
    assert_eq!(changes, [Change::Nothing, Change::Nothing], "another commit of the same content is no change");
    assert_eq!(outcome.targets[0].end, done(1));
    assert_eq!(stage.object(DEPLOYMENTS, "web")["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);

    let (changes, outcome) = apply(&stage, WEB, 2, "third").await.unwrap();
    assert_eq!(changes, [Change::Nothing, Change::Update]);
    assert_eq!(outcome.targets[0].end, done(1));
    let changed = stage.object(DEPLOYMENTS, "web");
    assert_eq!((stage.images("web"), annotation(&changed)), (vec![pinned(2)], &json!("third")));
    assert_eq!(changed["metadata"]["generation"], 2, "one write, one generation");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_and_what_lives_in_it_come_from_one_file() {
    let stage = Stage::new("outside", |_| Fate::Runs).await;
    let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: inside}}\n---\n\
                {apiVersion: v1, kind: Namespace, metadata: {name: inside}}\n";
    let plan = stage.plan_manifests(text, None, "x").await.unwrap();
    stage.cluster.execute(&plan).await.unwrap();
    assert_eq!(stage.admin.get("/api/v1/namespaces/inside/configmaps/settings").unwrap().status, 200);
    let missing = text.lines().next().unwrap().replace("inside", "nowhere");
    let error = stage.plan_manifests(&missing, None, "x").await.unwrap_err();
    assert!(error.to_string().contains("namespaces \"nowhere\" not found"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_others_are_named_with_their_owner_and_not_taken() {
    let stage = Stage::new("conflict", |_| Fate::Runs).await;
    let path = stage.path(DEPLOYMENTS, "web");
    let mut theirs = deployment(1, 1);
    (theirs["apiVersion"], theirs["kind"]) = (json!("apps/v1"), json!("Deployment"));
    stage.admin.apply(&path, "kubectl", &theirs).expect_ok();
    stage.settle("web").await;
    let before = stage.object(DEPLOYMENTS, "web");

    let error = stage.plan_manifests(WEB, Some(image(2)), "x").await.unwrap_err();
    let Error::Conflict { conflicts, .. } = &error else { panic!("{error:?}") };
    let field = ".spec.template.spec.containers[name=\"web\"].image";
    assert_eq!(conflicts, &[Conflict { field: field.into(), owner: "kubectl".into() }]);
    assert_eq!(error.class(), Class::Ownership);
    assert_eq!(stage.object(DEPLOYMENTS, "web"), before, "nothing was written");
    assert!(!stage.exists(SERVICES, "web"), "nor anything else of the file");
}

/// Without moving the ownership, a line that was deleted from the file would stay in the cluster for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_apply_made_is_taken_over_and_lines_that_went_go() {
    let stage = Stage::new("adopt", |_| Fate::Runs).await;
    let mut theirs = deployment(1, 1);
    theirs["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": "{}", "gone": "from the file"});
    theirs["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "OLD", "value": "1"}]);
    let path = stage.path(DEPLOYMENTS, "");
    stage
        .admin
        .post(&format!("{}?fieldManager=kubectl-client-side-apply", path.trim_end_matches('/')), &theirs)
        .expect_ok();
    stage.settle("web").await;

    let plan = stage.plan_manifests(WEB, Some(image(2)), "x").await.unwrap();
    assert!(plan.to_string().contains("takes over fields that `kubectl apply`"), "{plan}");
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let outcome = stage.cluster.watch(&executed.tickets, &Policy::default(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, done(1));

    let object = stage.object(DEPLOYMENTS, "web");
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "`side` is not in the file any more");
    assert_eq!(containers[0]["env"], json!([{"name": "COLOR", "value": "blue"}]));
    let annotations = object["metadata"]["annotations"].as_object().unwrap();
    assert!(
        !annotations.contains_key("gone")
            && !annotations.contains_key("kubectl.kubernetes.io/last-applied-configuration")
    );
    let managers: Vec<&str> = object["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["manager"].as_str())
        .collect();
    assert!(managers.contains(&"lighter") && !managers.contains(&"kubectl-client-side-apply"), "{managers:?}");

    let again = stage.plan_manifests(WEB, Some(image(2)), "y").await.unwrap();
    assert!(!again.changes_anything(), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_overrules_kubectl_set_image() {
    let stage = Stage::new("imperative", |_| Fate::Runs).await;
    apply(&stage, WEB, 1, "x").await.unwrap();
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": pinned(3)}]}}}});
    let path = stage.path(DEPLOYMENTS, "web");
    stage.admin.patch(&format!("{path}?fieldManager=kubectl-set"), &patch).expect_ok();
    let plan = stage.plan_manifests(WEB, Some(image(2)), "x").await.unwrap();
    assert!(plan.to_string().contains("containers[name=\"web\"].image (kubectl-set)"), "{plan}");
    stage.cluster.execute(&plan).await.unwrap();
    assert_eq!(stage.images("web"), [pinned(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_patch_of_ours_is_no_conflict_for_our_file() {
    let stage = Stage::new("both", |_| Fate::Runs).await;
    apply(&stage, WEB, 1, "x").await.unwrap();
    stage.deploy("deployment/web", image(2), &Policy::default()).await.unwrap();
    let (changes, outcome) = apply(&stage, WEB, 3, "x").await.unwrap();
    assert_eq!((changes, &outcome.targets[0].end), (vec![Change::Nothing, Change::Update], &done(1)));
    assert_eq!(stage.images("web"), [pinned(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_applied_is_refused_before_any_write() {
    let stage = Stage::new("refused", |_| Fate::Runs).await;
    for (text, image, words) in [
        (WEB.replace("replicas: 1", "replcas: 1"), image(1), "replcas"),
        (WEB.replace("containerPort: 8080", "containerPort: 99999999"), image(1), "containerPort"),
        (WEB.replace("image: web", "image: other"), image(1), "runs an image like registry.test/shop/web:1"),
        (WEB.replace("kind: Service", "kind: Servise"), image(1), "serves no kind \"Servise of v1\""),
        (WEB.to_owned(), image_for(1, &["linux/s390x"]), "the nodes are linux/amd64"),
        (
            format!("{WEB}---\n{{apiVersion: example.test/v1, kind: Gadget, metadata: {{name: g}}}}"),
            image(1),
            "Gadget of example.test/v1",
        ),
    ] {
        let error = stage.plan_manifests(&text, Some(image), "x").await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.class(), Class::Refused, "{error:?}");
    }
    assert!(!stage.exists(DEPLOYMENTS, "web") && !stage.exists(SERVICES, "web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_half_way_says_what_was_written() {
    let stage = Stage::new("halfway", |_| Fate::Runs).await;
    let all = ["get", "create", "patch"];
    stage.grant(&json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": all},
        {"apiGroups": [""], "resources": ["services"], "verbs": all},
    ]));
    let restricted = stage.connect(User::Restricted).await.unwrap();
    let plan = stage.plan_manifests(WEB, Some(image(1)), "x").await.unwrap();
    assert!(matches!(&plan.actions[0].step, Step::Apply { .. }));
    let role = "/apis/rbac.authorization.k8s.io/v1/roles";
    stage
        .admin
        .patch(
            &stage.path(role, "lighter"),
            &json!({"rules": [{"apiGroups": [""], "resources": ["services"], "verbs": all}]}),
        )
        .expect_ok();
    let error = {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            // The authorizer learns of the new rules a moment later; until then it all works.
            match restricted.execute(&plan).await {
                Err(error) => break error,
                Ok(_) => assert!(std::time::Instant::now() < deadline, "the rights were never taken away"),
            }
        }
    };
    let Error::Halfway { executed, source } = &error else { panic!("{error:?}") };
    assert_eq!(executed.written().collect::<Vec<_>>(), ["service/web in namespace halfway"]);
    assert!(matches!(**source, Error::Forbidden { .. }), "{source:?}");
    assert_eq!(error.class(), Class::Forbidden);
}
