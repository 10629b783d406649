//! Trees as deep as a path is long, and deeper: made by a command, in a build context, in an archive. None of them takes
//! more stack than another, and one that no layer can hold is refused by name. Needs the Debian package busybox-static.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use fixtures::scene::Scene;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// Levels that still fit into a path of 4096 bytes, below a directory with a short name.
const DEEP: usize = 2_000;
/// Levels that do not.
const TOO_DEEP: usize = 6_000;

fn machine(dockerfile: &str) -> Scene {
    Scene::new(Path::new(LIGHTER), dockerfile)
}

/// A chain of directories `d/d/…`, made step by step: no path leads to the last one.
fn chain(parent: &Path, levels: usize) {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = openat(CWD, parent, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = openat(&at, "d", flags, Mode::empty()).unwrap();
    }
}

/// A command that does the same, a thousand levels at a time.
fn command(levels: usize) -> String {
    assert_eq!(levels % 1000, 0);
    format!(
        "RUN mkdir /t && cd /t && p=$(printf 'd/%.0s' $(seq 1000)) && \
         for n in $(seq {}); do mkdir -p $p && cd -P $p || exit 9; done\n",
        levels / 1000
    )
}

/// The names of a tar, read without taking them apart.
fn names(tar: &Path) -> Vec<Vec<u8>> {
    let mut tar = tar::Archive::new(fs::File::open(tar).unwrap());
    tar.entries().unwrap().map(|entry| entry.unwrap().path_bytes().into_owned()).collect()
}

fn deepest(scene: &Scene) -> usize {
    let names = names(&scene.path().join("tree.tar"));
    names.iter().map(|name| name.iter().filter(|byte| **byte == b'd').count()).max().unwrap()
}

const BASE: &str = "FROM scratch AS base\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n\
                    RUN for n in mkdir seq printf true; do /bin/busybox ln -s busybox /bin/$n; done\n";

#[test]
fn a_command_may_make_what_a_layer_can_hold() {
    for rung in ["tree", "auto"] {
        let file = format!(
            "{BASE}FROM base AS deep\n{}FROM base\nCOPY --from=deep /t /t\nRUN --mount=from=deep,target=/m true\n\
             RUN mkdir /t/e\n",
            command(DEEP)
        );
        let scene = machine(&file);
        scene.builds(&[&format!("--isolation={rung}"), "-o", "type=tar,dest=../tree.tar"]);
        assert_eq!(deepest(&scene), DEEP);
        // Over what is there, and in the place of it.
        for _ in 0..2 {
            scene.builds(&["-o", "type=local,dest=../tree"]);
        }
        assert!(fs::symlink_metadata(scene.path().join("tree/t/d/d/d/d")).unwrap().is_dir());
        fs::remove_file(scene.context().join("Dockerfile")).unwrap();
        scene.file("Dockerfile", "FROM scratch\nCOPY busybox /t\n");
        scene.builds(&["-o", "type=local,dest=../tree"]);
        assert!(fs::symlink_metadata(scene.path().join("tree/t")).unwrap().is_file());
    }
}

#[test]
fn a_command_that_makes_more_is_told_and_cleaned_up() {
    for rung in ["auto", "tree"] {
        let scene = machine(&format!("{BASE}{}", command(TOO_DEEP)));
        let output = scene.build(&[&format!("--isolation={rung}")]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code != 0), "a signal ended it: {told}");
        assert!(told.contains("the path is longer than 4096 bytes; a layer cannot hold it"), "{told}");
        let work = scene.path().join("home/.local/share/lighter/build/v1/work");
        let left = fs::read_dir(&work).unwrap().flatten().flat_map(|entry| fs::read_dir(entry.path()));
        let left: Vec<_> = left.flatten().flatten().filter(|entry| entry.path().join("upper").exists()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn contexts_are_read_as_deep_as_paths_go() {
    let scene = machine("FROM scratch\nCOPY t /t\n");
    fs::create_dir(scene.context().join("t")).unwrap();
    chain(&scene.context().join("t"), DEEP);
    scene.builds(&["-o", "type=tar,dest=../tree.tar"]);
    assert_eq!(deepest(&scene), DEEP);
    // Ignored but for what cannot be there: everything has to be looked through.
    scene.file(".dockerignore", "t\n!**/file\n");
    scene.file("Dockerfile", "FROM scratch\nCOPY . /t\n");
    scene.builds(&["-o", "type=tar,dest=../tree.tar"]);
    scene.file("Dockerfile", "FROM scratch\nCOPY --parents t/**/d /\n");
    fs::remove_file(scene.context().join(".dockerignore")).unwrap();
    scene.builds(&["-o", "type=tar,dest=../tree.tar"]);
    assert_eq!(deepest(&scene), DEEP);
}

#[test]
fn contexts_that_are_deeper_are_refused_unless_ignored() {
    let scene = machine("FROM scratch\nCOPY . /t\n");
    fs::create_dir(scene.context().join("t")).unwrap();
    chain(&scene.context().join("t"), TOO_DEEP);
    let output = scene.build(&[]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 0), "a signal ended it: {told}");
    assert!(told.contains("File name too long"), "{told}");
    scene.file(".dockerignore", "t\n");
    scene.builds(&[]);
}

#[test]
fn archives_are_unpacked_as_deep_as_paths_go() {
    let archive = |scene: &Scene, levels: usize, last: Option<&str>| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut put = |path: &str, kind| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(0);
            let mut record = String::new();
            let mut size = path.len() + 8;
            while size != format!("{size} path={path}\n").len() {
                size = format!("{size} path={path}\n").len();
            }
            record.push_str(&format!("{size} path={path}\n"));
            let mut pax = tar::Header::new_ustar();
            pax.set_entry_type(tar::EntryType::XHeader);
            pax.set_size(record.len() as u64);
            pax.set_path("pax").unwrap();
            pax.set_cksum();
            header.set_path("short").unwrap();
            header.set_cksum();
            tar.append(&pax, record.as_bytes()).unwrap();
            tar.append(&header, std::io::empty()).unwrap();
        };
        put(&format!("t/{}", vec!["d"; levels].join("/")), tar::EntryType::Directory);
        if let Some(last) = last {
            put(last, tar::EntryType::Regular);
        }
        scene.file("deep.tar", tar.into_inner().unwrap());
    };
    let scene = machine("FROM scratch\nADD deep.tar /\nCOPY busybox /busybox\nRUN [\"/busybox\", \"true\"]\n");
    archive(&scene, DEEP, None);
    scene.builds(&["-o", "type=tar,dest=../tree.tar"]);
    assert_eq!(deepest(&scene), DEEP);
    let output = |scene: &Scene| scene.build(&["-o", "type=tar,dest=../tree.tar"]).output().unwrap();
    archive(&scene, TOO_DEEP, None);
    let refused = output(&scene);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code().is_some_and(|code| code != 0), "{told}");
    assert!(told.contains("longer than") || told.contains("too long"), "{told}");

    // As a base image's layer: the deep tree is put there and taken away by the same layer.
    archive(&scene, DEEP, Some("t"));
    let tar = fs::read(scene.context().join("deep.tar")).unwrap();
    layout(&scene.context().join("base"), &tar);
    scene.file("Dockerfile", "FROM base\nCOPY busybox /busybox\nRUN [\"/busybox\", \"test\", \"-f\", \"/t\"]\n");
    scene.builds(&["--build-context", "base=oci-layout://base"]);
}

/// An OCI layout of one layer.
fn layout(place: &Path, tar: &[u8]) {
    use oci::Digest;
    fs::create_dir_all(place.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(place.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    };
    let layer = put(tar);
    let config = serde_json::json!({"architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer]}, "config": {}}).to_string();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": oci::media_type::OCI_MANIFEST,
        "config": {"mediaType": oci::media_type::OCI_CONFIG, "digest": put(config.as_bytes()), "size": config.len()},
        "layers": [{"mediaType": oci::media_type::OCI_LAYER, "digest": layer, "size": tar.len()}]})
    .to_string();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": oci::media_type::OCI_INDEX, "manifests": [
        {"mediaType": oci::media_type::OCI_MANIFEST, "digest": put(manifest.as_bytes()), "size": manifest.len()}]});
    fs::write(place.join("index.json"), index.to_string()).unwrap();
    fs::write(place.join("oci-layout"), "{\"imageLayoutVersion\": \"1.0.0\"}").unwrap();
}
