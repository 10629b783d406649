//! Whole commands: what goes to stdout, what is told on stderr, and the exit codes of `cli/src/exit.rs`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fixtures::clients::{Client, Lighter};
use fixtures::den::Den;
use fixtures::http::{Received, Reply, Scripted};
use fixtures::images::Image;
use fixtures::registry::Registry;
use serde_json::Value;

/// What a command did.
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Done {
    /// Fails unless the command failed in this way: one error on stderr that says all of `words`.
    fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert_eq!(self.stdout, "", "stdout is for data");
        assert_eq!(self.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in:\n{}", self.stderr);
        }
    }

    /// Fails unless the command went well; gives its stdout.
    fn succeeds(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }
}

fn lighter() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lighter"))
}

fn home() -> Lighter {
    Lighter::new(lighter())
}

fn run(home: &Lighter, arguments: &[&str]) -> Done {
    done(home.command(arguments).stdin(Stdio::null()))
}

fn done(command: &mut Command) -> Done {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The source of an image, as the command line wants it.
fn layout(image: &Image) -> String {
    format!("oci:{}:v1", image.layout().display())
}

/// All files below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let below = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => files_below(&entry.path()),
        false => vec![entry.path()],
    };
    entries.flat_map(|entry| below(entry.unwrap())).collect()
}

/// The local store of a home directory.
fn store(home: &Lighter) -> PathBuf {
    home.home().join(".local/share/lighter")
}

/// Fails if a command left anything half done in the local store.
fn assert_nothing_half_done(home: &Lighter) {
    let left = files_below(&store(home));
    let fine = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        let is_whole = path.parent().unwrap().ends_with("blobs/sha256")
            && std::fs::read(path).is_ok_and(|content| oci::Digest::of(&content).hex() == name);
        is_whole
            || ["oci-layout", "index.json", "index.lock", "in-use"].contains(&&*name)
            || path.parent().unwrap().ends_with("origins")
    };
    let left: Vec<_> = left.into_iter().filter(|path| !fine(path)).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "left behind");
}

#[test]
fn every_command_has_help_with_an_example() {
    let mut commands = vec!["push", "pull", "copy", "inspect", "images", "login", "logout", "registry serve"];
    commands.extend(["registry token create", "registry token list", "registry token revoke", "registry check-config"]);
    commands.extend(["registry gc", "registry retention", "registry fsck"]);
    commands.extend(["registry export", "registry import", "registry backup"]);
    commands.extend(["registry init", "credential-provider", "completions", "man"]);
    if cfg!(feature = "build") {
        commands.push("build");
    }
    if cfg!(feature = "deploy") {
        commands.extend(["deploy", "diff", "set image", "pull-secret ensure"]);
        commands.extend(["rollout status", "rollout wait", "rollout history", "rollout undo"]);
        commands.extend(["rollout pause", "rollout resume", "rollout restart"]);
    }
    if cfg!(all(feature = "build", feature = "deploy")) {
        commands.push("ship"); // the registry is there: these tests need it
    }
    let home = home();
    let all = run(&home, &["--help"]).succeeds();
    assert!(all.contains("Exit codes:"), "{all}");
    for command in commands {
        assert!(all.contains(command.split(' ').next().unwrap()), "{command} is not in:\n{all}");
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = run(&home, &arguments).succeeds();
        assert!(help.contains(&format!("Usage: lighter {command}")), "{help}");
        assert!(help.contains("Example") && help.contains(&format!("\n  lighter {command}")), "{help}");
    }
}

#[test]
fn stdout_carries_the_pinned_reference_and_nothing_else() {
    let (registry, home, image) = (Registry::start(lighter()), home(), Image::small(41));
    let (name, digest) = (registry.reference("shop/api:v1"), image.manifest.digest);
    let kept = run(&home, &["copy", &layout(&image), &format!("local:{name}")]).succeeds();
    assert_eq!(kept, format!("{name}@{digest}\n"));
    let pushed = run(&home, &["push", &name]);
    assert!(pushed.stderr.contains("3 sent"), "{}", pushed.stderr);
    assert_eq!(pushed.succeeds(), format!("{name}@{digest}\n"));
    let again = run(&home, &["push", &name]);
    assert!(again.stderr.contains("0 sent") && again.stderr.contains("unchanged"), "{}", again.stderr);
    assert_eq!(again.succeeds(), format!("{name}@{digest}\n"));
    let elsewhere = run(&home, &["push", &name, &registry.reference("shop/other:v2")]);
    assert!(elsewhere.stderr.contains("3 mounted"), "what was pushed once can be mounted: {}", elsewhere.stderr);
    let pulled = run(&Lighter::new(lighter()), &["pull", &name]).succeeds();
    assert_eq!(pulled, format!("{name}@{digest}\n"));
    let by_digest = run(&Lighter::new(lighter()), &["pull", &pulled.trim().replace(":v1@", "@")]).succeeds();
    assert_eq!(by_digest, format!("{}@{digest}\n", registry.reference("shop/api")));
}

#[test]
fn images_and_inspect_tell_what_is_there() {
    let (registry, home, image) = (Registry::start(lighter()), home(), Image::small(42));
    let name = registry.reference("shop/api:v1");
    assert_eq!(run(&home, &["images"]).succeeds(), "");
    run(&home, &["push", &layout(&image), &name]).succeeds();
    let remote = run(&home, &["inspect", &name]).succeeds();
    run(&home, &["pull", &name]).succeeds();
    assert_eq!(run(&home, &["inspect", &name]).succeeds(), remote, "here and there it is the same image");
    let described: Value = serde_json::from_str(&remote).unwrap();
    assert_eq!(described["digest"], image.manifest.digest.to_string());
    assert_eq!(described["config"]["Cmd"][0], "/bin/sh");
    assert_eq!(described["layers"].as_array().unwrap().len(), image.layers.len());
    let listed = run(&home, &["images"]).succeeds();
    assert!(listed.starts_with(&format!("{name}@{}", image.manifest.digest)), "{listed}");
    let raw = run(&home, &["inspect", "--raw", &name]).succeeds();
    assert_eq!(raw.as_bytes(), image.blob(&image.manifest.digest));
    let config = run(&home, &["inspect", "--config", &name]).succeeds();
    assert_eq!(config.as_bytes(), image.blob(&image.config.digest));
}

#[test]
fn an_image_survives_the_way_through_all_places() {
    let (registry, home, image) = (Registry::start(lighter()), home(), Image::small(43));
    let (first, last) = (registry.reference("a:v1"), registry.reference("b:v1"));
    let ways = [layout(&image), first, "oci:out:v1".into(), "oci-archive:x.tar:v1".into()].into_iter().chain([
        "local:kept:v1".into(),
        "docker-archive:y.tar:kept:v1".into(),
        last.clone(),
    ]);
    let ways: Vec<String> = ways.collect();
    for way in ways.windows(2) {
        run(&home, &["copy", &way[0], &way[1]]).succeeds();
    }
    let raw = run(&home, &["inspect", "--raw", &last]).succeeds();
    assert_eq!(raw.as_bytes(), image.blob(&image.manifest.digest));
    assert!(!home.home().join("out/origins").exists(), "an export tells nobody's registries");
    assert_nothing_half_done(&home);
}

#[test]
fn mistakes_are_told_with_their_exit_code() {
    let (registry, home, image) = (Registry::start(lighter()), home(), Image::small(44));
    let name = registry.reference("shop/api:v1");
    run(&home, &["push", &layout(&image), &name]).succeeds();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again at once
    let nobody = format!("{nobody}/shop/api:v1");
    let unknown = registry.reference("shop/api:v2");
    std::fs::write(home.home().join("text"), "no archive").unwrap();
    std::fs::write(home.home().join("bad.toml"), "adress = \"127.0.0.1:5000\"").unwrap();
    std::fs::write(home.home().join("bad.json"), "{\"auths\": 1").unwrap();
    let taken = registry.address().to_string();
    let data = registry.data().display().to_string();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["pull", &nobody], 69, &["could not pull", "cannot reach", "hint: nothing listens at"]),
        (&["push", &layout(&image), &nobody], 69, &["could not push to", "cannot reach"]),
        (&["pull", &unknown], 69, &["has no manifest v2", "hint: check the name and the tag"]),
        (&["pull", &registry.reference("no/such")], 69, &["has no manifest latest"]),
        (&["push", "shop/api:v9"], 69, &["there is no image `docker.io/shop/api:v9`", "lighter build -t"]),
        (&["pull", "UPPER"], 64, &["`UPPER` names no image"]),
        (&["pull", "oci:out"], 64, &["is no registry", "lighter copy"]),
        (&["push", "oci:out"], 64, &["where to?"]),
        (&["push", &name, "oci:out"], 64, &["is no registry"]),
        (&["copy", "docker-daemon:x", "oci:out"], 64, &["`docker-daemon:` is not known here"]),
        (&["copy", "oci-archive:text", "oci:out"], 65, &["text"]),
        (&["copy", "docker-archive:text", "oci:out"], 65, &["text"]),
        (&["copy", "oci-archive:absent.tar", "oci:out"], 66, &["absent.tar", "No such file"]),
        (&["copy", "oci:absent", "oci:out"], 66, &["absent"]),
        (&["copy", "--platform", "linux/", &name, "oci:out"], 64, &["--platform"]),
        (&["copy", &name, "oci-archive:no/such/directory/x.tar"], 66, &["no/such/directory"]),
        (&["pull", "--registry-ca", "absent.pem", &name], 66, &["absent.pem"]),
        (&["pull", "--authfile", "absent.json", &name], 66, &["absent.json"]),
        (&["pull", "--authfile", "bad.json", &name], 65, &["bad.json"]),
        (&["pull", "--nonsense", &name], 64, &["--nonsense"]),
        (&["nonsense"], 64, &["nonsense"]),
        (&["login", "vm2:5000", "--username", "ci"], 64, &["no terminal", "--password-stdin"]),
        (&["registry", "serve", "--addr", "0.0.0.0:0", "--data", "new"], 64, &["refusing to listen", "hint: "]),
        (&["registry", "serve", "--addr", &taken, "--data", "new"], 69, &["could not listen", "hint: "]),
        (&["registry", "serve", "--addr", "127.0.0.1:0", "--data", &data], 69, &["did not start", &data]),
        (&["registry", "serve", "--config", "bad.toml"], 65, &["bad.toml", "adress"]),
        (&["registry", "serve", "--config", "absent.toml"], 66, &["absent.toml"]),
    ];
    for (arguments, code, words) in cases {
        run(&home, arguments).fails(*code, words);
    }
    assert_nothing_half_done(&home);
    assert!(!home.home().join("out").exists(), "a copy that failed left a layout");
}

fn unauthorized(scheme: &str) -> Reply {
    let problem = r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#;
    (401, vec![("www-authenticate", scheme.to_owned()), ("content-type", "application/json".into())], problem.into())
}

/// `ci:secret`, as HTTP carries it.
const BASIC: &str = "Basic Y2k6c2VjcmV0";

/// Lets `ci:secret` in, and then has nothing.
fn guarded(request: &Received) -> Reply {
    if request.header("authorization") != Some(BASIC) {
        return unauthorized("Basic realm=\"test\"");
    }
    if request.target == "/v2/" {
        return (200, Vec::new(), "{}".into());
    }
    (404, Vec::new(), r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"nothing of this name"}]}"#.into())
}

#[test]
fn logins_are_found_where_docker_podman_and_gitlab_keep_them() {
    let server = Scripted::start(guarded);
    let (host, name) = (server.address().to_string(), format!("{}/shop/api:v1", server.address()));
    let config = |auth: &str| format!(r#"{{"auths":{{"{host}":{{"auth":"{auth}"}}}}}}"#);
    let (good, bad) = (config("Y2k6c2VjcmV0"), config("Y2k6d3Jvbmc="));
    run(&home(), &["pull", &name])
        .fails(77, &["refused the login", &format!("hint: log in with `lighter login {host}`")]);
    let in_file = |path: &str, content: &str| {
        let home = home();
        let path = home.home().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        (home, path)
    };
    let let_in = |done: Done| done.fails(69, &["has no manifest v1"]);
    let (wrong, _) = in_file(".docker/config.json", &bad);
    run(&wrong, &["pull", &name]).fails(77, &["refused the login"]);
    let (docker, _) = in_file(".docker/config.json", &good);
    let_in(run(&docker, &["pull", &name]));
    let (podman, _) = in_file(".config/containers/auth.json", &good);
    let_in(run(&podman, &["pull", &name]));
    let (named, path) = in_file("elsewhere/auth.json", &good);
    let_in(run(&named, &["pull", "--authfile", path.to_str().unwrap(), &name]));
    let_in(done(named.command(&["pull", &name]).env("REGISTRY_AUTH_FILE", &path)));
    let_in(done(
        named.command(&["pull", &name]).env("DOCKER_CONFIG", named.home().join("no")).env("DOCKER_AUTH_CONFIG", &good),
    ));
    let gitlab = [("CI_REGISTRY", host.as_str()), ("CI_REGISTRY_USER", "ci"), ("CI_REGISTRY_PASSWORD", "secret")];
    let_in(done(home().command(&["pull", &name]).envs(gitlab)));
}

#[test]
fn login_tries_before_it_keeps() {
    let server = Scripted::start(guarded);
    let (home, host) = (home(), server.address().to_string());
    let login = |password: &str| {
        let mut command = home.command(&["login", &host, "-u", "ci", "--password-stdin"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let kept = home.home().join(".docker/config.json");
    login("wrong\n").fails(77, &["could not log in", "refused the login"]);
    assert!(!kept.exists(), "a login that does not work was kept");
    assert_eq!(login("secret\n").succeeds(), "");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "others can read the login");
    run(&home, &["pull", &format!("{host}/shop/api:v1")]).fails(69, &["has no manifest"]);
    assert_eq!(run(&home, &["logout", &host]).succeeds(), "");
    run(&home, &["pull", &format!("{host}/shop/api:v1")]).fails(77, &["refused the login"]);
}

#[test]
fn tokens_are_asked_for_and_used() {
    let server = Scripted::start(|request| match request.target.split('?').next().unwrap() {
        "/token" if request.header("authorization") == Some(BASIC) => {
            (200, Vec::new(), r#"{"token":"let-me-in","expires_in":300}"#.into())
        }
        "/token" => (401, Vec::new(), r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}"#.into()),
        _ if request.header("authorization") == Some("Bearer let-me-in") => {
            (403, Vec::new(), r#"{"errors":[{"code":"DENIED","message":"not for the likes of you"}]}"#.into())
        }
        _ => {
            let realm = format!("http://{}/token", request.header("host").unwrap());
            unauthorized(&format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"repository:shop/api:pull\""))
        }
    });
    let (host, name) = (server.address().to_string(), format!("{}/shop/api:v1", server.address()));
    run(&home(), &["pull", &name]).fails(77, &["refused the login"]);
    let auth = format!(r#"{{"auths":{{"{host}":{{"auth":"Y2k6c2VjcmV0"}}}}}}"#);
    let denied = done(home().command(&["pull", &name]).env("DOCKER_AUTH_CONFIG", auth));
    denied.fails(77, &["not for the likes of you"]);
    let asked: Vec<_> = server.received().into_iter().filter(|request| request.target.starts_with("/token")).collect();
    let last = asked.last().unwrap();
    assert!(
        last.target.contains("scope=repository%3Ashop%2Fapi%3Apull")
            || last.target.contains("scope=repository:shop/api:pull"),
        "{last:?}"
    );
    assert!(last.target.contains("service=test"), "{last:?}");
}

#[test]
fn a_registry_that_breaks_is_told_in_its_own_words() {
    let busy = Scripted::start(|_| {
        (503, Vec::new(), r#"{"errors":[{"code":"UNAVAILABLE","message":"out for lunch"}]}"#.into())
    });
    run(&home(), &["pull", &format!("{}/a:v1", busy.address())]).fails(75, &["503", "out for lunch"]);
    let web = Scripted::start(|_| (200, vec![("content-type", "text/html".into())], "<html>hello</html>".into()));
    let done = run(&home(), &["pull", &format!("{}/a:v1", web.address())]);
    assert!([65, 69].contains(&done.code.unwrap()), "{}", done.stderr);
    done.fails(done.code.unwrap(), &[&web.address().to_string()]);
}

/// A registry with one image, whose layer is what `layer` makes of it.
fn with_layer(image: &Image, layer: impl Fn(&[u8]) -> Reply + Send + Sync + 'static) -> Scripted {
    let (manifest, config) = (image.blob(&image.manifest.digest), image.blob(&image.config.digest));
    let content = image.blob(&image.layers[0].digest);
    let (media_type, digest) = (image.manifest.media_type.clone(), image.manifest.digest.to_string());
    let (config_digest, layer_digest) = (image.config.digest.to_string(), image.layers[0].digest.to_string());
    Scripted::start(move |request| match request.target.rsplit('/').next().unwrap() {
        "v1" | "latest" => {
            let headers = vec![("content-type", media_type.clone()), ("docker-content-digest", digest.clone())];
            (200, headers, String::from_utf8(manifest.clone()).unwrap())
        }
        last if last == digest => {
            (200, vec![("content-type", media_type.clone())], String::from_utf8(manifest.clone()).unwrap())
        }
        last if last == config_digest => (200, Vec::new(), String::from_utf8(config.clone()).unwrap()),
        last if last == layer_digest => layer(&content),
        _ => (404, Vec::new(), "{}".into()),
    })
}

#[test]
fn content_that_is_not_what_it_claims_is_never_kept() {
    let (home, image) = (home(), Image::with_layers(45, 1, 1));
    let liar = with_layer(&image, |content| (200, Vec::new(), "x".repeat(content.len())));
    run(&home, &["pull", &format!("{}/a:v1", liar.address())]).fails(65, &["wrong content"]);
    assert_eq!(run(&home, &["images"]).succeeds(), "");
    assert_nothing_half_done(&home);
}

#[test]
fn ctrl_c_leaves_nothing_half_done() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let (home, image) = (home(), Image::with_layers(46, 1, 1));
        let (begun, begin) = mpsc::channel();
        let begun = std::sync::Mutex::new(begun);
        let stalled = with_layer(&image, move |content| {
            begun.lock().unwrap().send(()).unwrap();
            (200, vec![("content-length", content.len().to_string())], "only the beginning".into())
        });
        let mut command = home.command(&["pull", &format!("{}/a:v1", stalled.address())]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        begin.recv_timeout(Duration::from_secs(30)).unwrap();
        let asked = Instant::now();
        Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(20), "it waited for the registry");
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty());
        assert_nothing_half_done(&home);
    }
}

#[test]
fn a_registry_ends_in_order_when_asked() {
    let home = home();
    let mut command = home.command(&["registry", "serve", "--addr", "127.0.0.1:0", "--data", "data"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    while !lines.next().unwrap().unwrap().contains("serving") {}
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Runs a script in which `$disk` is a file system of 3 MB, and `$lighter` the program.
fn on_a_small_disk(den: &Den, script: &str, arguments: &[&str]) -> Done {
    assert!(rustix::process::geteuid().is_root(), "a file system of one's own needs root: run ./test, or use sudo");
    let script = format!("mkdir -p disk && mount -t tmpfs -o size=3m none disk && disk=$PWD/disk\n{script}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", &script, "sh"]).args(arguments);
    done(command.env("HOME", den.path()).env("lighter", lighter()).current_dir(den.path()))
}

#[test]
fn privileged_a_full_disk_is_told_and_leaves_nothing_half_done() {
    let (registry, den, image) = (Registry::start(lighter()), Den::new("full"), Image::with_layers(47, 1, 8));
    let name = registry.reference("a:v1");
    home().push(&image, &name);
    let script = r#"
        code=0; $lighter pull --data $disk "$1" || code=$?
        find $disk -type f ! -name index.json ! -name oci-layout -size +1k >&2
        exit $code"#;
    let done = on_a_small_disk(&den, script, &[&name]);
    done.fails(74, &["No space left", "hint: the disk is full"]);
    let left: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with('/')).collect();
    assert_eq!(left, Vec::<&str>::new(), "left behind");
    let script = r#"$lighter copy --data $PWD/data "$1" oci-archive:$disk/image.tar || { ls -A $disk >&2; exit 74; }"#;
    let done = on_a_small_disk(&den, script, &[&name]);
    done.fails(74, &["cannot write", "disk/image.tar", "No space left", "hint: the disk is full"]);
    assert!(!done.stderr.contains(".lighter-") && !done.stderr.contains("\nimage.tar"), "left behind: {}", done.stderr);
    let script = r#"$lighter copy --data $disk "$1" local:a"#;
    let archive = format!("docker-archive:{}", image.archive().display());
    on_a_small_disk(&den, script, &[&archive]).fails(74, &["No space left", "hint: the disk is full"]);
}

#[test]
fn privileged_a_registry_with_a_full_disk_serves_what_it_has() {
    let den = Den::new("full-registry");
    let program = den.path().join("lighter-on-a-small-disk");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --propagation private sh -c \
         'mkdir -p \"$1\" && mount -t tmpfs -o size=6m none \"$1\" && shift && exec \"$@\"' sh {} {} \"$@\"\n",
        den.path().join("data").display(),
        lighter().display(),
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(rustix::process::geteuid().is_root(), "a file system of one's own needs root: run ./test, or use sudo");
    let registry = Registry::start_in(den, program);
    let (small, large) = (Image::small(48), Image::with_layers(49, 1, 8));
    home().push(&small, &registry.reference("small:v1"));
    let refused = run(&home(), &["push", &layout(&large), &registry.reference("large:v1")]);
    refused.fails(69, &["could not push to", "507", "disk is full", "hint: make room on"]);
    let pulled = home().pull(&registry.reference("small:v1"));
    assert_eq!(pulled.diff_ids, small.diff_ids, "a full disk must not touch what is there");
}
