//! Logins, as the clients that people use send them: public pull with authenticated push, wrong passwords,
//! robot tokens, tokens of issuers, TLS with an authority of one's own; and the commands around them.

mod tls;

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fixtures::clients::{Containerd, Docker, Lighter, Podman, Skopeo};
use fixtures::den::Den;
use fixtures::images::Image;
use fixtures::kubernetes::{Cluster, User};
use fixtures::registry::Registry;
use serde_json::json;

/// How long a line may be on its way into the log.
const LOG_LIMIT: Duration = Duration::from_secs(10);

/// `secret`, as `htpasswd -B` would write it.
const HASH: &str = "$2b$04$lighterlighterlightere9LfHf4ipipjCP0BcH.PFYRV5hsstoKy";

const RULES: &str = r#"
[access]
htpasswd = "@users@"

[[access.rules]]
subjects = ["anonymous"]
repositories = ["public/**"]
rights = ["pull"]

[[access.rules]]
subjects = ["user:alice"]
repositories = ["public/**", "private/**"]
rights = ["pull", "push"]
"#;

const ALICE: Option<&str> = Some("alice:secret");

fn lighter() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lighter"))
}

/// A registry that everybody may pull `public/**` from, and where alice may push.
fn guarded(more: impl FnOnce(&Path) -> String) -> Registry {
    guarded_at(Ipv4Addr::LOCALHOST, more)
}

fn guarded_at(address: Ipv4Addr, more: impl FnOnce(&Path) -> String) -> Registry {
    let den = Den::new("registry");
    let users = den.path().join("users");
    std::fs::write(&users, format!("alice:{HASH}\n")).unwrap();
    let configuration = more(den.path()) + &RULES.replace("@users@", &users.display().to_string());
    std::fs::write(den.path().join("registry.toml"), configuration).unwrap();
    Registry::start_at(address, den, lighter().to_owned())
}

/// A client that shows a login (`user:password`) or none.
trait Caller {
    fn push(&self, image: &Image, reference: &str, login: Option<&str>) -> Output;
    fn pull(&self, reference: &str, login: Option<&str>) -> Output;
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

fn run_with_input(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn done(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// It must fail, and for want of a right.
#[track_caller]
fn refused(output: Output) {
    let said = String::from_utf8_lossy(&output.stderr).to_ascii_lowercase();
    let why = ["unauthorized", "denied", "authentication required", "401", "403", "authorization", "refused the login"];
    assert!(!output.status.success() && why.iter().any(|word| said.contains(word)), "{output:?}");
}

impl Caller for Docker {
    fn push(&self, image: &Image, reference: &str, login: Option<&str>) -> Output {
        done(run(self.command(&["load", "--quiet", "--input"]).arg(image.archive())));
        done(run(&mut self.command(&["tag", &image.loaded_name(), reference])));
        match self.show(reference, login) {
            Some(failed) => failed,
            None => run(&mut self.command(&["push", "--quiet", reference])),
        }
    }

    fn pull(&self, reference: &str, login: Option<&str>) -> Output {
        match self.show(reference, login) {
            Some(failed) => failed,
            None => run(&mut self.command(&["pull", "--quiet", reference])),
        }
    }
}

/// Docker keeps logins.
trait Show {
    fn show(&self, reference: &str, login: Option<&str>) -> Option<Output>;
}

impl Show for Docker {
    fn show(&self, reference: &str, login: Option<&str>) -> Option<Output> {
        let host = reference.split('/').next().unwrap();
        let output = match login.map(|login| login.split_once(':').unwrap()) {
            None => run(&mut self.command(&["logout", host])),
            Some((user, password)) => {
                run_with_input(&mut self.command(&["login", "-u", user, "--password-stdin", host]), password)
            }
        };
        (!output.status.success()).then_some(output)
    }
}

/// A client with how it is told whom to believe.
struct Trusting<C>(C, String);

impl Caller for Trusting<Podman> {
    fn push(&self, image: &Image, reference: &str, login: Option<&str>) -> Output {
        let Self(podman, trust) = self;
        let archive = format!("docker-archive:{}", image.archive().display());
        done(run(&mut podman.command(&["pull", "--quiet", &archive])));
        let mut command = podman.command(&["push", "--quiet", trust]);
        command.args(login.iter().flat_map(|login| ["--creds", login]));
        run(command.args([&image.loaded_name(), &format!("docker://{reference}")]))
    }

    fn pull(&self, reference: &str, login: Option<&str>) -> Output {
        let mut command = self.0.command(&["pull", "--quiet", &self.1]);
        command.args(login.iter().flat_map(|login| ["--creds", login]));
        run(command.arg(reference))
    }
}

impl Caller for Trusting<Skopeo> {
    fn push(&self, image: &Image, reference: &str, login: Option<&str>) -> Output {
        let mut command = self.0.command(&["--insecure-policy", "copy", "--quiet", &format!("--dest-{}", self.1)]);
        command.args(login.iter().flat_map(|login| ["--dest-creds", login]));
        run(command.args([format!("oci:{}:v1", image.layout().display()), format!("docker://{reference}")]))
    }

    fn pull(&self, reference: &str, login: Option<&str>) -> Output {
        let directory = tempfile::tempdir().unwrap();
        let mut command = self.0.command(&["--insecure-policy", "copy", "--quiet", &format!("--src-{}", self.1)]);
        command.args(login.iter().flat_map(|login| ["--src-creds", login]));
        run(command.args([format!("docker://{reference}"), format!("dir:{}", directory.path().display())]))
    }
}

impl Caller for Trusting<Containerd> {
    fn push(&self, image: &Image, reference: &str, login: Option<&str>) -> Output {
        done(run(self.0.command(&["images", "import", "--no-unpack"]).arg(image.archive())));
        done(run(&mut self.0.command(&["images", "tag", "--force", &image.loaded_name(), reference])));
        let mut command = self.0.command(&["images", "push", &self.1]);
        command.args(login.iter().flat_map(|login| ["--user", login]));
        run(command.arg(reference))
    }

    fn pull(&self, reference: &str, login: Option<&str>) -> Output {
        let mut command = self.0.command(&["images", "pull", &self.1]);
        command.args(login.iter().flat_map(|login| ["--user", login]));
        run(command.arg(reference))
    }
}

impl Caller for Lighter {
    fn push(&self, image: &Image, reference: &str, login: Option<&str>) -> Output {
        let source = format!("oci:{}:v1", image.layout().display());
        run(self.logged_in(reference, login).args(["push", &source, reference]))
    }

    fn pull(&self, reference: &str, login: Option<&str>) -> Output {
        run(self.logged_in(reference, login).args(["pull", reference]))
    }
}

trait LoggedIn {
    fn logged_in(&self, reference: &str, login: Option<&str>) -> Command;
}

impl LoggedIn for Lighter {
    fn logged_in(&self, reference: &str, login: Option<&str>) -> Command {
        let host = reference.split('/').next().unwrap();
        let (user, password) = login.unwrap_or(":").split_once(':').unwrap();
        let config = format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"{password}"}}}}}}"#);
        let mut command = self.command(&[]);
        if login.is_some() {
            command.env("DOCKER_AUTH_CONFIG", config);
        }
        command
    }
}

/// A client that is to speak plain HTTP.
fn plain<C>(client: C, option: &str) -> Trusting<C> {
    Trusting(client, option.to_owned())
}

/// Everybody pulls what is public, only alice pushes, and nobody else sees what is private.
fn public_pull_and_authenticated_push(caller: &dyn Caller, seed: u64) {
    let registry = guarded(|_| String::new());
    registry.send("GET", "/v2/public/a/manifests/v1", &[], b"").expect(404);
    everybody_pulls_and_alice_pushes(&registry, caller, seed);
}

fn everybody_pulls_and_alice_pushes(registry: &Registry, caller: &dyn Caller, seed: u64) {
    let image = Image::small(seed);
    let named = |kind: &str| registry.reference(&format!("{kind}/a{seed}:v1")); // nobody may overwrite
    let (public, private) = (named("public"), named("private"));
    refused(caller.push(&image, &public, None));
    refused(caller.push(&image, &public, Some("alice:wrong")));
    refused(caller.push(&image, &public, Some("mallory:secret")));
    refused(caller.push(&image, &registry.reference("other/a:v1"), ALICE));
    refused(caller.pull(&registry.reference("other/a:v1"), ALICE));
    done(caller.push(&image, &public, ALICE));
    done(caller.pull(&public, None));
    done(caller.push(&image, &private, ALICE));
    refused(caller.pull(&private, None));
    refused(caller.pull(&private, Some("alice:wrong")));
    done(caller.pull(&private, ALICE));

    let audit: Vec<String> =
        registry.log().lines().filter(|line| line.contains(" audit ")).map(str::to_owned).collect();
    let by_alice = |line: &&String| line.contains("who=user:alice") && line.contains("outcome=201");
    assert!(audit.iter().filter(by_alice).count() >= 6, "{audit:#?}");
    assert!(audit.iter().any(|line| line.contains("who=anonymous") && line.contains("outcome=401")), "{audit:#?}");
    // The line of each request says who asked, of those that only read as well: who was given something, and who not.
    // Such lines are written some at a time.
    let is_told = |log: &str, (repository, status): (&str, u16)| {
        let (path, status) = (format!("/v2/{repository}/a"), format!("status={status} "));
        let mut reads = log.lines().filter(|line| line.contains(" answered ") && !line.contains("method=P"));
        reads.any(|line| line.contains(&path) && line.contains(&status) && line.contains("who=user:alice"))
    };
    let begun = Instant::now();
    let mut log = registry.log();
    while ![("private", 200), ("other", 403)].into_iter().all(|asked| is_told(&log, asked)) {
        assert!(begun.elapsed() < LOG_LIMIT, "{log}");
        std::thread::sleep(Duration::from_millis(20));
        log = registry.log();
    }
    assert!(!log.contains("secret"), "passwords are never logged");
}

#[test]
fn privileged_public_pull_and_authenticated_push_by_docker() {
    public_pull_and_authenticated_push(&Docker::start(), 21);
}

#[test]
fn privileged_public_pull_and_authenticated_push_by_podman() {
    public_pull_and_authenticated_push(&plain(Podman::new(), "--tls-verify=false"), 22);
}

#[test]
fn privileged_public_pull_and_authenticated_push_by_skopeo() {
    public_pull_and_authenticated_push(&plain(Skopeo::new(), "tls-verify=false"), 23);
}

#[test]
fn privileged_public_pull_and_authenticated_push_by_ctr() {
    public_pull_and_authenticated_push(&plain(Containerd::start(), "--plain-http"), 24);
}

#[test]
fn public_pull_and_authenticated_push_by_lighter() {
    public_pull_and_authenticated_push(&Lighter::new(lighter()), 25);
}

/// `lighter registry token` beside a registry that runs.
#[test]
fn privileged_robot_tokens_log_docker_in_until_they_are_revoked() {
    let registry = guarded(|_| String::new());
    let data = registry.data().display().to_string();
    let home = Lighter::new(lighter());
    let token = |arguments: &[&str]| run(home.command(&["registry", "token"]).args(arguments).args(["--data", &data]));
    let made = done(token(&["create", "ci", "--allow", "pull,push", "--repository", "ci/*", "--expires", "90d"]));
    assert!(made.starts_with("lgt_"), "{made}");
    let listed = done(token(&["list"]));
    assert!(listed.contains("  ci  pull,push  ci/*  2") && !listed.contains(&made), "{listed}");
    let (docker, image) = (Docker::start(), Image::small(26));
    let login = format!("robot:{made}");
    let reference = registry.reference("ci/a:v1");
    done(docker.push(&image, &reference, Some(&login)));
    refused(docker.push(&image, &registry.reference("private/a:v1"), Some(&login)));
    let ended = token(&["revoke", "ci"]);
    assert!(ended.status.success() && String::from_utf8_lossy(&ended.stderr).contains("ended the token"), "{ended:?}");
    refused(docker.pull(&reference, Some(&login)));
    assert_eq!(token(&["revoke", "ci"]).status.code(), Some(66));
}

/// Docker asks for a refresh token when it logs in, and forgets the password.
#[test]
fn privileged_docker_keeps_a_login_in_place_of_the_password() {
    let registry = guarded(|_| String::new());
    let (docker, image) = (Docker::start(), Image::small(37));
    let reference = registry.reference("private/a:v1");
    done(docker.push(&image, &reference, ALICE));
    let command = docker.command(&[]);
    let config = command.get_envs().find(|(name, _)| *name == "DOCKER_CONFIG").and_then(|(_, value)| value).unwrap();
    let kept = std::fs::read_to_string(Path::new(config).join("config.json")).unwrap();
    assert!(kept.contains("identitytoken") && !kept.contains("YWxpY2U6c2VjcmV0"), "{kept}");
    let again = |arguments: &[&str]| run(docker.command(arguments).arg(&reference));
    done(again(&["push", "--quiet"]));
    done(again(&["pull", "--quiet"]));
    // The password of alice changes, and with it ends what docker keeps.
    let other = HASH.replace("StoKy", "StoKz").replace("stoKy", "stoKz");
    std::fs::write(registry.directory().join("users"), format!("alice:{other}\n")).unwrap();
    refused(again(&["pull", "--quiet"]));
    refused(again(&["push", "--quiet"]));
}

#[test]
fn a_configuration_is_checked_and_explained() {
    let den = Den::new("config");
    let home = Lighter::new(lighter());
    let check = |text: &str| {
        let path = den.path().join("registry.toml");
        std::fs::write(&path, text).unwrap();
        run(&mut home.command(&["registry", "check-config", &path.display().to_string()]))
    };
    let good =
        check("addr = \"127.0.0.1:5000\"\n[[webhooks]]\nname = \"x\"\nurl = \"http://a\"\nsecret = \"hidden\"\n");
    let printed = done(good);
    assert!(printed.contains("secret = \"***\"") && !printed.contains("hidden"), "{printed}");
    // Where no file is, the environment may say everything.
    let said = [("LIGHTER_REGISTRY_ADDR", "127.0.0.1:1234"), ("LIGHTER_REGISTRY_GC_BLOB_GRACE", "5h")];
    let printed = done(run(home.command(&["registry", "check-config"]).envs(said)));
    assert!(printed.contains("addr = \"127.0.0.1:1234\"") && printed.contains("blob_grace = \"5h\""), "{printed}");
    for (text, words) in [
        ("adr = 1", "there is no key `adr`; is `addr` meant?"),
        ("[access]\nhtpasswd = \"/nowhere/users\"", "could not read /nowhere/users"),
        ("[tls]\ncertificate = \"/nowhere/c\"\nkey = \"/nowhere/k\"", "could not read /nowhere/c"),
    ] {
        let output = check(text);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.contains(words)), (Some(65), true), "{text}\n{said}");
    }
}

#[test]
fn the_audit_can_be_kept_without_any_other_line() {
    let den = Den::new("audit");
    let program = den.path().join("lighter-that-audits");
    let script = format!("#!/bin/sh\nLIGHTER_LOG=warn,audit=info exec {} \"$@\"\n", lighter().display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let registry = Registry::start_in(den, program);
    let digest = oci::Digest::of(b"x");
    registry.send("POST", &format!("/v2/shop/a/blobs/uploads/?digest={digest}"), &[], b"x").expect(201);
    registry.send("GET", "/v2/shop/a/tags/list", &[], b"").expect(200);
    registry.send("DELETE", &format!("/v2/shop/a/blobs/{digest}"), &[], b"").expect(202);
    // Lines are gathered before they are written.
    let told = |log: &str| log.lines().filter(|line| line.contains(" INFO ")).map(str::to_owned).collect::<Vec<_>>();
    let begun = Instant::now();
    while told(&registry.log()).len() < 2 && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let lines = told(&registry.log());
    for (line, (method, path, outcome)) in lines.iter().zip([
        ("POST", "/v2/shop/a/blobs/uploads/".to_owned(), "201"),
        ("DELETE", format!("/v2/shop/a/blobs/{digest}"), "202"),
    ]) {
        let words = [format!("method={method} "), format!("path=\"{path}\" "), format!("outcome={outcome}")];
        let all = words.iter().all(|word| line.contains(word)) && line.contains(" audit id=\"");
        assert!(all && line.contains("who=anonymous"), "{line}");
    }
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[test]
fn only_robots_get_in_where_there_are_robots_and_nothing_else_is_said() {
    let den = Den::new("registry");
    let data = den.path().join("data").display().to_string();
    let home = Lighter::new(lighter());
    let token =
        done(run(&mut home.command(&["registry", "token", "create", "ci", "--allow", "pull", "--data", &data])));
    let registry = Registry::start_in(den, lighter().to_owned());
    registry.send("GET", "/v2/", &[], b"").expect(401);
    registry.send("GET", "/v2/", &[("authorization", &format!("Bearer {token}"))], b"").expect(200);
}

/// A real API server signs the tokens and shows its keys; pods of one namespace may pull from one place.
#[test]
fn service_accounts_of_a_cluster_log_in_with_the_tokens_that_it_signs() {
    let cluster = Cluster::shared();
    let api = cluster.api(User::Admin);
    let reader = json!({"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io",
        "name": "system:service-account-issuer-discovery"});
    let everybody =
        json!([{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:unauthenticated"}]);
    let binding = json!({"metadata": {"name": "keys-for-the-registry"}, "roleRef": reader, "subjects": everybody});
    api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).expect_ok();
    let token = |namespace: &str, audience: &str| {
        let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        api.post(&accounts, &json!({"metadata": {"name": audience}})).expect_ok();
        let asked = json!({"spec": {"audiences": [audience], "expirationSeconds": 600}});
        let made = api.post(&format!("{accounts}/{audience}/token"), &asked).expect_ok();
        made["status"]["token"].as_str().expect("a token").to_owned()
    };
    for namespace in ["issued-shop", "issued-other"] {
        cluster.namespace(namespace);
    }
    let registry = guarded(|home| {
        let ca = home.join("cluster-ca.pem");
        std::fs::write(&ca, cluster.authority()).unwrap();
        format!(
            r#"
[[access.issuers]]
name = "cluster"
issuer = "{server}"
audiences = ["registry"]
keys_url = "{server}/openid/v1/jwks"
ca = "{ca}"

[[access.rules]]
subjects = ["issuer:cluster"]
claims = {{ "/kubernetes.io/namespace" = "issued-shop" }}
repositories = ["private/shop/**"]
rights = ["pull"]
"#,
            server = cluster.server(),
            ca = ca.display()
        )
    });
    let (reference, image) = (registry.reference("private/shop/web:v1"), Image::small(91));
    let home = Lighter::new(lighter());
    done(home.push(&image, &reference, ALICE));
    let (shop, other, elsewhere) =
        (token("issued-shop", "registry"), token("issued-other", "registry"), token("issued-shop", "vault"));
    // As a password, as kubelets and docker show it, with a user name of no meaning; and as a bearer.
    done(home.pull(&reference, Some(&format!("serviceaccount:{shop}"))));
    let manifest = "/v2/private/shop/web/manifests/v1";
    let bearer = |token: &str| registry.send("GET", manifest, &[("authorization", &format!("Bearer {token}"))], b"");
    bearer(&shop).expect(200);
    // Another namespace, and a token that was made for somebody else, are refused.
    refused(home.pull(&reference, Some(&format!("serviceaccount:{other}"))));
    bearer(&other).expect(403);
    refused(home.pull(&reference, Some(&format!("serviceaccount:{elsewhere}"))));
    bearer(&elsewhere).expect(401);
    refused(home.push(&image, &reference, Some(&format!("serviceaccount:{shop}"))));
}
