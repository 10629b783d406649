//! Transfers that break: wires, clients and registries that go away in the middle, and what is left then.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fixtures::clients::{self, Client, Lighter, Skopeo};
use fixtures::http::{self, Breaking, Request};
use fixtures::images::Image;
use fixtures::registry::Registry;
use fixtures::seed::Seed;
use oci::{Digest, media_type};

const MB: usize = 1_000_000;

fn lighter() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lighter"))
}

/// Opens an upload, and returns where it goes on.
fn open_upload(registry: &Registry, repository: &str) -> String {
    let answer = registry.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"").expect(202);
    answer.header("location").unwrap().to_owned()
}

/// How many bytes the registry says it has.
fn received(registry: &Registry, upload: &str) -> usize {
    let answer = registry.send("GET", upload, &[], b"").expect(204);
    let (_, last) = answer.header("range").unwrap().split_once('-').unwrap();
    match last.parse().unwrap() {
        0 => 0, // the wire has no way to say "nothing"
        last => last + 1usize,
    }
}

fn patch(registry: &Registry, upload: &str, content: &[u8], first: usize) -> http::Answer {
    let range = format!("{first}-{}", first + content.len() - 1);
    registry.send("PATCH", upload, &[("content-range", &range)], content)
}

fn close(registry: &Registry, upload: &str, content: &[u8]) -> http::Answer {
    let separator = if upload.contains('?') { '&' } else { '?' };
    registry.send("PUT", &format!("{upload}{separator}digest={}", Digest::of(content)), &[], b"")
}

fn assert_served(registry: &Registry, repository: &str, content: &[u8]) {
    let target = format!("/v2/{repository}/blobs/{}", Digest::of(content));
    assert!(registry.send("GET", &target, &[], b"").expect(200).body == content, "other bytes are served");
}

#[test]
fn blobs_come_in_chunks_and_in_streams() {
    let registry = Registry::start(lighter());
    let content = Seed::new(11).bytes(3 * MB);
    let upload = open_upload(&registry, "chunks");
    patch(&registry, &upload, &content[..MB], 0).expect(202);
    let early = patch(&registry, &upload, &content[2 * MB..], 2 * MB).expect(416);
    assert_eq!(early.header("range"), Some(format!("0-{}", MB - 1).as_str()), "a refusal says where to go on");
    patch(&registry, &upload, &content[MB..2 * MB], MB).expect(202);
    assert_eq!(received(&registry, &upload), 2 * MB);
    let last = format!("{upload}?digest={}", Digest::of(&content));
    registry.send("PUT", &last, &[], &content[2 * MB..]).expect(201);
    assert_served(&registry, "chunks", &content);

    let content = Seed::new(12).bytes(3 * MB);
    let upload = open_upload(&registry, "streams");
    let mut stream = Request::start(registry.address(), "PATCH", &upload, &[], None).unwrap();
    content.chunks(77_777).for_each(|piece| stream.write(piece).unwrap());
    stream.answer().unwrap().expect(202);
    close(&registry, &upload, &content).expect(201);
    assert_served(&registry, "streams", &content);
}

#[test]
fn an_upload_goes_on_where_its_client_died() {
    let registry = Registry::start(lighter());
    let content = Seed::new(13).bytes(8 * MB);
    let upload = open_upload(&registry, "resumed");
    let range = format!("0-{}", content.len() - 1);
    let headers = [("content-range", range.as_str())];
    let mut client = Request::start(registry.address(), "PATCH", &upload, &headers, Some(8 * MB as u64)).unwrap();
    client.write(&content[..3 * MB]).unwrap();
    drop(client);

    // The registry may learn of the death a little later than we do.
    let deadline = Instant::now() + Duration::from_secs(20);
    let at = loop {
        let at = received(&registry, &upload);
        if at == 3 * MB {
            break at;
        }
        assert!(Instant::now() < deadline, "of 3 MB that arrived, {at} bytes are left");
        std::thread::sleep(Duration::from_millis(20));
    };
    patch(&registry, &upload, &content[at..], at).expect(202);
    close(&registry, &upload, &content).expect(201);
    assert_served(&registry, "resumed", &content);
}

#[test]
fn an_upload_goes_on_where_its_registry_died() {
    let mut registry = Registry::start(lighter());
    let content = Seed::new(14).bytes(4 * MB);
    let upload = open_upload(&registry, "resumed");
    patch(&registry, &upload, &content[..2 * MB], 0).expect(202);
    registry.kill_and_restart();
    assert_eq!(received(&registry, &upload), 2 * MB, "what was acknowledged is gone");
    patch(&registry, &upload, &content[2 * MB..], 2 * MB).expect(202);
    registry.kill_and_restart();
    close(&registry, &upload, &content).expect(201);
    registry.kill_and_restart();
    assert_served(&registry, "resumed", &content);
}

#[test]
fn lighter_takes_up_a_push_that_broke() {
    let registry = Registry::start(lighter());
    let image = Image::with_layers(15, 1, 8);
    let wire = Breaking::while_sending(registry.address(), 4 * MB as u64);
    Lighter::new(lighter()).push(&image, &format!("{}/broken:v1", wire.address()));
    assert_served(&registry, "broken", &image.blob(&image.layers[0].digest));
    let asked = registry
        .requests()
        .into_iter()
        .any(|request| request.method == "GET" && request.path.contains("/blobs/uploads/") && request.status == 204);
    assert!(asked, "it was sent again from the start");
}

#[test]
fn lighter_takes_up_a_pull_that_broke() {
    let registry = Registry::start(lighter());
    let image = Image::with_layers(16, 1, 8);
    let client = Lighter::new(lighter());
    client.push(&image, &registry.reference("broken:v1"));
    let wire = Breaking::while_receiving(registry.address(), 4 * MB as u64);
    let pulled = client.pull(&format!("{}/broken:v1", wire.address()));
    assert_eq!(pulled.manifest, image.manifest.digest.to_string());
    let partial = registry.requests().into_iter().filter(|request| request.status == 206).count();
    assert_eq!(partial, 1, "the rest was to be asked for, and nothing but the rest");
}

/// What one client was told is kept: blobs and tags, by repository.
#[derive(Default)]
struct Acknowledged {
    blobs: Vec<(String, Digest)>,
    tags: Vec<(String, String, Digest)>,
}

/// Pushes tiny images until told to stop; whatever is not acknowledged does not count.
fn push_tiny_images(address: SocketAddr, worker: u64, stop: &AtomicBool, acknowledged: &Mutex<Acknowledged>) {
    let repository = format!("worker-{worker}");
    let mut seed = Seed::new(worker);
    let created = |method: &str, target: &str, kind: &str, content: &[u8]| {
        let answer = http::send(address, method, target, &[("content-type", kind)], content);
        answer.is_ok_and(|answer| answer.status == 201)
    };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mut described = Vec::new();
        for content in [seed.bytes(20_000), format!("{{\"number\":{number},\"worker\":{worker}}}").into_bytes()] {
            let digest = Digest::of(&content);
            let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
            if created("POST", &target, "application/octet-stream", &content) {
                acknowledged.lock().unwrap().blobs.push((repository.clone(), digest));
                described.push(oci::Descriptor::new(media_type::OCI_LAYER, digest, content.len() as u64));
            }
        }
        let [layer, config] = &described[..] else { continue };
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        let (manifest, tag) = (manifest.to_string().into_bytes(), format!("v{number}"));
        let target = format!("/v2/{repository}/manifests/{tag}");
        if created("PUT", &target, media_type::OCI_MANIFEST, &manifest) {
            acknowledged.lock().unwrap().tags.push((repository.clone(), tag, Digest::of(&manifest)));
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let mut registry = Registry::start(lighter());
    let acknowledged = Mutex::new(Acknowledged::default());
    let mut seed = Seed::new(17);
    for round in 0..5u64 {
        let (stop, address) = (AtomicBool::new(false), registry.address());
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (stop, acknowledged) = (&stop, &acknowledged);
                scope.spawn(move || push_tiny_images(address, round * 4 + worker, stop, acknowledged));
            }
            std::thread::sleep(Duration::from_millis(100 + seed.below(300)));
            registry.kill(); // in the middle of pushes
            stop.store(true, Ordering::Relaxed);
        });
        registry.restart();
        let acknowledged = acknowledged.lock().unwrap();
        assert!(acknowledged.tags.len() as u64 > round, "too few pushes to say anything");
        for (repository, digest) in &acknowledged.blobs {
            let blob = registry.send("GET", &format!("/v2/{repository}/blobs/{digest}"), &[], b"").expect(200);
            assert_eq!(Digest::of(&blob.body), *digest, "round {round}");
        }
        for (repository, tag, digest) in &acknowledged.tags {
            let manifest = registry.send("GET", &format!("/v2/{repository}/manifests/{tag}"), &[], b"").expect(200);
            assert_eq!(Digest::of(&manifest.body), *digest, "round {round}");
        }
    }
}

#[test]
fn privileged_what_clients_pushed_survives_kill_9() {
    let mut registry = Registry::start(lighter());
    let images: Vec<_> = clients::all(lighter())
        .into_iter()
        .zip(21..)
        .map(|(client, seed)| {
            let (image, name) = (Image::small(seed), format!("killed/{}:v1", client.name()));
            client.push(&image, &registry.reference(&name));
            registry.kill_and_restart();
            (image, name)
        })
        .collect();
    let puller = Skopeo::new();
    for (image, name) in images {
        assert_eq!(puller.pull(&registry.reference(&name)).diff_ids, image.diff_ids, "{name}");
    }
}
