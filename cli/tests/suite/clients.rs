//! Every client that people use, against `lighter registry serve`, over plain HTTP on loopback.
//!
//! One pushes and all the others pull, and what they pulled is compared with what was pushed. Clients
//! make manifests of their own where they keep images unpacked (docker, podman, buildah), so what must
//! survive every journey are the layers; what the registry then serves must reach each puller to the byte.

use std::path::Path;
use std::sync::OnceLock;

use fixtures::clients::{self, Buildah, Client, Containerd, Docker, Lighter, Podman, Pulled, Skopeo};
use fixtures::images::Image;
use fixtures::registry::{Logged, Registry};
use oci::Digest;
use serde_json::Value;

fn lighter() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lighter"))
}

/// What the registry serves under a name, checked against its digests.
fn served(registry: &Registry, repository: &str, tag: &str) -> Pulled {
    let get = |kind: &str, which: &str| {
        let target = format!("/v2/{repository}/{kind}/{which}");
        registry.send("GET", &target, &[], b"").expect(200)
    };
    let manifest = get("manifests", tag);
    let digest = Digest::of(&manifest.body).to_string();
    assert_eq!(manifest.header("docker-content-digest"), Some(digest.as_str()));
    let document: Value = serde_json::from_slice(&manifest.body).unwrap();
    let config = get("blobs", document["config"]["digest"].as_str().unwrap()).body;
    assert_eq!(Digest::of(&config).to_string(), document["config"]["digest"].as_str().unwrap());
    let config: Value = serde_json::from_slice(&config).unwrap();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    let diff_ids = diff_ids.iter().map(|diff_id| diff_id.as_str().unwrap().to_owned()).collect();
    Pulled { manifest: digest, diff_ids }
}

/// Requests that carried blobs to the registry.
fn sent_blobs(requests: &[Logged]) -> Vec<&Logged> {
    let sends = |request: &&Logged| {
        request.path.contains("/blobs/uploads/") && matches!(request.method.as_str(), "PATCH" | "PUT")
    };
    requests.iter().filter(sends).collect()
}

/// Pushes with one, twice, and pulls with every other.
fn everybody_pulls_what_was_pushed_by(producer: &dyn Client, seed: u64) {
    let registry = Registry::start(lighter());
    let image = Image::small(seed);
    let reference = registry.reference("team/small:v1");
    producer.push(&image, &reference);
    let served_once = served(&registry, "team/small", "v1");
    assert_eq!(served_once.diff_ids, image.diff_ids, "{} changed the layers", producer.name());

    let before = registry.requests().len();
    producer.push(&image, &reference);
    let again = &registry.requests()[before..];
    assert!(!again.is_empty(), "the second push said nothing to the registry");
    assert_eq!(sent_blobs(again), Vec::<&Logged>::new(), "the second push of {} sent blobs again", producer.name());
    assert_eq!(served(&registry, "team/small", "v1"), served_once);

    for consumer in clients::all(lighter()) {
        let before = registry.requests().len();
        let pulled = consumer.pull(&reference);
        assert_eq!(pulled, served_once, "{} pushed, {} pulled", producer.name(), consumer.name());
        let fetched = registry.requests()[before..]
            .iter()
            .filter(|request| request.method == "GET" && request.path.contains("/blobs/sha256:"))
            .count();
        assert_eq!(fetched, 1 + image.layers.len(), "{} did not fetch config and layers", consumer.name());
    }
}

/// Between repositories of one registry layers are mounted: nobody sends them again.
#[test]
fn privileged_nobody_sends_layers_that_another_repository_has() {
    let registry = Registry::start(lighter());
    let image = Image::small(8);
    let first = registry.reference("first/small:v1");
    Lighter::new(lighter()).push(&image, &first);
    for client in clients::all(lighter()) {
        client.pull(&first);
        let repository = format!("second/{}", client.name());
        let before = registry.requests().len();
        client.forward(&first, &registry.reference(&format!("{repository}:v1")));
        let requests = &registry.requests()[before..];
        let mounted = requests.iter().filter(|request| request.method == "POST" && request.status == 201).count();
        assert!(mounted >= image.layers.len(), "{} mounted {mounted} layers: {requests:#?}", client.name());
        let sent = sent_blobs(requests).iter().filter(|request| request.method == "PUT").count();
        assert!(sent <= 1, "{} sent more than the config: {requests:#?}", client.name());
        assert_eq!(served(&registry, &repository, "v1").diff_ids, image.diff_ids);
    }
}

#[test]
fn privileged_everybody_pulls_what_lighter_pushed() {
    everybody_pulls_what_was_pushed_by(&Lighter::new(lighter()), 1);
}

#[test]
fn privileged_everybody_pulls_what_docker_pushed() {
    everybody_pulls_what_was_pushed_by(&Docker::start(), 2);
}

#[test]
fn privileged_everybody_pulls_what_podman_pushed() {
    everybody_pulls_what_was_pushed_by(&Podman::new(), 3);
}

#[test]
fn privileged_everybody_pulls_what_skopeo_pushed() {
    everybody_pulls_what_was_pushed_by(&Skopeo::new(), 4);
}

#[test]
fn privileged_everybody_pulls_what_buildah_pushed() {
    everybody_pulls_what_was_pushed_by(&Buildah::new(), 5);
}

#[test]
fn privileged_everybody_pulls_what_ctr_pushed() {
    everybody_pulls_what_was_pushed_by(&Containerd::start(), 6);
}

/// The image of 200 MB in 40 layers; it takes seconds to make, so all tests share it.
fn large() -> &'static Image {
    static LARGE: OnceLock<Image> = OnceLock::new();
    LARGE.get_or_init(|| Image::large(7))
}

fn large_image_goes_from_to(producer: &dyn Client, consumer: &dyn Client) {
    let registry = Registry::start(lighter());
    let reference = registry.reference("team/large:v1");
    producer.push(large(), &reference);
    let served = served(&registry, "team/large", "v1");
    assert_eq!(served.diff_ids, large().diff_ids, "{} changed the layers", producer.name());
    assert_eq!(consumer.pull(&reference), served, "{} pushed, {} pulled", producer.name(), consumer.name());
}

#[test]
fn privileged_a_large_image_goes_from_lighter_to_docker() {
    large_image_goes_from_to(&Lighter::new(lighter()), &Docker::start());
}

#[test]
fn privileged_a_large_image_goes_from_docker_to_podman() {
    large_image_goes_from_to(&Docker::start(), &Podman::new());
}

#[test]
fn privileged_a_large_image_goes_from_podman_to_ctr() {
    large_image_goes_from_to(&Podman::new(), &Containerd::start());
}

#[test]
fn privileged_a_large_image_goes_from_ctr_to_buildah() {
    large_image_goes_from_to(&Containerd::start(), &Buildah::new());
}

#[test]
fn privileged_a_large_image_goes_from_buildah_to_skopeo() {
    large_image_goes_from_to(&Buildah::new(), &Skopeo::new());
}

#[test]
fn privileged_a_large_image_goes_from_skopeo_to_lighter() {
    large_image_goes_from_to(&Skopeo::new(), &Lighter::new(lighter()));
}
