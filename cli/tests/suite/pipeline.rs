//! The GitLab pipeline that lighter ships (`fixtures/gitlab`), run by gitlab-ci-local on a real git repository,
//! against a real registry and a real cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fixtures::den::Den;
use fixtures::issuer::Issuer;
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{Cluster, User};
use fixtures::registry::Registry;
use serde_json::{Value, json};

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");
/// As in `./test`, which installs it.
const GITLAB_CI_LOCAL: &str = "gitlab-ci-local-4.75.1";
const NAMESPACE: &str = "pipeline";

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What a command said and how it ended.
fn finished(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let Output { status, stdout, stderr } = output;
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

fn succeeds(command: &mut Command) -> String {
    let (code, told) = finished(command);
    assert_eq!(code, Some(0), "{command:?}: {told}");
    told
}

/// gitlab-ci-local and the node that it runs on.
fn runner() -> Command {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    let modules = cache.unwrap_or_else(home).join("lighter").join(GITLAB_CI_LOCAL).join("node_modules");
    let node = modules.join("node/bin/node");
    assert!(node.is_file(), "{} is missing; ./test installs it", node.display());
    let rsync = Command::new("rsync").arg("--version").output();
    assert!(rsync.is_ok(), "rsync is missing; install the Debian package rsync");
    let mut command = Command::new(node);
    command.arg(modules.join("gitlab-ci-local/dist/index.js"));
    command
}

/// A project on a GitLab that nobody reaches: a clone of it, and a runner for its pipelines.
struct Project {
    den: Den,
    registry: String,
    kubeconfig: PathBuf,
    /// What GitLab would have set: its token for the jobs of this project.
    token: String,
}

impl Project {
    fn new(registry: &Registry, kubeconfig: PathBuf, token: String) -> Self {
        let project = Self { den: Den::new("pipeline"), registry: registry.address().to_string(), kubeconfig, token };
        fs::create_dir_all(project.den.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(LIGHTER, project.den.path().join("bin/lighter")).unwrap();
        let copy = |from: &str| succeeds(Command::new("cp").arg("-rT").arg(self::project(from)).arg(project.clone()));
        copy("fixtures/gitlab/consumer");
        succeeds(Command::new("cp").arg("-r").arg(self::project("fixtures/gitlab/templates")).arg(project.clone()));
        fs::write(project.clone().join(".gitignore"), ".gitlab-ci-local/\n").unwrap();
        project.git(&["init", "--quiet", "--initial-branch=main", "."]);
        project.git(&["remote", "add", "origin", "https://gitlab.example.test/Shop/web.git"]);
        project
    }

    /// The working directory.
    fn clone(&self) -> PathBuf {
        self.den.path().join("web")
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.clone()).args(["-c", "user.name=dev", "-c", "user.email=dev@example.test"]);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        succeeds(git.args(arguments))
    }

    /// What a job of the last pipeline left behind.
    fn artifact(&self, job: &str, name: &str) -> String {
        let path = self.clone().join(".gitlab-ci-local/artifacts").join(job).join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Commits a page with this text, and runs the pipeline of the commit: whether it passed, and its log.
    fn push(&self, page: &str) -> (bool, String) {
        fs::write(self.clone().join("site/index.html"), page).unwrap();
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "Change the page"]);
        let bin = self.den.path().join("bin");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
        let mut pipeline = runner();
        pipeline.args(["--force-shell-executor", "--shell-isolation", "--no-artifacts-to-source", "--no-color"]);
        pipeline.args(["--max-job-name-padding", "0"]).args(["--cwd", "."]).current_dir(self.clone());
        pipeline.arg("--home").arg(self.den.path()).env_clear().env("PATH", path).env("HOME", self.den.path());
        for (name, value) in [
            ("LIGHTER_REGISTRY_HOST", self.registry.as_str()),
            ("KUBECONFIG", self.kubeconfig.to_str().unwrap()),
            ("LIGHTER_ID_TOKEN", &self.token), // gitlab-ci-local knows `id_tokens`, and signs none
        ] {
            pipeline.arg("--variable").arg(format!("{name}={value}"));
        }
        let (code, told) = finished(&mut pipeline);
        (code == Some(0), told)
    }
}

/// What the registry is set up with, as its port is not known yet.
const AUDIENCE: &str = "https://registry.example.test";

/// A registry where everybody pulls, and jobs on protected branches push to their own project.
fn registry(issuer: &Issuer) -> Registry {
    let den = Den::new("registry");
    let rules = format!(
        r#"
        [[access.issuers]]
        name = "gitlab"
        issuer = "{}"
        audiences = ["{AUDIENCE}"]
        [[access.rules]]
        subjects = ["anonymous"]
        repositories = ["**"]
        rights = ["pull"]
        [[access.rules]]
        subjects = ["issuer:gitlab"]
        claims = {{ ref_protected = "true" }}
        repositories = ["{{project_path}}", "{{project_path}}/**"]
        rights = ["pull", "push", "overwrite"]
        "#,
        issuer.url()
    );
    fs::write(den.path().join("registry.toml"), rules).unwrap();
    Registry::start_in(den, LIGHTER.into())
}

/// What GitLab signs for a job of a project.
fn token(issuer: &Issuer, registry: &Registry, path: &str, is_protected: bool) -> String {
    issuer.token(&json!({"aud": [AUDIENCE, format!("https://{}", registry.address())], "project_path": path,
        "project_id": "7", "ref_protected": is_protected.to_string()}))
}

/// The image that everything of the consumer is built on: the lower stage of the toolchain's Dockerfile.
fn push_base(registry: &Registry, den: &Den, token: &str) -> (Option<i32>, String) {
    let mut build = Command::new(LIGHTER);
    build.args(["build", "--target", "base", "--push", "-t", &registry.reference("base/busybox:1")]);
    build.args(["--build-context", "system=/usr", "--build-context", "certificates=/etc/ssl/certs"]);
    build.env("LIGHTER_ID_TOKEN", token).env("HOME", den.path());
    finished(build.arg(project("fixtures/toolchain")))
}

#[test]
fn the_gitlab_pipeline_runs() {
    let cluster = Cluster::shared();
    cluster.namespace(NAMESPACE);
    let admin = cluster.api(User::Admin);
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    // From the second version on, no image can be pulled.
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = Arc::clone(&is_broken);
    let first: Arc<std::sync::OnceLock<String>> = Arc::default();
    let good = Arc::clone(&first);
    let _kubelet = Kubelet::start(cluster, NAMESPACE, move |pod| {
        let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        let is_good = !broken.load(Ordering::Relaxed) || good.get().is_none_or(|good| good == image);
        if is_good { Fate::Runs } else { Fate::PullFails("manifest unknown: not found".into()) }
    });
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": "nothing-yet"}]}}}});
    admin.post(&path, &deployment).expect_ok();
    let live = || admin.object(&format!("{path}/web"));
    let image = |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"].clone();

    let issuer = Issuer::start();
    let registry = registry(&issuer);
    let job = token(&issuer, &registry, "Shop/web", true);
    let project = Project::new(&registry, cluster.kubeconfig(User::Admin, NAMESPACE), job.clone());
    // Neither a job of another project nor one on an unprotected branch may push here.
    for stranger in [job, token(&issuer, &registry, "base/busybox", false)] {
        let (code, told) = push_base(&registry, &project.den, &stranger);
        assert_eq!(code, Some(77), "{told}");
    }
    let (code, told) = push_base(&registry, &project.den, &token(&issuer, &registry, "base/busybox", true));
    assert_eq!(code, Some(0), "{told}");

    // What is pushed is built, and what was built runs: the digest goes from job to job.
    let (passed, told) = project.push("<html>one</html>\n");
    assert!(passed, "{told}");
    let commit = project.git(&["rev-parse", "HEAD"]);
    let tag = registry.send("GET", "/v2/shop/web/manifests/main", &[("accept", "*/*")], b"").expect(200);
    let digest = tag.header("docker-content-digest").expect("a digest").to_owned();
    let running = image(&live()).as_str().expect("an image").to_owned();
    assert!(running.starts_with(&registry.reference("shop/web:")) && running.ends_with(&digest), "{running}");
    assert!(running.contains(&commit[..8]), "the tag is the commit's: {running}");
    assert_eq!(live()["status"]["availableReplicas"], 1);
    registry.send("GET", "/v2/shop/web/cache/manifests/latest", &[("accept", "*/*")], b"").expect(200);
    let report = project.artifact("lighter-deploy", "deploy-report.xml");
    assert!(report.contains("<testcase") && report.contains("deployment/web"), "{report}");
    let document: Value = serde_json::from_str(&project.artifact("lighter-deploy", "deploy.json")).expect("JSON");
    assert!(document.to_string().contains(&digest), "{document}");
    first.set(running.clone()).expect("set once");
    is_broken.store(true, Ordering::Relaxed);

    // A job that fails ends the pipeline: nothing is pushed, nothing deployed.
    let generation = live()["metadata"]["generation"].clone();
    let (passed, told) = project.push("<html>two is not closed\n");
    assert!(!passed && told.contains("FAIL") && told.contains("lighter-build"), "{told}");
    assert!(told.contains("grep -q"), "the log says which command failed: {told}");
    let tag = registry.send("GET", "/v2/shop/web/manifests/main", &[("accept", "*/*")], b"").expect(200);
    assert_eq!(tag.header("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(live()["metadata"]["generation"], generation);

    // A version that does not come to run is taken back, and the pipeline says why it failed.
    let (passed, told) = project.push("<html>three</html>\n");
    assert!(!passed && told.contains("manifest unknown"), "{told}");
    assert_eq!(image(&live()), running.as_str());
}
