//! What every test on the real API server needs: a namespace with a kubelet, one connected [`Cluster`],
//! a Deployment to change, and images of numbered versions.

use deployer::{Cluster, ConnectOptions, Error, Image, Manifest, Outcome, Plan, Policy, Provenance, Request, What};
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{self, Api, RESTRICTED_USER, User};
use oci::{Digest, Reference};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
pub const SERVICES: &str = "/api/v1/services";

pub struct Stage {
    pub fixture: &'static kubernetes::Cluster,
    pub namespace: String,
    pub admin: Api,
    pub cluster: Cluster,
    _kubelet: Kubelet,
}

impl Stage {
    /// A namespace in which `fate` decides over all pods.
    pub async fn new(namespace: &str, fate: impl Fn(&Value) -> Fate + Send + 'static) -> Stage {
        let fixture = kubernetes::Cluster::shared();
        fixture.namespace(namespace);
        let cluster = connect(fixture, User::Admin, namespace).await.expect("the fixture's kubeconfig works");
        Stage {
            fixture,
            namespace: namespace.to_owned(),
            admin: fixture.api(User::Admin),
            cluster,
            _kubelet: Kubelet::start(fixture, namespace, fate),
        }
    }

    /// The same with a Deployment `web` of two pods, rolled out, that runs version 1.
    pub async fn with_deployment(namespace: &str, fate: impl Fn(&Value) -> Fate + Send + 'static) -> Stage {
        let stage = Stage::new(namespace, fate).await;
        stage.create(DEPLOYMENTS, &deployment(1, 2));
        stage.settle("web").await;
        stage
    }

    pub async fn connect(&self, user: User) -> Result<Cluster, Error> {
        connect(self.fixture, user, &self.namespace).await
    }

    /// `/apis/apps/v1/deployments` and `web` to the path in this namespace.
    pub fn path(&self, kind: &str, name: &str) -> String {
        let (root, plural) = kind.rsplit_once('/').expect("a path of a kind");
        format!("{root}/namespaces/{}/{plural}/{name}", self.namespace)
    }

    pub fn object(&self, kind: &str, name: &str) -> Value {
        self.admin.object(&self.path(kind, name))
    }

    pub fn exists(&self, kind: &str, name: &str) -> bool {
        self.admin.get(&self.path(kind, name)).expect("the API server answers").status == 200
    }

    pub fn create(&self, kind: &str, object: &Value) -> Value {
        self.admin.post(self.path(kind, "").trim_end_matches('/'), object).expect_ok()
    }

    /// The images of a Deployment's containers.
    pub fn images(&self, name: &str) -> Vec<String> {
        let object = self.object(DEPLOYMENTS, name);
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
        containers.iter().map(|container| container["image"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until the controller has finished with a Deployment.
    pub async fn settle(&self, name: &str) {
        let is_settled = || {
            let object = self.object(DEPLOYMENTS, name);
            let (wanted, status) = (&object["spec"]["replicas"], &object["status"]);
            status["observedGeneration"] == object["metadata"]["generation"]
                && status["availableReplicas"] == *wanted
                && status["replicas"] == *wanted
                && status["conditions"].to_string().contains("NewReplicaSetAvailable")
        };
        self.until("the deployment settles", is_settled).await;
    }

    pub async fn until(&self, what: &str, is_true: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_true() {
            assert!(Instant::now() < deadline, "not within a minute: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Binds the restricted user to a role with these rules.
    pub fn grant(&self, rules: &Value) {
        let roles = "/apis/rbac.authorization.k8s.io/v1/roles";
        self.create(roles, &json!({"metadata": {"name": "lighter"}, "rules": rules}));
        let binding = json!({"metadata": {"name": "lighter"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lighter"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": RESTRICTED_USER}]});
        self.create("/apis/rbac.authorization.k8s.io/v1/rolebindings", &binding);
        self.wait_until_granted(rules);
    }

    /// The authorizer hears of new rules a moment after they are written.
    fn wait_until_granted(&self, rules: &Value) {
        let user = self.fixture.api(User::Restricted);
        let question = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": self.namespace}});
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let review = user.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &question).expect_ok();
            let known = review["status"]["resourceRules"].to_string();
            let resources = rules.as_array().into_iter().flatten().map(|rule| rule["resources"].to_string());
            if resources.into_iter().all(|resources| known.contains(&resources)) {
                return;
            }
            assert!(Instant::now() < deadline, "the rules do not count: {known}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn request(&self, targets: &[&str], image: Image) -> Request {
        let targets = targets.iter().map(|target| target.parse().expect("a target")).collect();
        Request { provenance: provenance("test"), ..Request::new(Some(image), What::Targets(targets)) }
    }

    pub async fn plan_image(&self, target: &str, image: Image) -> Result<Plan, Error> {
        self.plan_images(&[target], image).await
    }

    pub async fn plan_images(&self, targets: &[&str], image: Image) -> Result<Plan, Error> {
        self.cluster.plan(&self.request(targets, image)).await
    }

    pub async fn plan_manifests(&self, text: &str, image: Option<Image>, cause: &str) -> Result<Plan, Error> {
        let manifests = Manifest::parse_all("web.yaml", text)?;
        let what = What::Manifests(manifests);
        self.cluster.plan(&Request { provenance: provenance(cause), ..Request::new(image, what) }).await
    }

    /// Plans, writes and waits.
    pub async fn deploy(&self, target: &str, image: Image, policy: &Policy) -> Result<Outcome, Error> {
        let plan = self.plan_image(target, image).await?;
        let executed = self.cluster.execute(&plan).await?;
        self.cluster.watch(&executed.tickets, policy, |_| {}).await
    }
}

async fn connect(fixture: &kubernetes::Cluster, user: User, namespace: &str) -> Result<Cluster, Error> {
    let kubeconfig = vec![fixture.kubeconfig(user, namespace)];
    Cluster::connect(&ConnectOptions { kubeconfig, must_exist: true, ..ConnectOptions::default() }).await
}

pub fn provenance(cause: &str) -> Provenance {
    Provenance { change_cause: Some(cause.to_owned()), ..Provenance::default() }
}

/// Version `version` of the test's image, whose platforms are not known.
pub fn image(version: u32) -> Image {
    image_for(version, &[])
}

pub fn image_for(version: u32, platforms: &[&str]) -> Image {
    let reference: Reference = format!("registry.test/shop/web:{version}").parse().expect("a reference");
    let platforms = platforms.iter().map(|platform| platform.parse().expect("a platform")).collect();
    Image::new(reference.pin(Digest::of(&version.to_be_bytes())), [], platforms)
}

/// What stands in the pod template for it.
pub fn pinned(version: u32) -> String {
    image(version).pinned().to_string()
}

/// A Deployment `web` with a container `web` of our image, and another one beside it.
pub fn deployment(version: u32, replicas: u32) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    {"name": "web", "image": pinned(version)},
                    {"name": "side", "image": "registry.test/side:1"},
                ]},
            },
        },
    })
}
