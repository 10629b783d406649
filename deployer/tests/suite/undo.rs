//! The way back, on a real API server and controller manager.

use crate::stage::{DEPLOYMENTS, Stage, deployment, image, pinned};
use deployer::{
    Back, Class, End, Event, Evidence, Executed, Image, Outcome, Policy, Probe, PullSecret, Pullable, Registry, Undone,
};
use fixtures::kubernetes::kubelet::Fate;
use oci::Platform;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const NOT_FOUND: &str = "rpc error: code = NotFound desc = failed to pull and unpack image: not found";
const VERIFIED: &str = "lighter.dev/verified";

fn patient() -> Policy {
    Policy { timeout: Duration::from_secs(120), ..Policy::default() }
}

/// Pods with this version of the image run, all others cannot pull it.
fn only(versions: &'static [u32]) -> impl Fn(&Value) -> Fate + Send + 'static {
    move |pod| {
        let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
        let runs = |version: &u32| containers.iter().any(|container| container["image"] == pinned(*version).as_str());
        if versions.iter().any(runs) { Fate::Runs } else { Fate::PullFails(NOT_FOUND.into()) }
    }
}

fn web(version: u32) -> BTreeMap<String, String> {
    [("web".to_owned(), pinned(version))].into()
}

async fn deploy(stage: &Stage, targets: &[&str], version: u32) -> (Executed, Outcome) {
    let plan = stage.plan_images(targets, image(version)).await.unwrap();
    let executed = stage.cluster.execute(&plan).await.unwrap();
    let outcome = stage.cluster.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    (executed, outcome)
}

/// A registry that has nothing any more.
struct Gone;

impl Registry for Gone {
    fn probe<'a>(&'a self, _: &'a Image, _: &'a [Platform], _: Option<&'a [PullSecret]>) -> Probe<'a> {
        Box::pin(async { Pullable::Missing("it was deleted".into()) })
    }
}

async fn undo(stage: &Stage, executed: &Executed) -> Undone {
    stage.cluster.undo(&executed.tickets, &patient(), None, |_| {}).await
}

fn restored(undone: &Undone, place: usize) -> (&BTreeMap<String, String>, &End) {
    match &undone.targets[place].back {
        Back::Restored { images, end } => (images, end),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_image_goes_back_and_nothing_else_does() {
    let stage = Stage::with_deployment("undo", only(&[1])).await;
    let (executed, outcome) = deploy(&stage, &["deployment/web"], 2).await;
    assert_eq!(outcome.class(), Class::Failed);
    // Somebody scales, and somebody annotates: both keep what they wrote.
    let path = stage.path(DEPLOYMENTS, "web");
    let theirs = json!({"metadata": {"annotations": {"theirs": "x"}}, "spec": {"replicas": 3}});
    stage.admin.patch(&path, &theirs).expect_ok();

    let mut told = Vec::new();
    let undone = stage.cluster.undo(&executed.tickets, &patient(), Some(&Gone), |event| told.push(event)).await;
    assert_eq!(undone.class(), Class::RolledBack, "{undone:?}");
    assert_eq!(restored(&undone, 0), (&web(1), &End::Done { evidence: Evidence::Available { pods: 3 } }));
    let Event::Note { text } = &told[0] else { panic!("{told:?}") };
    assert!(text.contains(&pinned(1)) && text.contains("cannot be pulled any more (it was deleted)"), "{text}");
    assert!(matches!(&told[1], Event::Undoing { images, .. } if *images == web(1)), "{told:?}");
    let after = stage.object(DEPLOYMENTS, "web");
    assert_eq!(stage.images("web"), [pinned(1), "registry.test/side:1".to_owned()]);
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["annotations"]["theirs"]), (&json!(3), &json!("x")));
    let cause = after["metadata"]["annotations"]["kubernetes.io/change-cause"].as_str().unwrap();
    assert!(cause.contains("went back"), "{cause}");
}

/// The controller's deadline of the failed rollout is still written on the Deployment when the old version
/// is well again: `kubectl rollout undo` and `status` call that a failure.
#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_the_failed_rollout_does_not_fail_the_undo() {
    let fate = only(&[1]);
    let stage = Stage::new("undodeadline", move |pod| match fate(pod) {
        Fate::Runs => Fate::Runs,
        _ => Fate::Ignored,
    })
    .await;
    let mut object = deployment(1, 1);
    object["spec"]["progressDeadlineSeconds"] = json!(2);
    stage.create(DEPLOYMENTS, &object);
    stage.settle("web").await;
    let (executed, outcome) = deploy(&stage, &["deployment/web"], 2).await;
    assert_eq!(outcome.class(), Class::Failed, "{outcome:?}");
    let undone = undo(&stage, &executed).await;
    assert_eq!(restored(&undone, 0).1, &End::Done { evidence: Evidence::Available { pods: 1 } });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_deploy_is_not_undone() {
    let stage = Stage::with_deployment("undonewer", only(&[1, 3])).await;
    let (executed, _) = deploy(&stage, &["deployment/web"], 2).await;
    let newer = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": pinned(3)}]}}}});
    stage.admin.patch(&stage.path(DEPLOYMENTS, "web"), &newer).expect_ok();
    let undone = undo(&stage, &executed).await;
    assert_eq!(undone.targets[0].back, Back::Superseded { by: format!("web runs {}", pinned(3)) });
    assert_eq!(undone.class(), Class::Superseded);
    assert_eq!(stage.images("web")[0], pinned(3));
}

/// `kubectl rollout undo` goes from a second bad version to the first bad one.
#[tokio::test(flavor = "multi_thread")]
async fn two_bad_versions_in_a_row_lead_back_to_the_good_one() {
    let stage = Stage::with_deployment("undotwice", only(&[1, 4])).await;
    let (_, outcome) = deploy(&stage, &["deployment/web"], 4).await;
    stage.cluster.remember(&outcome).await.unwrap();
    let remembered = stage.object(DEPLOYMENTS, "web")["metadata"]["annotations"][VERIFIED].clone();
    let remembered: BTreeMap<String, String> = serde_json::from_str(remembered.as_str().unwrap()).unwrap();
    assert_eq!(remembered["web"], pinned(4));

    let (first, _) = deploy(&stage, &["deployment/web"], 2).await; // and it is left in place
    assert!(first.tickets[0].was_well);
    let (second, _) = deploy(&stage, &["deployment/web"], 3).await;
    assert_eq!((second.tickets[0].was_well, second.tickets[0].before["web"].as_str()), (false, pinned(2).as_str()));
    let undone = undo(&stage, &second).await;
    assert_eq!(restored(&undone, 0), (&web(4), &End::Done { evidence: Evidence::Available { pods: 2 } }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_is_written_once_and_outlives_the_next_apply() {
    let stage = Stage::with_deployment("remember", |_| Fate::Runs).await;
    let (_, outcome) = deploy(&stage, &["deployment/web"], 2).await;
    stage.cluster.remember(&outcome).await.unwrap();
    let noted = stage.object(DEPLOYMENTS, "web");
    let settled = noted["metadata"]["generation"].clone();
    assert_eq!(noted["status"]["observedGeneration"], settled, "the controller has seen the note, too");
    let (_, outcome) = deploy(&stage, &["deployment/web"], 2).await;
    stage.cluster.remember(&outcome).await.unwrap();
    assert_eq!(stage.object(DEPLOYMENTS, "web")["metadata"]["generation"], settled);

    let mut manifest = deployment(2, 2);
    (manifest["apiVersion"], manifest["kind"]) = (json!("apps/v1"), json!("Deployment"));
    let plan = stage.plan_manifests(&manifest.to_string(), None, "apply").await.unwrap();
    stage.cluster.execute(&plan).await.unwrap();
    let again = stage.plan_manifests(&manifest.to_string(), None, "apply").await.unwrap();
    assert!(!again.changes_anything(), "what we noted is no difference: {again}");
    let after = stage.object(DEPLOYMENTS, "web");
    assert!(after["metadata"]["annotations"][VERIFIED].as_str().unwrap().contains(&pinned(2)), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_takes_all_targets_of_the_run_back() {
    let stage = Stage::new("undoall", |pod| {
        let is_new = pod["spec"]["containers"][0]["image"] == pinned(2).as_str();
        let is_bad = is_new && pod["metadata"]["labels"]["app"] == "b";
        if is_bad { Fate::PullFails(NOT_FOUND.into()) } else { Fate::Runs }
    })
    .await;
    for name in ["a", "b"] {
        let text = deployment(1, 1).to_string().replace("\"web\"", &format!("\"{name}\""));
        stage.create(DEPLOYMENTS, &serde_json::from_str(&text).unwrap());
        stage.settle(name).await;
    }
    let (executed, outcome) = deploy(&stage, &["deployment/a/a", "deployment/b/b"], 2).await;
    assert_eq!(outcome.class(), Class::Failed);
    let undone = undo(&stage, &executed).await;
    assert_eq!(undone.class(), Class::RolledBack, "{undone:?}");
    assert_eq!(undone.targets[0].object.name, "b", "the last written first");
    assert_eq!([stage.images("a")[0].clone(), stage.images("b")[0].clone()], [pinned(1), pinned(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_that_does_not_come_back_is_said() {
    let stage = Stage::new("undobad", |_| Fate::Runs).await;
    stage.create(DEPLOYMENTS, &deployment(1, 1));
    stage.settle("web").await;
    let (executed, _) = deploy(&stage, &["deployment/web"], 2).await;
    // No pod of the old version can be made any more.
    let policy = Policy { timeout: Duration::from_secs(2), ..Policy::default() };
    stage.create("/api/v1/resourcequotas", &json!({"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}));
    stage
        .until("the quota is counted", || {
            stage.object("/api/v1/resourcequotas", "none")["status"]["used"]["pods"] == "1"
        })
        .await;
    let undone = stage.cluster.undo(&executed.tickets, &policy, None, |_| {}).await;
    assert_eq!(undone.class(), Class::RollbackFailed, "{undone:?}");
    assert_eq!(stage.images("web")[0], pinned(1), "it is written down all the same");
}
