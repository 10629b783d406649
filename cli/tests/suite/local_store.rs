//! Names of images in the local store, and the room that they take: images, tag, rmi, cache prune.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use fixtures::registry::Registry;
use serde_json::Value;

use crate::workbench::{Bench, LIGHTER, PLAIN};

/// How many blobs the local store has.
fn blobs(bench: &Bench) -> usize {
    let home = bench.den.path().join("home/.local/share/lighter/images/blobs/sha256");
    std::fs::read_dir(home).unwrap().count()
}

#[test]
fn images_are_listed_named_and_removed() {
    let bench = Bench::new(PLAIN);
    let (built, _) = bench.does(&["build", "-t", "shop/api:v1", "."]);
    let digest = built.rsplit('@').next().unwrap().to_owned();
    let (named, _) = bench.does(&["tag", "shop/api:v1", "vm2:5000/shop/api:v1", "shop/api"]);
    assert_eq!(
        named,
        format!("vm2:5000/shop/api:v1@{digest}\ndocker.io/shop/api:latest@{digest}"),
        "names are pinned, and `latest` is meant without a tag"
    );
    let start = &digest["sha256:".len()..][..12];
    bench.does(&["tag", start, "short:1"]);
    let (listed, _) = bench.does(&["images"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(listed.lines().all(|line| line.contains(&digest) && line.contains("T")), "{listed}");
    let (of_api, _) = bench.does(&["images", "-q", "shop/api"]);
    assert_eq!(of_api.lines().count(), 2, "all tags of a repository: {of_api}");
    assert_eq!(bench.does(&["images", "-q", "shop/api:v1"]).0, format!("docker.io/shop/api:v1@{digest}"));
    let described: Value = serde_json::from_str(&bench.does(&["images", "--json", "short:1"]).0).unwrap();
    assert_eq!(
        (&described[0]["name"], described[0]["platforms"].as_array().map(Vec::len)),
        (&"docker.io/library/short:1".into(), Some(1))
    );

    let before = blobs(&bench);
    let (removed, told) = bench.does(&["rmi", "short:1", "shop/api"]);
    assert_eq!(removed, format!("docker.io/library/short:1@{digest}\ndocker.io/shop/api:latest@{digest}"));
    assert_eq!((told.as_str(), blobs(&bench)), ("", before), "the image has other names");
    let (removed, told) = bench.does(&["rmi", &digest]);
    assert_eq!(removed.lines().count(), 2, "all names of a digest: {removed}");
    assert!(told.contains("2 blobs removed"), "manifest and config go, the layer is the cache's: {told}");
    assert_eq!(blobs(&bench), 1);
    assert!(bench.does(&["build", "."]).1.contains("CACHED"), "what the cache has stays");
    assert_eq!(bench.does(&["images"]).0, "");
}

#[test]
fn what_cannot_be_named_or_removed_is_told() {
    let bench = Bench::new(PLAIN);
    bench.does(&["build", "-t", "a:1", "."]);
    for (words, code, said) in [
        (&["rmi", "b:1"][..], 69, "there is no image `b:1`"),
        (&["rmi", "sha256:00000000"], 69, "there is no image"),
        (&["rmi", "UPPER//"], 64, "names no image"),
        (&["tag", "b:1", "c:1"], 69, "there is no image `b:1`"),
        (&["tag", "a:1", "c@sha256:0000000000000000000000000000000000000000000000000000000000000000"], 64, "digest"),
        (&["rmi"], 64, "required"),
    ] {
        let output = bench.run(words);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && told.contains(said), "{words:?}: {:?} {told}", output.status);
    }
    bench.does(&["rmi", "--force", "b:1"]);
    assert_eq!(bench.does(&["images", "-q"]).0.lines().count(), 1, "nothing was removed");
}

/// The lock that builds and transfers share, and that whoever removes something takes alone.
fn in_use(bench: &Bench) -> File {
    File::open(bench.den.path().join("home/.local/share/lighter/build/v1/in-use")).expect("a build made it")
}

#[test]
fn a_name_goes_while_a_build_runs_and_its_room_later() {
    let bench = Bench::new(PLAIN);
    bench.does(&["build", "-t", "a:1", "."]);
    let before = blobs(&bench);
    let runs = in_use(&bench);
    runs.lock_shared().unwrap();
    let (removed, told) = bench.does(&["rmi", "a:1"]);
    assert!(removed.starts_with("docker.io/library/a:1@") && told.contains("cache prune"), "{removed} {told}");
    assert_eq!((bench.does(&["images"]).0.as_str(), blobs(&bench)), ("", before), "what the build may need stays");
    drop(runs);
    bench.does(&["cache", "prune", "--all"]);
    assert_eq!(blobs(&bench), 0);
}

#[test]
fn a_transfer_waits_until_nothing_is_removed_and_hears_ctrl_c() {
    let bench = Bench::new(PLAIN);
    bench.does(&["build", "-t", "a:1", "."]);
    let copy = || {
        let mut copy = bench
            .command(&["copy", "local:a:1", "oci-archive:a.tar"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(copy.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert!(line.starts_with("waiting until what is being removed"), "{line}");
        (copy, told)
    };
    let prunes = in_use(&bench);
    prunes.lock().unwrap();
    let (mut stopped, _told) = copy();
    let pid = rustix::process::Pid::from_child(&stopped);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(stopped.wait().unwrap().code(), Some(130));
    let (mut waits, _told) = copy();
    drop(prunes);
    assert!(waits.wait().unwrap().success());
    assert!(bench.path().join("a.tar").exists());
}

#[test]
fn pruning_takes_what_no_image_has_and_leaves_what_one_has() {
    let bench = Bench::new(PLAIN);
    let registry = Registry::start(LIGHTER);
    let base = registry.reference("base:1");
    bench.does(&["build", "-t", &base, "--push", "."]);
    bench.does(&["rmi", &base]);
    bench.does(&["cache", "prune", "--all"]);
    assert_eq!(blobs(&bench), 0, "nothing is left of it");

    let dockerfile = format!("FROM {base}\nCOPY f /g\n");
    std::fs::write(bench.path().join("Dockerfile"), dockerfile).unwrap();
    bench.does(&["build", "-t", "app:1", "."]);
    bench.does(&["build", "-t", "app:1", "--label", "a=b", "."]);
    let (listed, _) = bench.does(&["cache", "ls"]);
    assert!(listed.contains("blobs of no image        2"), "manifest and config of the first one: {listed}");
    let image = bench.file_of_image("app:1");
    bench.does(&["cache", "prune", "--all"]);
    assert_eq!(bench.file_of_image("app:1"), image, "the image is whole");
    assert_eq!(bench.does(&["cache", "ls"]).0.lines().count(), 1, "and nothing else is there");
    // Its base is known to be in the registry, whether it was fetched or not.
    bench.does(&["rmi", "app:1"]);
    bench.does(&["cache", "prune", "--all"]);
    assert_eq!(blobs(&bench), 0);
    let origins = bench.den.path().join("home/.local/share/lighter/images/origins");
    assert_eq!(std::fs::read_dir(origins).map_or(0, Iterator::count), 0);
}
