//! Build caches as they are typed: shared through a registry, a directory or the image, broken ones, several writers,
//! and making room. Needs the Debian packages busybox-static and docker-registry.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use fixtures::den::Den;
use fixtures::docker_registry::DockerRegistry;
use fixtures::registry::Registry;
use fixtures::scene::{Scene, cached};
use serde_json::Value;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A tool is made in one stage, and used and copied in another.
const DOCKERFILE: &str = "FROM scratch AS tools\nCOPY busybox /bin/sh\nRUN echo made > /made\n\
                          FROM scratch AS middle\nCOPY busybox /bin/sh\nRUN echo middle > /middle && echo x > /other\n\
                          FROM middle\nCOPY --from=tools /made /made\nWORKDIR /srv\nRUN echo last > /last\n";

fn machine(dockerfile: &str) -> Scene {
    Scene::new(Path::new(LIGHTER), dockerfile)
}

fn registry() -> Registry {
    Registry::start(Path::new(LIGHTER))
}

fn manifest(registry: &Registry, name: &str, tag: &str) -> Value {
    let accept = [("accept", "application/vnd.oci.image.manifest.v1+json")];
    let answer = registry.send("GET", &format!("/v2/{name}/manifests/{tag}"), &accept, b"");
    serde_json::from_slice(&answer.body).unwrap()
}

fn layers(manifest: &Value) -> HashSet<String> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_fresh_machine_moves_no_layer() {
    let registry = registry();
    let cache = registry.reference("shop/cache:main");
    let (to, from) = (format!("--cache-to=type=registry,ref={cache},mode=max"), format!("--cache-from={cache}"));
    let first = machine(DOCKERFILE);
    let told = first.builds(&["-t", &registry.reference("shop/api:1"), "--push", &to, &from]);
    assert_eq!(cached(&told), 1, "two stages begin alike: {told}");
    let image = manifest(&registry, "shop/api", "1");
    let before = registry.requests().len();

    let told = machine(DOCKERFILE).builds(&["-t", &registry.reference("shop/next:1"), "--push", &to, &from]);
    assert_eq!(cached(&told), 7, "{told}");
    assert_eq!(layers(&manifest(&registry, "shop/next", "1")), layers(&image));
    let steps = manifest(&registry, "shop/cache", "main");
    let all: HashSet<String> = steps["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|layer| layer["mediaType"].as_str().unwrap().contains("image.layer"))
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect();
    assert!(all.len() >= 5 && layers(&image).is_subset(&all), "{steps}");
    let requests = registry.requests().split_off(before);
    let moved: Vec<_> = requests
        .iter()
        .filter(|request| request.method == "GET" && all.iter().any(|layer| request.path.ends_with(layer.as_str())))
        .collect();
    assert!(moved.is_empty(), "{moved:?}");
    // The image's config is sent; nothing else that is as large as a layer.
    let sent = requests.iter().filter(|request| request.method == "PUT" && request.path.contains("/blobs/")).count();
    assert!(sent <= 1, "{requests:?}");
}

#[test]
fn a_miss_does_not_blind_the_steps_after_it() {
    let registry = registry();
    let cache = registry.reference("cache:1");
    let (to, from) =
        (format!("--cache-to=type=registry,ref={cache},mode=max"), format!("--cache-from=type=registry,ref={cache}"));
    machine(DOCKERFILE).builds(&[&to]);
    // The step is another one, and what is copied from it the same.
    let changed = DOCKERFILE.replace("RUN echo made > /made", "RUN : && echo made > /made");
    let told = machine(&changed).builds(&[&from]);
    assert!(!told.contains("warning"), "{told}");
    let other = DOCKERFILE.replace("echo last", "echo very last");
    let told = machine(&other).builds(&[&from, "-o", "type=tar,dest=tree.tar"]);
    assert_eq!(cached(&told), 6, "{told}");
}

#[test]
fn writers_of_one_cache_that_read_it_lose_nothing() {
    let registry = registry();
    let cache = registry.reference("shared:cache");
    let (to, from) = (format!("--cache-to=type=registry,ref={cache},mode=max"), format!("--cache-from={cache}"));
    let files: Vec<String> =
        (0..4).map(|n| format!("FROM scratch\nCOPY busybox /bin/sh\nRUN echo {n} > /n\n")).collect();
    for file in &files {
        // As pipelines do: a step that is in the cache is taken from it, so all of them build on the same layers.
        // At the same time: a unit test, which decides who overwrites whom.
        machine(file).builds(&[&from, &to]);
    }
    for file in &files {
        let told = machine(file).builds(&[&from]);
        assert_eq!(cached(&told), 2, "{told}");
    }
}

/// Builds files at the same time, each on a machine that knows nothing, into one cache; then each on another machine
/// that knows nothing either. Their context is the same, and its times are not.
fn write_at_once(cache: &str, files: &[String]) {
    let to = format!("--cache-to=type=registry,ref={cache},mode=max");
    std::thread::scope(|scope| {
        for file in files {
            scope.spawn(|| machine(file).builds(&[&to]));
        }
    });
    for file in files {
        let told = machine(file).builds(&[&format!("--cache-from={cache}")]);
        assert_eq!(cached(&told), file.matches("RUN").count() + 1, "{file}: {told}");
    }
}

/// All begin alike, and then each does something of its own, twice.
fn distinct(count: usize) -> Vec<String> {
    let file =
        |n| format!("FROM scratch\nCOPY busybox /bin/sh\nRUN echo all > /all\nRUN echo {n} > /n\nRUN echo {n} > /m\n");
    (0..count).map(file).collect()
}

#[test]
fn eight_writers_at_once_lose_nothing() {
    write_at_once(&registry().reference("shared:cache"), &distinct(8));
}

#[test]
fn writers_lose_nothing_where_the_registry_knows_no_conditions() {
    let theirs = DockerRegistry::start();
    write_at_once(&format!("{}/shared:cache", theirs.address), &distinct(3));
}

#[test]
fn times_that_a_command_sets_are_no_times_of_making() {
    let registry = registry();
    let cache = registry.reference("times:cache");
    let (to, from) = (format!("--cache-to=type=registry,ref={cache},mode=max"), format!("--cache-from={cache}"));
    let file = |day: u32, last: &str| {
        format!(
            "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n\
             RUN /bin/busybox touch -d '2001-01-0{day} 00:00:00' /f\nRUN {last}\n"
        )
    };
    let show = "/bin/busybox stat -c %y /f > /shown";
    machine(&file(1, show)).builds(&[&to]);
    // Another day is another layer to the command that looks at it.
    let told = machine(&file(2, show)).builds(&[&from]);
    assert_eq!(cached(&told), 2, "{told}");
    // The step before is another one, and what it makes the same.
    let same = file(1, show).replace("touch -d", "touch  -d");
    assert_eq!(cached(&machine(&same).builds(&[&from])), 3);
}

#[test]
fn directories_and_images_are_caches_too() {
    let first = machine(DOCKERFILE);
    let place = first.path().join("shared");
    first.builds(&[&format!("--cache-to=type=local,dest={},mode=max", place.display())]);
    let told = machine(DOCKERFILE).builds(&[&format!("--cache-from=type=local,src={}", place.display())]);
    assert_eq!(cached(&told), 7, "{told}");

    let registry = registry();
    let name = registry.reference("app:1");
    machine(DOCKERFILE).builds(&["-t", &name, "--push", "--cache-to=type=inline"]);
    let told = machine(DOCKERFILE).builds(&[&format!("--cache-from={name}")]);
    assert!(cached(&told) >= 4, "the last stage is in the image: {told}");

    let repository = registry.reference("kaniko");
    let kaniko = ["--cache=true", "--cache-repo", &repository];
    machine(DOCKERFILE).builds(&kaniko);
    assert_eq!(cached(&machine(DOCKERFILE).builds(&kaniko)), 7);
}

#[test]
fn a_broken_cache_is_a_miss() {
    let registry = registry();
    let cache = registry.reference("broken:1");
    let (to, from) = (format!("--cache-to=type=registry,ref={cache},mode=max"), format!("--cache-from={cache}"));
    let nowhere = machine(DOCKERFILE).builds(&["--cache-from=127.0.0.1:1/no/such:cache", &from]);
    assert!(nowhere.contains("warning: the cache 127.0.0.1:1/no/such:cache cannot be used"), "{nowhere}");
    machine(DOCKERFILE).builds(&[&to]);
    let listed = layers(&manifest(&registry, "broken", "1"));
    // A step that is not there needs the layers below it, and those are not what they were.
    for layer in listed {
        for file in blobs(&registry.data(), layer.trim_start_matches("sha256:")) {
            let mut bytes = fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::remove_file(&file).unwrap();
            fs::write(&file, bytes).unwrap();
        }
    }
    let other = DOCKERFILE.replace("echo last", "echo very last");
    let scene = machine(&other);
    let told = scene.builds(&[&from, "-o", "type=tar,dest=../tree.tar"]);
    assert!(told.contains("goes on without the caches of --cache-from"), "{told}");
    let mut tar = tar::Archive::new(fs::File::open(scene.path().join("tree.tar")).unwrap());
    let names: Vec<PathBuf> = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert!(["made", "middle", "last"].iter().all(|name| names.contains(&PathBuf::from(name))), "{names:?}");
}

fn blobs(directory: &Path, hex: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(blobs(&path, hex));
        } else if path.file_name().is_some_and(|name| name == hex) {
            found.push(path);
        }
    }
    found
}

#[test]
fn wrong_words_are_told_before_anything_is_built() {
    let scene = machine(DOCKERFILE);
    for (words, said) in [
        (["build", "--cache-to=type=gha"], "there are registry, local and inline"),
        (["build", "--cache-to=type=registry"], "needs ref=NAME"),
        (["build", "--cache-from=type=local,dest=x"], "has the unknown field `dest`"),
        (["build", "--cache=true"], "--cache needs a --cache-repo"),
        (["cache", "prune --keep"], "unexpected argument"),
    ] {
        let words: Vec<&str> = words.iter().flat_map(|word| word.split(' ')).collect();
        let output = scene.run(&words);
        let told = String::from_utf8_lossy(&output.stderr);
        let expected = if said == "unexpected argument" { told.contains("--keep") } else { told.contains(said) };
        assert!(output.status.code() == Some(64) && expected, "{words:?}: {told}");
    }
}

#[test]
fn room_is_made_and_damage_found() {
    let scene = machine(DOCKERFILE);
    scene.builds(&["-t", "kept:1"]);
    let listed = scene.prints(&["cache", "ls"]);
    assert!(listed.lines().any(|line| line.starts_with("layers")), "{listed}");
    assert_eq!(scene.prints(&["cache", "prune", "--older", "1d"]), "removed 0 things, 0.0 MB\n");
    assert!(scene.prints(&["cache", "verify"]).contains("0 were not"));
    scene.prints(&["cache", "prune", "--all"]);
    let listed = scene.prints(&["cache", "ls"]);
    assert!(listed.starts_with("all                      0"), "{listed}");
    // The image is whole.
    let tree = scene.path().join("image.tar");
    scene.prints(&["copy", "local:kept:1", &format!("oci-archive:{}", tree.display())]);
    assert_eq!(cached(&scene.builds(&[])), 1, "two stages begin alike, and nothing else is known");
}

#[test]
fn a_second_build_shows_what_is_not_the_same() {
    let scene = machine(DOCKERFILE);
    let told = scene.builds(&["--reproducible-check", "--build-arg=SOURCE_DATE_EPOCH=1700000000"]);
    assert!(told.contains("both builds are sha256:"), "{told}");
    fs::write(
        scene.path().join("context/Dockerfile"),
        "FROM scratch\nCOPY busybox /bin/sh\nRUN read -r id < /proc/sys/kernel/random/uuid; echo $id > /random\n",
    )
    .unwrap();
    let output = scene.run(&["build", "--reproducible-check", "--build-arg=SOURCE_DATE_EPOCH=1700000000"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("the two builds differ: layer 2 of RUN") && told.contains("/random: type or content"),
        "{told}"
    );
}

#[test]
fn privileged_rungs_give_one_digest() {
    assert!(rustix::process::geteuid().is_root(), "this needs root: run ./test, or use sudo");
    let digests: HashSet<String> = ["namespaces", "tree", "chroot"]
        .into_iter()
        .map(|rung| {
            let words = ["build", "--isolation", rung, "--build-arg=SOURCE_DATE_EPOCH=1700000000"];
            machine(DOCKERFILE).prints(&words)
        })
        .collect();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

/// A step with a cache mount, over a context that holds some megabytes without a pattern.
fn with_mount(command: &str) -> Scene {
    let file = format!(
        "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n\
         RUN --mount=type=cache,id=pip,target=/c --mount=type=bind,target=/ctx {command}\n"
    );
    let scene = machine(&file);
    let mut noise = fixtures::seed::Seed::new(7);
    scene.file("large", noise.bytes(6 << 20));
    scene.file("small", noise.bytes(100 << 10));
    scene
}

#[test]
fn cache_mounts_move_only_what_is_new() {
    let registry = registry();
    let mounts = format!("--cache-mounts=type=registry,ref={}", registry.reference("mounts:pip"));
    let sent = || registry.requests().iter().filter(|r| r.method == "PUT" && r.path.contains("/blobs/")).count();
    with_mount("/bin/busybox cp /ctx/large /c/large && /bin/busybox ln -s large /c/link").builds(&[&mounts]);
    let first = sent();
    assert!(first > 8, "the chunks, and the document: {first}");
    let told =
        with_mount("/bin/busybox cmp /ctx/large /c/link && /bin/busybox cp /ctx/small /c/small").builds(&[&mounts]);
    assert!(!told.contains("warning"), "{told}");
    let second = sent() - first;
    assert!((1..=5).contains(&second), "{second} blobs were sent for 100 kB, and {first} before");
    let both = "/bin/busybox cmp /ctx/large /c/large && /bin/busybox cmp /ctx/small /c/small";
    with_mount(both).builds(&[&mounts]);

    // Nothing of a mount is there if any of it is not what it was.
    let digest = manifest(&registry, "mounts", "pip")["layers"][3]["digest"].as_str().unwrap().to_owned();
    for file in blobs(&registry.data(), digest.trim_start_matches("sha256:")) {
        let mut bytes = fs::read(&file).unwrap();
        bytes[9] ^= 1;
        fs::remove_file(&file).unwrap();
        fs::write(&file, bytes).unwrap();
    }
    let told = with_mount("test ! -e /c/large && test ! -e /c/small").builds(&[&mounts]);
    assert!(told.contains("warning: the cache mount /c of") && told.contains("cannot be used"), "{told}");
}

#[test]
fn a_cache_mount_that_is_here_takes_what_it_has_not() {
    let registry = registry();
    let mounts = format!("--cache-mounts=type=registry,ref={}", registry.reference("mounts:pip"));
    let (one, other) = (with_mount("true"), with_mount("true"));
    let builds = |scene: &Scene, command: &str| {
        let file = fs::read_to_string(scene.context().join("Dockerfile")).unwrap();
        let kept = file.split("target=/ctx ").next().unwrap();
        scene.file("Dockerfile", format!("{kept}target=/ctx {command}\n"));
        let told = scene.builds(&[&mounts]);
        assert!(!told.contains("warning"), "{told}");
    };
    let fetched = || registry.requests().iter().filter(|r| r.method == "GET" && r.path.contains("/blobs/")).count();
    builds(&one, "/bin/busybox cp /ctx/large /c/large && echo one > /c/both");
    builds(
        &other,
        "/bin/busybox cmp /ctx/large /c/large && /bin/busybox cp /ctx/small /c/small && echo other > /c/both",
    );
    // What is new comes, and what is here stays and is not fetched again.
    let before = fetched();
    builds(&one, "/bin/busybox cmp /ctx/small /c/small && read -r w < /c/both && test $w = one && echo mine > /c/mine");
    let moved = fetched() - before;
    assert!((2..=6).contains(&moved), "the document and what changed: {moved}");
    // Nothing has changed there since: the document is read before the build and before it is written, and no more.
    let before = fetched();
    builds(&one, "test -e /c/mine && test -e /c/small");
    assert_eq!(fetched() - before, 2);
    builds(&other, "test -e /c/mine && read -r w < /c/both && test $w = other");
}

#[test]
fn cache_mounts_travel_in_directories_and_have_a_limit() {
    let shared = Den::new("mounts");
    let place = |more: &str| format!("--cache-mounts=type=local,dir={}{more}", shared.path().join("kept").display());
    let told = with_mount("/bin/busybox cp /ctx/large /c/").builds(&[&place(",max=1m")]);
    assert!(told.contains("it is larger than 1048576 bytes"), "{told}");
    with_mount("test ! -e /c/large && /bin/busybox cp /ctx/small /c/").builds(&[&place("")]);
    with_mount("/bin/busybox cmp /ctx/small /c/small").builds(&[&place("")]);
    for (words, said) in [
        ("--cache-mounts=type=inline", "there are registry and local"),
        ("--cache-mounts=type=local,src=x", "has the unknown field `src`"),
        ("--cache-mounts=type=local,dir=x,max=much", "has a max that is not a size"),
    ] {
        let output = machine(DOCKERFILE).run(&["build", words]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(64) && told.contains(said), "{words}: {told}");
    }
}

#[test]
fn a_plan_looks_into_shared_caches() {
    let registry = registry();
    let cache = registry.reference("plan:cache");
    machine(DOCKERFILE).builds(&[&format!("--cache-to=type=registry,ref={cache},mode=max")]);
    let plan = machine(DOCKERFILE).prints(&["build", "--plan", &format!("--cache-from={cache}")]);
    assert!(plan.contains("7 in all: 7 cached, 0 to do") && plan.contains("fetch   0 layers"), "{plan}");
}
