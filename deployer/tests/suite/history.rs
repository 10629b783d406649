//! Versions, and steering by hand, on a real API server and controller manager.

use crate::stage::{DEPLOYMENTS, Stage, deployment, image, pinned};
use deployer::{Class, End, Error, Evidence, Goal, Policy, Steer, Target};
use fixtures::kubernetes::kubelet::Fate;
use serde_json::json;
use std::time::Duration;

fn patient() -> Policy {
    Policy { timeout: Duration::from_secs(120), ..Policy::default() }
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

/// `kubectl rollout undo` goes to version 2, which never ran.
#[tokio::test(flavor = "multi_thread")]
async fn undo_by_hand_goes_to_the_last_version_that_ran() {
    let stage = Stage::with_deployment("history", |pod| {
        let is_bad = [2, 3].iter().any(|bad| pod["spec"]["containers"][0]["image"] == pinned(*bad).as_str());
        if is_bad { Fate::PullFails("manifest unknown".into()) } else { Fate::Runs }
    })
    .await;
    for version in [1, 4, 2, 3] {
        let outcome = stage.deploy("deployment/web", image(version), &patient()).await.unwrap();
        stage.cluster.remember(&outcome).await.unwrap();
    }
    let history = stage.cluster.history(&target("deploy/web")).await.unwrap();
    let seen: Vec<_> =
        history.revisions.iter().map(|one| (one.images["web"].clone(), one.verified, one.current)).collect();
    let expected = [(1, true, false), (4, true, false), (2, false, false), (3, false, true)]
        .map(|(version, verified, current)| (pinned(version), verified, current));
    assert_eq!(seen, expected);
    assert_eq!(history.revisions[1].change_cause.as_deref(), Some("test"));

    let last_good = history.find(&Goal::LastGood).unwrap();
    assert_eq!(last_good.images["web"], pinned(4));
    let ticket = stage.cluster.go_to(&history, last_good).await.unwrap();
    let outcome = stage.cluster.watch(&[ticket], &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Available { pods: 2 } });
    assert_eq!(stage.images("web"), [pinned(4), "registry.test/side:1".to_owned()]);

    let history = stage.cluster.history(&target("deploy/web")).await.unwrap();
    let current = history.revisions.iter().find(|one| one.current).unwrap();
    assert_eq!((current.images["web"].clone(), current.verified), (pinned(4), true));
    let before = stage.object(DEPLOYMENTS, "web")["metadata"]["generation"].clone();
    assert!(!stage.cluster.go_to(&history, current).await.unwrap().changed, "it is there already");
    assert_eq!(stage.object(DEPLOYMENTS, "web")["metadata"]["generation"], before);
    let digest = image(1).pinned().digest();
    assert_eq!(history.find(&Goal::Digest(digest)).unwrap().images["web"], pinned(1));
    let error = history.find(&Goal::Revision(99)).unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stateful_and_daemon_sets_have_versions_too() {
    let stage = Stage::new("revisions", |_| Fate::Runs).await;
    let mut sts = deployment(1, 1);
    sts["spec"]["serviceName"] = json!("web");
    stage.create("/apis/apps/v1/statefulsets", &sts);
    let mut daemons = deployment(1, 1);
    daemons["spec"].as_object_mut().unwrap().remove("replicas");
    stage.create("/apis/apps/v1/daemonsets", &daemons);
    for (kind, path) in [("sts/web", "/apis/apps/v1/statefulsets"), ("ds/web", "/apis/apps/v1/daemonsets")] {
        // Only a version that was rolled out before the next one comes is kept.
        let first = stage.cluster.ticket(&target(kind)).await.unwrap();
        stage.cluster.watch(&[first], &patient(), |_| {}).await.unwrap();
        stage.deploy(kind, image(2), &patient()).await.unwrap();
        let history = stage.cluster.history(&target(kind)).await.unwrap();
        let seen: Vec<_> = history.revisions.iter().map(|one| (one.images["web"].clone(), one.current)).collect();
        assert_eq!(seen, [(pinned(1), false), (pinned(2), true)], "{kind}");
        let ticket = stage.cluster.go_to(&history, history.find(&Goal::Revision(1)).unwrap()).await.unwrap();
        let outcome = stage.cluster.watch(&[ticket], &patient(), |_| {}).await.unwrap();
        assert_eq!(outcome.class(), Class::Success, "{outcome:?}");
        let template = &stage.object(path, "web")["spec"]["template"]["spec"];
        assert_eq!(template["containers"][0]["image"], pinned(1), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_resumed_restarted() {
    let stage = Stage::with_deployment("steer", |_| Fate::Runs).await;
    let web = target("deployment/web");
    assert!(stage.cluster.steer(&web, Steer::Pause).await.unwrap().changed);
    assert!(!stage.cluster.steer(&web, Steer::Pause).await.unwrap().changed, "nothing is written twice");
    let error = stage.cluster.steer(&web, Steer::Restart).await.unwrap_err();
    assert!(error.to_string().contains("resume it first"), "{error}");
    let ticket = stage.cluster.ticket(&web).await.unwrap();
    let outcome = stage.cluster.look(&[ticket], &patient()).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Paused);

    let ticket = stage.cluster.steer(&web, Steer::Resume).await.unwrap();
    let outcome = stage.cluster.watch(&[ticket], &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Available { pods: 2 } });

    let pods = || {
        let listed = stage.admin.get("/api/v1/namespaces/steer/pods").unwrap().body;
        let living =
            listed["items"].as_array().unwrap().iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        living.map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = pods();
    let ticket = stage.cluster.steer(&web, Steer::Restart).await.unwrap();
    let outcome = stage.cluster.watch(&[ticket], &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Available { pods: 2 } });
    assert!(pods().iter().all(|uid| !before.contains(uid)), "every pod is another one");

    stage.create("/api/v1/configmaps", &json!({"metadata": {"name": "web"}}));
    let error = stage.cluster.ticket(&target("configmap/web")).await.unwrap_err();
    assert!(matches!(error, Error::Unfit { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_look_does_not_wait() {
    let stage = Stage::new("look", |_| Fate::Ignored).await;
    stage.create(DEPLOYMENTS, &deployment(1, 1));
    let ticket = stage.cluster.ticket(&target("deployment/web")).await.unwrap();
    let outcome = stage.cluster.look(&[ticket], &patient()).await.unwrap();
    assert!(matches!(&outcome.targets[0].end, End::Undecided { why, .. } if why == "still under way"), "{outcome:?}");
    assert_eq!(outcome.class(), Class::Undecided);
}
