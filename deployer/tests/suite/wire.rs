//! Bytes on the wire, and a server that misbehaves: a scripted API server that only replays. What the
//! real one does with the bytes is in `rollout.rs` and `apply.rs`.

use crate::scripted::{Asked, Reply, Server, kind, refusal};
use deployer::{
    Class, Cluster, End, Error, Event, Evidence, Image, Manifest, Outcome, Policy, Provenance, Request, TargetOutcome,
    Ticket, What,
};
use oci::{Digest, Reference};
use serde_json::{Value, json};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

fn image() -> Image {
    let reference: Reference = "registry.test/shop/web:2".parse().unwrap();
    Image::new(reference.pin(Digest::of(b"2")), [], vec![])
}

fn deployment(image: &str, generation: i64, observed: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "demo", "uid": "u-1", "generation": generation, "resourceVersion": format!("{generation}{observed}")},
        "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": image}]}}},
        "status": {"observedGeneration": observed, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
    })
}

fn replica_set() -> Value {
    let template = deployment(&image().pinned().to_string(), 2, 2)["spec"]["template"].clone();
    json!({"metadata": {"name": "web-1", "namespace": "demo", "uid": "rs-1", "resourceVersion": "1", "ownerReferences": [owner("u-1")]}, "spec": {"template": template}})
}

fn pod() -> Value {
    let image_id = image().pinned().without_tag();
    json!({"metadata": {"name": "web-1-x", "namespace": "demo", "uid": "p-1", "resourceVersion": "1", "ownerReferences": [owner("rs-1")]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"name": "web", "ready": true, "restartCount": 0, "imageID": image_id, "state": {"running": {}}}]}})
}

fn owner(uid: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "X", "name": "x", "controller": true, "uid": uid})
}

/// Discovery and the objects of a quiet cluster; `None` for what a test answers itself.
fn quiet(asked: &Asked) -> Option<Reply> {
    let deployments = json!({"resources": [{"name": "deployments", "kind": "Deployment", "namespaced": true, "shortNames": ["deploy"]}]});
    let groups =
        json!({"groups": [{"name": "apps", "versions": [{"version": "v1"}], "preferredVersion": {"version": "v1"}}]});
    let (path, is_watch) = kind(&asked.url);
    Some(Reply::Json(
        200,
        match (asked.method.as_str(), path, is_watch) {
            ("GET", "/version", _) => json!({"gitVersion": "v1.20.2"}),
            ("GET", "/apis", _) => groups,
            ("GET", "/apis/apps/v1", _) => deployments,
            ("GET", "/api/v1/nodes", _) => json!({"items": []}),
            ("GET", "/apis/apps/v1/namespaces/demo/deployments/web", _) => deployment("registry.test/shop/web:1", 1, 1),
            _ => return None,
        },
    ))
}

fn list(objects: &[Value]) -> Reply {
    Reply::Json(
        200,
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "100"}, "items": objects}),
    )
}

fn request() -> Request {
    let provenance = Provenance { change_cause: Some("commit abc".into()), ..Provenance::default() };
    Request { provenance, ..Request::new(Some(image()), What::Targets(vec!["deploy/web".parse().unwrap()])) }
}

fn policy(seconds: u64) -> Policy {
    Policy { timeout: Duration::from_secs(seconds), ..Policy::default() }
}

#[tokio::test]
async fn an_image_is_one_patch_of_few_requests() {
    let pinned = image().pinned().to_string();
    let answer = deployment(&pinned, 2, 1);
    let server = Server::start(move |asked, _| quiet(asked).unwrap_or_else(|| Reply::Json(200, answer.clone())));
    let cluster = server.cluster().await.unwrap();
    let plan = cluster.plan(&request()).await.unwrap();
    assert!(server.asked("PATCH").is_empty());
    let executed = cluster.execute(&plan).await.unwrap();
    assert_eq!((executed.tickets[0].generation, executed.tickets[0].uid.as_str()), (2, "u-1"));

    let urls: Vec<String> = server.asked("GET").into_iter().map(|asked| asked.url).collect();
    let web = "/apis/apps/v1/namespaces/demo/deployments/web";
    assert_eq!(urls, [web, "/api/v1/nodes?limit=500"]);
    let patches = server.asked("PATCH");
    assert_eq!(patches.len(), 1);
    assert_eq!(patches[0].url, format!("{web}?fieldManager=lighter&fieldValidation=Strict"));
    assert_eq!(patches[0].content_type, "application/strategic-merge-patch+json");
    assert_eq!(
        patches[0].body,
        json!({
            "metadata": {"uid": "u-1", "annotations": {"kubernetes.io/change-cause": "commit abc"}},
            "spec": {"template": {"spec": {"containers": [{"name": "web", "image": pinned}]}}},
        })
    );
}

/// A kind that servers have in different versions is asked for once, and anew when what was remembered leads nowhere.
#[tokio::test]
async fn what_a_server_said_of_its_kinds_is_remembered_and_not_trusted() {
    let start = |version: &'static str| {
        Server::start(move |asked, _| {
            let group =
                json!({"name": "batch", "versions": [{"version": version}], "preferredVersion": {"version": version}});
            let list = json!({"resources": [{"name": "cronjobs", "kind": "CronJob", "namespaced": true, "shortNames": ["cj"]}]});
            let pod_spec = json!({"containers": [{"name": "web", "image": "registry.test/shop/web:1"}]});
            let job = json!({"metadata": {"name": "web", "uid": "u-2", "generation": 1},
                "spec": {"jobTemplate": {"spec": {"template": {"spec": pod_spec}}}}});
            match kind(&asked.url).0 {
                "/apis" => Reply::Json(200, json!({"groups": [group]})),
                path if path == format!("/apis/batch/{version}") => Reply::Json(200, list),
                path if path == format!("/apis/batch/{version}/namespaces/demo/cronjobs/web") => Reply::Json(200, job),
                "/api/v1" => Reply::Json(200, json!({"resources": []})),
                "/api/v1/nodes" => Reply::Json(200, json!({"items": []})),
                _ => refusal(404, "not found", json!({})),
            }
        })
    };
    let directory = tempfile::tempdir().unwrap();
    let mut asked = request();
    asked.what = What::Targets(vec!["cj/web".parse().unwrap()]);
    let plan = async |server: &Server| {
        let before = server.asked("GET").len();
        let cluster = server.cluster_that_remembers(Some(directory.path().to_owned())).await.unwrap();
        let plan = cluster.plan(&asked).await.unwrap();
        assert_eq!(plan.actions[0].object.resource.plural, "cronjobs");
        server.asked("GET").split_off(before).into_iter().map(|asked| asked.url).collect::<Vec<_>>()
    };
    let old = start("v1beta1");
    let urls = plan(&old).await;
    assert_eq!(urls[..2], ["/apis", "/apis/batch/v1beta1"], "{urls:?}");
    let job = "/apis/batch/v1beta1/namespaces/demo/cronjobs/web";
    assert_eq!(plan(&old).await, [job, "/api/v1/nodes?limit=500"]);

    // The server is replaced by a newer one: what is remembered of it is another version.
    let new = start("v1");
    let file = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap().replace(&old.address, &new.address);
    let name = Digest::of(new.address.as_bytes()).to_string().replace(':', "-");
    std::fs::write(directory.path().join(format!("{name}.json")), text).unwrap();
    let urls = plan(&new).await;
    assert_eq!(urls[..3], [job, "/apis", "/apis/batch/v1"], "{urls:?}");
}

/// After 429 the same bytes are sent again; after anything that may hide a success, the object is looked at.
#[tokio::test]
async fn a_busy_server_is_asked_again_but_not_for_ever() {
    let server = Server::start(|asked, times| match (asked.method.as_str(), times) {
        ("PATCH", 1) => refusal(429, "too many requests", json!({"details": {"retryAfterSeconds": 1}})),
        ("PATCH", 2) => refusal(503, "starting", json!({})),
        ("PATCH", _) => refusal(409, "the object has been modified", json!({"reason": "Conflict"})),
        _ => quiet(asked).unwrap_or(Reply::Nothing),
    });
    let cluster = server.cluster().await.unwrap();
    let plan = cluster.plan(&request()).await.unwrap();
    let looks = server.asked("GET").len();
    let error = cluster.execute(&plan).await.unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Transient);
    assert_eq!(server.asked("PATCH").len(), 6, "five attempts, the first of them twice");
    assert_eq!(server.asked("GET").len() - looks, 5, "a look before each new attempt");
}

/// The answer of a write is lost: if it was done, it is found, and if not, it is done once more.
#[tokio::test]
async fn a_lost_answer_is_looked_for_and_not_sent_again_blindly() {
    for (was_done, lost) in [(true, 0), (true, 504), (false, 0), (false, 504)] {
        let pinned = image().pinned().to_string();
        let server = Server::start(move |asked, times| match (asked.method.as_str(), times) {
            ("PATCH", 1) if lost == 0 => Reply::Nothing,
            ("PATCH", 1) => refusal(lost, "timed out", json!({})),
            ("PATCH", _) => Reply::Json(200, deployment(&pinned, 3, 1)),
            ("GET", 2) if was_done && asked.url.ends_with("/deployments/web") => {
                let mut done = deployment(&pinned, 2, 1);
                done["metadata"]["annotations"] = json!({"kubernetes.io/change-cause": "commit abc"});
                Reply::Json(200, done)
            }
            _ => quiet(asked).unwrap_or(Reply::Nothing),
        });
        let cluster = server.cluster().await.unwrap();
        let plan = cluster.plan(&request()).await.unwrap();
        let executed = cluster.execute(&plan).await.unwrap();
        let ticket = &executed.tickets[0];
        assert!(ticket.changed);
        assert_eq!(ticket.generation, if was_done { 2 } else { 3 }, "{lost}");
        assert_eq!(server.asked("PATCH").len(), if was_done { 1 } else { 2 }, "{lost}");
    }
}

/// A plan made anew is made from what is there: the object that changed meanwhile has its containers elsewhere.
#[tokio::test]
async fn a_guarded_write_carries_the_version_that_was_checked() {
    let pinned = image().pinned().to_string();
    let server = Server::start(move |asked, times| match (asked.method.as_str(), times) {
        ("PATCH", 1) => refusal(409, "the object has been modified", json!({"reason": "Conflict"})),
        ("PATCH", _) => Reply::Json(200, deployment(&pinned, 3, 1)),
        ("GET", 2) if asked.url.ends_with("/deployments/web") => {
            let mut moved = deployment("registry.test/shop/web:1", 2, 2);
            moved["metadata"]["resourceVersion"] = json!("99");
            Reply::Json(200, moved)
        }
        _ => quiet(asked).unwrap_or(Reply::Nothing),
    });
    let cluster = server.cluster().await.unwrap();
    let mut asked = request();
    asked.guard.newer_than_live = Some(5);
    let plan = cluster.plan(&asked).await.unwrap();
    cluster.execute(&plan).await.unwrap();
    let versions: Vec<Value> =
        server.asked("PATCH").iter().map(|asked| asked.body["metadata"]["resourceVersion"].clone()).collect();
    assert_eq!(versions, [json!("11"), json!("99")]);
}

async fn ticket(server: &Server, cluster: &Cluster) -> Ticket {
    let plan = cluster.plan(&request()).await.unwrap();
    let ticket = cluster.execute(&plan).await.unwrap().tickets.remove(0);
    assert_eq!(server.asked("PATCH").len(), 1);
    ticket
}

/// A watch that ends, a history that is gone, and a list that is refused for a moment: the wait goes on.
#[tokio::test]
async fn a_watch_is_resumed_whatever_ends_it() {
    let pinned = image().pinned().to_string();
    let server = Server::start(move |asked, times| {
        if asked.method == "PATCH" {
            return Reply::Json(200, deployment(&pinned, 2, 1));
        }
        let (path, is_watch) = kind(&asked.url);
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version"}});
        let open = Duration::from_secs(20);
        match (path.rsplit('/').next().unwrap_or_default(), is_watch, times) {
            ("deployments", false, 1) => list(&[deployment(&pinned, 2, 1)]),
            ("deployments", false, 2) => refusal(500, "etcd has no leader", json!({})),
            ("deployments", false, _) => list(&[deployment(&pinned, 2, 2)]),
            ("deployments", true, 1) => Reply::Lines(vec![], Duration::ZERO), // ends at once
            ("deployments", true, 2) => Reply::Nothing,                       // the connection breaks
            ("deployments", true, 3) => Reply::Lines(vec![gone], Duration::ZERO),
            ("replicasets", false, _) => list(&[replica_set()]),
            ("pods", false, _) => list(&[]),
            ("pods", true, _) => Reply::Lines(vec![json!({"type": "ADDED", "object": with_kind(pod(), "Pod")})], open),
            ("events", false, _) => refusal(
                403,
                "events is forbidden: User \"u\" cannot list resource \"events\"",
                json!({"reason": "Forbidden"}),
            ),
            (_, true, _) => Reply::Lines(vec![], open),
            _ => quiet(asked).unwrap_or(Reply::Nothing),
        }
    });
    let cluster = server.cluster().await.unwrap();
    let ticket = ticket(&server, &cluster).await;
    let mut notes = Vec::new();
    let note = |event| {
        if let Event::Note { text } = event {
            notes.push(text);
        }
    };
    let outcome = cluster.watch(&[ticket], &policy(30), note).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 1 } });
    assert!(notes.iter().any(|note| note.starts_with("events may not be watched")), "{notes:?}");
    let lists = server
        .asked("GET")
        .into_iter()
        .filter(|asked| kind(&asked.url) == ("/apis/apps/v1/namespaces/demo/deployments", false));
    let lists: Vec<Asked> = lists.collect();
    assert!(lists.len() >= 3, "{lists:?}");
    assert!(
        lists.iter().all(|list| !list.url.contains("resourceVersion")),
        "never older than what we wrote: {lists:?}"
    );
    assert!(
        lists[0].url.contains("fieldSelector=metadata.name%3Dweb"),
        "rights for one name are enough: {}",
        lists[0].url
    );
}

/// A watch that is slow shows nothing yet of what was made just now: that is not taken for its end.
#[tokio::test]
async fn what_was_not_shown_yet_is_not_gone() {
    let pinned = image().pinned().to_string();
    let (show, shown) = mpsc::channel();
    let shown = Mutex::new(shown);
    let mut first = deployment(&pinned, 2, 2);
    (first["metadata"]["name"], first["metadata"]["uid"]) = (json!("first"), json!("u-0"));
    (first["spec"]["replicas"], first["status"]) = (json!(0), json!({"observedGeneration": 2}));
    let server = Server::start(move |asked, _| {
        let (path, is_watch) = kind(&asked.url);
        match (path.rsplit('/').next().unwrap_or_default(), is_watch) {
            _ if asked.method == "PATCH" => Reply::Json(200, deployment(&pinned, 2, 1)),
            ("deployments", false) => list(std::slice::from_ref(&first)),
            ("deployments", true) => {
                shown.lock().unwrap().recv().unwrap();
                let event = json!({"type": "ADDED", "object": deployment(&pinned, 2, 2)});
                Reply::Lines(vec![event], Duration::from_secs(600))
            }
            ("replicasets", false) => list(&[replica_set()]),
            ("pods", false) => list(&[pod()]),
            ("events", false) => list(&[]),
            (_, true) => Reply::Lines(vec![], Duration::from_secs(600)),
            _ => quiet(asked).unwrap_or(Reply::Nothing),
        }
    });
    let cluster = server.cluster().await.unwrap();
    let made = ticket(&server, &cluster).await;
    let mut before = made.clone();
    (before.object.name, before.uid) = ("first".into(), "u-0".into());
    let policy = policy(60);
    let mut watch = cluster.watching([&before.object, &made.object], &policy, |event| {
        if matches!(&event, Event::Progress { object, .. } if object.name == "web") {
            show.send(()).ok(); // it was looked at
        }
    });
    watch.admit(std::slice::from_ref(&before));
    watch.next().await.unwrap();
    assert!(watch.is_decided() && !watch.has_failed());
    watch.admit(std::slice::from_ref(&made));
    watch.next().await.unwrap();
    let ends: Vec<End> = watch.outcome().targets.into_iter().map(|target| target.end).collect();
    let [none, verified] = [Evidence::NoReplicas, Evidence::Verified { pods: 1 }];
    assert_eq!(ends, [End::Done { evidence: none }, End::Done { evidence: verified }]);
}

fn with_kind(mut object: Value, kind: &str) -> Value {
    (object["apiVersion"], object["kind"]) = (json!("v1"), json!(kind));
    object
}

#[tokio::test]
async fn a_server_that_stays_away_is_unreachable_and_no_failed_rollout() {
    let pinned = image().pinned().to_string();
    let server = Server::start(move |asked, _| match asked.method.as_str() {
        "PATCH" => Reply::Json(200, deployment(&pinned, 2, 1)),
        _ => quiet(asked).unwrap_or(Reply::Nothing),
    });
    let cluster = server.cluster().await.unwrap();
    let ticket = ticket(&server, &cluster).await;
    let mut notes = 0;
    let error = cluster.watch(&[ticket], &policy(2), |_| notes += 1).await.unwrap_err();
    assert_eq!(error.class(), Class::Unreachable, "{error:?}");
    assert_eq!(notes, 4, "each stream says once that it is interrupted");
}

#[tokio::test]
async fn pods_that_may_not_be_watched_are_an_error_with_the_missing_rule() {
    let pinned = image().pinned().to_string();
    let server = Server::start(move |asked, _| match kind(&asked.url).0.rsplit('/').next().unwrap_or_default() {
        _ if asked.method == "PATCH" => Reply::Json(200, deployment(&pinned, 2, 1)),
        "pods" => refusal(
            403,
            "pods is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\"",
            json!({"reason": "Forbidden"}),
        ),
        _ => quiet(asked).unwrap_or_else(|| list(&[])),
    });
    let cluster = server.cluster().await.unwrap();
    let ticket = ticket(&server, &cluster).await;
    let error = cluster.watch(&[ticket], &policy(20), |_| {}).await.unwrap_err();
    let Error::Forbidden { rule, .. } = &error else { panic!("{error:?}") };
    assert_eq!((rule.verb.as_str(), rule.resource.as_str(), rule.namespace.as_deref()), ("list", "pods", Some("demo")));
}

/// A note on a Deployment is a new generation of it: whoever looks right after the note is to find a rollout that is done.
#[tokio::test]
async fn a_note_is_over_when_the_controller_has_seen_it() {
    for (generation, watched) in [(3, true), (2, false)] {
        let pinned = image().pinned().to_string();
        let server = Server::start(move |asked, times| {
            let state = |observed| deployment(&pinned, generation, observed);
            let event = |observed| json!({"type": "MODIFIED", "object": state(observed)});
            match (asked.method.as_str(), kind(&asked.url).1) {
                ("PATCH", _) if times == 1 => Reply::Json(200, deployment(&pinned, 2, 1)),
                ("PATCH", _) => Reply::Json(200, state(2)),
                (_, true) if times == 1 => Reply::Lines(vec![event(2)], Duration::ZERO), // an end says nothing
                // It is not waited for until this stream ends.
                (_, true) => Reply::Lines(vec![event(3)], Duration::from_secs(600)),
                ("GET", _) if asked.url.ends_with("/deployments/web") && times > 1 => Reply::Json(200, state(2)),
                _ => quiet(asked).unwrap_or(Reply::Nothing),
            }
        });
        let cluster = server.cluster().await.unwrap();
        let ticket = ticket(&server, &cluster).await;
        let end = End::Done { evidence: Evidence::Verified { pods: 1 } };
        let unseen = cluster.remember(&Outcome { targets: vec![TargetOutcome { ticket, end }] }).await.unwrap();
        assert_eq!(unseen, []);
        let watches: Vec<String> = server.asked("GET").into_iter().map(|asked| asked.url).collect();
        let watches: Vec<&String> = watches.iter().filter(|url| url.contains("watch=true")).collect();
        assert_eq!(watches.len(), if watched { 2 } else { 0 }, "{watches:?}");
        for url in watches {
            assert!(url.contains("fieldSelector=metadata.name%3Dweb") && url.contains("resourceVersion=32"), "{url}");
        }
    }
}

/// The controller numbers a version a moment after it was written: an apply just then is none that changes anything.
#[tokio::test]
async fn what_a_controller_writes_meanwhile_is_no_difference() {
    for (answered, changes) in [("registry.test/shop/web:1", false), ("registry.test/shop/web:2", true)] {
        let state = |image: &str, version: &str, numbered: bool| {
            let mut object = deployment(image, 1, 1);
            object["metadata"]["resourceVersion"] = json!(version);
            if numbered {
                object["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "1"});
            }
            object
        };
        let server = Server::start(move |asked, times| {
            let is_it = kind(&asked.url).0.ends_with("/deployments/web");
            match asked.method.as_str() {
                "GET" if is_it && times == 1 => Reply::Json(200, state("registry.test/shop/web:1", "11", false)),
                "GET" if is_it => Reply::Json(200, state("registry.test/shop/web:1", "12", true)),
                "PATCH" => Reply::Json(200, state(answered, "12", true)),
                _ => quiet(asked).unwrap_or_else(|| list(&[])),
            }
        });
        let cluster = server.cluster().await.unwrap();
        let mut manifest = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
        manifest["spec"] = deployment(answered, 1, 1)["spec"].clone();
        let manifests = Manifest::parse_all("file", &manifest.to_string()).unwrap();
        let plan = cluster.plan(&Request::new(None, What::Manifests(manifests))).await.unwrap();
        assert_eq!(plan.changes_anything(), changes, "{plan}");
    }
}
