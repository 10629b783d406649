//! `deploy`: a new image on a running Deployment, until its pods run it; and a manifest applied to a server that
//! nobody has asked before. The API server and its controllers are real, and both contestants talk to the same ones;
//! the kubelet is played, so that only they are measured. How many requests each of them sent is what the API server
//! itself wrote down.

use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::clients::{Client, Lighter};
use fixtures::images::Image;
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{Asked, Cluster, User};
use fixtures::registry::Registry;
use serde_json::{Value, json};

use crate::contest::{Contestant, hold, measure};

const NAMESPACE: &str = "bench";

/// A cluster, two images in a registry, and a home for both contestants.
struct Scene {
    cluster: Cluster,
    kubeconfig: PathBuf,
    client: Lighter,
    images: Vec<String>,
    _registry: Registry,
    _kubelet: Kubelet,
}

pub fn run(lighter: &Path, rounds: usize) {
    let scene = Scene::start(lighter);
    until_it_runs(&scene, rounds);
    cold_apply(&scene, rounds);
}

impl Scene {
    fn start(lighter: &Path) -> Self {
        let cluster = Cluster::start_audited();
        cluster.namespace(NAMESPACE);
        let kubelet = Kubelet::start(&cluster, NAMESPACE, |_| Fate::Runs);
        let kubeconfig = cluster.kubeconfig(User::Admin, NAMESPACE);
        let registry = Registry::start(lighter);
        let client = Lighter::new(lighter);
        let push = |seed: &u64| {
            let (image, name) = (Image::small(*seed), registry.reference(&format!("bench:{seed}")));
            client.push(&image, &name);
            format!("{name}@{}", image.manifest.digest)
        };
        let images = [1, 2].iter().map(push).collect();
        Self { cluster, kubeconfig, client, images, _registry: registry, _kubelet: kubelet }
    }

    fn lighter(&self, arguments: &[&str]) -> Command {
        let mut command = self.client.command(arguments);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    fn kubectl(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.client.home());
        command
    }

    /// What was asked between two moments, counted by what it was for.
    fn print_requests(&self, name: &str, agent: &str, before: usize, rounds: usize) {
        let asked = self.cluster.audited(agent).split_off(before);
        let count = |of: Purpose| asked.iter().filter(|asked| Purpose::of(asked) == of).count() as f64 / rounds as f64;
        println!(
            "  {name:18} requests a round: {:.1} for the work, {:.1} for checks before it, {:.1} of lists and watches, {:.1} of discovery",
            count(Purpose::Work),
            count(Purpose::Check),
            count(Purpose::Watch),
            count(Purpose::Discovery)
        );
    }
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Work,
    /// May we, can nodes run it, can pods pull it: kubectl does not ask.
    Check,
    Watch,
    Discovery,
}

impl Purpose {
    fn of(asked: &Asked) -> Self {
        let path = asked.url.split('?').next().unwrap_or_default();
        let is_check = ["/api/v1/nodes", "/apis/authorization.k8s.io/"].iter().any(|start| path.starts_with(start))
            || path.contains("/serviceaccounts/")
            || path.contains("/secrets/");
        let depth = path.split('/').filter(|part| !part.is_empty()).count();
        match asked.verb.as_str() {
            _ if is_check => Self::Check,
            "list" | "watch" => Self::Watch,
            "get" if depth <= 3 || path.starts_with("/openapi") => Self::Discovery,
            _ => Self::Work,
        }
    }
}

fn deployment(name: &str, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": image}]}}}})
}

fn until_it_runs(scene: &Scene, rounds: usize) {
    let admin = scene.cluster.api(User::Admin);
    for name in ["ours", "theirs"] {
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
        admin.post(&path, &deployment(name, &scene.images[0])).expect_ok();
        measure(&mut scene.lighter(&["rollout", "wait", &format!("deployment/{name}")]));
    }
    let before = [scene.cluster.audited("lighter").len(), scene.cluster.audited("kubectl").len()];
    let (mut ours, mut theirs) = (scene.images.iter().cycle().skip(1), scene.images.iter().cycle().skip(1));
    hold(
        "deploy/until-it-runs",
        rounds,
        vec![
            Contestant::new("lighter deploy", || {
                let image = ours.next().expect("a cycle has no end");
                measure(&mut scene.lighter(&["deploy", "--image", image, "--target", "deployment/ours"]))
            }),
            Contestant::new("kubectl set+status", || {
                let image = theirs.next().expect("a cycle has no end");
                measure(&mut scene.kubectl(&format!(
                    "kubectl set image deployment/theirs web={image} && kubectl rollout status deployment/theirs"
                )))
            }),
        ],
    );
    scene.print_requests("lighter deploy", "lighter", before[0], rounds);
    scene.print_requests("kubectl set+status", "kubectl", before[1], rounds);
    println!();
}

/// Both make a new Deployment, wait until it runs, and remember nothing of the server: what they keep of it is deleted.
fn cold_apply(scene: &Scene, rounds: usize) {
    let before = [scene.cluster.audited("lighter").len(), scene.cluster.audited("kubectl").len()];
    let manifest = |name: &str| {
        for cache in [".kube/cache", ".cache/lighter"] {
            let path = scene.client.home().join(cache);
            if path.exists() {
                std::fs::remove_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        }
        let path = scene.client.home().join(format!("{name}.json"));
        std::fs::write(&path, deployment(name, &scene.images[0]).to_string()).expect("write a manifest");
        path.display().to_string()
    };
    let (mut our_round, mut their_round) = (0, 0);
    hold(
        "deploy/cold-apply",
        rounds,
        vec![
            Contestant::new("lighter apply", || {
                our_round += 1;
                measure(&mut scene.lighter(&["apply", "-f", &manifest(&format!("ours-{our_round}"))]))
            }),
            Contestant::new("kubectl apply+status", || {
                their_round += 1;
                let name = format!("theirs-{their_round}");
                let file = manifest(&name);
                measure(
                    &mut scene.kubectl(&format!("kubectl apply -f {file} && kubectl rollout status deployment/{name}")),
                )
            }),
        ],
    );
    scene.print_requests("lighter apply", "lighter", before[0], rounds);
    scene.print_requests("kubectl apply", "kubectl", before[1], rounds);
    println!();
}
