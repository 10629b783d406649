//! Somebody who types at a terminal, with a namespace of the cluster; and images that are there to be rolled out.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use fixtures::clients::{Client, Lighter};
use fixtures::den::Den;
use fixtures::images::Image;
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{Api, Cluster, User};
use fixtures::registry::Registry;
use serde_json::Value;

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");

/// A namespace in which a kubelet runs pods, and a home from which it is reached.
pub struct Desk {
    pub namespace: &'static str,
    /// Whoever looks past lighter at what there really is.
    pub admin: Api,
    pub kubeconfig: PathBuf,
    pub den: Den,
    _kubelet: Kubelet,
}

impl Desk {
    /// What becomes of a pod is said by `fate`.
    pub fn new(namespace: &'static str, fate: impl Fn(&Value) -> Fate + Send + 'static) -> Self {
        let cluster = Cluster::shared();
        cluster.namespace(namespace);
        let kubelet = Kubelet::start(cluster, namespace, fate);
        let kubeconfig = cluster.kubeconfig(User::Admin, namespace);
        Self { namespace, admin: cluster.api(User::Admin), kubeconfig, den: Den::new(namespace), _kubelet: kubelet }
    }

    /// Where objects of a kind are; `kind` ends with the plural, `name` may be empty.
    pub fn path(&self, kind: &str, name: &str) -> String {
        let (root, plural) = kind.rsplit_once('/').expect("a path of a kind");
        format!("{root}/namespaces/{}/{plural}/{name}", self.namespace)
    }

    pub fn create(&self, kind: &str, object: &Value) {
        self.admin.post(self.path(kind, "").trim_end_matches('/'), object).expect_ok();
    }

    pub fn object(&self, kind: &str, name: &str) -> Value {
        self.admin.object(&self.path(kind, name))
    }

    /// Runs lighter; the exit code must be this one. What went to stdout and stderr.
    pub fn lighter(&self, arguments: &[&str], code: i32) -> (String, String) {
        let mut command = Command::new(LIGHTER);
        command.args(arguments).env_clear().env("HOME", self.den.path()).env("KUBECONFIG", &self.kubeconfig);
        let Output { status, stdout, stderr } = command.output().expect("lighter starts");
        let (told, data) = (String::from_utf8(stderr).unwrap(), String::from_utf8(stdout).unwrap());
        assert_eq!(status.code(), Some(code), "{arguments:?}: {told}");
        (data, told)
    }

    /// Waits until Deployments run well.
    pub fn wait(&self, names: &[&str]) {
        for name in names {
            self.lighter(&["rollout", "wait", &format!("deployment/{name}"), "--timeout", "60s"], 0);
        }
    }
}

/// Images of a registry that runs, pinned: two versions of `web`, a `proxy`, and one that tests let pods fail with.
pub struct Images {
    pub web: [String; 2],
    pub proxy: String,
    pub bad: String,
    pub registry: Registry,
}

impl Images {
    pub fn shared() -> &'static Images {
        static SHARED: OnceLock<Images> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (registry, client) = (Registry::start(LIGHTER), Lighter::new(LIGHTER.as_ref()));
            let push = |seed: u64, name: &str| {
                let (image, name) = (Image::small(seed), registry.reference(name));
                client.push(&image, &name);
                format!("{name}@{}", image.manifest.digest)
            };
            let web = [push(1, "web:1"), push(2, "web:2")];
            Images { web, proxy: push(3, "proxy:1"), bad: push(4, "web:bad"), registry }
        })
    }
}
