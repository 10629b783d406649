//! `docs/troubleshooting.md` is found by what people see. Each error text in it is provoked here, by the client that it
//! is said to come from, and has to be what that client prints.

use std::fs;
use std::path::Path;
use std::process::Command;

use fixtures::clients::{Containerd, Docker, Lighter, Podman, Skopeo};
use fixtures::den::Den;
use fixtures::http::Scripted;
use fixtures::images::Image;
use fixtures::issuer::Issuer;
use fixtures::registry::Registry;
use serde_json::{Value, json};

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// The error texts that the guide's paragraphs begin with: those in bold that are code and nothing else.
fn symptoms() -> Vec<String> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
    let text = fs::read_to_string(guide).unwrap();
    let bold = text.split("**").skip(1).step_by(2);
    bold.filter_map(|bold| Some(bold.strip_prefix('`')?.strip_suffix('`')?.to_owned()))
        .filter(|text| !text.contains('`'))
        .collect()
}

/// Whether a text is printed; `…` stands for anything within a line.
fn is_printed(symptom: &str, printed: &str) -> bool {
    printed.lines().any(|line| {
        let mut rest = line;
        symptom.split('…').all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    })
}

/// What a command that has to fail prints.
fn failing(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{command:?} goes well: {printed}");
    printed
}

fn done(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What was printed, by the text of the guide that it is to contain.
#[derive(Default)]
struct Printed(Vec<(&'static str, String)>);

impl Printed {
    fn add(&mut self, symptom: &'static str, command: &mut Command) {
        self.0.push((symptom, failing(command)));
    }
}

/// A registry with a certificate for these hosts, from an authority of its own.
fn with_certificate(hosts: &[&str]) -> Registry {
    let den = Den::new("troubles");
    let etc = den.path().join("etc");
    let mut init = Command::new(LIGHTER);
    init.args(["registry", "init"]).args(hosts.iter().flat_map(|host| ["--host", host])).arg(&etc);
    done(init.env("HOME", den.path()));
    let tls = format!("tls = {{ certificate = '{0}/tls/server.crt', key = '{0}/tls/server.key' }}\n", etc.display());
    fs::write(den.path().join("registry.toml"), tls).unwrap();
    Registry::start_in(den, LIGHTER.into())
}

/// A registry that wants a login: a robot may pull from `shop`, and jobs of CI push.
fn with_rules(issuer: &Issuer) -> Registry {
    let den = Den::new("troubles");
    let rules = format!(
        "[[access.issuers]]\nname = 'ci'\nissuer = '{}'\naudiences = ['https://registry.example.test']\n\
         [[access.rules]]\nsubjects = ['issuer:ci']\nclaims = {{ project_id = '7' }}\nrepositories = ['**']\nrights = ['pull', 'push']\n",
        issuer.url()
    );
    fs::write(den.path().join("registry.toml"), rules).unwrap();
    Registry::start_in(den, LIGHTER.into())
}

/// A registry on a disk of 4 MB.
fn with_a_small_disk() -> Registry {
    use std::os::unix::fs::PermissionsExt;
    let den = Den::new("troubles");
    let program = den.path().join("small-disk");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --propagation private sh -ec 'mkdir -p {0}/data; mount -t tmpfs -o size=4m tmpfs {0}/data; exec {LIGHTER} \"$@\"' sh \"$@\"\n",
        den.path().display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Registry::start_in(den, program)
}

#[test]
fn privileged_errors_are_what_the_guide_says() {
    let home = Lighter::new(Path::new(LIGHTER));
    let (podman, skopeo, containerd, docker) = (Podman::new(), Skopeo::new(), Containerd::start(), Docker::start());
    let policy = home.home().join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let policy = format!("--signature-policy={}", policy.display());
    let podman_pull = |name: &str| podman.command(&["pull", "--quiet", "--tls-verify=true", &policy, name]);
    let image = Image::small(51);
    let layout = format!("oci:{}:v1", image.layout().display());
    let mut printed = Printed::default();

    let plain = Registry::start(LIGHTER);
    let name = plain.reference("shop/api:v1");
    printed.add("http: server gave HTTP response to HTTPS client", &mut podman_pull(&name));
    let curl = format!("https://{}/v2/", plain.address());
    printed.add("wrong version number", Command::new("curl").args(["-sS", &curl]));
    printed.add(
        "manifest unknown",
        podman.command(&["pull", "--quiet", "--tls-verify=false", &policy, &name]).env("LANG", "C"),
    );
    let far = format!("0.0.0.0:{}/shop/api:v1", plain.address().port());
    let nowhere = "http://127.0.0.1:1";
    printed.add("cannot reach … through the proxy …", home.command(&["pull", &far]).env("HTTPS_PROXY", nowhere));

    let secure = with_certificate(&["127.0.0.1"]);
    let name = secure.reference("shop/api:v1");
    printed.add("x509: certificate signed by unknown authority", &mut podman_pull(&name));
    printed.add("400 Bad Request", &mut containerd.command(&["images", "pull", &name]));
    let secure = with_certificate(&["vm2", "10.0.0.2"]);
    let authority = secure.directory().join("etc/authority/ca.crt");
    let mut pull = podman_pull(&secure.reference("shop/api:v1"));
    printed.add("x509: certificate is valid for …, not …", pull.env("SSL_CERT_FILE", &authority));

    let issuer = Issuer::start();
    let guarded = with_rules(&issuer);
    let name = guarded.reference("shop/api:v1");
    let archive = home.home().join("image.tar");
    done(&mut home.command(&["copy", &layout, &format!("docker-archive:{}:{name}", archive.display())]));
    done(docker.command(&["load", "--input"]).arg(&archive));
    let push = docker.command(&["push", &name]).output().unwrap();
    printed.0.push(("requested access to the resource is denied", String::from_utf8_lossy(&push.stderr).into_owned()));
    let inspect = ["inspect", "--tls-verify=false", &format!("docker://{name}")];
    printed.add("needs a login", skopeo.command(&inspect).env("HOME", home.home()));
    let refused = "pull access denied, repository does not exist or may require authorization";
    printed.add(refused, &mut containerd.command(&["images", "pull", "--plain-http", &name]));
    // Not every registry has tokens: many ask for the password itself.
    let basic =
        Scripted::start(|_| (401, vec![("www-authenticate", "Basic realm=\"registry\"".into())], String::new()));
    let elsewhere = format!("{}/shop/api:v1", basic.address());
    done(docker.command(&["tag", &name]).arg(&elsewhere));
    printed.add("no basic auth credentials", &mut docker.command(&["push", &elsewhere]));
    let token = |claims: Value| issuer.token(&claims);
    let host = format!("https://{}", guarded.address());
    let known = json!(["https://registry.example.test", host]);
    let push = |claims: Value| {
        let mut push = home.command(&["push", &layout, &name]);
        push.env("LIGHTER_ID_TOKEN", token(claims));
        push
    };
    printed.add("does not allow this login", &mut push(json!({"aud": known, "project_id": "8"})));
    printed.add(
        "not valid yet",
        &mut push(json!({"aud": known, "project_id": "7", "nbf": 4_000_000_000_u32, "exp": 4_000_000_600_u32})),
    );
    printed.add("expired", &mut push(json!({"aud": known, "project_id": "7", "exp": 1_600_000_000})));
    printed.add("audience", &mut push(json!({"aud": host, "project_id": "7"})));
    let data = guarded.data();
    let mut create = home.command(&[
        "registry",
        "token",
        "create",
        "reader",
        "--allow",
        "pull",
        "--repository",
        "shop/**",
        "--data",
    ]);
    let robot = format!("reader:{}", done(create.arg(&data)).trim());
    let elsewhere = guarded.reference("other/api:v1");
    printed.add(
        "403 Forbidden",
        &mut containerd.command(&["images", "pull", "--plain-http", "--user", &robot, &elsewhere]),
    );

    let small = with_a_small_disk();
    let large = Image::with_layers(52, 1, 8);
    let large = format!("oci:{}:v1", large.layout().display());
    let full = failing(&mut home.command(&["push", &large, &small.reference("shop/large:v1")]));
    printed.0.push(("507", full.clone()));
    printed.0.push(("disk is full", full));

    let job = Den::new("troubles");
    fs::write(job.path().join("Dockerfile"), "FROM scratch\nCOPY busybox /bin/sh\nRUN true\n").unwrap();
    fs::copy("/bin/busybox", job.path().join("busybox")).unwrap();
    std::os::unix::fs::chown(job.path(), Some(1000), Some(1000)).unwrap();
    let mounts = [(job.path(), "/home/job"), (Path::new(LIGHTER), "/lighter")];
    let options = ["--user=1000:1000", "--env=HOME=/home/job"];
    let built = docker.container(&options, &mounts, &["/lighter", "build", "/home/job"]);
    assert_eq!(built.status.code(), Some(78), "{}", String::from_utf8_lossy(&built.stderr));
    printed.0.push(("this machine does not let RUN be isolated", String::from_utf8_lossy(&built.stderr).into_owned()));

    let pinned = format!("127.0.0.1:1/shop/api@{}", image.manifest.digest);
    printed.add(
        "there is no Kubernetes cluster: no kubeconfig was found",
        &mut home.command(&["deploy", "--image", &pinned, "--target", "deployment/api"]),
    );

    let other: Vec<&(&str, String)> = printed.0.iter().filter(|(symptom, text)| !is_printed(symptom, text)).collect();
    assert!(other.is_empty(), "another text is printed: {other:#?}");
    let mut provoked: Vec<&str> = printed.0.iter().map(|(symptom, _)| *symptom).collect();
    let mut written = symptoms();
    provoked.sort_unstable();
    written.sort_unstable();
    assert_eq!(written, provoked, "the guide's texts, and those that are provoked");
}
