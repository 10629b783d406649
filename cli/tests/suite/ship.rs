//! The main job, as a user types it: `lighter ship fixtures/hello`, without a cluster and on a real one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use fixtures::den::Den;
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{Cluster, User};
use serde_json::Value;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A user with an empty home directory.
struct Somebody {
    den: Den,
    kubeconfig: Option<PathBuf>,
}

impl Somebody {
    fn new(purpose: &str) -> Self {
        Self { den: Den::new(purpose), kubeconfig: None }
    }

    fn lighter(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(LIGHTER);
        command.args(arguments).env_clear().env("HOME", self.den.path()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command.output().expect("lighter starts")
    }

    /// Ships, and expects that to go well: the pinned reference, and what was told.
    fn ship(&self, context: &Path) -> (String, String) {
        let context = context.to_str().expect("a path of this project");
        let output = self.lighter(&["ship", context]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        let pinned = String::from_utf8(output.stdout).expect("a reference");
        assert_eq!(pinned.lines().count(), 1, "stdout carries the reference and nothing else: {pinned}");
        (pinned.trim().to_owned(), told)
    }
}

fn hello() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/hello")
}

/// A copy of `fixtures/hello` that a test may change.
fn hello_in(den: &Den) -> PathBuf {
    let copy = den.path().join("hello");
    let copied = Command::new("cp").arg("-r").arg(hello()).arg(&copy).status().expect("cp starts");
    assert!(copied.success());
    copy
}

#[test]
fn without_a_cluster_it_prints_what_it_would_apply_and_is_a_no_op_the_second_time() {
    let user = Somebody::new("ship");
    let (pinned, told) = user.ship(&hello());
    assert!(pinned.contains("/hello:latest@sha256:"), "{pinned}");
    assert!(told.contains("there is no cluster"), "{told}");
    assert!(told.contains(&format!("image: {pinned}")), "the manifest is pinned: {told}");
    assert!(told.contains("0 reused, 8 built"), "{told}");

    let (again, told) = user.ship(&hello());
    assert_eq!(again, pinned);
    assert!(told.contains("nothing has changed"), "{told}");
    assert!(told.contains("8 reused, 0 built; 0 sent, 9 there already"), "{told}");
}

#[test]
fn a_change_of_one_file_builds_only_what_depends_on_it() {
    let user = Somebody::new("ship");
    let context = hello_in(&user.den);
    let (first, _) = user.ship(&context);
    let page = context.join("site/index.html");
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, text.replace("Hello from", "Greetings from")).unwrap();
    let (second, told) = user.ship(&context);
    assert_ne!(first, second);
    assert!(told.contains("7 reused, 1 built"), "only the layer with the page is new: {told}");
}

#[test]
fn the_registry_that_was_shipped_to_can_be_served_afterwards() {
    let user = Somebody::new("ship");
    let (pinned, told) = user.ship(&hello());
    let next = told.lines().find(|line| line.contains("registry serve")).expect("the next step is told").trim();
    let words: Vec<&str> = next.split_whitespace().skip(1).collect();
    let mut serving = Command::new(LIGHTER).args(&words).env("HOME", user.den.path()).spawn().expect("it starts");
    let address = words[words.iter().position(|word| *word == "--addr").expect("an address") + 1];
    let mut listening = false;
    for _ in 0..100 {
        listening = std::net::TcpStream::connect(address).is_ok();
        if listening {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // While it serves, ship uses it instead of starting another one on the same data.
    let (again, told) = user.ship(&hello());
    let pulled =
        Command::new(LIGHTER).args(["pull", &pinned]).env("HOME", user.den.path().join("other")).output().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&serving), rustix::process::Signal::TERM).unwrap();
    let ended = serving.wait().unwrap();
    assert!(listening, "nothing listens on {address}");
    assert_eq!(again, pinned, "{told}");
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    assert_eq!(String::from_utf8_lossy(&pulled.stdout).trim(), pinned);
    assert!(ended.success(), "SIGTERM is an orderly end: {ended}");
}

#[test]
fn on_a_real_cluster_it_rolls_out_waits_and_is_a_no_op_the_second_time() {
    let cluster = Cluster::shared();
    cluster.namespace("ship-hello");
    let _kubelet = Kubelet::start(cluster, "ship-hello", |_| Fate::Runs);
    let mut user = Somebody::new("ship");
    user.kubeconfig = Some(cluster.kubeconfig(User::Admin, "ship-hello"));

    let (pinned, told) = user.ship(&hello());
    assert!(told.contains("rolled out"), "{told}");
    let deployment = || cluster.api(User::Admin).object("/apis/apps/v1/namespaces/ship-hello/deployments/hello");
    let image = |object: &Value| {
        object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(image(&deployment()), pinned);
    assert_eq!(deployment()["status"]["availableReplicas"], 2);
    cluster.api(User::Admin).object("/api/v1/namespaces/ship-hello/services/hello");

    let generation = deployment()["metadata"]["generation"].clone();
    let (again, told) = user.ship(&hello());
    assert_eq!(again, pinned);
    assert!(told.contains("nothing has changed"), "{told}");
    assert_eq!(deployment()["metadata"]["generation"], generation, "a no-op writes nothing");
}

#[test]
fn a_rollout_that_fails_says_why_and_has_its_own_exit_code() {
    let cluster = Cluster::shared();
    cluster.namespace("ship-bad");
    let text = "rpc error: code = NotFound desc = failed to pull and unpack image: not found";
    let _kubelet = Kubelet::start(cluster, "ship-bad", move |_| Fate::PullFails(text.to_owned()));
    let mut user = Somebody::new("ship");
    user.kubeconfig = Some(cluster.kubeconfig(User::Admin, "ship-bad"));
    let output = user.lighter(&["ship", hello().to_str().unwrap(), "--timeout", "60s"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(20), "{told}");
    assert!(told.contains("failed to pull and unpack image"), "{told}");
    assert!(told.contains("there is no version before it"), "what was created is left in place: {told}");
    assert!(output.stdout.is_empty(), "a failure prints no reference");
}

/// A first version that runs, and a changed context for a second one, whose pods have the fate `second`.
fn second_version(namespace: &str, second: Fate) -> (Somebody, PathBuf, String, Kubelet) {
    let cluster = Cluster::shared();
    cluster.namespace(namespace);
    let first: Arc<OnceLock<String>> = Arc::default();
    let good = Arc::clone(&first);
    let kubelet = Kubelet::start(cluster, namespace, move |pod| {
        let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        if good.get().is_none_or(|good| good == image) { Fate::Runs } else { second.clone() }
    });
    let mut user = Somebody::new("ship");
    user.kubeconfig = Some(cluster.kubeconfig(User::Admin, namespace));
    let context = hello_in(&user.den);
    let (pinned, _) = user.ship(&context);
    first.set(pinned.clone()).expect("set once");
    let page = context.join("site/index.html");
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, text.replace("Hello from", "Greetings from")).unwrap();
    (user, context, pinned, kubelet)
}

fn running_image(namespace: &str) -> String {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/hello");
    let object = Cluster::shared().api(User::Admin).object(&path);
    object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_second_version_that_fails_is_put_back_unless_told_otherwise() {
    let words = "rpc error: code = NotFound desc = failed to pull and unpack image: not found";
    let (user, context, first, _kubelet) = second_version("ship-back", Fate::PullFails(words.into()));
    let output = user.lighter(&["ship", context.to_str().unwrap(), "--timeout", "60s"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(21), "{told}");
    assert!(told.contains("what ran before is back, and well"), "{told}");
    let end = told.split("error: ").last().unwrap_or_default();
    assert!(end.contains("failed to pull and unpack image") && end.contains(&first), "the end tells all: {told}");
    assert_eq!(running_image("ship-back"), first);

    let output = user.lighter(&["ship", context.to_str().unwrap(), "--timeout", "60s", "--on-failure", "keep"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(20), "{told}");
    assert_ne!(running_image("ship-back"), first);
}

#[test]
fn an_interrupted_deploy_leaves_the_cluster_as_it_is_and_a_ticket() {
    let (user, context, first, _kubelet) = second_version("ship-int", Fate::Ignored);
    let ticket = user.den.path().join("ticket.json");
    let mut command = Command::new(LIGHTER);
    command.args(["ship", context.to_str().unwrap(), "--ticket", ticket.to_str().unwrap()]).env_clear();
    command.env("HOME", user.den.path()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("KUBECONFIG", user.kubeconfig.as_ref().unwrap()).stderr(std::process::Stdio::piped());
    let shipping = command.spawn().expect("lighter starts");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let is_written = || std::fs::read_to_string(&ticket).is_ok_and(|text| text.contains("hello"));
    while !is_written() {
        assert!(std::time::Instant::now() < deadline, "no ticket within a minute");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let process = rustix::process::Pid::from_child(&shipping);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    let output = shipping.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("lighter rollout wait --ticket"), "{told}");
    let ticket: Value = serde_json::from_str(&std::fs::read_to_string(&ticket).unwrap()).unwrap();
    assert_ne!(running_image("ship-int"), first, "nothing is put back");
    assert_eq!(ticket["tickets"][0]["before"]["hello"], first);
}

#[test]
fn a_foreign_project_cannot_reach_into_the_home_directory() {
    let user = Somebody::new("ship");
    let context = hello_in(&user.den);
    std::fs::write(context.join("lighter.toml"), "[build.contexts]\nsystem = \"..\"\n").unwrap();
    let output = user.lighter(&["ship", context.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(65), "{told}");
    assert!(told.contains("outside the project"), "{told}");
}
