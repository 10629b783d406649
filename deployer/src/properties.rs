//! What holds for every input: hostile text and JSON never panic, and a verdict is never more than the
//! evidence for it.

use crate::diagnose::Cause;
use crate::plan::tests::{image, resource};
use crate::redact::redact;
use crate::world::{Kind, World};
use crate::{
    Assignment, Evidence, Manifest, ObjectName, Options, Policy, Provenance, Surroundings, Target, Ticket, Verdict,
    Which, classify, plan_apply, render,
};
use jiff::{SignedDuration, Timestamp};
use oci::Digest;
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON of any shape, made of the words that our code looks for.
fn any_json() -> impl Strategy<Value = Value> {
    let words = "apiVersion|kind|metadata|name|namespace|annotations|uid|spec|template|jobTemplate|containers|initContainers|image|ports|protocol|items|List|Deployment|CronJob|Service|v1|apps/v1|web";
    let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), words.prop_map(Value::from)];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(words, inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_kind() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["Deployment", "StatefulSet", "DaemonSet", "CronJob", "Service"])
}

/// A workload of three pods or fewer, in any state that its controller might show, and worse.
#[derive(Clone, Debug)]
struct State {
    kind: &'static str,
    generation: i64,
    observed: i64,
    replicas: i64,
    counts: [i64; 4],
    stale_deadline: bool,
    seconds: i64,
    /// Ready, and running ours, another image, or one that is not reported.
    pods: Vec<(bool, u8)>,
}

fn any_state() -> impl Strategy<Value = State> {
    let kinds = prop::sample::select(vec!["Deployment", "StatefulSet", "DaemonSet"]);
    let pods = prop::collection::vec((any::<bool>(), 0u8..3), 0..4);
    (kinds, 2i64..4, 0i64..5, 0i64..4, prop::array::uniform4(0i64..4), any::<bool>(), 0i64..4, pods).prop_map(
        |(kind, generation, observed, replicas, counts, stale_deadline, seconds, pods)| State {
            kind,
            generation,
            observed,
            replicas,
            counts,
            stale_deadline,
            seconds,
            pods,
        },
    )
}

const NOW: &str = "2026-11-23T05:00:00Z";
const BEFORE: &str = "2026-11-23T04:00:00Z";

impl State {
    fn verdict(&self) -> Verdict {
        let kind = resource("apps", self.kind);
        let pinned = image().pinned().to_string();
        let template = json!({"spec": {"containers": [{"name": "web", "image": pinned}]}});
        let [updated, available, total, unavailable] = self.counts;
        let condition = json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "lastUpdateTime": BEFORE});
        let workload = json!({
            "metadata": {"name": "web", "uid": "w", "generation": self.generation, "annotations": {"deprecated.daemonset.template.generation": "1"}},
            "spec": {"replicas": self.replicas, "template": template},
            "status": {"observedGeneration": self.observed, "updateRevision": if self.kind == "StatefulSet" { json!("r") } else { Value::Null },
                "updatedReplicas": updated, "availableReplicas": available, "readyReplicas": available, "replicas": total, "unavailableReplicas": unavailable,
                "desiredNumberScheduled": self.replicas, "updatedNumberScheduled": updated, "numberAvailable": available,
                "conditions": if self.stale_deadline { json!([condition]) } else { json!([]) }},
        });
        let owner = if self.kind == "Deployment" { "rs" } else { "w" };
        let replica_set = json!({"metadata": {"uid": "rs", "ownerReferences": [{"controller": true, "uid": "w"}]}, "spec": {"template": template}});
        let now: Timestamp = NOW.parse().unwrap();
        let mut world = World::default();
        for (kind, objects) in [
            (Kind::Workload(kind.clone()), vec![workload]),
            (Kind::ReplicaSet, vec![replica_set]),
            (Kind::Pod, self.pods.iter().enumerate().map(|(number, pod)| self.pod(number, owner, *pod)).collect()),
            (Kind::Event, Vec::new()),
        ] {
            let stream = world.add_stream(kind, "demo");
            world.replace(stream, objects, now);
        }
        let ticket = Ticket {
            object: ObjectName::new(kind, "demo", "web"),
            uid: "w".into(),
            generation: 2,
            version: String::new(),
            changed: true,
            created: false,
            want: [("web".to_owned(), image().digests().iter().copied().collect())].into(),
            images: [("web".to_owned(), pinned)].into(),
            before: Default::default(),
            template: None,
            running: Default::default(),
            was_well: true,
            verified: Default::default(),
            written: now,
        };
        classify(&world.snapshot(&ticket), &ticket, &Policy::default(), now + SignedDuration::from_secs(self.seconds))
    }

    fn pod(&self, number: usize, owner: &str, (ready, runs): (bool, u8)) -> Value {
        let image_id = match runs {
            0 => image().pinned().without_tag(),
            1 => format!("registry.test/shop/web@{}", Digest::of(b"another")),
            _ => String::new(),
        };
        json!({
            "metadata": {"name": format!("web-{number}"), "uid": format!("p-{number}"), "ownerReferences": [{"controller": true, "uid": owner}],
                "labels": {"controller-revision-hash": "r", "pod-template-generation": "1"}},
            "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "containerStatuses": [{"name": "web", "ready": ready, "imageID": image_id, "restartCount": 0, "state": {"running": {}}}]},
        })
    }
}

proptest! {
    #[test]
    fn nothing_is_decided_before_our_generation_was_observed(state in any_state()) {
        let verdict = state.verdict();
        if state.observed < state.generation {
            prop_assert!(matches!(verdict, Verdict::Waiting(_)), "{verdict:?}");
        }
    }

    #[test]
    fn verified_means_that_so_many_ready_pods_report_our_digest(state in any_state()) {
        let right = state.pods.iter().filter(|pod| **pod == (true, 0)).count() as i64;
        match state.verdict() {
            Verdict::Done(Evidence::Verified { pods }) => {
                prop_assert!(pods >= state.replicas && state.replicas > 0 && right == pods);
                prop_assert!(!state.pods.contains(&(true, 1)));
            }
            Verdict::Done(evidence) => prop_assert!(state.replicas == 0, "{evidence:?}"),
            _ => {}
        }
    }

    #[test]
    fn a_condition_older_than_our_write_fails_nothing(state in any_state()) {
        if let Verdict::Failed(troubles) = state.verdict() {
            prop_assert!(troubles.iter().all(|trouble| trouble.cause != Cause::Deadline), "{troubles:?}");
        }
    }

    #[test]
    fn manifests_of_any_shape_are_planned_or_refused(object in any_json(), kind in any_kind(), container in prop::option::of("|web")) {
        if let Ok(manifests) = Manifest::parse_all("any", &object.to_string()) {
            prop_assert!(manifests.iter().all(|manifest| !manifest.name().is_empty() && !manifest.kind().is_empty()));
        }
        let group = if kind == "Service" { "" } else if kind == "CronJob" { "batch" } else { "apps" };
        let mut body = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "web"}});
        body["spec"] = object.clone();
        let manifest = Manifest { origin: ("any".into(), 1), object: body, turn: None };
        let live = Some(object);
        let name = ObjectName::new(resource(group, kind), "demo", "web");
        let provenance = Provenance { change_cause: Some("x".into()), ..Provenance::default() };
        // Either is right; that it ends is the property.
        let which = container.map_or(Which::Fitting, Which::Named);
        let options = Options { provenance, ..Options::default() };
        let images = [Assignment { image: image(), which }];
        let _ = plan_apply(&[(name, manifest.clone(), live)], &images, &options, &Surroundings::default());
        let _ = render(&[manifest], &images);
    }

    #[test]
    fn text_of_any_kind_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = Manifest::parse_all("any", &text);
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
    }

    #[test]
    fn a_password_in_a_url_is_never_shown(before in "[ -~]{0,20}", host in "[a-z.]{1,10}", after in "[ -~]{0,20}") {
        let shown = redact(&format!("{before} https://bob:s3cr3tpw@{host}/ {after}"));
        prop_assert!(!shown.contains("s3cr3tpw"), "{}", shown);
    }

    #[test]
    fn redaction_of_nothing_secret_changes_nothing(text in "[a-z0-9 .\\n-]{0,80}") {
        prop_assume!(!["bearer", "basic", "authorization"].iter().any(|word| text.contains(word)));
        prop_assert_eq!(redact(&text), text);
    }
}
