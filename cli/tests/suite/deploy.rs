//! `lighter deploy`, `diff` and `pull-secret` as people type them, up to the first write: on an API server and a
//! registry that answer as the test says. Real rollouts are in `rollout.rs` and `ship.rs`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fixtures::den::Den;
use fixtures::http::{Received, Reply, Scripted};
use oci::Digest;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "{\"os\":\"linux\",\"architecture\":\"amd64\"}";
/// `robot:right` and `me:mine`
const ROBOT: &str = "Basic cm9ib3Q6cmlnaHQ=";
const ME: &str = "Basic bWU6bWluZQ==";

fn manifest() -> String {
    let blob = |kind: &str, content: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(content), "size": content.len()});
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": blob("config.v1+json", CONFIG.as_bytes()), "layers": [blob("layer.v1.tar+gzip", b"layer")]}).to_string()
}

/// A registry with one image, for us and the robot; its layer may be missing.
fn registry(has_layer: bool) -> Scripted {
    let layer = Digest::of(b"layer").to_string();
    Scripted::start(move |request: &Received| -> Reply {
        if !request.header("authorization").is_some_and(|login| [ROBOT, ME].contains(&login)) {
            return (401, vec![("www-authenticate", "Basic realm=\"test\"".into())], String::new());
        }
        let kind = |text: &str| vec![("content-type", text.to_owned())];
        match request.target.rsplit('/').next().unwrap_or_default() {
            _ if request.target == "/v2/" => (200, vec![], String::new()),
            _ if request.target.contains("/manifests/") => {
                let headers =
                    [kind(MANIFEST), vec![("docker-content-digest", Digest::of(manifest().as_bytes()).to_string())]]
                        .concat();
                (200, headers, manifest())
            }
            digest if digest == layer && !has_layer => (404, vec![], String::new()),
            digest if digest == layer => (200, kind("application/octet-stream"), "layer".into()),
            _ => (200, kind("application/octet-stream"), CONFIG.into()),
        }
    })
}

/// A cluster with a Deployment `web`, whose pods log in with this password; writes are dry runs only.
fn api(image: String, password: &'static str) -> Scripted {
    Scripted::start(move |request: &Received| -> Reply {
        let answer = |body: Value| (200, vec![("content-type", "application/json".to_owned())], body.to_string());
        let deployment = |image: &str| {
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "demo", "uid": "u", "resourceVersion": "1", "generation": 1},
            "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "web", "image": image}]}}}})
        };
        let path = request.target.split('?').next().unwrap_or_default();
        let config = json!({"auths": {registry_of(&image): {"username": "robot", "password": password}}}).to_string();
        let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
        match (request.method.as_str(), path) {
            ("GET", "/version") => answer(json!({"gitVersion": "v1.30.0"})),
            ("GET", "/apis") => answer(
                json!({"groups": [{"name": "apps", "versions": [{"version": "v1"}], "preferredVersion": {"version": "v1"}}]}),
            ),
            ("GET", "/apis/apps/v1") => answer(
                json!({"resources": [{"name": "deployments", "kind": "Deployment", "namespaced": true, "shortNames": ["deploy"]}]}),
            ),
            ("GET", "/apis/apps/v1/namespaces/demo/deployments/web") => {
                answer(deployment(&format!("{}/shop/web:0", registry_of(&image))))
            }
            ("PATCH", "/apis/apps/v1/namespaces/demo/deployments/web") if request.target.contains("dryRun=All") => {
                answer(deployment(&image))
            }
            ("GET", "/api/v1/nodes") => answer(json!({"items": []})),
            ("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews") => {
                answer(json!({"status": {"resourceRules": all}}))
            }
            ("GET", "/api/v1/namespaces/demo/serviceaccounts/default") => {
                answer(json!({"imagePullSecrets": [{"name": "pull"}]}))
            }
            ("GET", "/api/v1/namespaces/demo/secrets/pull") => {
                answer(json!({"data": {".dockerconfigjson": base64(config.as_bytes())}}))
            }
            (method, path) => {
                let body =
                    json!({"kind": "Status", "code": 404, "message": format!("no {method} {path} in this script")});
                (404, vec![("content-type", "application/json".to_owned())], body.to_string())
            }
        }
    })
}

fn registry_of(image: &str) -> &str {
    image.split('/').next().unwrap_or_default()
}

/// Written out here, so that what a test sends does not come through the code that it tests.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let bits = three.iter().chain([&0, &0]).take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let letter = |place: u32| char::from(LETTERS[(bits >> (18 - 6 * place)) as usize & 63]);
        (0..4).map(|place| if place as usize > three.len() { '=' } else { letter(place) }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

struct Scene {
    den: Den,
    kubeconfig: PathBuf,
    image: String,
    _servers: [Scripted; 2],
}

impl Scene {
    fn new(has_layer: bool, password: &'static str) -> Scene {
        let den = Den::new("deploy");
        let registry = registry(has_layer);
        let image = format!("{}/shop/web:1", registry.address());
        let api = api(image.clone(), password);
        let kubeconfig = den.path().join("kubeconfig");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "demo"}}],
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", api.address())}}]});
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let logins = json!({"auths": {registry.address().to_string(): {"username": "me", "password": "mine"}}});
        std::fs::write(den.path().join("auth.json"), logins.to_string()).unwrap();
        Scene { den, kubeconfig, image, _servers: [registry, api] }
    }

    /// Runs lighter; the exit code must be this one. What went to stdout and stderr.
    fn lighter(&self, arguments: &[&str], code: i32) -> (String, String) {
        let auth = self.den.path().join("auth.json");
        lighter(
            arguments,
            code,
            &[("HOME", self.den.path()), ("KUBECONFIG", &self.kubeconfig), ("REGISTRY_AUTH_FILE", &auth)],
        )
    }

    fn deploy(&self, more: &[&str], code: i32) -> (String, String) {
        let usual = ["deploy", "--image", &self.image, "--target", "deploy/web", "--dry-run"];
        self.lighter(&[&usual, more].concat(), code)
    }
}

fn lighter(arguments: &[&str], code: i32, environment: &[(&str, &Path)]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lighter"));
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let Output { status, stdout, stderr } = command.output().expect("lighter starts");
    let (told, data) = (String::from_utf8(stderr).unwrap(), String::from_utf8(stdout).unwrap());
    assert_eq!(status.code(), Some(code), "{arguments:?}: {told}");
    (data, told)
}

#[test]
fn the_pods_own_logins_decide_whether_an_image_can_be_had() {
    let well = Scene::new(true, "right");
    let pinned = format!("{}@{}", well.image, Digest::of(manifest().as_bytes()));
    let (data, told) = well.deploy(&["--diff"], 0);
    assert_eq!(data.trim(), pinned);
    assert!(
        told.contains("spec.template.spec.containers[web].image: ") && told.contains("the server would take this"),
        "{told}"
    );

    let (_, told) = Scene::new(false, "right").deploy(&[], 10);
    assert!(told.contains(&Digest::of(b"layer").to_string()), "the layer is named: {told}");

    let denied = Scene::new(true, "wrong");
    let (_, told) = denied.deploy(&[], 10);
    assert!(told.contains("with the imagePullSecrets pull") && told.contains("lighter pull-secret ensure"), "{told}");
    assert!(!told.contains("wrong") || !told.contains("password"), "{told}");
    let (_, told) = denied.deploy(&["--nodes-log-in"], 0);
    assert!(told.contains("warning: deployment/web in namespace demo: the registry refuses the image"), "{told}");
}

#[test]
fn machines_get_json_and_junit() {
    let scene = Scene::new(false, "right");
    let (json, junit) = (scene.den.path().join("deploy.json"), scene.den.path().join("deploy.xml"));
    let files = ["--output-json", json.to_str().unwrap(), "--report-junit", junit.to_str().unwrap()];
    scene.deploy(&files, 10);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&document["format"], &document["exit"], &document["changed"]), (&json!(1), &json!(10), &json!(true)));
    assert_eq!(document["plan"][0]["images"][0]["container"], "web");
    assert!(document["error"].as_str().unwrap().contains("could not pull"), "{document}");
    assert!(std::fs::read_to_string(&junit).unwrap().contains("failures=\"1\""));

    let well = Scene::new(true, "right");
    let (data, _) = well.deploy(&["-o", "json"], 0);
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap()["exit"], 0);
    let (data, _) = well.deploy(&["-o", "ndjson"], 0);
    let last: Value = serde_json::from_str(data.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "report");
    let (_, told) = scene.deploy(&["--output-json", "/nowhere/x.json"], 66);
    assert!(told.contains("cannot write the report"), "before anything is done: {told}");
}

#[test]
fn a_difference_has_an_exit_code_of_its_own() {
    let scene = Scene::new(true, "right");
    let (data, _) = scene.lighter(&["diff", "--image", &scene.image, "--target", "deployment/web"], 1);
    assert!(data.contains("~ spec.template.spec.containers[web].image: "), "{data}");
    scene.lighter(&["diff", "--image", &scene.image, "--target", "deployment/web/nosuch"], 10);
}

#[test]
fn what_makes_no_sense_is_refused_before_any_server_is_asked() {
    let nowhere = Path::new("/nowhere");
    for (arguments, word) in [
        (&["deploy", "--target", "deployment/web"][..], "--image"),
        (&["deploy", "--image", "r.test/a"], "--target"),
        (&["deploy", "--image", "", "--target", "deployment/web"], "names no image"),
        (&["deploy", "--image", "r.test/a", "--target", "web"], "is no target"),
        (&["deploy", "--image", "r.test/a", "--target", "deployment/web", "--require", "half"], "maxUnavailable"),
        (&["deploy", "--image", "r.test/a", "--target", "deployment/web", "--prune"], "--set"),
        (
            &["deploy", "--image", "r.test/a", "--target", "deployment/web", "--image-path", "Rollout=.spec"],
            "GROUP/KIND",
        ),
        (
            &[
                "deploy",
                "--image",
                "r.test/a",
                "--target",
                "deployment/web",
                "--server",
                "https://x",
                "--token-env",
                "UNSET",
            ],
            "UNSET",
        ),
        (&["deploy", "--image", "r.test/a", "--wave", "deployment/web,"], "is no target"),
        (&["pull-secret", "ensure", "--repo", "r.test/shop"], "no login for r.test/shop"),
        (&["deploy", "rbac", "--target", "rollout/web"], "PLURAL.GROUP"),
    ] {
        let code = if arguments[1] == "rbac" { 10 } else { 64 };
        let (_, told) = lighter(arguments, code, &[("HOME", nowhere)]);
        assert!(told.contains(word), "{arguments:?}: {told}");
    }
}

#[test]
fn the_role_of_a_deploy_is_printed_without_a_cluster() {
    let (data, _) = lighter(
        &["deploy", "rbac", "--target", "deployment/web", "-n", "shop", "--minimal"],
        0,
        &[("HOME", Path::new("/nowhere"))],
    );
    let expected = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: lighter-deployer, namespace: shop}
rules:
- {apiGroups: [\"\"], resources: [\"pods\"], verbs: [\"list\", \"watch\"]}
- {apiGroups: [\"apps\"], resources: [\"replicasets\"], verbs: [\"list\", \"watch\"]}
- {apiGroups: [\"apps\"], resources: [\"deployments\"], resourceNames: [\"web\"], verbs: [\"get\", \"list\", \"patch\", \"watch\"]}
";
    assert_eq!(data, expected);
}
