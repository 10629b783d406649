//! Garbage collection as clients see it: never in the way of a push, and never too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oci::Digest;
use registry::keeping::{Patience, Period};
use registry::{Keeping, Settings};
use serde_json::json;

use crate::client::{Http, LAYER, MANIFEST, Registry, describe, image_with, noise};

const WRITERS: u64 = 16;
/// Pushes of each writer.
const PUSHES: u64 = 12;
const LAYERS: u64 = 24;
/// How long the registry stands by its word; a push that takes longer may be refused, and says so.
const LEASE: Duration = Duration::from_millis(500);

fn impatient(lease: Duration) -> Keeping {
    let mut keeping = Keeping::default();
    let of = |milliseconds| Period::of(Duration::from_millis(milliseconds));
    keeping.gc.lease = Period::of(lease);
    (keeping.gc.interval, keeping.gc.blob_grace, keeping.gc.trash_grace) = (of(5), of(0), of(0));
    keeping.gc.untagged = Patience::For(of(0));
    keeping
}

async fn start(keeping: Keeping) -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.keeping = keeping;
    Registry::start_with(dir, settings).await
}

fn layer(number: u64) -> Vec<u8> {
    noise(number % LAYERS, 3000)
}

/// Pushes a blob the way clients do: not at all, if it is there.
async fn ensure_blob(http: &Http, content: &[u8]) {
    let digest = Digest::of(content);
    match http.head(&format!("/v2/a/blobs/{digest}")).await.status.as_u16() {
        200 => {}
        404 => drop(http.push_blob("a", content).await),
        other => panic!("HEAD answers {other}"),
    }
}

/// Pushes images of shared layers under a tag of its own, reads each, and deletes it.
async fn write(http: Http, writer: u64, slow: Arc<AtomicU64>) {
    for round in 0..PUSHES {
        let layers = [layer(writer + round), layer(writer * 5 + round * 3)];
        let more = json!({
            "annotations": {"of": format!("{writer}.{round}")},
            "layers": layers.iter().map(|layer| describe(LAYER, layer)).collect::<Vec<_>>(),
        });
        let manifest = image_with(&layers[0], more);
        let tag = format!("w{writer}");
        loop {
            let begun = Instant::now();
            for content in layers.iter().map(Vec::as_slice).chain([b"{}".as_slice()]) {
                ensure_blob(&http, content).await;
            }
            let put = http.put_manifest("a", &tag, MANIFEST, manifest.clone()).await;
            if put.status == 201 {
                break;
            }
            assert!(begun.elapsed() > LEASE, "a push failed within the lease: {put:?}");
            slow.fetch_add(1, Ordering::Relaxed);
        }
        for layer in &layers {
            let blob = http.get(&format!("/v2/a/blobs/{}", Digest::of(layer))).await.expect(200);
            assert!(blob.body == *layer);
        }
        let digest = Digest::of(&manifest);
        let named = if round % 2 == 0 { tag } else { digest.to_string() };
        http.delete(&format!("/v2/a/manifests/{named}")).await.expect(202);
        // Leave the layers to the collector for a while, so that they go and come.
        tokio::time::sleep(Duration::from_millis(writer * 53 % 400)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_writers_of_shared_layers_never_lose_a_push_to_the_collector() {
    let registry = start(impatient(LEASE)).await;
    let slow = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(registry.http.clone(), writer, slow.clone()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // In the end everything is garbage, and goes.
    let files = |name: &str| walk(&registry.data().join(name));
    let deadline = Instant::now() + Duration::from_secs(60);
    while files("blobs") + files("trash") > 0 {
        assert!(Instant::now() < deadline, "{} files are never collected", files("blobs"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Its name goes with the last of it.
    registry.http.get("/v2/a/tags/list").await.refuses(404, "NAME_UNKNOWN");
}

fn walk(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn a_deleted_tag_is_gone_at_once_and_an_immutable_one_is_not_deleted() {
    let mut keeping = Keeping::default();
    keeping.retention.immutable =
        vec![registry::keeping::Immutable { repository: "a".parse().unwrap(), tags: "v[0-9]+".parse().unwrap() }];
    let registry = start(keeping).await;
    registry.http.push_image("a", "v1", b"one").await;
    registry.http.push_image("a", "latest", b"two").await;
    registry.http.delete("/v2/a/manifests/latest").await.expect(202);
    registry.http.get("/v2/a/manifests/latest").await.refuses(404, "MANIFEST_UNKNOWN");
    let refused = registry.http.delete("/v2/a/manifests/v1").await.refuses(403, "DENIED");
    assert_eq!(refused.json()["errors"][0]["detail"]["pattern"], "v[0-9]+");
    let other = crate::client::image(b"two");
    registry.http.put_manifest("a", "v1", MANIFEST, other).await.refuses(403, "DENIED");
    registry.http.get("/v2/a/manifests/v1").await.expect(200);
}

#[tokio::test]
async fn a_repository_in_which_nothing_is_left_is_named_no_more() {
    let registry = start(impatient(LEASE)).await;
    let image = registry.http.push_image("a", "v1", b"one").await;
    registry.http.push_image("b", "v1", b"two").await;
    registry.http.push_blob("c", b"named by nothing").await;
    registry.http.delete(&format!("/v2/a/manifests/{}", Digest::of(&image))).await.expect(202);
    let deadline = Instant::now() + Duration::from_secs(60);
    let left = json!({"repositories": ["b"]});
    while registry.http.get("/v2/_catalog").await.expect(200).json() != left {
        assert!(Instant::now() < deadline, "{:?}", registry.http.get("/v2/_catalog").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    registry.http.get("/v2/a/tags/list").await.refuses(404, "NAME_UNKNOWN");
    registry.http.get("/v2/b/tags/list").await.expect(200);
    // Nor by rows that are made again from the journal.
    let registry = registry.restart().await;
    assert_eq!(registry.http.get("/v2/_catalog").await.json(), left);
    registry.http.push_image("a", "v2", b"one").await;
    assert_eq!(registry.http.get("/v2/_catalog").await.json(), json!({"repositories": ["a", "b"]}));
    // The last blob of a repository takes its name along at once.
    let digest = registry.http.push_blob("d", b"alone").await;
    registry.http.delete(&format!("/v2/d/blobs/{digest}")).await.expect(202);
    registry.http.get("/v2/d/tags/list").await.refuses(404, "NAME_UNKNOWN");
}
