//! `lighter rollout …` as people type it, on a real cluster.

use std::path::PathBuf;
use std::process::{Command, Output};

use fixtures::den::Den;
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{Api, Cluster, User};
use serde_json::{Value, json};

const GOOD: &str = "registry.test/web:1@sha256:1111111111111111111111111111111111111111111111111111111111111111";
const BAD: &str = "registry.test/web:2@sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// A namespace with a Deployment `web` that runs.
struct Scene {
    namespace: &'static str,
    admin: Api,
    kubeconfig: PathBuf,
    den: Den,
    _kubelet: Kubelet,
}

impl Scene {
    fn new(namespace: &'static str) -> Self {
        let cluster = Cluster::shared();
        cluster.namespace(namespace);
        let kubelet = Kubelet::start(cluster, namespace, |pod| {
            let is_bad = pod["spec"]["containers"][0]["image"] == BAD;
            if is_bad { Fate::PullFails("manifest unknown: not found".into()) } else { Fate::Runs }
        });
        let kubeconfig = cluster.kubeconfig(User::Admin, namespace);
        let scene = Self {
            namespace,
            admin: cluster.api(User::Admin),
            kubeconfig,
            den: Den::new("rollout"),
            _kubelet: kubelet,
        };
        let deployment = json!({"metadata": {"name": "web"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": GOOD}]}}}});
        scene.admin.post(scene.path("").trim_end_matches('/'), &deployment).expect_ok();
        scene.lighter(&["rollout", "wait", "deployment/web", "--timeout", "60s"], 0);
        scene
    }

    fn path(&self, name: &str) -> String {
        format!("/apis/apps/v1/namespaces/{}/deployments/{name}", self.namespace)
    }

    fn object(&self) -> Value {
        self.admin.object(&self.path("web"))
    }

    fn put(&self, image: &str) {
        let body = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}});
        self.admin.patch(&self.path("web"), &body).expect_ok();
    }

    /// Runs lighter; the exit code must be this one. What went to stdout and stderr.
    fn lighter(&self, arguments: &[&str], code: i32) -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lighter"));
        command.args(arguments).env_clear().env("HOME", self.den.path()).env("KUBECONFIG", &self.kubeconfig);
        let Output { status, stdout, stderr } = command.output().expect("lighter starts");
        let (told, data) = (String::from_utf8(stderr).unwrap(), String::from_utf8(stdout).unwrap());
        assert_eq!(status.code(), Some(code), "{arguments:?}: {told}");
        (data, told)
    }
}

#[test]
fn a_bad_version_is_seen_and_undone() {
    let scene = Scene::new("rollout-undo");
    let (data, _) = scene.lighter(&["rollout", "status", "deployment/web"], 0);
    assert!(data.contains("1 of 1 pods are available"), "{data}");

    scene.put(BAD);
    let (_, told) = scene.lighter(&["rollout", "wait", "deploy/web", "--timeout", "60s"], 20);
    assert!(told.contains("manifest unknown"), "{told}");
    scene.lighter(&["rollout", "status", "deployment/web"], 20);
    let image = |scene: &Scene| scene.object()["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image(&scene), BAD, "what somebody else deployed is nothing that a wait takes back");

    let (data, _) = scene.lighter(&["rollout", "history", "deployment/web"], 0);
    let lines: Vec<&str> = data.lines().collect();
    assert_eq!(lines, [format!("1\tran well\tweb: {GOOD}\t"), format!("2\tcurrent\tweb: {BAD}\t")]);

    let (_, told) = scene.lighter(&["rollout", "undo", "deployment/web", "--dry-run"], 0);
    assert!(told.contains("goes back to revision 1") && image(&scene) == BAD, "{told}");
    scene.lighter(&["rollout", "undo", "deployment/web", "--timeout", "60s"], 0);
    assert_eq!(image(&scene), GOOD);
    let (_, told) = scene.lighter(&["rollout", "undo", "deployment/web"], 10);
    assert!(told.contains("has no version that was seen to run well"), "{told}");
}

#[test]
fn a_ticket_goes_on_with_the_deploy_that_it_is_of() {
    let scene = Scene::new("rollout-ticket");
    scene.put(BAD);
    let object = scene.object();
    let resource =
        json!({"group": "apps", "version": "v1", "kind": "Deployment", "plural": "deployments", "namespaced": true});
    let ticket = json!({
        "object": {"resource": resource, "namespace": scene.namespace, "name": "web"},
        "uid": object["metadata"]["uid"], "generation": object["metadata"]["generation"],
        "changed": true, "created": false, "want": {}, "images": {"web": BAD}, "before": {"web": GOOD}, "template": null,
        "running": {"web": BAD}, "was_well": true, "verified": {}, "written": "2026-01-01T00:00:00Z",
    });
    let file = scene.den.path().join("ticket.json");
    let write = |server: &str| {
        let text = json!({"format": 1, "server": server, "tickets": [ticket]}).to_string();
        std::fs::write(&file, text).unwrap();
    };
    let arguments = ["rollout", "wait", "--ticket", file.to_str().unwrap(), "--timeout", "60s"];
    write("https://elsewhere.test:6443");
    let (_, told) = scene.lighter(&arguments, 64);
    assert!(told.contains("elsewhere.test"), "{told}");
    write(Cluster::shared().server());
    let (_, told) = scene.lighter(&arguments, 21);
    assert!(told.contains(GOOD) && told.contains("manifest unknown"), "{told}");
    assert_eq!(scene.object()["spec"]["template"]["spec"]["containers"][0]["image"], GOOD);
    std::fs::write(&file, "{}").unwrap();
    scene.lighter(&arguments, 65);
}

#[test]
fn pause_resume_and_restart() {
    let scene = Scene::new("rollout-steer");
    scene.lighter(&["rollout", "pause", "deployment/web"], 0);
    assert_eq!(scene.object()["spec"]["paused"], true);
    let (_, told) = scene.lighter(&["rollout", "status", "deployment/web"], 23);
    assert!(told.contains("lighter rollout resume deployment/web -n rollout-steer"), "{told}");
    scene.lighter(&["rollout", "resume", "deployment/web", "--timeout", "60s"], 0);
    let before = scene.object()["spec"]["template"].clone();
    scene.lighter(&["rollout", "restart", "deployment/web", "--timeout", "60s"], 0);
    assert_ne!(scene.object()["spec"]["template"], before);
    scene.lighter(&["rollout", "restart", "deployment/nosuch"], 10);
    scene.lighter(&["rollout", "restart", "deployment/web/web"], 64);
}
