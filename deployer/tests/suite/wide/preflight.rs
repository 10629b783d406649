//! Checks before the first write: rights, and whether the pods could pull.

use super::patient;
use crate::stage::{DEPLOYMENTS, Stage, image, pinned};
use deployer::{
    Checks, Class, End, Error, Evidence, Image, Probe, PullSecret, Pullable, Registry, RoleRule, WantedPullSecret,
};
use fixtures::kubernetes::kubelet::Fate;
use fixtures::kubernetes::{RESTRICTED_USER, User};
use oci::Platform;
use serde_json::{Value, json};
use std::sync::Mutex;

const NOTHING: Checks<'static> = Checks { registry: None, nodes_log_in: false, run_once: false };
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/roles";

/// A registry that answers as the test says, and keeps what it was asked.
struct Answers {
    says: Pullable,
    asked: Mutex<Vec<Option<Vec<PullSecret>>>>,
    platforms: Mutex<Vec<String>>,
}

impl Answers {
    fn new(says: Pullable) -> Answers {
        Answers { says, asked: Mutex::default(), platforms: Mutex::default() }
    }

    fn names(&self) -> Vec<Option<Vec<String>>> {
        let names = |logins: &Vec<PullSecret>| logins.iter().map(|login| login.name.clone()).collect();
        self.asked.lock().unwrap().iter().map(|logins| logins.as_ref().map(names)).collect()
    }
}

impl Registry for Answers {
    fn probe<'a>(&'a self, _: &'a Image, platforms: &'a [Platform], logins: Option<&'a [PullSecret]>) -> Probe<'a> {
        self.asked.lock().unwrap().push(logins.map(<[PullSecret]>::to_vec));
        self.platforms.lock().unwrap().extend(platforms.iter().map(ToString::to_string));
        Box::pin(async { self.says.clone() })
    }
}

fn checks(registry: &Answers) -> Checks<'_> {
    Checks { registry: Some(registry), nodes_log_in: false, run_once: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_pods_cannot_pull_is_refused_before_anything_is_written() {
    let stage = Stage::with_deployment("pullable", |_| Fate::Runs).await;
    let accounts = "/api/v1/serviceaccounts";
    stage.create(
        accounts,
        &json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "of-account"}, {"name": "missing"}]}),
    );
    stage.create("/api/v1/secrets", &json!({"metadata": {"name": "of-account"}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": "{\"auths\":{\"registry.test\":{\"username\":\"u\",\"password\":\"p\"}}}"}}));
    let before = stage.object(DEPLOYMENTS, "web");
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let wanted = [image(2).into()];

    let well = Answers::new(Pullable::Yes);
    let findings = stage.cluster.preflight(&plan, &wanted, checks(&well)).await.unwrap();
    assert!(findings.len() == 1 && findings[0].to_string().contains("secret/missing"), "{findings:?}");
    assert_eq!(well.names(), [Some(vec!["of-account".to_owned()])]);
    assert_eq!(*well.platforms.lock().unwrap(), ["linux/amd64"], "of the nodes that the pods may come to");

    let missing = Answers::new(Pullable::Missing("layer sha256:1 is not there".into()));
    let error = stage.cluster.preflight(&plan, &wanted, checks(&missing)).await.unwrap_err();
    assert_eq!(error.class(), Class::Refused);
    assert!(error.to_string().contains("layer sha256:1 is not there"), "{error}");

    let denied = Answers::new(Pullable::Denied("401".into()));
    let error = stage.cluster.preflight(&plan, &wanted, checks(&denied)).await.unwrap_err();
    assert!(error.to_string().contains("with the imagePullSecrets of-account"), "{error}");
    let lenient = Checks { registry: Some(&denied), nodes_log_in: true, run_once: false };
    let findings = stage.cluster.preflight(&plan, &wanted, lenient).await.unwrap();
    assert!(findings.iter().any(|finding| finding.text.contains("refuses the image")), "{findings:?}");

    // A pod's own secrets come instead of those of its account, as the server does it.
    let own = json!({"spec": {"template": {"spec": {"imagePullSecrets": [{"name": "nosuch"}]}}}});
    stage.admin.patch(&stage.path(DEPLOYMENTS, "web"), &own).expect_ok();
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    let anonymous = Answers::new(Pullable::Denied("401".into()));
    let error = stage.cluster.preflight(&plan, &wanted, checks(&anonymous)).await.unwrap_err();
    assert_eq!(anonymous.names(), [Some(vec![])]);
    assert!(error.to_string().contains("have no imagePullSecrets"), "{error}");
    assert_eq!(
        stage.images("web")[0],
        before["spec"]["template"]["spec"]["containers"][0]["image"],
        "nothing was written"
    );
}

/// As manifests of RBAC; `deployer::role` prints the same.
fn rules(rules: &[RoleRule]) -> Value {
    let rule = |rule: &RoleRule| {
        let mut json = json!({"apiGroups": [rule.group], "resources": [rule.resource], "verbs": [rule.verb]});
        if let Some(name) = &rule.name {
            json["resourceNames"] = json!([name]);
        }
        json
    };
    rules.iter().map(rule).collect()
}

fn told(result: &Result<Vec<deployer::Finding>, Error>) -> Vec<RoleRule> {
    match result {
        Err(Error::MissingRights { rules }) => rules.clone(),
        Ok(_) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// Whatever the authorizer has not yet heard of it hears soon.
async fn until_missing(cluster: &deployer::Cluster, plan: &deployer::Plan, expected: &[RoleRule]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let missing = told(&cluster.preflight(plan, &[], NOTHING).await);
        if missing == expected {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{missing:?} is said to be missing, and not {expected:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_role_is_enough_and_each_rule_of_it_is_needed() {
    let stage = Stage::with_deployment("role", |_| Fate::Runs).await;
    let targets = ["deployment/web".parse().unwrap()];
    let needed = deployer::rules(&targets, "role", deployer::Extent::default()).unwrap();
    let path = stage.path(ROLES, "lighter");
    stage.grant(&rules(&needed));
    let restricted = stage.connect(User::Restricted).await.unwrap();
    let plan = stage.plan_image("deployment/web", image(2)).await.unwrap();
    until_missing(&restricted, &plan, &[]).await;

    for (index, rule) in needed.iter().enumerate() {
        let mut fewer = needed.clone();
        fewer.remove(index);
        stage.admin.patch(&path, &json!({"rules": rules(&fewer)})).expect_ok();
        if rule.verb == "get" {
            let looked = async || restricted.plan(&stage.request(&["deployment/web"], image(2))).await.map(drop);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while !matches!(looked().await, Err(Error::Forbidden { .. })) {
                assert!(std::time::Instant::now() < deadline, "without `get`, nothing can be looked at");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        } else {
            until_missing(&restricted, &plan, std::slice::from_ref(rule)).await;
        }
    }
    stage.admin.patch(&path, &json!({"rules": rules(&needed)})).expect_ok();
    until_missing(&restricted, &plan, &[]).await;
    let plan = restricted.plan(&stage.request(&["deployment/web"], image(2))).await.unwrap();
    let executed = restricted.execute(&plan).await.unwrap();
    let outcome = restricted.watch(&executed.tickets, &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Verified { pods: 2 } });
    let undone = restricted.undo(&executed.tickets, &patient(), None, |_| {}).await;
    assert_eq!(undone.class(), Class::RolledBack, "going back needs no more: {undone:?}");
    assert_eq!(stage.images("web")[0], pinned(1));
    assert_eq!(RESTRICTED_USER, "restricted");

    // Pull secrets may not be read: the check is said to be another one, and is made with our own login.
    let own = Answers::new(Pullable::Yes);
    let plan = restricted.plan(&stage.request(&["deployment/web"], image(3))).await.unwrap();
    let findings = restricted.preflight(&plan, &[image(3).into()], checks(&own)).await.unwrap();
    assert!(findings.iter().any(|finding| finding.text.contains("with your own login")), "{findings:?}");
    assert_eq!(own.names(), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_secret_is_made_once_and_brought_up_to_date() {
    let stage = Stage::new("secrets", |_| Fate::Runs).await;
    let wanted = |password: &str| WantedPullSecret {
        name: "lighter-pull".into(),
        registry: "registry.test/shop".into(),
        username: "robot".into(),
        password: password.into(),
        service_account: "default".into(),
        expires: None,
    };
    let error = stage.cluster.ensure_pull_secret(&wanted("a")).await.unwrap_err();
    assert!(error.to_string().contains("serviceaccount/default in namespace secrets does not exist"), "{error}");
    stage.create(
        "/api/v1/serviceaccounts",
        &json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "theirs"}]}),
    );
    use deployer::Change::{Create, Nothing, Update};
    for (password, expected) in [("a", [Create, Update]), ("a", [Nothing, Nothing]), ("b", [Update, Nothing])] {
        let changes = stage.cluster.ensure_pull_secret(&wanted(password)).await.unwrap();
        assert_eq!(changes.map(|(_, change)| change), expected);
    }
    let account = stage.object("/api/v1/serviceaccounts", "default");
    let names: Vec<&str> =
        account["imagePullSecrets"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"theirs") && names.contains(&"lighter-pull"), "{names:?}");
    stage.create("/api/v1/secrets", &json!({"metadata": {"name": "other"}}));
    let error =
        stage.cluster.ensure_pull_secret(&WantedPullSecret { name: "other".into(), ..wanted("a") }).await.unwrap_err();
    assert!(error.to_string().contains("choose another name"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_role_lets_a_cron_job_run_once() {
    let stage = Stage::new("once", |_| Fate::Succeeds).await;
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "task", "image": pinned(1)}]}});
    let spec = json!({"schedule": "0 3 1 1 *", "jobTemplate": {"spec": {"template": template}}});
    stage.create(stage.fixture.cron_jobs(), &json!({"metadata": {"name": "report"}, "spec": spec}));
    let targets = ["cronjob/report".parse().unwrap()];
    let needed =
        deployer::rules(&targets, "once", deployer::Extent { run_once: true, ..deployer::Extent::default() }).unwrap();
    stage.grant(&rules(&needed));
    let restricted = stage.connect(User::Restricted).await.unwrap();
    let plan = stage.plan_image("cronjob/report", image(2)).await.unwrap();
    let checks = Checks { run_once: true, ..NOTHING };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !told(&restricted.preflight(&plan, &[], checks).await).is_empty() {
        assert!(std::time::Instant::now() < deadline, "the role is not enough");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let executed = restricted.execute(&plan).await.unwrap();
    let job = restricted.run_once(&executed.tickets[0]).await.unwrap().unwrap();
    let outcome = restricted.watch(&[job], &patient(), |_| {}).await.unwrap();
    assert_eq!(outcome.targets[0].end, End::Done { evidence: Evidence::Completed });
}
