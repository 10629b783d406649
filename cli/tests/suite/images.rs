//! What a build makes of an image beside its files: labels, annotations, compression, platforms, indexes, names;
//! and the flags that scripts of docker and kaniko have in them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use fixtures::registry::Registry;
use serde_json::Value;

use crate::workbench::{Bench, LIGHTER, PLAIN};

#[test]
fn labels_and_annotations_are_written() {
    let bench = Bench::new(PLAIN);
    bench.does(&[
        "build",
        "-t",
        "a",
        "--label",
        "both=typed",
        "--label",
        "bare",
        "--annotation",
        "org.x=1",
        "--annotation",
        "manifest:urn:y=2",
        "-o",
        "type=image,annotation.Z=3",
        ".",
    ]);
    assert_eq!(bench.config("a")["config"]["Labels"], serde_json::json!({"own": "1", "both": "typed", "bare": ""}));
    assert_eq!(bench.manifest("a")["annotations"], serde_json::json!({"org.x": "1", "urn:y": "2", "Z": "3"}));
    let refused = bench.run(&["build", "--annotation", "index:a=b", "."]);
    assert_eq!(refused.status.code(), Some(64), "an image for one platform has no index");
}

#[test]
fn layers_are_compressed_as_asked_for_and_base_layers_only_by_force() {
    let bench =
        Bench::new(&[("Dockerfile", "FROM base\nCOPY f /g\n"), ("b", "FROM scratch\nCOPY f /f\n"), ("f", "content")]);
    bench.does(&["build", "-t", "base", "-f", "b", "."]);
    let types = |image: &str| -> Vec<String> {
        let layers = bench.manifest(image)["layers"].as_array().unwrap().clone();
        layers.iter().map(|layer| layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned()).collect()
    };
    for (flags, wanted) in [
        (&["--compression", "zstd,9"][..], ["tar+gzip", "tar+zstd"]),
        (&["--compression=zstd", "--compression-level=9", "--force-compression"], ["tar+zstd", "tar+zstd"]),
        (&["-o", "type=image,compression=uncompressed"], ["tar+gzip", "tar"]),
        (&["-o", "type=image,compression=uncompressed,force-compression=true"], ["tar", "tar"]),
    ] {
        bench.does(&[&["build", "-t", "a"], flags, &["."]].concat());
        assert_eq!(
            types("a"),
            wanted.map(|kind| if kind == "tar" { "tar".to_owned() } else { kind.to_owned() }),
            "{flags:?}"
        );
    }
    bench.does(&["build", "-t", "a", "-o", "type=image,oci-mediatypes=false", "."]);
    let manifest = bench.manifest("a");
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
    let first = bench.config("a")["rootfs"].clone();
    bench.does(&["build", "-t", "z", "--compression=zstd", "."]);
    assert_eq!(bench.config("z")["rootfs"], first, "what is in the layers is the same");
}

#[test]
fn several_platforms_are_an_index_and_parts_can_be_joined() {
    let registry = Registry::start(LIGHTER);
    let bench = Bench::new(&[
        ("Dockerfile", "FROM scratch\nARG TARGETPLATFORM\nCOPY f /f\nLABEL for=$TARGETPLATFORM\n"),
        ("f", "content"),
    ]);
    let name = registry.reference("shop/api:v1");
    let (printed, _) = bench.does(&[
        "build",
        "--platform",
        "linux/amd64,linux/arm64/v8,linux/arm/v7",
        "-t",
        &name,
        "--push",
        "--metadata-file",
        "meta",
        "--iidfile",
        "id",
        "--annotation",
        "index:k=v",
        "--annotation",
        "manifest-descriptor[linux/arm64]:d=e",
        "-o",
        "out",
        "-o",
        "type=oci,dest=o.tar",
        ".",
    ]);
    let index = bench.manifest(&format!("docker://{name}"));
    let platforms: Vec<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let platform = &entry["platform"];
            let parts = ["os", "architecture", "variant"].map(|key| platform[key].as_str().unwrap_or_default());
            parts.join("/")
        })
        .collect();
    assert_eq!(platforms, ["linux/amd64/", "linux/arm64/", "linux/arm/v7"]);
    assert_eq!((&index["annotations"]["k"], &index["manifests"][1]["annotations"]["d"]), (&"v".into(), &"e".into()));
    let digest = printed.rsplit('@').next().unwrap();
    assert_eq!(bench.file("id"), digest);
    let metadata: Value = serde_json::from_str(&bench.file("meta")).unwrap();
    assert_eq!(metadata["containerimage.digest"], digest);
    for directory in ["linux_amd64", "linux_arm64", "linux_arm_v7"] {
        assert_eq!(bench.file(&format!("out/{directory}/f")), "content");
    }
    let (archived, _) = bench.does(&["inspect", "--raw", "oci-archive:o.tar"]);
    assert_eq!(serde_json::from_str::<Value>(&archived).unwrap(), index);
    let arm = bench.config(&format!("docker://{name}@{}", index["manifests"][2]["digest"].as_str().unwrap()));
    assert_eq!((&arm["architecture"], &arm["variant"]), (&"arm".into(), &"v7".into()));
    assert_eq!(arm["config"]["Labels"]["for"], "linux/arm/v7");
    // The same from parts.
    for platform in ["amd64", "arm64"] {
        let part = registry.reference(&format!("shop/api:{platform}"));
        bench.does(&["build", "--platform", &format!("linux/{platform}"), "-t", &part, "--push", "."]);
    }
    let parts = ["amd64", "arm64"].map(|platform| registry.reference(&format!("shop/api:{platform}")));
    let joined = registry.reference("shop/api:joined");
    let (printed, _) = bench.does(&["index", "create", &joined, &parts[0], &parts[1]]);
    let made = bench.manifest(&format!("docker://{joined}"));
    assert_eq!(made["manifests"].as_array().unwrap().len(), 2, "{printed}");
    assert!(printed.starts_with(&format!("{joined}@sha256:")));
    bench.does(&["index", "create", "oci:layout:v1", &joined, &name.replace(":v1", &format!("@{digest}"))]);
    assert_eq!(bench.manifest("oci:layout:v1")["manifests"].as_array().unwrap().len(), 3);
    let other = registry.reference("shop/api:other");
    bench.does(&["build", "--platform", "linux/amd64", "--label", "x=y", "-t", &other, "--push", "."]);
    let refused = bench.run(&["index", "create", &joined, &parts[0], &other]);
    assert_eq!(refused.status.code(), Some(65), "two parts for one platform");
    bench.does(&["build", "-t", "one", "--build-arg", "BUILDKIT_MULTI_PLATFORM=1", "."]);
    assert_eq!(bench.manifest("one")["manifests"].as_array().unwrap().len(), 1);
    let twice = "linux/amd64,linux/arm64,linux/amd64";
    bench.does(&["build", "-t", "twice", "--platform", twice, "."]);
    assert_eq!(bench.manifest("twice")["manifests"].as_array().unwrap().len(), 2, "named twice, and built once");
    for flags in [&["-o", "type=docker,dest=x"][..], &["-o", "-"]] {
        let words = [&["build", "--platform", "linux/amd64,linux/arm64"], flags, &["."]].concat();
        assert_eq!(bench.run(&words).status.code(), Some(64), "{flags:?}");
    }
}

#[test]
fn one_registry_stands_for_another() {
    let registry = Registry::start(LIGHTER);
    let bench = Bench::new(&[
        ("Dockerfile", "FROM debian:12\nCOPY f /g\n"),
        ("b", "FROM scratch\nCOPY f /f\n"),
        ("f", "content"),
    ]);
    let address = registry.address().to_string();
    bench.does(&["build", "-f", "b", "-t", &registry.reference("hub/library/debian:12"), "--push", "."]);
    let map = format!("docker.io={address}/hub");
    let quay = format!("quay.io={address}");
    let (printed, told) =
        bench.does(&["build", "--registry-map", &map, "--registry-map", &quay, "-t", "quay.io/a/b:1", "--push", "."]);
    assert!(printed.starts_with("quay.io/a/b:1@sha256:") && told.contains("1 mounted"), "{printed} {told}");
    assert_eq!(
        bench.manifest(&format!("docker://{}", registry.reference("a/b:1")))["layers"].as_array().unwrap().len(),
        2
    );
    let by_environment =
        bench.command(&["build", "--pull", "."]).env("LIGHTER_REGISTRY_MAP", format!("{map},{quay}")).output().unwrap();
    assert!(by_environment.status.success(), "{}", String::from_utf8_lossy(&by_environment.stderr));
    let config = bench.path().join("config.toml");
    std::fs::write(&config, format!("[registries]\nmap = {{ \"docker.io\" = \"{address}/hub\" }}\n")).unwrap();
    let by_file = bench.command(&["build", "--pull", "."]).env("LIGHTER_CONFIG", &config).output().unwrap();
    assert!(by_file.status.success(), "{}", String::from_utf8_lossy(&by_file.stderr));
    std::fs::write(&config, "[registries]\nmirror = \"x\"\n").unwrap();
    let wrong = bench.command(&["build", "--pull", "."]).env("LIGHTER_CONFIG", &config).output().unwrap();
    assert_eq!(wrong.status.code(), Some(65), "{}", String::from_utf8_lossy(&wrong.stderr));
    for bad in ["docker.io", "docker.io=UPPER HOST", "a=b,b=c"] {
        assert_eq!(bench.run(&["build", "--registry-map", bad, "."]).status.code(), Some(64), "{bad}");
    }
}

#[test]
fn outputs_name_and_push_as_buildx_does() {
    let registry = Registry::start(LIGHTER);
    let bench = Bench::new(PLAIN);
    let name = registry.reference("x:1");
    let (printed, _) = bench.does(&[
        "build",
        "-o",
        &format!("type=image,name={name},push=true"),
        "--dotenv",
        "env",
        "--digest-file",
        "d",
        ".",
    ]);
    let digest = printed.rsplit('@').next().unwrap();
    assert_eq!(printed, format!("{name}@{digest}"));
    assert_eq!(bench.file("env"), format!("LIGHTER_IMAGE={name}@{digest}\nLIGHTER_DIGEST={digest}\n"));
    assert_eq!(bench.file("d"), digest);
    bench.does(&["inspect", &format!("docker://{name}")]);
    let by_digest = registry.reference("y");
    bench.does(&[
        "build",
        "-o",
        &format!("type=image,name={by_digest},push-by-digest=true,name-canonical=true,push=true"),
        ".",
    ]);
    bench.does(&["inspect", &format!("docker://{by_digest}@{digest}")]);
    assert!(!bench.run(&["inspect", &format!("docker://{by_digest}:latest")]).status.success(), "no tag was made");
    bench.does(&["build", "-o", "type=registry", "-t", &registry.reference("z:1"), "."]);
    bench.does(&["inspect", &format!("docker://{}", registry.reference("z:1"))]);
    assert_eq!(bench.run(&["build", "-o", "type=registry", "."]).status.code(), Some(64));
}

#[test]
fn scripts_of_kaniko_run() {
    let registry = Registry::start(LIGHTER);
    let bench = Bench::new(PLAIN);
    let name = registry.reference("k:1");
    let context = format!("dir://{}", bench.path().display());
    let (_, told) = bench.does(&[
        "build",
        "--context",
        &context,
        "--dockerfile=Dockerfile",
        "--destination",
        &name,
        "--insecure",
        "--reproducible",
        "--tarPath=k.tar",
        "--image-name-with-digest-file=n",
        "--image-name-tag-with-digest-file=nt",
        "--snapshot-mode=redo",
        "--cleanup",
        "--digest-file=d",
    ]);
    assert!(
        told.contains("note: --snapshot-mode has no effect") && told.contains("note: --cleanup has no effect"),
        "{told}"
    );
    let digest = bench.file("d");
    assert_eq!(bench.file("nt"), format!("{name}@{digest}"));
    assert_eq!(bench.file("n"), format!("{}@{digest}", registry.reference("k")));
    assert_eq!(bench.config(&format!("docker://{name}"))["created"], "1970-01-01T00:00:00Z");
    bench.does(&["inspect", "docker-archive:k.tar"]);
    let other = registry.reference("never:1");
    bench.does(&["build", "-d", &other, "--no-push", "."]);
    assert!(!bench.run(&["inspect", &format!("docker://{other}")]).status.success());
    let refused = bench.run(&["build", "--skip-tls-verify", "."]);
    assert_eq!(refused.status.code(), Some(64), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn scripts_of_buildah_run() {
    let registry = Registry::start(LIGHTER);
    let bench = Bench::new(PLAIN);
    let name = registry.reference("b:1");
    let (_, told) = bench.does(&[
        "build",
        "--layers",
        "--format",
        "docker",
        "--pull=always",
        "--timestamp",
        "86400",
        "--manifest",
        &name,
        "--push",
        ".",
    ]);
    assert!(told.contains("note: --layers has no effect"), "{told}");
    let pushed = format!("docker://{name}");
    let (manifest, _) = bench.does(&["inspect", "--raw", &pushed]);
    assert!(manifest.contains("application/vnd.docker.distribution.manifest.v2+json"), "{manifest}");
    assert_eq!(bench.config(&pushed)["created"], "1970-01-02T00:00:00Z");
    let refused = bench.run(&["build", "--tls-verify=false", "."]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(64) && why.contains("--registry-ca"), "{why}");
}

#[test]
fn scripts_of_docker_run_or_are_told_why_not() {
    let bench = Bench::new(PLAIN);
    let (_, told) = bench.does(&[
        "build",
        "--rm",
        "--force-rm=true",
        "--load",
        "--provenance=false",
        "--sbom=false",
        "--pull=false",
        "--no-cache=false",
        "-t",
        "a",
        ".",
    ]);
    assert!(told.contains("note: --rm has no effect") && told.contains("docker load"), "{told}");
    let refused = bench.run(&["build", "--squash", "."]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(64) && told.contains("hint: end the Dockerfile with `FROM scratch`"),
        "{told}"
    );
}

#[test]
fn a_plan_says_what_would_be_done_and_does_nothing() {
    let bench = Bench::new(&[
        (
            "Dockerfile",
            "FROM scratch AS a\nCOPY f /f\nCOPY g /g\nFROM scratch AS unused\nCOPY f /f\nFROM scratch\nCOPY --from=a /g /h\nWORKDIR /w\n",
        ),
        ("f", "content"),
        ("g", "other"),
    ]);
    let shown = |flags: &[&str]| bench.does(&[&["build", "--plan"], flags, &["."]].concat()).0;
    let plan = shown(&[]);
    assert!(plan.contains("do            7 B  [a 1/2] COPY f /f"), "{plan}");
    for wanted in [
        "wait               [a 2/2] COPY g /g",
        "skip    unused",
        "steps   4 in all: 0 cached, 1 to do, 3 that",
        "fetch   0 layers",
    ] {
        assert!(plan.contains(wanted), "{wanted}:\n{plan}");
    }
    assert_eq!(bench.does(&["images"]).0, "", "nothing was built");
    assert_eq!(shown(&["--dry-run"].map(|_| "--target=a")).lines().filter(|line| line.starts_with("wait")).count(), 1);
    bench.does(&["build", "."]);
    let plan = shown(&[]);
    assert!(plan.contains("steps   4 in all: 4 cached, 0 to do"), "{plan}");
    std::fs::write(bench.path().join("g"), "changed").unwrap();
    let plan = shown(&[]);
    assert!(plan.contains("steps   4 in all: 1 cached, 1 to do, 2 that"), "{plan}");
    let (_, told) = bench.does(&["build", "--no-cache-filter", "a", "."]);
    assert!(told.contains("[a 1/2]") && !told.contains("CACHED [a 1/2]"), "{told}");
    let missing = bench.run(&["build", "--plan", "--target", "nope", "."]);
    assert_eq!(missing.status.code(), Some(65));
}

/// Runs openssl in a directory.
fn openssl(directory: &std::path::Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(directory).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("openssl: {error}; install the package openssl"));
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_registry_that_wants_a_certificate_is_shown_ours() {
    use std::io::{BufRead, BufReader};
    let bench = Bench::new(PLAIN);
    let place = bench.path();
    openssl(
        &place,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2",
    );
    std::fs::write(place.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        openssl(
            &place,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        openssl(
            &place,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -set_serial 7 -out {name}.pem -days 2 -extfile names"
            ),
        );
    }
    let mut server = Command::new("openssl")
        .args("s_server -accept 127.0.0.1:0 -WWW -cert server.pem -key server.key -CAfile ca.pem -Verify 2 -verify_return_error".split(' '))
        .current_dir(&place)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().strip_prefix("ACCEPT ").map(str::to_owned)).expect("it listens");
    std::thread::spawn(move || lines.for_each(drop));
    // It serves files, and so a manifest.
    let manifest = "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}";
    std::fs::create_dir_all(place.join("v2/x/manifests")).unwrap();
    std::fs::write(place.join("v2/x/manifests/1"), manifest).unwrap();
    let image = format!("docker://{address}/x:1");
    let certificate = format!("{address}=client.pem,client.key");
    let words = ["inspect", "--raw", "--registry-ca", "ca.pem", "--registry-client-cert", &certificate, &image];
    let shown = bench.run(&words);
    let without = bench.run(&[&words[..4], &words[6..]].concat());
    // The same, where docker keeps them.
    let kept = bench.den.path().join("home/.docker/certs.d").join(&address);
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::copy(place.join("ca.pem"), kept.join("ca.crt")).unwrap();
    let without_certificate = bench.run(&["inspect", "--raw", &image]);
    std::fs::copy(place.join("client.pem"), kept.join("client.cert")).unwrap();
    let without_key = bench.run(&["inspect", "--raw", &image]);
    std::fs::copy(place.join("client.key"), kept.join("client.key")).unwrap();
    let from_directory = bench.run(&["inspect", "--raw", &image]);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), manifest, "{}", String::from_utf8_lossy(&shown.stderr));
    assert!(!without.status.success(), "without it nothing is had");
    assert!(!without_certificate.status.success());
    let told = String::from_utf8_lossy(&without_key.stderr);
    assert!(!without_key.status.success() && told.contains("client.key"), "{told}");
    let told = String::from_utf8_lossy(&from_directory.stderr);
    assert_eq!(String::from_utf8_lossy(&from_directory.stdout).trim(), manifest, "{told}");
}

/// What a killed build leaves, the next one removes; what a living one uses stays.
#[test]
fn what_killed_commands_left_is_swept() {
    let bench = Bench::new(&[("Dockerfile", "FROM scratch\nLABEL a=b\n")]);
    let made = Command::new("mkfifo").arg(bench.path().join("waits")).status().expect("coreutils has mkfifo");
    assert!(made.success());
    let left = || {
        let entries = std::fs::read_dir(bench.path().join("data/tmp")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    // It makes its directory, and then waits for somebody to write its Dockerfile.
    let words = ["build", "--data", "data", "-o", "type=oci,dest=-", "-f", "waits", "."];
    let mut waits = bench.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while left().is_empty() {
        assert!(waits.try_wait().unwrap().is_none(), "it waits");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let directory = left();
    bench.does(&["build", "--data", "data", "-q", "."]);
    assert_eq!(left(), directory, "it is in use");
    waits.kill().unwrap();
    waits.wait().unwrap();
    assert_eq!(left(), directory);
    bench.does(&["build", "--data", "data", "-q", "."]);
    assert_eq!(left(), Vec::<String>::new());
}

/// A layer of any size goes through a few blocks of memory.
#[test]
fn memory_does_not_grow_with_a_layer() {
    const LAYER: u64 = 600 << 20;
    const MEMORY: u64 = 100 << 20;
    let bench = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY large /\n")]);
    std::fs::File::create(bench.path().join("large")).unwrap().set_len(LAYER).unwrap();
    let mut build = bench.command(&["build", "--data", "data", "-q", "."]).stdout(Stdio::null()).spawn().unwrap();
    let status = PathBuf::from(format!("/proc/{}/status", build.id()));
    let mut peak = 0;
    let ended = loop {
        // The most that it ever held, as the kernel counts it; nothing once it has ended.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
        peak = peak.max(kilobytes.map_or(0, |number| number.trim().parse::<u64>().unwrap() << 10));
        if let Some(ended) = build.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert!(ended.success());
    assert!(peak > 0 && peak < MEMORY, "{peak} bytes for a layer of {LAYER}");
}

/// What is in a base is in every shared cache, so that a machine that has never seen it need not read it.
#[test]
fn a_base_that_others_have_read_is_not_fetched() {
    let registry = Registry::start(LIGHTER);
    let name = |text: &str| registry.reference(text);
    let cache = format!("type=registry,ref={}", name("cache:main"));
    let bench = Bench::new(PLAIN);
    bench.does(&["build", "-t", &name("base:1"), "--push", "."]);
    let manifest = bench.manifest(&name("base:1"));
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let fetched = |image: &str, words: &[&str]| {
        let machine = Bench::new(&[("f", image)]);
        let dockerfile = format!("FROM {}\nCOPY f /g\n", name("base:1"));
        std::fs::write(machine.path().join("Dockerfile"), dockerfile).unwrap();
        let before = registry.requests().len();
        machine.does(&[&["build", "-t", &name(image), "--push"], words, &["."]].concat());
        let requests = registry.requests().split_off(before);
        requests.iter().filter(|ask| ask.method == "GET" && ask.path.ends_with(&layer)).count()
    };
    assert_eq!(fetched("first:1", &["--cache-to", &cache]), 1, "somebody has to read it");
    assert_eq!(fetched("second:1", &["--cache-from", &cache]), 0);
    assert_eq!(fetched("third:1", &[]), 1, "nothing else says what is in it");
}
