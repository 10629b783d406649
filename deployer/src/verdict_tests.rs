//! Tables for [`super::classify`] and [`crate::diagnose`], on objects as a 1.20 server sends them.

use super::*;
use crate::object::{ObjectName, Resource};
use crate::world::{Kind, World};
use serde_json::json;
use std::collections::BTreeMap;

pub(crate) const UID: &str = "11111111-0000-0000-0000-000000000000";
const RS_UID: &str = "22222222-0000-0000-0000-000000000000";
pub(crate) const NEW: &str =
    "registry.test/web:2@sha256:2222222222222222222222222222222222222222222222222222222222222222";
pub(crate) const OLD: &str =
    "registry.test/web:1@sha256:1111111111111111111111111111111111111111111111111111111111111111";

pub(crate) fn now() -> Timestamp {
    "2026-11-23T05:00:00Z".parse().unwrap()
}

pub(crate) fn resource(kind: &str) -> Resource {
    Resource {
        group: if kind == "Pod" { "" } else { "apps" }.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural: format!("{}s", kind.to_lowercase()),
        namespaced: true,
        image_path: None,
    }
}

pub(crate) fn ticket(kind: &str) -> Ticket {
    let digest: Digest = NEW.split_once('@').unwrap().1.parse().unwrap();
    Ticket {
        object: ObjectName::new(resource(kind), "demo", "web"),
        uid: UID.into(),
        generation: 2,
        version: "20".into(),
        changed: true,
        created: false,
        want: BTreeMap::from([("web".into(), vec![digest])]),
        images: BTreeMap::from([("web".into(), NEW.into())]),
        before: BTreeMap::from([("web".into(), OLD.into())]),
        template: None,
        running: BTreeMap::from([("web".into(), NEW.into())]),
        was_well: true,
        verified: BTreeMap::new(),
        written: "2026-11-23T04:59:50Z".parse().unwrap(),
    }
}

pub(crate) fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image}]}})
}

pub(crate) fn workload(spec: Value, status: Value) -> Value {
    let mut workload = json!({"metadata": {"name": "web", "uid": UID, "generation": 2}, "spec": {"template": template(NEW)}, "status": status});
    merge(&mut workload["spec"], spec);
    workload
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().cloned().unwrap_or_default() {
        into[key] = value;
    }
}

/// Two replicas, both new, both available.
pub(crate) fn finished() -> Value {
    json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2})
}

fn replica_set() -> Value {
    let mut template = template(NEW);
    template["metadata"]["labels"]["pod-template-hash"] = json!("5d8c");
    json!({"metadata": {"name": "web-5d8c", "uid": RS_UID, "ownerReferences": [{"controller": true, "uid": UID}]}, "spec": {"template": template}})
}

fn pod(number: usize, owner: &str, status: Value) -> Value {
    json!({"metadata": {"name": format!("web-{number}"), "uid": format!("pod-{number}"), "ownerReferences": [{"controller": true, "uid": owner}],
        "labels": {"controller-revision-hash": "web-2", "pod-template-generation": "2"}}, "status": status})
}

fn ready(image_id: &str) -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "web", "ready": true, "restartCount": 0, "imageID": image_id, "state": {"running": {}}}]})
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "web", "ready": false, "restartCount": 0, "imageID": "", "state": {"waiting": {"reason": reason, "message": message}}}]})
}

fn crashed(restarts: i64, state: Value) -> Value {
    let end = json!({"terminated": {"exitCode": 3, "reason": "Error", "message": "no database"}});
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "web", "ready": false, "restartCount": restarts, "imageID": NEW, "state": state, "lastState": end}]})
}

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) ticket: Ticket,
}

impl Scene {
    pub(crate) fn new(kind: &str, workload: Option<Value>) -> Scene {
        let mut world = World::default();
        let workloads = world.add_stream(Kind::Workload(resource(kind)), "demo");
        for kind in [Kind::ReplicaSet, Kind::Pod, Kind::Event] {
            let stream = world.add_stream(kind, "demo");
            world.replace(stream, Vec::new(), now());
        }
        assert!(!world.is_complete());
        world.replace(workloads, workload.into_iter().collect(), now());
        let mut scene = Scene { world, ticket: ticket(kind) };
        scene.put(1, replica_set());
        scene
    }

    pub(crate) fn put(&mut self, stream: usize, object: Value) -> &mut Scene {
        assert!(self.world.is_complete());
        self.world.put(stream, object, now());
        self
    }

    fn pods(mut self, owner: &str, statuses: &[Value]) -> Scene {
        for (number, status) in statuses.iter().enumerate() {
            self.put(2, pod(number, owner, status.clone()));
        }
        self
    }

    pub(crate) fn verdict_at(&self, seconds: i64) -> Verdict {
        let now = now() + SignedDuration::from_secs(seconds);
        classify(&self.world.snapshot(&self.ticket), &self.ticket, &Policy::default(), now)
    }

    fn verdict(&self) -> Verdict {
        self.verdict_at(0)
    }
}

fn deployment(spec: Value, status: Value) -> Scene {
    let mut all = json!({"replicas": 2});
    merge(&mut all, spec);
    Scene::new("Deployment", Some(workload(all, status)))
}

pub(crate) fn failed(verdict: Verdict) -> Vec<(Cause, String)> {
    match verdict {
        Verdict::Failed(troubles) => {
            troubles.into_iter().filter(|trouble| trouble.fatal).map(|trouble| (trouble.cause, trouble.text)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_old_picture_is_never_taken_for_the_new_one() {
    let mut status = finished();
    status["observedGeneration"] = json!(1);
    status["conditions"] = json!([{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]);
    let scene = deployment(json!({}), status).pods(RS_UID, &[ready(NEW), ready(NEW)]);
    assert_eq!(scene.verdict(), Verdict::Waiting(Waiting::Observed));
}

#[test]
fn a_deployment_is_done_when_pods_report_the_digest() {
    let scene = deployment(json!({}), finished()).pods(RS_UID, &[ready(NEW), ready("docker-pullable://elsewhere.test/same@sha256:2222222222222222222222222222222222222222222222222222222222222222")]);
    assert_eq!(scene.verdict(), Verdict::Done(Evidence::Verified { pods: 2 }));
}

#[test]
fn counts_are_waited_for_in_their_order() {
    for (status, waiting) in [
        (json!({"observedGeneration": 2, "replicas": 2}), Waiting::Updated { have: 0, want: 2 }),
        (
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3}),
            Waiting::OldPods(1),
        ),
        (
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}),
            Waiting::Available { have: 1, want: 2 },
        ),
        (finished(), Waiting::Reported { have: 0, want: 2 }),
    ] {
        assert_eq!(deployment(json!({}), status).verdict(), Verdict::Waiting(waiting));
    }
}

#[test]
fn pods_of_other_versions_count_for_nothing() {
    let scene = deployment(json!({}), finished())
        .pods("another-replica-set", &[ready(NEW), ready(NEW), waiting("ErrImagePull", "not found")]);
    assert_eq!(scene.verdict(), Verdict::Waiting(Waiting::Reported { have: 0, want: 2 }));
}

#[test]
fn a_pod_with_another_image_is_a_failure() {
    let scene = deployment(json!({}), finished()).pods(RS_UID, &[ready(NEW), ready(OLD)]);
    assert_eq!(failed(scene.verdict()), [(Cause::WrongImage, format!("it reports {OLD}"))]);
}

#[test]
fn a_runtime_that_reports_no_manifest_digest_is_not_accused() {
    let scene = deployment(json!({}), finished()).pods(RS_UID, &[ready("sha256:3333"), ready(NEW)]);
    assert_eq!(scene.verdict(), Verdict::Done(Evidence::Available { pods: 2 }));
}

#[test]
fn special_cases_are_said_as_what_they_are() {
    let zero = json!({"observedGeneration": 2});
    assert_eq!(deployment(json!({"replicas": 0}), zero.clone()).verdict(), Verdict::Done(Evidence::NoReplicas));
    let ending = json!({"observedGeneration": 2, "replicas": 1});
    assert_eq!(deployment(json!({"replicas": 0}), ending).verdict(), Verdict::Waiting(Waiting::OldPods(1)));
    assert_eq!(deployment(json!({"paused": true}), zero.clone()).verdict(), Verdict::Paused);
    assert_eq!(Scene::new("Deployment", None).verdict(), Verdict::Gone);
    let on_delete = json!({"updateStrategy": {"type": "OnDelete"}, "replicas": 1});
    assert_eq!(
        Scene::new("StatefulSet", Some(workload(on_delete, zero.clone()))).verdict(),
        Verdict::Done(Evidence::OnDelete)
    );
    assert_eq!(
        Scene::new("DaemonSet", Some(workload(json!({}), zero.clone()))).verdict(),
        Verdict::Done(Evidence::NoNodes)
    );
    assert_eq!(Scene::new("ReplicaSet", Some(workload(json!({}), zero))).verdict(), Verdict::Done(Evidence::OnDelete));
}

#[test]
fn somebody_elses_change_is_not_our_success() {
    let mut scene = deployment(json!({"template": template("registry.test/web:3")}), finished());
    assert_eq!(scene.verdict(), Verdict::Superseded("web runs registry.test/web:3".into()));
    scene.ticket.uid = "another".into();
    assert_eq!(scene.verdict(), Verdict::Superseded("it was deleted and made anew".into()));
    let mut scaled = workload(
        json!({"replicas": 3}),
        json!({"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}),
    );
    scaled["metadata"]["generation"] = json!(3);
    assert_eq!(
        Scene::new("Deployment", Some(scaled)).verdict(),
        Verdict::Waiting(Waiting::Updated { have: 2, want: 3 }),
        "an autoscaler may"
    );
}

#[test]
fn without_an_image_the_template_tells_who_changed_it() {
    let mut scene = deployment(json!({}), finished()).pods(RS_UID, &[ready(NEW), ready(NEW)]);
    scene.ticket.images.clear();
    scene.ticket.want.clear();
    assert_eq!(scene.verdict(), Verdict::Superseded("its pod template was changed".into()));
    scene.ticket.template = workload::fingerprint(&resource("Deployment"), &workload(json!({}), json!({})));
    assert_eq!(scene.verdict(), Verdict::Done(Evidence::Available { pods: 2 }));
}

#[test]
fn the_deadline_of_the_rollout_before_is_not_ours() {
    let late = |update: &str| {
        let mut status = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1});
        status["conditions"] = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out", "lastUpdateTime": update}]);
        deployment(json!({"progressDeadlineSeconds": 30}), status)
    };
    // Of an undo, the controller counts on from the rollout before: it may even say so anew.
    for update in ["2026-11-23T04:00:00Z", "2026-11-23T04:59:59Z"] {
        let stale = late(update);
        assert_eq!(stale.verdict(), Verdict::Waiting(Waiting::Updated { have: 1, want: 2 }));
        assert_eq!(
            failed(stale.verdict_at(30)),
            [(Cause::Deadline, "timed out".into())],
            "it may be left from before for so long only"
        );
    }
    let mut found = late("2026-11-23T04:00:00Z");
    found.ticket.changed = false;
    assert_eq!(failed(found.verdict()), [(Cause::Deadline, "timed out".into())], "nothing was written: it is true");
}

#[test]
fn causes_are_told_with_their_words_and_patience() {
    let broken = || json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2});
    let crash_loop = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
    for (status, cause, words, after) in [
        (waiting("ErrImagePull", "web@sha256:2: not found"), Cause::ImageMissing, "web@sha256:2: not found", 0),
        (
            waiting("ErrImagePull", "https://bob:pw@r.test: 401 Unauthorized"),
            Cause::ImageDenied,
            "https://[redacted]@r.test: 401 Unauthorized",
            0,
        ),
        (waiting("InvalidImageName", "couldn't parse"), Cause::ImageName, "couldn't parse", 0),
        (waiting("ErrImageNeverPull", "not present"), Cause::ImageNeverPulled, "not present", 0),
        (waiting("ErrImagePull", "connection refused"), Cause::ImagePull, "connection refused", 20),
        (
            waiting("CreateContainerConfigError", "secret \"db\" not found"),
            Cause::Config,
            "secret \"db\" not found",
            30,
        ),
        (waiting("CreateContainerError", "no mount"), Cause::Start, "CreateContainerError: no mount", 20),
        (crashed(2, crash_loop.clone()), Cause::Crash, "exit code 3 (Error), restarted 2 times: no database", 0),
    ] {
        let scene = deployment(json!({}), broken()).pods(RS_UID, &[status]);
        if after > 0 {
            assert_eq!(scene.verdict_at(after - 1), Verdict::Waiting(Waiting::Updated { have: 1, want: 2 }), "{words}");
        }
        assert_eq!(failed(scene.verdict_at(after)), [(cause, words.to_owned())]);
    }
    for status in [crashed(1, crash_loop), crashed(9, json!({"running": {}}))] {
        let scene = deployment(json!({}), broken()).pods(RS_UID, &[status]);
        assert!(matches!(scene.verdict(), Verdict::Waiting(_)), "once, or running again, is no failure yet");
    }
}

#[test]
fn a_back_off_remembers_why() {
    let mut scene = deployment(json!({}), json!({"observedGeneration": 2}))
        .pods(RS_UID, &[waiting("ErrImagePull", "web: not found")]);
    scene.put(2, pod(0, RS_UID, waiting("ImagePullBackOff", "Back-off pulling image")));
    assert_eq!(failed(scene.verdict()), [(Cause::ImageMissing, "web: not found".into())]);
    let mut late = deployment(json!({}), json!({"observedGeneration": 2}))
        .pods(RS_UID, &[waiting("ImagePullBackOff", "Back-off pulling image")]);
    late.put(3, json!({"metadata": {"uid": "e"}, "involvedObject": {"uid": "pod-0"}, "message": "Failed to pull image \"web\": not found"}));
    assert_eq!(failed(late.verdict())[0].0, Cause::ImageMissing);
}

#[test]
fn an_init_container_fails_first() {
    let mut status = waiting("PodInitializing", "");
    status["initContainerStatuses"] =
        json!([{"name": "migrate", "restartCount": 3, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]);
    let scene = deployment(json!({}), json!({"observedGeneration": 2})).pods(RS_UID, &[status]);
    let Verdict::Failed(troubles) = scene.verdict() else { panic!() };
    assert_eq!(troubles[0].container.as_deref(), Some("migrate"));
}

#[test]
fn refusals_are_told_and_only_quotas_may_pass() {
    for (message, outcome) in [
        ("pods \"web\" is forbidden: exceeded quota: small", None),
        ("admission webhook \"policy\" denied the request: no root", Some(Cause::Refused)),
    ] {
        let mut scene = deployment(json!({}), json!({"observedGeneration": 2}));
        let mut set = replica_set();
        set["status"] = json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}]});
        scene.put(1, set);
        let troubles = diagnose(&scene.world.snapshot(&scene.ticket), &scene.ticket, &Policy::default(), now());
        assert_eq!(troubles[0].text, message);
        assert!(matches!(scene.verdict(), Verdict::Waiting(_)));
        match outcome {
            Some(cause) => assert_eq!(failed(scene.verdict_at(10))[0].0, cause),
            None => assert!(matches!(scene.verdict_at(1000), Verdict::Waiting(_))),
        }
    }
}

#[test]
fn an_unschedulable_pod_is_told_and_waited_for() {
    let status = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]});
    let scene = deployment(json!({}), json!({"observedGeneration": 2})).pods(RS_UID, &[status]);
    let troubles = diagnose(&scene.world.snapshot(&scene.ticket), &scene.ticket, &Policy::default(), now());
    assert_eq!(
        (troubles[0].cause, troubles[0].text.as_str(), troubles[0].fatal),
        (Cause::Unschedulable, "0/3 nodes", false)
    );
    assert!(matches!(scene.verdict_at(3600), Verdict::Waiting(_)));
}

#[test]
fn stateful_and_daemon_sets_know_their_new_pods() {
    let status = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "readyReplicas": 3, "updateRevision": "web-2"});
    let partitioned = workload(
        json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
        status,
    );
    let mut old = pod(7, UID, ready(OLD));
    old["metadata"]["labels"]["controller-revision-hash"] = json!("web-1");
    let mut scene = Scene::new("StatefulSet", Some(partitioned)).pods(UID, &[ready(NEW)]);
    scene.put(2, old);
    assert_eq!(scene.verdict(), Verdict::Done(Evidence::Verified { pods: 1 }));

    let status = json!({"observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2});
    let mut daemons = workload(json!({}), status);
    daemons["metadata"]["annotations"] = json!({"deprecated.daemonset.template.generation": "2"});
    let scene = Scene::new("DaemonSet", Some(daemons)).pods(UID, &[ready(NEW), ready(NEW)]);
    assert_eq!(scene.verdict(), Verdict::Done(Evidence::Verified { pods: 2 }));
}

#[test]
fn what_only_events_say_of_a_pod_is_told() {
    let event = |reason: &str, message: &str| {
        json!({"metadata": {"uid": reason}, "reason": reason, "message": message, "type": "Warning",
        "involvedObject": {"uid": "pod-0", "fieldPath": "spec.containers{web}"}, "lastTimestamp": "2026-11-23T05:00:00Z"})
    };
    let creating = waiting("ContainerCreating", "");
    let probe = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "web", "ready": false, "restartCount": 0, "imageID": NEW, "state": {"running": {}}}]});
    for (status, reason, message, cause, after) in [
        (&creating, "FailedMount", "volume \"tls\" : secret \"tls\" not found", Cause::Config, Some(30)),
        (&creating, "FailedMount", "volume \"nfs\": mount.nfs: Connection timed out", Cause::Mount, None),
        (&creating, "FailedCreatePodSandBox", "failed to set up network", Cause::Start, None),
        (&probe, "Unhealthy", "Readiness probe failed: HTTP 503", Cause::Unready, None),
    ] {
        let mut scene =
            deployment(json!({}), json!({"observedGeneration": 2})).pods(RS_UID, std::slice::from_ref(status));
        scene.put(3, event(reason, message));
        let troubles = diagnose(&scene.world.snapshot(&scene.ticket), &scene.ticket, &Policy::default(), now());
        assert_eq!((troubles[0].cause, troubles[0].text.as_str(), troubles[0].fatal), (cause, message, false));
        match after {
            Some(after) => assert_eq!(failed(scene.verdict_at(after))[0].0, cause),
            None => assert!(matches!(scene.verdict_at(3600), Verdict::Waiting(_)), "{message}"),
        }
    }
    let mut well = deployment(json!({}), finished()).pods(RS_UID, &[ready(NEW), ready(NEW)]);
    well.put(3, event("Unhealthy", "Readiness probe failed"));
    assert!(
        diagnose(&well.world.snapshot(&well.ticket), &well.ticket, &Policy::default(), now()).is_empty(),
        "it passed"
    );
}

#[test]
fn a_part_of_the_pods_may_be_enough_and_as_many_may_fail() {
    let status = json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 3, "availableReplicas": 3});
    let scene = |pods: &[Value]| deployment(json!({"replicas": 4}), status.clone()).pods(RS_UID, pods);
    let bad = waiting("ErrImagePull", "not found");
    for (require, pods, verdict) in [
        ("50%", vec![ready(NEW), ready(NEW), bad.clone()], Some(Verdict::Done(Evidence::Partial { pods: 2, want: 4 }))),
        (
            "75%",
            vec![ready(NEW), ready(NEW), bad.clone()],
            Some(Verdict::Waiting(Waiting::Updated { have: 3, want: 4 })),
        ),
        ("75%", vec![ready(NEW), bad.clone(), bad.clone()], None),
        ("full", vec![ready(NEW), ready(NEW), bad.clone()], None),
        (
            "50%",
            vec![ready(OLD), ready(NEW), waiting("ContainerCreating", "")],
            Some(Verdict::Waiting(Waiting::Updated { have: 3, want: 4 })),
        ),
    ] {
        let scene = scene(&pods);
        let policy = Policy { require: require.parse().unwrap(), ..Policy::default() };
        let found = classify(&scene.world.snapshot(&scene.ticket), &scene.ticket, &policy, now());
        match verdict {
            Some(verdict) => assert_eq!(found, verdict, "{require}"),
            None => assert!(matches!(found, Verdict::Failed(_)), "{require}: {found:?}"),
        }
    }
}

#[test]
fn a_pod_and_a_job_speak_for_themselves() {
    let judged = |kind: &str, group: &str, mut object: Value, pods: Vec<Value>| {
        let kind = Resource { group: group.into(), ..resource(kind) };
        object["metadata"] = json!({"name": "web", "uid": UID});
        let mut world = World::default();
        for (kind, objects) in [(Kind::Workload(kind.clone()), vec![object]), (Kind::Pod, pods), (Kind::Event, vec![])]
        {
            let stream = world.add_stream(kind, "demo");
            world.replace(stream, objects, now());
        }
        let ticket = Ticket { object: ObjectName::new(kind, "demo", "web"), generation: 0, ..ticket("Pod") };
        classify(&world.snapshot(&ticket), &ticket, &Policy::default(), now())
    };
    let container = json!([{"name": "web", "image": NEW}]);
    let pod = |status: Value| judged("Pod", "", json!({"spec": {"containers": container}, "status": status}), vec![]);
    assert_eq!(pod(ready(NEW)), Verdict::Done(Evidence::Verified { pods: 1 }));
    assert_eq!(
        pod(ready(OLD)),
        Verdict::Waiting(Waiting::Reported { have: 0, want: 1 }),
        "its container restarts soon"
    );
    assert!(matches!(pod(waiting("ErrImagePull", "not found")), Verdict::Failed(_)));
    assert_eq!(pod(json!({"phase": "Succeeded"})), Verdict::Done(Evidence::Completed));

    let job = |conditions: Value, pods: Vec<Value>| {
        let object = json!({"spec": {"completions": 2, "template": {"spec": {"containers": container}}}, "status": {"succeeded": 1, "conditions": conditions}});
        judged("Job", "batch", object, pods)
    };
    let condition = |kind: &str| json!([{"type": kind, "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}]);
    assert_eq!(job(condition("Complete"), vec![]), Verdict::Done(Evidence::Completed));
    assert_eq!(failed(job(condition("Failed"), vec![])), [(Cause::Job, "BackoffLimitExceeded: too often".to_owned())]);
    assert_eq!(job(json!([]), vec![]), Verdict::Waiting(Waiting::Working { have: 1, want: 2 }));
    let crashes = crashed(5, json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    assert!(
        matches!(job(json!([]), vec![self::pod(0, UID, crashes)]), Verdict::Waiting(_)),
        "the job decides how often it tries"
    );
    assert!(matches!(
        job(json!([]), vec![self::pod(0, UID, waiting("ErrImagePull", "not found"))]),
        Verdict::Failed(_)
    ));
}
