//! Stages of which only copies are wanted, on machines that have never built them: what was copied is found by what the
//! stage is made from. Needs the Debian package busybox-static.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use fixtures::registry::Registry;
use fixtures::scene::{Scene, cached, done};
use serde_json::Value;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A program is made from source in two stages that the image has nothing of, and copied, mounted, and used.
const DOCKERFILE: &str = "FROM scratch AS tools\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n\
                          FROM tools AS deps\nRUN echo deps > /deps\n\
                          FROM tools AS builder\nWORKDIR /src\nCOPY source notes ./\nCOPY --from=deps /deps .\n\
                          RUN /bin/busybox cat source deps > /out\n\
                          FROM scratch\nCOPY busybox /bin/sh\nCOPY --from=builder /out /out\n\
                          RUN --mount=from=deps,source=/deps,target=/seen read -r seen < /seen; echo $seen > /used\n";

fn machine(dockerfile: &str) -> Scene {
    let scene = Scene::new(Path::new(LIGHTER), dockerfile);
    scene.file("source", "source\n");
    scene.file("notes", "notes\n");
    scene
}

fn registry() -> Registry {
    Registry::start(Path::new(LIGHTER))
}

fn layers(registry: &Registry, name: &str, tag: &str) -> HashSet<String> {
    let accept = [("accept", "application/vnd.oci.image.manifest.v1+json")];
    let answer = registry.send("GET", &format!("/v2/{name}/manifests/{tag}"), &accept, b"");
    let manifest: Value = serde_json::from_slice(&answer.body).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let layers = layers.filter(|layer| layer["mediaType"].as_str().unwrap().contains("image.layer"));
    layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_cache_of_the_image_alone_is_enough() {
    let registry = registry();
    let cache = registry.reference("shop/cache:main");
    let (to, from) = (format!("--cache-to=type=registry,ref={cache},mode=min"), format!("--cache-from={cache}"));
    machine(DOCKERFILE).builds(&["-t", &registry.reference("shop/api:1"), "--push", &to]);
    let image = layers(&registry, "shop/api", "1");
    assert_eq!(layers(&registry, "shop/cache", "main"), image, "nothing of other stages is in it");
    let before = registry.requests().len();

    let told = machine(DOCKERFILE).builds(&["-t", &registry.reference("shop/next:1"), "--push", &to, &from]);
    assert_eq!(done(&told), 0, "{told}");
    // `tools` begins as the image does, so two more are known.
    assert!(cached(&told) >= 3, "{told}");
    assert_eq!(layers(&registry, "shop/next", "1"), image);
    let requests = registry.requests().split_off(before);
    let moves = |method: &str| {
        let of_layer = |path: &str| image.iter().any(|layer| path.ends_with(layer.as_str()));
        requests.iter().filter(|request| request.method == method && of_layer(&request.path)).count()
    };
    assert_eq!((moves("GET"), moves("PUT"), moves("PATCH")), (0, 0, 0), "{requests:?}");
    let uploads = requests.iter().filter(|request| request.method == "PUT" && request.path.contains("/blobs/")).count();
    assert!(uploads <= 1, "only the config is sent: {requests:?}");

    let plan = machine(DOCKERFILE).prints(&["build", "--plan", &from]);
    assert!(plan.contains(" 0 to do, 0 that depend on those") && plan.contains("fetch   0 layers"), "{plan}");
    assert!(plan.lines().any(|line| line.starts_with("spare ") && line.contains("RUN /bin/busybox cat")), "{plan}");
}

#[test]
fn directories_and_images_foresee_too() {
    let first = machine(DOCKERFILE);
    let place = first.path().join("shared");
    first.builds(&[&format!("--cache-to=type=local,dest={}", place.display())]);
    let told = machine(DOCKERFILE).builds(&[&format!("--cache-from=type=local,src={}", place.display())]);
    assert_eq!(done(&told), 0, "{told}");

    let registry = registry();
    let name = registry.reference("app:1");
    machine(DOCKERFILE).builds(&["-t", &name, "--push", "--cache-to=type=inline"]);
    let told = machine(DOCKERFILE).builds(&[&format!("--cache-from={name}")]);
    assert_eq!(done(&told), 0, "{told}");
}

#[test]
fn what_a_changed_stage_makes_is_compared_with_what_it_made() {
    let registry = registry();
    let cache = registry.reference("shop/cache:main");
    let (to, from) = (format!("--cache-to=type=registry,ref={cache}"), format!("--cache-from={cache}"));
    machine(DOCKERFILE).builds(&[&to]);
    // A file that the result does not depend on: the stage is done, and what comes after its copy is not.
    let scene = machine(DOCKERFILE);
    scene.file("notes", "other notes\n");
    let told = scene.builds(&[&from]);
    let line = |title: &str| {
        let begun = told.lines().find(|line| line.contains(title)).unwrap_or_else(|| panic!("{title}: {told}"));
        let number = begun.split_whitespace().next().unwrap();
        told.lines().any(|line| line == format!("{number} CACHED"))
    };
    assert!(!line("RUN /bin/busybox cat source deps"), "{told}");
    assert!(line("COPY --from=builder /out /out") && line("RUN --mount=from=deps"), "{told}");
    // One that it does depend on.
    let scene = machine(DOCKERFILE);
    scene.file("source", "other source\n");
    scene.builds(&[&from, "-o", "type=local,dest=../tree"]);
    assert_eq!(fs::read_to_string(scene.path().join("tree/out")).unwrap(), "other source\ndeps\n");
    assert_eq!(fs::read_to_string(scene.path().join("tree/used")).unwrap(), "deps\n");
}

#[test]
fn a_stage_that_is_to_be_done_anew_is_not_foreseen() {
    let file = "FROM scratch AS builder\nCOPY busybox /bin/sh\n\
                RUN read -r id < /proc/sys/kernel/random/uuid; echo $id > /out\n\
                FROM scratch\nCOPY --from=builder /out /out\n";
    let scene = machine(file);
    let out = |words: &[&str]| {
        scene.builds(&[words, &["-o", "type=local,dest=../tree"]].concat());
        fs::read_to_string(scene.path().join("tree/out")).unwrap()
    };
    let first = out(&[]);
    assert_eq!(out(&[]), first);
    let second = out(&["--no-cache-filter=builder"]);
    assert_ne!(second, first);
    assert_eq!(out(&[]), second, "the last result is the one that is remembered");
    assert_ne!(out(&["--no-cache"]), second);
}

#[test]
fn a_foreseen_layer_that_is_not_what_was_promised_is_a_miss() {
    let registry = registry();
    let cache = registry.reference("broken:1");
    machine(DOCKERFILE).builds(&[&format!("--cache-to=type=registry,ref={cache}")]);
    for layer in layers(&registry, "broken", "1") {
        let hex = layer.trim_start_matches("sha256:");
        let file = registry.data().join("blobs/sha256").join(&hex[..2]).join(hex);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
    }
    let scene = machine(DOCKERFILE);
    let told = scene.builds(&[&format!("--cache-from={cache}"), "-o", "type=local,dest=../tree"]);
    assert!(told.contains("goes on without the caches of --cache-from"), "{told}");
    assert_eq!(fs::read_to_string(scene.path().join("tree/out")).unwrap(), "source\ndeps\n");
}
