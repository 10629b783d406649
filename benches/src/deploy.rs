//! `deploy`: a new image on a running Deployment, until its pods run it. The API server and its controllers are
//! real, and both contestants talk to the same ones; the kubelet is played, so that only they are measured.

use std::path::Path;
use std::process::Command;

use fixtures::clients::{Client, Lighter};
use fixtures::images::Image;
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{Cluster, User};
use fixtures::registry::Registry;
use serde_json::json;

use crate::contest::{Contestant, hold, measure};

const NAMESPACE: &str = "bench";

pub fn run(lighter: &Path, rounds: usize) {
    let cluster = Cluster::start();
    cluster.namespace(NAMESPACE);
    let _kubelet = Kubelet::start(&cluster, NAMESPACE, |_| Fate::Runs);
    let kubeconfig = cluster.kubeconfig(User::Admin, NAMESPACE);
    let registry = Registry::start(lighter);
    let client = Lighter::new(lighter);
    let images: Vec<String> = [1, 2]
        .iter()
        .map(|seed| {
            let (image, name) = (Image::small(*seed), registry.reference(&format!("bench:{seed}")));
            client.push(&image, &name);
            format!("{name}@{}", image.manifest.digest)
        })
        .collect();
    let admin = cluster.api(User::Admin);
    for name in ["ours", "theirs"] {
        let deployment = json!({"metadata": {"name": name}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": images[0]}]}}}});
        admin.post(&format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments"), &deployment).expect_ok();
        let mut settled = client.command(&["rollout", "wait", &format!("deployment/{name}")]);
        measure(settled.env("KUBECONFIG", &kubeconfig));
    }
    let (mut ours, mut theirs) = (images.iter().cycle().skip(1), images.iter().cycle().skip(1));
    hold(
        "deploy/until-it-runs",
        rounds,
        vec![
            Contestant::new("lighter deploy", || {
                let image = ours.next().expect("a cycle has no end");
                let mut command = client.command(&["deploy", "--image", image, "--target", "deployment/ours"]);
                measure(command.env("KUBECONFIG", &kubeconfig))
            }),
            Contestant::new("kubectl set+status", || {
                let image = theirs.next().expect("a cycle has no end");
                let script = format!(
                    "kubectl set image deployment/theirs web={image} && kubectl rollout status deployment/theirs"
                );
                measure(
                    Command::new("sh").args(["-ec", &script]).env("KUBECONFIG", &kubeconfig).env("HOME", client.home()),
                )
            }),
        ],
    );
}
