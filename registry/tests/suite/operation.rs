//! What operators see: health, metrics, request ids, usage, and webhooks that are delivered whatever
//! happens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use content::remote::Proxies;
use fixtures::http::{Received, Scripted};
use oci::Digest;
use registry::{Action, Format, HookSettings, Settings};
use ring::hmac;
use serde_json::{Value, json};

use crate::access::{As, basic, guarded, guarded_with, rules};
use crate::client::{Http, MANIFEST, Registry, image};

/// Reads the text format of Prometheus strictly: each sample belongs to a family that was announced.
fn parse(text: &str) -> HashMap<String, f64> {
    let mut families = HashMap::new();
    let mut samples = HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is announced twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            name.strip_suffix(end).filter(|base| families.get(*base).is_some_and(|kind| kind == "histogram"))
        });
        assert!(families.contains_key(family.unwrap_or(name)), "{name} was not announced");
        assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "{sample} is there twice");
    }
    samples
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    registry.http.get("/v2/a/manifests/v1").await.expect(200);
    registry.http.get("/v2/a/manifests/v2").await.expect(404);
    registry.http.get(&format!("/v2/a/blobs/{}", Digest::of(b"layer"))).await.expect(200);
    registry.http.send("BREW", "/v2/", &[], "").await.expect(405);
    let reply = registry.http.get("/metrics").await.expect(200);
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let samples = parse(std::str::from_utf8(&reply.body).unwrap());
    let count = |labels: &str| samples[&format!("lighter_requests_total{{{labels}}}")];
    assert_eq!(count("route=\"manifest\",method=\"GET\",status=\"200\""), 1.0);
    assert_eq!(count("route=\"manifest\",method=\"GET\",status=\"404\""), 1.0);
    assert_eq!(count("route=\"upload\",method=\"PUT\",status=\"201\""), 2.0);
    assert_eq!(count("route=\"base\",method=\"other\",status=\"405\""), 1.0);
    let manifests = "route=\"manifest\",method=\"GET\"";
    assert_eq!(samples[&format!("lighter_request_seconds_count{{{manifests}}}")], 2.0);
    assert_eq!(samples[&format!("lighter_request_seconds_bucket{{{manifests},le=\"+Inf\"}}")], 2.0);
    assert!(samples["lighter_received_bytes_total"] >= 5.0 + image(b"layer").len() as f64);
    assert!(samples["lighter_sent_bytes_total"] >= 5.0 + image(b"layer").len() as f64);
    assert_eq!(samples["lighter_requests_in_flight"], 1.0, "only this one");
    assert_eq!(samples["lighter_uploads_in_flight"], 0.0);
    assert!(samples["lighter_journal_lsn"] >= 3.0);
    assert!(samples["lighter_disk_free_bytes"] > 0.0);
}

#[tokio::test]
async fn health_has_an_address_of_its_own_where_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.admin = Some("127.0.0.1:0".parse().unwrap());
    let server = registry::Server::bind(settings).await.unwrap();
    let (main, admin) = (Http::new(server.local_addr()), Http::new(server.admin_addr().unwrap()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(server.serve(async {
        let _ = stopped.await; // an error is a stop as well
    }));
    for path in ["/livez", "/readyz"] {
        assert_eq!(main.get(path).await.expect(200).json()["status"], json!("ok"));
        assert_eq!(admin.get(path).await.status, 200);
    }
    main.get("/metrics").await.refuses(404, "UNSUPPORTED");
    assert_eq!(admin.get("/metrics").await.status, 200);
    assert_eq!(admin.get("/v2/").await.status, 404, "no images there");
    assert_eq!(admin.send("POST", "/metrics", &[], "").await.status, 405);
    drop(stop);
    task.await.unwrap();
}

#[tokio::test]
async fn every_answer_says_what_its_request_is_called() {
    let registry = Registry::start().await;
    let given = registry.http.send("GET", "/v2/", &[("x-request-id", "job-7")], "").await.expect(200);
    assert_eq!(given.header("x-request-id"), "job-7");
    let bad = registry.http.send("GET", "/v2/", &[("x-request-id", "a b\"c")], "").await.expect(200);
    assert_eq!(bad.header("x-request-id").len(), 32);
    let other = registry.http.get("/v2/nothing").await.expect(404);
    assert_ne!(other.header("x-request-id"), bad.header("x-request-id"));
}

#[tokio::test]
async fn usage_is_told_of_what_may_be_pulled() {
    let registry = guarded(rules(json!([
        {"subjects": ["user:alice"], "repositories": ["**"], "rights": ["pull", "push"]},
        {"subjects": ["user:bob"], "repositories": ["b"], "rights": ["pull"]},
    ])))
    .await;
    let (alice, bob) = (As(&registry.http, basic("alice", "ecila")), As(&registry.http, basic("bob", "bob")));
    alice.push("a", "v1", b"layer").await.expect(201);
    alice.push("b", "v1", b"layer").await.expect(201);
    alice.push("b", "v2", b"other").await.expect(201);
    let b = json!({"repository": "b", "tags": 2, "manifests": 2,
        "manifest_bytes": 2 * image(b"layer").len(), "blobs": 3, "blob_bytes": 12});
    assert_eq!(bob.get("/api/v1/usage").await.expect(200).json(), json!({"repositories": [b], "next": null}));
    assert_eq!(bob.get("/api/v1/usage?repository=b").await.expect(200).json(), b);
    bob.get("/api/v1/usage?repository=a").await.refuses(403, "DENIED");
    registry.http.get("/api/v1/usage?repository=a").await.refuses(401, "UNAUTHORIZED");
    alice.get("/api/v1/usage?repository=c").await.refuses(404, "NAME_UNKNOWN");
    let page = alice.get("/api/v1/usage?n=1").await.expect(200).json();
    assert_eq!((page["repositories"].as_array().unwrap().len(), &page["next"]), (1, &json!("a")));
}

/// A receiver that fails at first, and keeps what it took.
fn receiver(failures: usize) -> (Scripted, Arc<Mutex<Vec<Received>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (kept, left) = (taken.clone(), AtomicUsize::new(failures));
    let server = Scripted::start(move |request| {
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return (503, vec![], String::new());
        }
        kept.lock().unwrap().push(request.clone());
        (204, vec![], String::new())
    });
    (server, taken)
}

async fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn hook(server: &Scripted, name: &str, format: Format) -> HookSettings {
    HookSettings {
        name: name.to_owned(),
        url: format!("http://{}/hook", server.address()),
        format,
        secret: Some("s3cret".to_owned()),
        repositories: vec!["told/**".parse().unwrap()],
        events: HookSettings::USUAL_EVENTS.to_vec(),
        blobs: false,
        proxies: Proxies::default(),
    }
}

async fn start(dir: tempfile::TempDir, hooks: &[HookSettings]) -> Registry {
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.hooks = hooks.to_vec();
    Registry::start_with(dir, settings).await
}

fn bodies(taken: &Mutex<Vec<Received>>) -> Vec<Value> {
    let taken = taken.lock().unwrap();
    taken.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
}

#[tokio::test]
async fn webhooks_are_told_everything_in_order_though_they_fail_at_first() {
    let (flaky, taken) = receiver(2);
    let (steady, clouds) = receiver(0);
    let hooks = [hook(&flaky, "flaky", Format::Distribution), hook(&steady, "steady", Format::CloudEvents)];
    let registry = start(tempfile::tempdir().unwrap(), &hooks).await;
    registry.http.push_image("quiet/a", "v1", b"layer").await;
    let manifest = registry.http.push_image("told/a", "v1", b"layer").await;
    registry.http.delete("/v2/told/a/manifests/v1").await.expect(202);
    wait_for("both events arrive", || bodies(&taken).len() >= 2 && bodies(&clouds).len() >= 2).await;
    let told = bodies(&taken);
    let target = &told[0]["events"][0]["target"];
    assert_eq!(told[0]["events"][0]["action"], json!("push"));
    assert_eq!(
        (&target["repository"], &target["tag"], &target["digest"], &target["size"]),
        (&json!("told/a"), &json!("v1"), &json!(Digest::of(&manifest)), &json!(manifest.len()))
    );
    assert_eq!(told[1]["events"][0]["action"], json!("delete"));
    let told = bodies(&clouds);
    assert_eq!((&told[0]["type"], &told[0]["subject"]), (&json!("lighter.registry.push"), &json!("told/a:v1")));
    for request in clouds.lock().unwrap().iter() {
        assert_eq!(request.header("content-type"), Some("application/cloudevents+json"));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"s3cret"), &request.body);
        assert_eq!(request.header("x-lighter-signature"), Some(format!("sha256={}", STANDARD.encode(tag)).as_str()));
    }
    assert_eq!(flaky.received().len(), 4, "two failures, two deliveries");
}

#[tokio::test]
async fn what_happened_while_a_receiver_was_down_is_told_after_a_restart() {
    let (server, taken) = receiver(0);
    let (down, _) = receiver(usize::MAX);
    let registry = start(tempfile::tempdir().unwrap(), &[hook(&server, "deploy", Format::Distribution)]).await;
    registry.http.push_image("told/a", "v1", b"layer").await;
    wait_for("the first event arrives", || bodies(&taken).len() == 1).await;
    let place = registry.data().join("hooks/deploy.json");
    wait_for("the place is kept", || {
        std::fs::read(&place)
            .is_ok_and(|text| serde_json::from_slice::<Value>(&text).unwrap()["lsn"].as_u64() > Some(1))
    })
    .await;
    let dir = registry.stop().await;
    let registry = start(dir, &[hook(&down, "deploy", Format::Distribution)]).await;
    registry.http.push_image("told/a", "v2", b"layer").await;
    registry.http.push_image("told/a", "v3", b"layer").await;
    wait_for("it is tried", || !down.received().is_empty()).await;
    let dir = registry.stop().await;
    let _registry = start(dir, &[hook(&server, "deploy", Format::Distribution)]).await;
    wait_for("the rest arrives", || bodies(&taken).len() >= 3).await;
    let tags: Vec<Value> = bodies(&taken).iter().map(|body| body["events"][0]["target"]["tag"].clone()).collect();
    let mut seen = tags.clone();
    seen.dedup(); // at least once, in order
    assert_eq!(seen, [json!("v1"), json!("v2"), json!("v3")], "{tags:?}");
}

#[tokio::test]
async fn everything_can_be_told_with_who_asked_for_it() {
    let (server, taken) = receiver(0);
    let (cloud, clouds) = receiver(0);
    let everything = |server: &Scripted, name, format| HookSettings {
        events: vec![Action::Push, Action::Pull, Action::Mount, Action::Delete],
        blobs: true,
        ..hook(server, name, format)
    };
    let all = json!([{"subjects": ["user:alice"], "repositories": ["**"], "rights": ["pull", "push", "delete"]}]);
    let registry = guarded_with(rules(all), |settings| {
        settings.front.url = Some("https://registry.example".to_owned());
        settings.hooks =
            vec![everything(&server, "all", Format::Distribution), everything(&cloud, "clouds", Format::CloudEvents)];
    })
    .await;
    let login = basic("alice", "ecila");
    let alice = As(&registry.http, login.clone());
    let headers = [("authorization", login.as_str()), ("user-agent", "tester/1"), ("x-request-id", "the-push")];
    let layer = Digest::of(b"layer");
    let path = format!("/v2/told/a/blobs/uploads/?digest={layer}");
    registry.http.send("POST", &path, &headers, b"layer".to_vec()).await.expect(201);
    alice.push("told/a", "v1", b"layer").await.expect(201);
    alice.send("POST", &format!("/v2/told/b/blobs/uploads/?mount={layer}&from=told/a"), "").await.expect(201);
    alice.get("/v2/told/a/manifests/v1").await.expect(200);
    alice.get(&format!("/v2/told/a/blobs/{layer}")).await.expect(200);
    alice.send("HEAD", "/v2/told/a/manifests/v1", "").await.expect(200);
    alice.send("DELETE", &format!("/v2/told/b/blobs/{layer}"), "").await.expect(202);
    // layer, config, manifest, mount, deletion; and two pulls, which come on a way of their own.
    wait_for("all events arrive", || bodies(&taken).len() >= 7 && bodies(&clouds).len() >= 7).await;
    let events: Vec<Value> = bodies(&taken).iter().map(|body| body["events"][0].clone()).collect();
    let of = |action: &str| events.iter().filter(|event| event["action"] == action).collect::<Vec<_>>();
    let kinds: Vec<usize> = ["push", "pull", "mount", "delete"].iter().map(|action| of(action).len()).collect();
    assert_eq!(kinds, [3, 2, 1, 1], "{events:#?}");
    let first = of("push")[0];
    assert_eq!(first["actor"], json!({"name": "user:alice"}));
    let (request, host) = (&first["request"], registry.http.addr.to_string());
    let said = json!({"id": "the-push", "addr": "127.0.0.1", "host": host, "method": "POST", "useragent": "tester/1"});
    assert_eq!(*request, said);
    assert_eq!(first["source"]["addr"], json!("https://registry.example"));
    let target = &first["target"];
    assert_eq!((&target["digest"], &target["size"]), (&json!(layer), &json!(5)));
    assert_eq!(target["url"], json!(format!("https://registry.example/v2/told/a/blobs/{layer}")));
    assert_eq!(of("mount")[0]["target"]["fromRepository"], json!("told/a"));
    let manifest = of("pull").into_iter().find(|event| event["target"]["tag"] == "v1").unwrap();
    assert_eq!((&manifest["target"]["mediaType"], &manifest["request"]["method"]), (&json!(MANIFEST), &json!("GET")));
    let clouds = bodies(&clouds);
    let mount = clouds.iter().find(|event| event["type"] == "lighter.registry.blob.mount").unwrap();
    assert_eq!(mount["data"]["actor"], json!({"name": "user:alice", "address": "127.0.0.1"}));
    assert_eq!(mount["data"]["fromRepository"], json!("told/a"));
}
