//! The files for CI systems other than GitLab's component: what their steps type is run, in the shell and with the
//! variables of that system, against a real registry and a real cluster. What the systems themselves do is not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fixtures::den::Den;
use fixtures::http::{Received, Reply, Scripted};
use fixtures::issuer::Issuer;
use fixtures::kubernetes::kubelet::{Fate, Kubelet};
use fixtures::kubernetes::{Cluster, User};
use fixtures::registry::Registry;
use serde_json::{Value, json};

const LIGHTER: &str = env!("CARGO_BIN_EXE_lighter");
const COMMIT: &str = "8f0c3a5b7d9e1f2a4b6c8d0e2f4a6b8c0d1e3f5a";
/// The host in the files, which whoever copies them replaces by their own.
const EXAMPLE: &str = "registry.example.com:5000";
const AUDIENCE: &str = "https://registry.example.test";

/// One CI system's machine: a checked-out project, lighter on the path, a registry that wants a login for pushes, and
/// a namespace with a Deployment that runs something else.
struct Job {
    den: Den,
    registry: Registry,
    issuer: Issuer,
    kubeconfig: PathBuf,
    namespace: &'static str,
    variables: BTreeMap<String, String>,
    _kubelet: Kubelet,
}

impl Job {
    fn new(namespace: &'static str) -> Self {
        let (den, data) = (Den::new("systems"), Den::new("registry"));
        fs::create_dir(den.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(LIGHTER, den.path().join("bin/lighter")).unwrap();
        let project = den.path().join("project");
        fs::create_dir(&project).unwrap();
        fs::write(project.join("Dockerfile"), "FROM scratch\nCOPY page /\n").unwrap();
        fs::write(project.join("page"), namespace).unwrap();
        let issuer = Issuer::start();
        let rules = format!(
            r#"
            [[access.issuers]]
            name = "ci"
            issuer = "{}"
            audiences = ["{AUDIENCE}"]
            [[access.rules]]
            subjects = ["anonymous"]
            repositories = ["**"]
            rights = ["pull"]
            [[access.rules]]
            subjects = ["issuer:ci"]
            claims = {{ repository_id = "7" }}
            repositories = ["shop/web"]
            rights = ["pull", "push"]
            "#,
            issuer.url()
        );
        fs::write(data.path().join("registry.toml"), rules).unwrap();
        let registry = Registry::start_in(data, LIGHTER.into());
        let cluster = Cluster::shared();
        cluster.namespace(namespace);
        let kubelet = Kubelet::start(cluster, namespace, |_| Fate::Runs);
        let deployment = json!({"metadata": {"name": "web"}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "web", "image": "registry.test/web:0"}]}}}});
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
        cluster.api(User::Admin).post(&path, &deployment).expect_ok();
        let kubeconfig = cluster.kubeconfig(User::Admin, namespace);
        Self { den, registry, issuer, kubeconfig, namespace, variables: BTreeMap::new(), _kubelet: kubelet }
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.insert(name.to_owned(), value.into());
    }

    /// The file as a user has it: with their own registry.
    fn file(&self, path: &str) -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(path);
        let text = fs::read_to_string(path).unwrap().replace(EXAMPLE, &self.registry.address().to_string());
        serde_norway::from_str(&text).unwrap()
    }

    /// A robot's login, as docker keeps it.
    fn robot(&self) -> String {
        let data = self.registry.data();
        let create = ["registry", "token", "create", "ci", "--allow", "pull,push", "--repository", "shop/**", "--data"];
        let output = Command::new(LIGHTER).args(create).arg(&data).env("HOME", self.den.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8(output.stdout).unwrap();
        let login = json!({"username": "ci", "password": token.trim()});
        json!({"auths": {self.registry.address().to_string(): login}}).to_string()
    }

    /// Runs a script with this shell; the exit code must be this one. What it said.
    fn run(&self, shell: &[&str], script: &str, variables: &BTreeMap<String, String>, code: i32) -> String {
        let file = self.den.path().join("step.sh");
        fs::write(&file, script).unwrap();
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(&file).current_dir(self.den.path().join("project")).stdin(Stdio::null());
        let path = format!("{}:/usr/bin:/bin", self.den.path().join("bin").display());
        command.env_clear().env("PATH", path).env("HOME", self.den.path()).envs(&self.variables).envs(variables);
        let output = command.output().unwrap_or_else(|error| panic!("{shell:?}: {error}"));
        let Output { status, stdout, stderr } = output;
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(code), "{script}\n{said}");
        said
    }

    /// What the container runs now is the image of this tag, by its digest.
    fn runs(&self, tag: &str) {
        let path = format!("/apis/apps/v1/namespaces/{}/deployments/web", self.namespace);
        let object = Cluster::shared().api(User::Admin).object(&path);
        let image = object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
        let named = self.registry.reference(&format!("shop/web:{tag}"));
        assert!(image.starts_with(&format!("{named}@sha256:")), "{image} is not of {named}");
        assert_eq!(object["status"]["availableReplicas"], 1);
    }
}

/// The steps of Woodpecker and Drone: each in its own shell, in the same working directory.
fn containers(job: &mut Job, file: &str, set: &[(&str, &str)]) {
    for (name, value) in set {
        job.set(name, *value);
    }
    let secrets = [("docker_auth_config", job.robot()), ("kubeconfig", fs::read_to_string(&job.kubeconfig).unwrap())];
    let document = job.file(file);
    let steps = document["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    for step in steps {
        let environment = step["environment"].as_object().unwrap().iter().map(|(name, value)| {
            let secret = value["from_secret"].as_str().expect("every value is a secret");
            let known = secrets.iter().find(|(known, _)| *known == secret);
            (name.clone(), known.unwrap_or_else(|| panic!("no secret {secret}")).1.clone())
        });
        let environment = environment.collect();
        let commands: Vec<&str> =
            step["commands"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        // The toolchain image has busybox for a shell.
        job.run(&["busybox", "sh", "-e"], &commands.join("\n"), &environment, 0);
    }
    job.runs(COMMIT);
}

#[test]
fn woodpecker_builds_pushes_and_deploys() {
    let mut job = Job::new("woodpecker");
    containers(&mut job, "woodpecker/lighter.yml", &[("CI_REPO", "shop/web"), ("CI_COMMIT_SHA", COMMIT)]);
}

#[test]
fn drone_builds_pushes_and_deploys() {
    let mut job = Job::new("drone");
    containers(&mut job, "drone/lighter.yml", &[("DRONE_REPO", "shop/web"), ("DRONE_COMMIT_SHA", COMMIT)]);
}

/// Puts values in the place of `${{ … }}`; every expression has to be known.
fn evaluated(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut parts = text.split("${{");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (expression, rest) = part.split_once("}}").expect("an expression ends");
        let value = known.get(expression.trim()).unwrap_or_else(|| panic!("nobody sets {expression}"));
        result += value;
        result += rest;
    }
    result
}

/// `NAME=VALUE` lines of the files by which steps hand things on.
fn handed_on(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

#[test]
fn github_builds_pushes_and_deploys() {
    let mut job = Job::new("github");
    let host = job.registry.address().to_string();
    // GitHub signs a token for whoever shows the job's own secret.
    let token = job.issuer.token(&json!({"aud": [AUDIENCE, format!("https://{host}")], "repository_id": "7"}));
    let wanted = format!("audience=https://{host}");
    let github = Scripted::start(move |request: &Received| -> Reply {
        let is_job = request.header("authorization") == Some("bearer of-the-job");
        match is_job && request.target.ends_with(&wanted) {
            true => (200, vec![], json!({"value": token}).to_string()),
            false => (401, vec![], String::new()),
        }
    });
    job.set("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-the-job");
    job.set("ACTIONS_ID_TOKEN_REQUEST_URL", format!("http://{}/token?api-version=2.0", github.address()));
    for (name, file) in [("GITHUB_ENV", "env"), ("GITHUB_OUTPUT", "output"), ("RUNNER_TEMP", "")] {
        job.set(name, job.den.path().join(file).display().to_string());
    }
    job.set("GITHUB_REPOSITORY", "Shop/Web"); // its names may have capitals
    job.set("GITHUB_SHA", COMMIT);
    let mut known = BTreeMap::from([
        ("vars.REGISTRY".to_owned(), host),
        ("secrets.KUBECONFIG".to_owned(), fs::read_to_string(&job.kubeconfig).unwrap()),
    ]);

    let document = job.file("github/lighter.yml");
    assert_eq!(document["permissions"]["id-token"], "write", "else GitHub signs nothing");
    let steps = document["jobs"]["ship"]["steps"].as_array().unwrap();
    let scripts: Vec<&Value> = steps.iter().filter(|step| step["run"].is_string()).collect();
    let [install, rest @ ..] = &scripts[..] else { panic!("{steps:?}") };
    // The package is installed by another test (install.rs), on a machine that may be changed.
    assert!(install["run"].as_str().unwrap().contains("apt-get install -y ./lighter.deb"));
    assert_eq!(rest.len(), 2);
    for step in rest {
        let environment = step["env"].as_object().into_iter().flatten();
        let environment = environment.map(|(name, value)| (name.clone(), evaluated(value.as_str().unwrap(), &known)));
        let environment = environment.collect();
        let script = evaluated(step["run"].as_str().unwrap(), &known);
        let said = job.run(&["bash", "--noprofile", "--norc", "-eo", "pipefail"], &script, &environment, 0);
        let outputs = handed_on(&job.den.path().join("output"));
        if let Some(id) = step["id"].as_str() {
            known.extend(outputs.into_iter().map(|(name, value)| (format!("steps.{id}.outputs.{name}"), value)));
        }
        for (name, value) in handed_on(&job.den.path().join("env")) {
            let masked = said.lines().any(|line| line == format!("::add-mask::{value}"));
            assert!(masked || job.variables.contains_key(&name), "{name} is a secret: {said}");
            job.set(&name, value);
        }
    }
    job.runs(COMMIT);
}

#[test]
fn a_shell_runner_of_gitlab_builds_pushes_and_deploys() {
    let mut job = Job::new("shell-runner");
    let document = job.file("gitlab/shell-runner.gitlab-ci.yml");
    let host = job.registry.address().to_string();
    for (name, value) in [
        ("CI_PROJECT_PATH", "shop/web"),
        ("CI_COMMIT_SHORT_SHA", "8f0c3a5b"),
        ("CI_COMMIT_SHA", COMMIT),
        ("CI_COMMIT_BRANCH", "main"),
        ("CI_DEFAULT_BRANCH", "main"),
        ("CI_PIPELINE_IID", "12"),
        ("GITLAB_CI", "true"),
    ] {
        job.set(name, value);
    }
    job.set("KUBECONFIG", job.kubeconfig.display().to_string());
    // GitLab expands variables in variables, and in what a token is for.
    let expanded = |job: &Job, text: &str| {
        job.variables.iter().rev().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
    };
    for _ in 0..2 {
        for (name, value) in document["variables"].as_object().unwrap() {
            let value = expanded(&job, value.as_str().unwrap());
            job.set(name, value);
        }
    }
    assert_eq!(job.variables["REPOSITORY"], format!("{host}/shop/web"));
    for (name, token) in document["default"]["id_tokens"].as_object().unwrap() {
        let audience = expanded(&job, token["aud"].as_str().unwrap());
        assert_eq!(audience, format!("https://{host}"));
        let claims = json!({"aud": [AUDIENCE, audience], "repository_id": "7"});
        let token = job.issuer.token(&claims);
        job.set(name, token);
    }
    let script = |name: &str| {
        let lines = document[name]["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
        lines.collect::<Vec<_>>().join("\n")
    };
    let shell = ["bash", "-eo", "pipefail"];
    job.run(&shell, &script("build"), &BTreeMap::new(), 0);
    assert_eq!(document["deploy"]["needs"][0], "build");
    let dotenv = document["build"]["artifacts"]["reports"]["dotenv"].as_str().unwrap();
    let handed = handed_on(&job.den.path().join("project").join(dotenv));
    for (name, value) in handed {
        job.set(&name, value);
    }
    job.run(&shell, &script("deploy"), &BTreeMap::new(), 0);
    let junit = document["deploy"]["artifacts"]["reports"]["junit"].as_str().unwrap();
    let junit = fs::read_to_string(job.den.path().join("project").join(junit)).unwrap();
    assert!(junit.contains("<testsuite"), "{junit}");
    job.runs("8f0c3a5b");

    // A pipeline that was overtaken changes nothing.
    job.set("CI_PIPELINE_IID", "11");
    job.run(&shell, &script("deploy"), &BTreeMap::new(), 12);
}
