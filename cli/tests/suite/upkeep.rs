//! Looking after a registry's data: gc, retention, fsck, backup, export, import as an operator types them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use fixtures::clients::Lighter;
use fixtures::images::Image;
use fixtures::registry::Registry;
use oci::Digest;

struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Done {
    #[track_caller]
    fn ends(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

fn lighter() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lighter"))
}

fn run(home: &Lighter, arguments: &[&str]) -> Done {
    let output = home.command(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs `lighter registry COMMAND … --data DATA`.
fn registry(home: &Lighter, data: &Path, arguments: &[&str]) -> Done {
    let data = data.display().to_string();
    run(home, &[&["registry"], arguments, &["--data", &data]].concat())
}

/// Pushes an image; gives the digest of its manifest.
fn push(home: &Lighter, image: &Image, registry: &Registry, name: &str) -> Digest {
    let source = format!("oci:{}:v1", image.layout().display());
    let pinned = run(home, &["push", &source, &registry.reference(name)]).ends(0);
    pinned.trim().rsplit_once('@').unwrap().1.parse().unwrap()
}

/// The file of a blob in a data directory.
fn file(data: &Path, digest: &Digest) -> PathBuf {
    data.join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex())
}

fn write(home: &Lighter, name: &str, text: &str) -> String {
    let path = home.home().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The layers of an image.
fn layers(registry: &Registry, name: &str, digest: &Digest) -> Vec<Digest> {
    let manifest = registry.send("GET", &format!("/v2/{name}/manifests/{digest}"), &[], b"").expect(200);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.body).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn garbage_of_a_stopped_registry_is_explained_and_collected() {
    let (mut server, home) = (Registry::start(lighter()), Lighter::new(lighter()));
    let old = push(&home, &Image::small(51), &server, "shop/api:v1");
    let new = push(&home, &Image::small(52), &server, "shop/api:v1");
    let kept = layers(&server, "shop/api", &new);
    let gone = layers(&server, "shop/api", &old).into_iter().find(|layer| !kept.contains(layer)).unwrap();
    let kept = kept[0];
    let data = server.data();

    server.kill();

    let explained = registry(&home, &data, &["gc", "--explain", &old.to_string()]).ends(0);
    assert!(explained.contains("manifest in shop/api, kept by nothing"), "{explained}");
    assert!(explained.contains("looked at again from"), "{explained}");
    let explained = registry(&home, &data, &["gc", "--explain", &new.to_string()]).ends(0);
    assert!(explained.contains("manifest in shop/api, kept by tag v1"), "{explained}");
    assert_eq!(registry(&home, &data, &["gc", "--dry-run"]).ends(0), "", "nothing is a week old");

    let config = "[gc]\nuntagged = '0s'\nblob_grace = '0s'\ntrash_grace = '0s'\n";
    let config = write(&home, "registry.toml", config);
    let planned = registry(&home, &data, &["gc", "--dry-run", "--config", &config]).ends(0);
    assert!(planned.starts_with(&format!("delete manifest shop/api@{old}\nunlink blob shop/api@sha256:")), "{planned}");
    assert!(planned.contains(&format!("remove file {gone} ")) && !planned.contains(&kept.to_string()), "{planned}");
    registry(&home, &data, &["gc", "--config", &config]).ends(0);
    assert!(!file(&data, &gone).exists() && file(&data, &kept).exists());

    server.restart();
    server.send("GET", &format!("/v2/shop/api/manifests/{old}"), &[], b"").expect(404);
    server.send("GET", &format!("/v2/shop/api/blobs/{kept}"), &[], b"").expect(200);
}

#[test]
fn retention_says_what_goes_and_why_and_refuses_to_empty_a_repository() {
    let (mut server, home) = (Registry::start(lighter()), Lighter::new(lighter()));
    for (number, tag) in [(53, "v1"), (54, "v2")] {
        push(&home, &Image::small(number), &server, &format!("ci/api:{tag}"));
    }
    server.kill();
    let data = server.data();
    registry(&home, &data, &["retention"]).ends(64);
    let one = write(&home, "one.toml", "[[retention.rules]]\nrepository = 'ci/*'\nkeep_last = 1\n");
    let judged = registry(&home, &data, &["retention", "--dry-run", "--config", &one]).ends(0);
    let lines: Vec<&str> = judged.lines().collect();
    assert!(lines[0].starts_with("delete ci/api:v1 sha256:") && lines[0].ends_with(" no rule keeps it"), "{judged}");
    assert!(lines[1].starts_with("keep ci/api:v2 ") && lines[1].ends_with(" it is among the last 1"), "{judged}");

    let none = write(&home, "none.toml", "[[retention.rules]]\nrepository = '**'\nyounger_than = '0s'\n");
    let judged = registry(&home, &data, &["retention", "--config", &none]).ends(0);
    assert!(
        judged.lines().all(|line| line.starts_with("keep ") && line.ends_with("it may not be emptied")),
        "{judged}"
    );
    let judged = registry(&home, &data, &["retention", "--config", &one]).ends(0);
    assert_eq!(judged.lines().filter(|line| line.starts_with("delete ")).count(), 1);
    server.restart();
    let tags = server.send("GET", "/v2/ci/api/tags/list", &[], b"").expect(200);
    assert!(String::from_utf8_lossy(&tags.body).contains(r#"["v2"]"#));
    server.kill();
    let judged = registry(&home, &data, &["retention", "--force", "--config", &none]).ends(0);
    assert!(judged.starts_with("delete ci/api:v2 "), "{judged}");
}

#[test]
fn a_damaged_blob_is_found_put_away_and_healed_by_the_next_push() {
    let (mut server, home) = (Registry::start(lighter()), Lighter::new(lighter()));
    let image = Image::small(55);
    let digest = push(&home, &image, &server, "shop/api:v1");
    let layer = layers(&server, "shop/api", &digest)[0];
    server.kill();
    let data = server.data();
    assert_eq!(registry(&home, &data, &["fsck"]).ends(0), "");
    let path = file(&data, &layer);
    let size = std::fs::metadata(&path).unwrap().len();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, vec![0; size as usize]).unwrap();

    let found = registry(&home, &data, &["fsck"]).ends(1);
    assert_eq!(found, format!("damaged: the file of {layer} is something else; push it again\n"));
    let found = registry(&home, &data, &["fsck", "--repair"]).ends(1);
    assert!(found.contains(&format!("incomplete: shop/api@{digest} names {layer}")), "{found}");
    assert!(data.join("quarantine").join(format!("sha256-{}", layer.hex())).exists());
    server.restart();
    push(&home, &image, &server, "shop/api:v1");
    server.kill();
    assert_eq!(registry(&home, &data, &["fsck"]).ends(0), "");
}

#[test]
fn a_running_registry_is_backed_up_and_the_copy_serves() {
    let (mut server, home) = (Registry::start(lighter()), Lighter::new(lighter()));
    let first = push(&home, &Image::small(56), &server, "shop/api:v1");
    let copy = home.home().join("backup");
    let dest = copy.display().to_string();
    assert_eq!(registry(&home, &server.data(), &["backup", &dest]).ends(0).trim(), dest);
    let second = push(&home, &Image::small(57), &server, "shop/api:v2");
    registry(&home, &server.data(), &["backup", &dest]).ends(0);
    registry(&home, &server.data(), &["backup", &home.home().display().to_string()]).ends(64);
    server.kill();
    assert_eq!(registry(&home, &copy, &["fsck"]).ends(0), "");

    // The copy in place of the data, as an operator restores it.
    std::fs::remove_dir_all(server.data()).unwrap();
    std::fs::rename(&copy, server.data()).unwrap();
    server.restart();
    for digest in [first, second] {
        server.send("GET", &format!("/v2/shop/api/manifests/{digest}"), &[], b"").expect(200);
    }
}

#[test]
fn repositories_go_to_a_layout_and_come_back_from_one() {
    let (mut server, home) = (Registry::start(lighter()), Lighter::new(lighter()));
    let image = Image::small(58);
    let digest = push(&home, &image, &server, "shop/api:v1");
    push(&home, &image, &server, "shop/web:v1");
    server.kill();
    let (layout, other) = (home.home().join("layout"), home.home().join("other"));
    let layout = layout.display().to_string();
    let exported = registry(&home, &server.data(), &["export", &layout, "shop/api"]).ends(0);
    assert_eq!(exported, "shop/api:v1\n");
    assert_eq!(registry(&home, &other, &["import", &layout]).ends(0), "shop/api:v1\n");
    // And what other tools wrote, whose images are named by tags alone.
    let foreign = image.layout().display().to_string();
    registry(&home, &other, &["import", &foreign]).ends(64);
    registry(&home, &other, &["import", "--repository", "from/elsewhere", &foreign]).ends(0);
    std::fs::remove_dir_all(server.data()).unwrap();
    std::fs::rename(&other, server.data()).unwrap();
    server.restart();
    for name in ["shop/api", "from/elsewhere"] {
        let head = server.send("GET", &format!("/v2/{name}/manifests/v1"), &[], b"").expect(200);
        assert_eq!(Digest::of(&head.body), digest);
    }
}

/// What commands that only look say, one after the other.
fn looks(home: &Lighter, data: &Path, digest: &Digest, config: &str) -> Vec<String> {
    let layout = tempfile::tempdir_in(home.home()).unwrap();
    let (layout, digest) = (layout.path().join("layout").display().to_string(), digest.to_string());
    let commands: [&[&str]; 5] = [
        &["fsck"],
        &["gc", "--explain", &digest],
        &["gc", "--dry-run"],
        &["retention", "--dry-run", "--config", config],
        &["export", &layout, "shop/api"],
    ];
    commands.map(|command| registry(home, data, command).ends(0)).to_vec()
}

#[test]
fn a_running_registry_is_looked_after_as_a_stopped_one_is_while_it_takes_pushes() {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
    let (mut server, home) = (Registry::start(lighter()), Lighter::new(lighter()));
    let digest = push(&home, &Image::small(61), &server, "shop/api:v1");
    let data = server.data();
    let rules = write(&home, "rules.toml", "[[retention.rules]]\nrepository = 'shop/*'\nkeep_last = 3\n");
    let hasty = "[gc]\nuntagged = '0s'\nblob_grace = '0s'\ntrash_grace = '0s'\n";
    let hasty = write(&home, "hasty.toml", hasty);
    let (is_over, pushed) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Other images under one tag, so that there is garbage.
            let images = [62, 63].map(Image::small);
            for image in images.iter().cycle().take_while(|_| !is_over.load(Relaxed)) {
                push(&home, image, &server, "busy/api:v1");
                pushed.fetch_add(1, Relaxed);
            }
        });
        let mut round = 0;
        while round < 3 || pushed.load(Relaxed) < 4 {
            looks(&home, &data, &digest, &rules);
            registry(&home, &data, &["gc", "--config", &hasty]).ends(0);
            registry(&home, &data, &["fsck", "--repair"]).ends(0);
            round += 1;
        }
        is_over.store(true, Relaxed);
    });
    let foreign = Image::small(64);
    let layout = foreign.layout().display().to_string();
    registry(&home, &data, &["import", &layout]).ends(64);
    assert_eq!(registry(&home, &data, &["import", "--repository", "shop/in", &layout]).ends(0), "v1\n");
    server.send("GET", "/v2/shop/in/manifests/v1", &[], b"").expect(200);
    registry(&home, &data, &["export", "/proc/self/none"]).ends(66);
    registry(&home, &data, &["export", &home.home().join("x").display().to_string(), "shop/none"]).ends(69);
    registry(&home, &data, &["retention"]).ends(64);
    assert_eq!(registry(&home, &data, &["fsck", "--repair"]).ends(0), "");
    let mode = std::fs::metadata(data.join("upkeep.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let running = looks(&home, &data, &digest, &rules);
    assert!(running[1].contains("manifest in shop/api, kept by tag v1"), "{running:?}");
    assert_eq!(running[4], "shop/api:v1\n");
    server.kill();
    assert_eq!(running, looks(&home, &data, &digest, &rules));
    server.restart(); // over the socket that the killed one left behind
    assert_eq!(running, looks(&home, &data, &digest, &rules));
}

#[test]
fn a_running_registry_is_repaired_and_the_next_push_heals_the_rest() {
    let (server, home) = (Registry::start(lighter()), Lighter::new(lighter()));
    push(&home, &Image::small(65), &server, "shop/api:v1");
    // The journal has the small one still.
    let [small, large] = [100, 100_000].map(|size| fixtures::seed::Seed::new(65).bytes(size));
    let push = |blob: &[u8]| {
        let upload = format!("/v2/shop/api/blobs/uploads/?digest={}", Digest::of(blob));
        server.send("POST", &upload, &[("content-type", "application/octet-stream")], blob).expect(201);
    };
    let blob = |method: &str, blob: &[u8], status: u16| {
        let path = format!("/v2/shop/api/blobs/{}", Digest::of(blob));
        server.send(method, &path, &[], b"").expect(status).body
    };
    for content in [&small, &large] {
        push(content);
        let path = file(&server.data(), &Digest::of(content));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"something else").unwrap();
        let damaged = format!("damaged: the file of {} is something else; push it again\n", Digest::of(content));
        assert_eq!(registry(&home, &server.data(), &["fsck"]).ends(1), damaged);
        assert_eq!(registry(&home, &server.data(), &["fsck", "--repair"]).ends(0), damaged);
    }
    assert_eq!(std::fs::read_dir(server.data().join("quarantine")).unwrap().count(), 2);
    assert_eq!(blob("GET", &small, 200), small);
    blob("HEAD", &large, 404);
    push(&large);
    assert_eq!(blob("GET", &large, 200), large);
    assert_eq!(registry(&home, &server.data(), &["fsck"]).ends(0), "");
}
