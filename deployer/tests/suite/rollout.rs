//! Rollouts on a real API server and controller manager. The test plays the kubelet, and looks at the
//! cluster with a client of its own.

use crate::stage::{DEPLOYMENTS, Stage, deployment, image, image_for, pinned};
use deployer::{Cause, Change, Class, End, Error, Event, Evidence, Policy, Verdict, Waiting};
use fixtures::kubernetes::User;
use fixtures::kubernetes::kubelet::Fate;
use serde_json::{Value, json};
use std::time::Duration;

const NOT_FOUND: &str =
    "rpc error: code = NotFound desc = failed to pull and unpack image \"registry.test/shop/web@sha256:2\": not found";

fn hurried() -> Policy {
    Policy { timeout: Duration::from_secs(8), refusal_patience: Duration::from_secs(1), ..Policy::default() }
}

fn patient() -> Policy {
    Policy { timeout: Duration::from_secs(120), ..Policy::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_image_is_rolled_out_and_verified() {
    let stage = Stage::with_deployment("success", |_| Fate::Runs).await;
    let before = stage.object(DEPLOYMENTS, "web");
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    stage.cluster.dry_run(&plan).await.unwrap();
    assert_eq!(stage.object(DEPLOYMENTS, "web"), before, "neither plan nor dry run writes");

    let executed = stage.cluster.execute(&plan).await.unwrap();
    let ticket = &executed.tickets[0];
    assert_eq!((ticket.changed, ticket.before["web"].as_str()), (true, pinned(1).as_str()));
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 2 } });
    assert_eq!(outcome.class(), Class::Success);

    let after = stage.object(DEPLOYMENTS, "web");
    assert_eq!(after["metadata"]["generation"], ticket.generation, "one write, one generation");
    assert_eq!(after["metadata"]["annotations"]["kubernetes.io/change-cause"], "test");
    assert_eq!(after["spec"]["template"]["metadata"]["annotations"], Value::Null, "the template holds no provenance");
    assert_eq!(stage.images("web"), [pinned(2), "registry.test/side:1".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_image_again_is_no_write_and_still_verified() {
    let stage = Stage::with_deployment("again", |_| Fate::Runs).await;
    stage.deploy("deployment/web", image(2), &patient()).await.unwrap();
    let before = stage.object(DEPLOYMENTS, "web");
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    assert!(!plan.changes_anything());
    let executed = stage.cluster.execute(&plan).await.unwrap();
    assert_eq!(executed.objects[0].1, Change::Nothing);
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 2 } });
    assert!(!outcome.changed());
    assert_eq!(stage.object(DEPLOYMENTS, "web")["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
}

/// kube's own `is_deployment_completed` and a naive reader of `status` say "done" here, of the rollout before.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_before_new_pods_run() {
    let stage = Stage::with_deployment("trap", |pod| if runs(pod, 2) { Fate::Ignored } else { Fate::Runs }).await;
    let outcome = stage.deploy("deployment/web", image(2), &hurried()).await.unwrap();
    let End::Undecided { why, waiting, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!(why, "not decided within 8 s");
    assert!(matches!(waiting, Some(Waiting::Updated { want: 2, .. })), "{waiting:?}");
    assert_eq!(outcome.class(), Class::Undecided);
    assert_eq!(
        stage.object(DEPLOYMENTS, "web")["status"]["availableReplicas"],
        2,
        "the old pods looked finished all the time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_fails_with_the_nodes_words() {
    let stage =
        Stage::with_deployment("pull", |pod| if runs(pod, 2) { Fate::PullFails(NOT_FOUND.into()) } else { Fate::Runs })
            .await;
    let outcome = stage.deploy("deployment/web", image(2), &patient()).await.unwrap();
    let End::Failed { troubles, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!((troubles[0].cause, troubles[0].text.as_str()), (Cause::ImageMissing, NOT_FOUND));
    assert_eq!(troubles[0].container.as_deref(), Some("web"));
    assert!(
        troubles.iter().all(|trouble| trouble.cause != Cause::Deadline),
        "long before the deployment's own deadline"
    );
    assert_eq!(outcome.class(), Class::Failed);
    assert!(outcome.targets[0].advice().unwrap().ends_with("lighter rollout undo deployment/web -n pull"));
    assert_eq!(stage.images("web")[0], pinned(2), "the new version is left in place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_fails_with_code_message_and_log() {
    let crash = Fate::Crashes(3, "panic: no database".into());
    let stage = Stage::with_deployment("crash", move |pod| if runs(pod, 2) { crash.clone() } else { Fate::Runs }).await;
    let outcome = stage.deploy("deployment/web/web", image(2), &patient()).await.unwrap();
    let End::Failed { troubles, logs } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!(
        (troubles[0].cause, troubles[0].text.as_str()),
        (Cause::Crash, "exit code 3 (Error), restarted 2 times: panic: no database")
    );
    assert_eq!(logs.len(), 1, "one pod stands for all");
    assert_eq!(logs[0].lines, ["starting web", "log of web: token=[redacted] and the end"]);
    assert!(outcome.targets[0].to_string().contains("log of web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_exist_is_not_added() {
    let stage = Stage::with_deployment("typo", |_| Fate::Runs).await;
    let before = stage.object(DEPLOYMENTS, "web");
    let error = stage.plan_image("deployment/web/wbe", image(2)).await.unwrap_err();
    assert!(error.to_string().ends_with("has no container \"wbe\"; it has web, side"), "{error}");
    assert_eq!(error.class(), Class::Refused);
    assert!(matches!(stage.plan_image("deployment/nobody", image(2)).await, Err(Error::Missing(_))));
    assert!(matches!(stage.plan_image("gadget/web", image(2)).await, Err(Error::UnknownKind(_))));
    assert_eq!(stage.object(DEPLOYMENTS, "web"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_architecture_is_refused_before_any_write() {
    let stage = Stage::with_deployment("arch", |_| Fate::Runs).await;
    let before = stage.object(DEPLOYMENTS, "web");
    let error = stage.plan_image("deployment/web", image_for(2, &["linux/arm64"])).await.unwrap_err();
    assert!(error.to_string().ends_with("it is built for linux/arm64, and the nodes are linux/amd64"), "{error}");
    assert_eq!(error.class(), Class::Refused);
    assert_eq!(stage.object(DEPLOYMENTS, "web"), before);
    stage.plan_image("deployment/web", image_for(2, &["linux/arm64", "linux/amd64"])).await.unwrap();
}

/// `kubectl rollout status` reports the old deadline here as a failure of the new rollout: the condition
/// stays while the old pod ends, although our generation was observed.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_failed_rollout_does_not_fail_the_next() {
    let stage = Stage::new("stale", |pod| if runs(pod, 2) { Fate::Stuck } else { Fate::Runs }).await;
    let mut object = deployment(1, 1);
    object["spec"]["progressDeadlineSeconds"] = json!(8);
    object["spec"]["strategy"] = json!({"type": "Recreate"});
    object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(2);
    stage.create(DEPLOYMENTS, &object);
    stage.settle("web").await;
    let outcome = stage.deploy("deployment/web", image(2), &patient()).await.unwrap();
    let End::Failed { troubles, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!(troubles[0].cause, Cause::Deadline);

    let outcome = stage.deploy("deployment/web", image(1), &patient()).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 1 } });
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_replicas_and_paused_are_said_as_what_they_are() {
    let stage = Stage::with_deployment("special", |_| Fate::Runs).await;
    let path = stage.path(DEPLOYMENTS, "web");
    stage.admin.patch(&path, &json!({"spec": {"replicas": 0}})).expect_ok();
    let outcome = stage.deploy("deployment/web", image(2), &patient()).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::NoReplicas });

    stage.admin.patch(&path, &json!({"spec": {"paused": true, "replicas": 1}})).expect_ok();
    let plan = stage.plan_image("deployment/web", image(3)).await.unwrap();
    assert!(plan.to_string().contains("it is paused"), "{plan}");
    let outcome = stage.deploy("deployment/web", image(3), &patient()).await.unwrap();
    assert_eq!((&outcome.targets[0].end, outcome.class()), (&End::Paused, Class::Undecided));
    assert!(outcome.targets[0].advice().unwrap().contains("rollout resume"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_deploy_is_not_taken_for_ours() {
    let stage = Stage::with_deployment("overtaken", |pod| if runs(pod, 2) { Fate::Ignored } else { Fate::Runs }).await;
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let (admin, path) = (stage.admin.clone(), stage.path(DEPLOYMENTS, "web"));
    let mut overtaken = false;
    let policy = patient();
    let watch = stage.cluster.watch(&executed.tickets, &policy, |event| {
        if matches!(event, Event::Progress { waiting: Waiting::Updated { .. }, .. }) && !overtaken {
            overtaken = true;
            admin
                .patch(
                    &path,
                    &json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": pinned(3)}]}}}}),
                )
                .expect_ok();
        }
    });
    let outcome = watch.await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Superseded { by: format!("web runs {}", pinned(3)) });
    assert_eq!(outcome.class(), Class::Superseded);
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_meanwhile_is_no_other_deploy() {
    let stage = Stage::with_deployment("scaled", |_| Fate::Runs).await;
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    stage.admin.patch(&stage.path(DEPLOYMENTS, "web"), &json!({"spec": {"replicas": 3}})).expect_ok();
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 3 } });
    assert_eq!(stage.object(DEPLOYMENTS, "web")["spec"]["replicas"], 3, "nobody's field was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_workload_is_gone() {
    let stage = Stage::with_deployment("deleted", |pod| if runs(pod, 2) { Fate::Ignored } else { Fate::Runs }).await;
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    stage.admin.delete(&stage.path(DEPLOYMENTS, "web")).expect_ok();
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Gone);
    let error = stage.cluster.execute(&plan).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
    assert_eq!(stage.admin.get(&stage.path(DEPLOYMENTS, "web")).unwrap().status, 404, "a patch creates nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namesake_made_after_the_plan_is_left_alone() {
    let stage = Stage::with_deployment("namesake", |_| Fate::Runs).await;
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    stage.admin.delete(&stage.path(DEPLOYMENTS, "web")).expect_ok();
    stage.until("the deployment is gone", || !stage.exists(DEPLOYMENTS, "web")).await;
    stage.create(DEPLOYMENTS, &deployment(7, 1));
    let error = stage.cluster.execute(&plan).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("uid"), "{error}");
    assert_eq!(stage.images("web")[0], pinned(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_reports_another_digest_is_a_failure() {
    let other = pinned(9).split_once('@').unwrap().1.to_owned();
    let stage =
        Stage::with_deployment("wrong", move |pod| if runs(pod, 2) { Fate::RunsAs(other.clone()) } else { Fate::Runs })
            .await;
    let outcome = stage.deploy("deployment/web", image(2), &patient()).await.unwrap();
    let End::Failed { troubles, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!(troubles[0].cause, Cause::WrongImage);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unschedulable_pod_is_told_while_waiting() {
    let words = "0/1 nodes are available: 1 Insufficient memory.";
    let stage =
        Stage::with_deployment(
            "nowhere",
            move |pod| if runs(pod, 2) { Fate::Unschedulable(words.into()) } else { Fate::Runs },
        )
        .await;
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let mut told = Vec::new();
    let outcome = stage.cluster.watch(&executed.tickets, &hurried(), |event| told.push(event)).await.unwrap();
    let is_it = |event: &Event| matches!(event, Event::Trouble { trouble, .. } if trouble.cause == Cause::Unschedulable && trouble.text == words);
    assert_eq!(told.iter().filter(|event| is_it(event)).count(), 1, "once: {told:?}");
    let End::Undecided { troubles, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!(troubles[0].cause, Cause::Unschedulable);
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_and_admission_are_told_in_the_servers_words() {
    let stage = Stage::with_deployment("quota", |_| Fate::Runs).await;
    stage.create("/api/v1/resourcequotas", &json!({"metadata": {"name": "small"}, "spec": {"hard": {"pods": "2"}}}));
    stage
        .until("the quota is counted", || {
            stage.object("/api/v1/resourcequotas", "small")["status"]["used"]["pods"] == "2"
        })
        .await;
    let outcome = stage.deploy("deployment/web", image(2), &hurried()).await.unwrap();
    let End::Undecided { troubles, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!(troubles[0].cause, Cause::Quota);
    assert!(troubles[0].text.contains("exceeded quota: small"), "{troubles:?}");

    let stage = Stage::with_deployment("limits", |_| Fate::Runs).await;
    let rule = json!({"metadata": {"name": "memory"}, "spec": {"hard": {"requests.memory": "1Gi"}}});
    stage.create("/api/v1/resourcequotas", &rule);
    let pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}});
    let pods = "/api/v1/namespaces/limits/pods?dryRun=All";
    stage.until("the rule is in force", || stage.admin.post(pods, &pod).status == 403).await;
    let outcome = stage
        .deploy("deployment/web", image(2), &Policy { timeout: Duration::from_secs(60), ..hurried() })
        .await
        .unwrap();
    let End::Failed { troubles, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!(troubles[0].cause, Cause::Refused);
    assert!(troubles[0].text.contains("failed quota: memory: must specify requests.memory"), "{troubles:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_kinds_are_found_by_discovery_and_rolled_out() {
    let stage = Stage::new("kinds", |_| Fate::Runs).await;
    let mut sts = deployment(1, 2);
    sts["spec"]["serviceName"] = json!("web");
    stage.create("/apis/apps/v1/statefulsets", &sts);
    let mut daemons = deployment(1, 1);
    daemons["spec"].as_object_mut().unwrap().remove("replicas");
    stage.create("/apis/apps/v1/daemonsets", &daemons);
    let mut template = deployment(1, 1)["spec"]["template"].clone();
    template["spec"]["restartPolicy"] = json!("Never");
    let cron = json!({"metadata": {"name": "web"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}}});
    stage.create(stage.fixture.cron_jobs(), &cron);

    for (target, evidence) in [
        ("sts/web", Evidence::Verified { pods: 2 }),
        ("daemonset/web", Evidence::Verified { pods: 1 }),
        ("cronjobs/web", Evidence::NoRollout),
    ] {
        let outcome = stage.deploy(target, image(2), &patient()).await.unwrap();
        assert_eq!(outcome.targets[0].end, End::Done { evidence }, "{target}");
    }
    let cron = stage.object(stage.fixture.cron_jobs(), "web");
    assert_eq!(cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"], pinned(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_targets_share_one_wait_and_stop_when_one_fails() {
    let stage = Stage::new("several", |pod| match pod["metadata"]["labels"]["app"].as_str() {
        Some("b") if runs(pod, 2) => Fate::PullFails(NOT_FOUND.into()),
        Some("c") if runs(pod, 2) => Fate::Ignored,
        _ => Fate::Runs,
    })
    .await;
    for name in ["a", "b", "c"] {
        let text = deployment(1, 1).to_string().replace("\"web\"", &format!("\"{name}\""));
        stage.create(DEPLOYMENTS, &serde_json::from_str(&text).unwrap());
        stage.settle(name).await;
    }
    let targets = ["deployment/a/a", "deployment/b/b", "deployment/c/c"];
    let plan = stage.plan_images(&targets, image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert!(matches!(outcome.targets[1].end, End::Failed { .. }), "{outcome:?}");
    assert!(matches!(outcome.targets[2].end, End::Undecided { .. }), "{outcome:?}");
    assert_eq!(outcome.class(), Class::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_never_done_on_the_patched_object_itself() {
    let stage = Stage::with_deployment("atonce", |_| Fate::Runs).await;
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let ticket = &executed.tickets[0];
    // What a watch shows first: the object as the patch left it, with the status of the rollout before.
    let mut object = stage.object(DEPLOYMENTS, "web");
    object["metadata"]["generation"] = json!(ticket.generation);
    object["status"]["observedGeneration"] = json!(ticket.generation - 1);
    let mut world = deployer::World::default();
    let stream = world.add_stream(deployer::Kind::Workload(ticket.object.resource.clone()), "atonce");
    world.replace(stream, vec![object], ticket.written);
    let verdict = deployer::classify(&world.snapshot(ticket), ticket, &patient(), ticket.written);
    assert_eq!(verdict, Verdict::Waiting(Waiting::Observed));
}

/// Whether the pod is to run version `version` of the test's image.
fn runs(pod: &Value, version: u32) -> bool {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.into_iter().any(|container| container["image"] == pinned(version).as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_what_is_missing_and_the_small_role_is_enough() {
    let stage = Stage::with_deployment("rights", |_| Fate::Runs).await;
    let restricted = stage.connect(User::Restricted).await.unwrap();
    let error = restricted.plan(&stage.request(&["deployment/web"], image(2))).await.unwrap_err();
    let Error::Forbidden { rule, .. } = &error else { panic!("{error:?}") };
    assert_eq!((rule.verb.as_str(), rule.group.as_str(), rule.resource.as_str()), ("get", "apps", "deployments"));
    assert!(
        error.to_string().contains("- {apiGroups: [\"apps\"], resources: [\"deployments\"], verbs: [\"get\"]}"),
        "{error}"
    );
    assert_eq!(error.class(), Class::Forbidden);

    stage.grant(&json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["web"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    ]));
    let plan = restricted.plan(&stage.request(&["deployment/web"], image_for(2, &["linux/amd64"]))).await.unwrap();
    assert!(plan.to_string().contains("nodes may not be listed"), "{plan}");
    let executed = restricted.execute(&plan).await.unwrap();
    let outcome = restricted.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 2 } });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_us_not_or_is_not_there_is_told_apart() {
    let stage = Stage::new("doors", |_| Fate::Runs).await;
    let error = stage.connect(User::Stranger).await.unwrap().version().await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    let kubeconfig = stage.fixture.kubeconfig(User::Admin, "doors");
    let text = std::fs::read_to_string(&kubeconfig).unwrap().replace(stage.fixture.server(), "https://127.0.0.1:1");
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = directory.path().join("config");
    std::fs::write(&elsewhere, text).unwrap();
    let options = deployer::ConnectOptions { kubeconfig: vec![elsewhere], ..deployer::ConnectOptions::default() };
    let error = deployer::Cluster::connect(&options).await.unwrap().version().await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("refused")), "{error:?}");
    assert_eq!(error.class(), Class::Unreachable);
    let version = stage.cluster.version().await.unwrap().unwrap();
    assert!(version.starts_with("v1."), "{version}");
}
