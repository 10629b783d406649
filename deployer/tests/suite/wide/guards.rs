//! Guards, and who is faster.

use super::patient;
use crate::stage::{DEPLOYMENTS, Stage, deployment, image, pinned};
use deployer::{Change, Class, Error, Guard, Request};
use fixtures::kubernetes::kubelet::Fate;
use serde_json::json;

fn pipeline(stage: &Stage, iid: u64, version: u32) -> Request {
    let mut request = stage.request(&["deployment/web"], image(version));
    request.guard = Guard { newer_than_live: Some(iid), ..Guard::default() };
    request.provenance.facts.insert("pipeline-iid".into(), iid.to_string());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_pipeline_does_not_overtake() {
    let stage = Stage::with_deployment("pipelines", |_| Fate::Runs).await;
    let deploy = async |iid, version| {
        let plan = stage.cluster.plan(&pipeline(&stage, iid, version)).await?;
        stage.cluster.execute(&plan).await
    };
    deploy(7, 2).await.unwrap();
    let error = deploy(6, 3).await.unwrap_err();
    assert_eq!(error.class(), Class::Superseded, "{error}");
    assert!(error.to_string().contains("pipeline 7 deployed it"), "{error}");
    assert_eq!(stage.images("web")[0], pinned(2));
    // The same image from a newer pipeline: its number is written, or pipeline 8 could still come.
    let executed = deploy(9, 2).await.unwrap();
    assert_eq!(executed.objects[0].1, Change::Update);
    assert_eq!(deploy(8, 3).await.unwrap_err().class(), Class::Superseded);
    assert_eq!(deploy(9, 2).await.unwrap().objects[0].1, Change::Nothing, "a pipeline that runs again");

    // Between look and write: the plan of 10 is made, 11 deploys, and 10 writes.
    let late = stage.cluster.plan(&pipeline(&stage, 10, 3)).await.unwrap();
    deploy(11, 4).await.unwrap();
    let error = stage.cluster.execute(&late).await.unwrap_err();
    assert_eq!(error.class(), Class::Superseded, "{error}");
    assert_eq!(stage.images("web")[0], pinned(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_it_was_looked_at_is_left_alone() {
    let stage = Stage::with_deployment("unchanged", |_| Fate::Runs).await;
    let request = |version| {
        let guard = Guard { if_unchanged: true, ..Guard::default() };
        Request { guard, ..stage.request(&["deployment/web"], image(version)) }
    };
    let path = stage.path(DEPLOYMENTS, "web");
    let plan = stage.cluster.plan(&request(2)).await.unwrap();
    stage.admin.patch(&path, &json!({"metadata": {"labels": {"touched": "by-hand"}}})).expect_ok();
    let executed = stage.cluster.execute(&plan).await;
    assert!(executed.is_ok(), "a label is no change of what it is to be: {executed:?}");
    stage.cluster.watch(&executed.unwrap().tickets, &patient(), |_| {}).await.unwrap();

    stage.settle("web").await;
    let plan = stage.cluster.plan(&request(3)).await.unwrap();
    stage.admin.patch(&path, &json!({"spec": {"replicas": 3}})).expect_ok();
    let error = stage.cluster.execute(&plan).await.unwrap_err();
    assert!(matches!(error, Error::Overtaken { .. }), "{error}");
    assert_eq!(
        (stage.images("web")[0].clone(), stage.object(DEPLOYMENTS, "web")["spec"]["replicas"].clone()),
        (pinned(2), json!(3))
    );
}

/// Keel copies the fresh version onto its stale object, and what an autoscaler wrote is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_planned_anew_and_nobody_loses_a_field() {
    let stage = Stage::with_deployment("writers", |_| Fate::Runs).await;
    let plan = stage.cluster.plan(&pipeline(&stage, 1, 2)).await.unwrap();
    let theirs = json!({"metadata": {"annotations": {"theirs": "x"}}, "spec": {"replicas": 4}});
    stage.admin.patch(&stage.path(DEPLOYMENTS, "web"), &theirs).expect_ok();
    stage.cluster.execute(&plan).await.unwrap();
    let after = stage.object(DEPLOYMENTS, "web");
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["annotations"]["theirs"]), (&json!(4), &json!("x")));
    assert_eq!(stage.images("web")[0], pinned(2));
    // A container that went meanwhile is not added again.
    let plan = stage.cluster.plan(&pipeline(&stage, 2, 3)).await.unwrap();
    let mut other = deployment(2, 4);
    other["spec"]["template"]["spec"]["containers"] = json!([{"name": "renamed", "image": pinned(2)}]);
    stage.admin.delete(&stage.path(DEPLOYMENTS, "web")).expect_ok();
    stage.until("it is gone", || !stage.exists(DEPLOYMENTS, "web")).await;
    stage.create(DEPLOYMENTS, &other);
    assert!(stage.cluster.execute(&plan).await.is_err());
    assert_eq!(stage.images("web"), [pinned(2)]);
}
