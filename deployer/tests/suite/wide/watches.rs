//! Verdicts that need more than counts: missing volumes, restarts, a part of the pods, waves of targets.

use super::patient;
use crate::stage::{DEPLOYMENTS, Stage, deployment, image, pinned};
use deployer::{Cause, Class, End, Event, Evidence, Manifest, Policy, Request, Require, Waiting, What};
use fixtures::kubernetes::kubelet::Fate;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn runs(pod: &Value, version: u32) -> bool {
    pod["spec"]["containers"][0]["image"] == pinned(version).as_str()
}

/// The kubelet says it in an event only, and kubectl waits for ten minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_of_a_volume_is_told() {
    let stage = Stage::with_deployment("mounts", |pod| if runs(pod, 2) { Fate::Stuck } else { Fate::Runs }).await;
    let admin = stage.admin.clone();
    let policy = Policy { config_patience: Duration::from_millis(500), ..patient() };
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let mut told = false;
    let watch = stage.cluster.watch(&executed.tickets, &policy, |event| {
        let is_making = matches!(event, Event::Progress { waiting: Waiting::Updated { .. } | Waiting::OldPods(_) | Waiting::Available { .. }, .. });
        let pods = admin.get("/api/v1/namespaces/mounts/pods").unwrap().body;
        let new = pods["items"].as_array().unwrap().iter().find(|pod| runs(pod, 2));
        if let Some(pod) = new.filter(|_| is_making && !told) {
            told = true;
            let event = json!({"metadata": {"name": "mount"}, "type": "Warning", "reason": "FailedMount",
                "message": "MountVolume.SetUp failed for volume \"tls\" : secret \"tls\" not found",
                "involvedObject": {"kind": "Pod", "namespace": "mounts", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}});
            admin.post("/api/v1/namespaces/mounts/events", &event).expect_ok();
        }
    });
    let outcome = watch.await.unwrap();
    let End::Failed { troubles, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert_eq!(troubles[0].cause, Cause::Config);
    assert!(troubles[0].text.contains("secret \"tls\" not found"), "{troubles:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_during_the_soak_is_a_failure() {
    let crash = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&crash);
    let stage = Stage::with_deployment("soak", move |pod| {
        if runs(pod, 2) && seen.load(Ordering::Relaxed) { Fate::Crashes(1, "oops".into()) } else { Fate::Runs }
    })
    .await;
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let policy = Policy { soak: Duration::from_secs(600), restarts: 100, ..patient() };
    let watch = stage.cluster.watch(&executed.tickets, &policy, |event| {
        if matches!(event, Event::Progress { waiting: Waiting::Soaking { .. }, .. }) {
            crash.store(true, Ordering::Relaxed);
        }
    });
    let outcome = watch.await.unwrap();
    let End::Failed { troubles, .. } = &outcome.targets[0].end else { panic!("{outcome:?}") };
    assert!(troubles[0].text.contains("restarted while it was watched"), "{troubles:?}");

    let calm = Stage::with_deployment("calm", |_| Fate::Runs).await;
    let policy = Policy { soak: Duration::from_millis(300), ..patient() };
    let outcome = calm.deploy("deployment/web", image(2), &policy).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 2 } });
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_pods_as_are_required_are_enough() {
    let stage = Stage::new("require", |pod| {
        let is_bad = runs(pod, 2) && pod["metadata"]["name"].as_str().is_some_and(|name| name.ends_with("-0"));
        if is_bad { Fate::PullFails("not found".into()) } else { Fate::Runs }
    })
    .await;
    let sets = "/apis/apps/v1/statefulsets";
    let mut set = deployment(1, 3);
    set["spec"]["serviceName"] = json!("web");
    stage.create(sets, &set);
    let first = stage.cluster.ticket(&"sts/web".parse().unwrap()).await.unwrap();
    stage.cluster.watch(&[first], &patient(), |_| {}).await.unwrap();
    let most = Policy { require: Require::Percent(60), ..patient() };
    let outcome = stage.deploy("sts/web", image(2), &most).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Partial { pods: 2, want: 3 } });
    let again = stage.deploy("sts/web", image(2), &patient()).await.unwrap();
    assert_eq!(again.class(), Class::Failed, "all are required: {again:?}");
    let nearly = Policy { require: Require::Percent(90), ..patient() };
    let again = stage.deploy("sts/web", image(2), &nearly).await.unwrap();
    assert_eq!(again.class(), Class::Failed, "two of three are fewer than 90 %: {again:?}");
}

/// `kubectl rollout status` knows no partition but in StatefulSets, and there it does not ask the pods.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_rolled_out_as_far_as_it_goes() {
    let stage = Stage::new("partition", |_| Fate::Runs).await;
    let mut set = deployment(1, 3);
    set["spec"]["serviceName"] = json!("web");
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
    stage.create("/apis/apps/v1/statefulsets", &set);
    let first = stage.cluster.ticket(&"sts/web".parse().unwrap()).await.unwrap();
    stage.cluster.watch(&[first], &patient(), |_| {}).await.unwrap();
    let outcome = stage.deploy("sts/web", image(2), &patient()).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 1 } });
    let images = |name: &str| stage.object("/api/v1/pods", name)["spec"]["containers"][0]["image"].clone();
    assert_eq!([images("web-2"), images("web-0")], [json!(pinned(2)), json!(pinned(1))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_targets_are_written_and_watched_together() {
    let stage = Stage::new("many", |_| Fate::Runs).await;
    let names: Vec<String> = (0..12).map(|number| format!("w{number}")).collect();
    for name in &names {
        let mut object = deployment(1, 1);
        object["metadata"]["name"] = json!(name);
        object["spec"]["selector"]["matchLabels"]["app"] = json!(name);
        object["spec"]["template"]["metadata"]["labels"]["app"] = json!(name);
        stage.create(DEPLOYMENTS, &object);
    }
    let targets: Vec<String> = names.iter().map(|name| format!("deploy/{name}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let plan = stage.plan_images(&targets, image(2)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    assert_eq!(executed.tickets.len(), 12);
    let order: Vec<&str> = executed.tickets.iter().map(|ticket| ticket.object.name.as_str()).collect();
    assert_eq!(order, names, "in the order of the plan");
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.class(), Class::Success, "{outcome:?}");
}

/// The watch was open before all but the first were written: what it showed until then is the version before, of an
/// object that is deleted and made anew the one before, and of a new one nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_under_an_open_watch_is_judged_by_what_comes_after() {
    let is_job = |pod: &Value| pod["spec"]["restartPolicy"] == "Never";
    let stage = Stage::new("admitted", move |pod| if is_job(pod) { Fate::Succeeds } else { Fate::Runs }).await;
    let container = json!([{"name": "web", "image": pinned(1)}]);
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": container}})
    };
    let template = json!({"spec": {"restartPolicy": "Never", "containers": container}});
    let jobs = "/apis/batch/v1/jobs";
    for round in ["targets", "manifests"] {
        let request = if round == "targets" {
            stage.create(DEPLOYMENTS, &deployment(1, 1));
            stage.create("/api/v1/pods", &pod("one"));
            stage.create("/api/v1/pods", &pod("two"));
            stage.create(jobs, &json!({"metadata": {"name": "migrate"}, "spec": {"template": template}}));
            stage.settle("web").await;
            let targets = ["deployment/web", "pod/one", "job/migrate", "pod/two"];
            Request { replace_jobs: true, ..stage.request(&targets, image(2)) }
        } else {
            let objects = ["new-one", "new-two"].map(|name| pod(name).to_string()).join("\n---\n");
            Request::new(Some(image(2)), What::Manifests(Manifest::parse_all("pods", &objects).unwrap()))
        };
        let plan = stage.cluster.plan(&request).await.unwrap();
        let mut watch = stage.cluster.watching(plan.objects(), &patient(), |_| {});
        let mut written = 0;
        while written < plan.actions.len() {
            let turn = plan.turn(written, 1 - watch.under_way(), false);
            assert_eq!(turn, 1, "one after the other");
            let executed = stage.cluster.execute_actions(&plan, &plan.actions[written..=written]).await.unwrap();
            watch.admit(&executed.tickets);
            assert_eq!(watch.under_way(), 1);
            written += turn;
            while !watch.is_decided() {
                watch.next().await.unwrap();
            }
        }
        let outcome = watch.outcome();
        assert_eq!(outcome.targets.len(), plan.actions.len());
        for target in &outcome.targets {
            let is_done = match target.ticket.object.name.as_str() {
                "migrate" => target.end == End::Done { evidence: Evidence::Completed },
                _ => target.end == End::Done { evidence: Evidence::Verified { pods: 1 } },
            };
            assert!(is_done, "{target:?}");
        }
    }
}
