//! `lighter rollout …`, and what a deploy does with several targets and images, as people type it, on a real cluster.

use fixtures::kubernetes::kubelet::Fate;
use fixtures::kubernetes::{Cluster, RESTRICTED_USER, User};
use serde_json::{Value, json};

use crate::desk::{Desk, Images};

const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const GOOD: &str = "registry.test/web:1@sha256:1111111111111111111111111111111111111111111111111111111111111111";
const BAD: &str = "registry.test/web:2@sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// A namespace with a Deployment `web` that runs.
fn scene(namespace: &'static str) -> Desk {
    let scene = Desk::new(namespace, |pod| {
        let is_bad = pod["spec"]["containers"][0]["image"] == BAD;
        if is_bad { Fate::PullFails("manifest unknown: not found".into()) } else { Fate::Runs }
    });
    let deployment = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": GOOD}]}}}});
    scene.create(DEPLOYMENTS, &deployment);
    scene.wait(&["web"]);
    scene
}

/// Has somebody else deploy an image.
fn put(scene: &Desk, image: &str) {
    let body = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}});
    scene.admin.patch(&scene.path(DEPLOYMENTS, "web"), &body).expect_ok();
}

#[test]
fn a_bad_version_is_seen_and_undone() {
    let scene = scene("rollout-undo");
    let (data, _) = scene.lighter(&["rollout", "status", "deployment/web"], 0);
    assert!(data.contains("1 of 1 pods are available"), "{data}");

    put(&scene, BAD);
    let (_, told) = scene.lighter(&["rollout", "wait", "deploy/web", "--timeout", "60s"], 20);
    assert!(told.contains("manifest unknown"), "{told}");
    scene.lighter(&["rollout", "status", "deployment/web"], 20);
    let image =
        |scene: &Desk| scene.object(DEPLOYMENTS, "web")["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image(&scene), BAD, "what somebody else deployed is nothing that a wait takes back");

    let (data, _) = scene.lighter(&["rollout", "status", "deployment/web", "-o", "json"], 20);
    let status: Value = serde_json::from_str(&data).unwrap();
    assert_eq!((&status["well"], &status["targets"][0]["end"]["end"]), (&json!(false), &json!("failed")));
    let (data, _) = scene.lighter(&["rollout", "history", "deployment/web", "-o", "json"], 0);
    let history: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(
        (&history["revisions"][0]["verified"], &history["revisions"][1]["images"]["web"]),
        (&json!(true), &json!(BAD))
    );

    let (data, _) = scene.lighter(&["rollout", "history", "deployment/web"], 0);
    let lines: Vec<&str> = data.lines().collect();
    assert_eq!(lines, [format!("1\tran well\tweb: {GOOD}\t"), format!("2\tcurrent\tweb: {BAD}\t")]);

    let (_, told) = scene.lighter(&["rollout", "undo", "deployment/web", "--dry-run"], 0);
    assert!(told.contains("goes back to revision 1") && image(&scene) == BAD, "{told}");
    let (data, _) = scene.lighter(&["rollout", "undo", "deployment/web", "--timeout", "60s", "-o", "json"], 0);
    let report: Value = serde_json::from_str(&data).unwrap();
    assert_eq!((&report["changed"], &report["targets"][0]["end"]["end"]), (&json!(true), &json!("done")));
    assert_eq!(image(&scene), GOOD);
    let (_, told) = scene.lighter(&["rollout", "undo", "deployment/web"], 10);
    assert!(told.contains("has no version that was seen to run well"), "{told}");
}

#[test]
fn a_ticket_goes_on_with_the_deploy_that_it_is_of() {
    let scene = scene("rollout-ticket");
    put(&scene, BAD);
    let object = scene.object(DEPLOYMENTS, "web");
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
    assert_eq!(scene.object(DEPLOYMENTS, "web")["spec"]["template"]["spec"]["containers"][0]["image"], GOOD);
    std::fs::write(&file, "{}").unwrap();
    scene.lighter(&arguments, 65);
}

#[test]
fn pause_resume_and_restart() {
    let scene = scene("rollout-steer");
    scene.lighter(&["rollout", "pause", "deployment/web"], 0);
    assert_eq!(scene.object(DEPLOYMENTS, "web")["spec"]["paused"], true);
    let (_, told) = scene.lighter(&["rollout", "status", "deployment/web"], 23);
    assert!(told.contains("lighter rollout resume deployment/web -n rollout-steer"), "{told}");
    scene.lighter(&["rollout", "resume", "deployment/web", "--timeout", "60s"], 0);
    let before = scene.object(DEPLOYMENTS, "web")["spec"]["template"].clone();
    scene.lighter(&["rollout", "restart", "deployment/web", "--timeout", "60s"], 0);
    assert_ne!(scene.object(DEPLOYMENTS, "web")["spec"]["template"], before);
    scene.lighter(&["rollout", "restart", "deployment/nosuch"], 10);
    scene.lighter(&["rollout", "restart", "deployment/web/web"], 64);
}

/// A namespace with these Deployments, which run `web:1`, each with a container `side` of another image. Pods of `bad`
/// images do not come up, nor do any of new images in the Deployment that is called `weak`.
fn fleet(namespace: &'static str, names: &[&str]) -> Desk {
    let images = Images::shared();
    let fleet = Desk::new(namespace, |pod| {
        let runs = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        let is_weak = pod["metadata"]["labels"]["app"] == "weak" && runs != images.web[0];
        if is_weak || runs == images.bad { Fate::PullFails("manifest unknown: not found".into()) } else { Fate::Runs }
    });
    names.iter().for_each(|name| fleet.create(DEPLOYMENTS, &deployment(&fleet, name, 0)));
    fleet.wait(names);
    fleet
}

fn deployment(fleet: &Desk, name: &str, version: usize) -> Value {
    let images = Images::shared();
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": fleet.namespace}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "web", "image": images.web[version]}, {"name": "side", "image": images.proxy.replace("proxy:1", "proxy:0")}]}}}})
}

/// How often its template or annotations were written, and what `web` runs.
fn state(fleet: &Desk, name: &str) -> (i64, String) {
    let object = fleet.object(DEPLOYMENTS, name);
    let image = object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    (object["metadata"]["generation"].as_i64().unwrap_or_default(), image)
}

fn exists(fleet: &Desk, name: &str) -> bool {
    fleet.admin.get(&fleet.path(DEPLOYMENTS, name)).expect("the API server answers").status == 200
}

fn deploy(fleet: &Desk, more: &[&str], code: i32) -> (String, String) {
    fleet.lighter(&[&["deploy", "--timeout", "60s"], more].concat(), code)
}

#[test]
fn a_wave_that_fails_takes_all_waves_back_and_keeps_the_next_from_beginning() {
    let fleet = fleet("waves", &["a", "b", "weak", "d"]);
    let [old, new] = &Images::shared().web;
    let before = state(&fleet, "d");
    let waves = ["--wave", "deployment/a,deployment/b", "--wave", "deployment/weak", "--wave", "deployment/d"];
    let (_, told) = deploy(&fleet, &[&["--image", new], &waves[..]].concat(), 21);
    assert!(told.contains("wave 3:") && told.contains("manifest unknown"), "{told}");
    for name in ["a", "b", "weak"] {
        let (generation, image) = state(&fleet, name);
        assert_eq!(image, *old, "{name}");
        assert!(generation > before.0 + 1, "{name} was written, and put back: {generation}");
    }
    assert_eq!(state(&fleet, "d"), before, "its turn did not come");

    let (data, told) =
        deploy(&fleet, &["--image", new, "--wave", "deployment/a", "--wave", "deployment/b,deployment/d"], 0);
    assert_eq!(data.trim(), *new);
    for name in ["a", "b", "d"] {
        assert_eq!(state(&fleet, name).1, *new, "{told}");
    }
    deploy(&fleet, &["--image", new, "--wave", "deployment/a/web", "--wave", "deployment/a/side"], 10);
}

#[test]
fn manifests_say_in_which_wave_they_are() {
    let fleet = fleet("waves-files", &[]);
    let [old, new] = &Images::shared().web;
    let in_wave = |name: &str, version: usize, wave: &str| {
        let mut object = deployment(&fleet, name, version);
        object["metadata"]["annotations"] = json!({"lighter.dev/wave": wave});
        object
    };
    let file = fleet.den.path().join("all.yaml");
    let write = |objects: &[Value]| {
        let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
        std::fs::write(&file, texts.join("\n---\n")).unwrap();
    };
    let apply = ["-f", file.to_str().unwrap()];
    write(&[in_wave("weak", 0, "1")]);
    deploy(&fleet, &apply, 0);
    write(&[in_wave("late", 1, "2"), in_wave("weak", 1, "1"), in_wave("early", 1, "-1")]);
    let (_, told) = deploy(&fleet, &apply, 20);
    assert!(told.contains("manifest unknown"), "{told}");
    assert!(exists(&fleet, "early") && !exists(&fleet, "late"), "{told}");
    assert_eq!(state(&fleet, "weak").1, *new, "no image was given to this run, so it has none to put back");

    // With an image of ours in it, it goes back.
    write(&[in_wave("late", 0, "2"), in_wave("weak", 0, "1"), in_wave("early", 0, "-1")]);
    deploy(&fleet, &apply, 0);
    assert_eq!((state(&fleet, "late").1, state(&fleet, "weak").1), (old.clone(), old.clone()));
    let (_, told) = deploy(&fleet, &[&["--image", &format!("web={new}")], &apply[..]].concat(), 21);
    for name in ["early", "weak", "late"] {
        assert_eq!(state(&fleet, name).1, *old, "{name}: {told}");
    }
    write(&[in_wave("early", 0, "soon")]);
    let (_, told) = deploy(&fleet, &apply, 65);
    assert!(told.contains("lighter.dev/wave") && told.contains("no whole number"), "{told}");
}

#[test]
fn several_images_go_where_they_belong() {
    let fleet = fleet("several", &["a"]);
    let Images { web: [_, new], proxy, bad, .. } = Images::shared();
    let images = [("web", new), ("side", proxy)].map(|(name, image)| format!("{name}={image}"));
    let (data, _) = deploy(&fleet, &["--image", &images[0], "--image", &images[1], "--target", "deployment/a"], 0);
    assert_eq!(data.lines().collect::<Vec<_>>(), [new, proxy]);
    let object = fleet.object(DEPLOYMENTS, "a");
    let containers = &object["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["image"], &containers[1]["image"]), (&json!(new), &json!(proxy)));
    let generation = state(&fleet, "a");

    let target = ["--target", "deployment/a"];
    for (images, more, code, expected) in [
        (vec![format!("web={new}"), format!("web={bad}")], &target[..], 64, "name each container once"),
        (vec![format!("web={new}"), format!("*={bad}")], &target[..], 10, "is to run both"),
        (vec![format!("web={new}"), format!("nobody={proxy}")], &target[..], 10, "is called \"nobody\""),
        (vec![new.clone(), proxy.clone()], &["--target", "deployment/a/web"][..], 64, "names a container"),
    ] {
        let images: Vec<&str> = images.iter().flat_map(|image| ["--image", image.as_str()]).collect();
        let (_, told) = deploy(&fleet, &[&images[..], more].concat(), code);
        assert!(told.contains(expected), "{told}");
    }
    let nobody = ["--image", new, "-l", "app=nobody"];
    deploy(&fleet, &nobody, 10);
    let (_, told) = deploy(&fleet, &[&nobody[..], &["--allow-empty"]].concat(), 0);
    assert!(told.contains("nothing to do: no deployments, statefulsets, daemonsets"), "{told}");
    // In kubectl's words, it is the same.
    fleet.lighter(
        &["set", "image", "deployment/a", &format!("web={new}"), &format!("side={proxy}"), "--timeout", "60s"],
        0,
    );
    fleet.lighter(&["set", "image", "deployment/a"], 64);
    // Both are found by their repositories, and a report names both.
    let (data, _) = deploy(
        &fleet,
        &["--image", new, "--image", proxy, "-l", "nobody!=there", "--kind", "deployment", "-o", "json"],
        0,
    );
    let report: Value = serde_json::from_str(&data).unwrap();
    assert_eq!((&report["images"], &report["image"]), (&json!([new, proxy]), &Value::Null));
    assert_eq!(state(&fleet, "a").1, generation.1);
}

#[test]
fn a_version_that_fails_can_be_held_where_it_is() {
    let fleet = fleet("held", &["a"]);
    let bad = &Images::shared().bad;
    let arguments = ["--image", bad, "--target", "deployment/a/web", "--on-failure", "pause", "-o", "json"];
    let (data, told) = deploy(&fleet, &arguments, 20);
    assert!(
        told.contains("paused; the pods that run now stay") && told.contains("lighter rollout undo deployment/a"),
        "{told}"
    );
    let report: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(report["held"][0]["held"]["held"], "paused");
    let object = fleet.object(DEPLOYMENTS, "a");
    assert_eq!((&object["spec"]["paused"], state(&fleet, "a").1.as_str()), (&json!(true), bad.as_str()));
    assert_eq!(object["status"]["availableReplicas"], 1, "the old pod goes on serving");
}

#[test]
fn one_may_act_as_another_where_the_login_may() {
    let fleet = fleet("others", &["a"]);
    let (_, told) = fleet.lighter(&["rollout", "status", "deployment/a", "--as", "nobody"], 77);
    assert!(told.contains("nobody") && told.contains("resources: [\"deployments\"]"), "{told}");
    let kind = |name: &str| format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{name}", fleet.namespace);
    let rules = json!([{"apiGroups": ["", "apps"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]);
    fleet.admin.post(&kind("roles"), &json!({"metadata": {"name": "look"}, "rules": rules})).expect_ok();
    let binding = json!({"metadata": {"name": "look"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "look"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "lookers"}]});
    fleet.admin.post(&kind("rolebindings"), &binding).expect_ok();
    let looks = ["rollout", "status", "deployment/a", "--as", "nobody", "--as-group"];
    fleet.lighter(&[&looks[..], &["others"]].concat(), 77);
    fleet.lighter(&[&looks[..], &["lookers"]].concat(), 0);
    fleet.lighter(&["rollout", "status", "deployment/a", "--as-group", "lookers"], 64);

    let restricted = Cluster::shared().kubeconfig(User::Restricted, fleet.namespace);
    let restricted = restricted.to_str().unwrap();
    let (_, told) =
        fleet.lighter(&["rollout", "status", "deployment/a", "--as", "admin", "--kubeconfig", restricted], 77);
    assert!(told.contains("verbs: [\"impersonate\"]") && told.contains(RESTRICTED_USER), "{told}");
}

#[test]
fn a_robot_of_a_pull_secret_may_pull_only_and_is_renewed_in_time() {
    let fleet = fleet("robots", &[]);
    let core = |name: &str| format!("/api/v1/namespaces/{}/{name}", fleet.namespace);
    fleet.admin.post(&core("serviceaccounts"), &json!({"metadata": {"name": "default"}})).expect_ok();
    let data = fleet.den.path().join("registry");
    let data = data.to_str().unwrap();
    std::fs::create_dir(data).unwrap();
    let arguments =
        ["pull-secret", "ensure", "--repo", "127.0.0.1:1/shop", "--robot", "shop-pull", "--registry-data", data];
    let robots = || fleet.lighter(&["registry", "token", "list", "--data", data], 0).0;
    let secret = || fleet.admin.object(&core("secrets/lighter-pull"));

    let (_, told) = fleet.lighter(&arguments, 0);
    assert!(told.contains("secret/lighter-pull in namespace robots: made"), "{told}");
    assert!(told.contains("nobody checked whether 127.0.0.1:1 takes this login"), "{told}");
    let first = secret();
    assert!(first["metadata"]["annotations"]["lighter.dev/expires"].is_string(), "{first}");
    assert_eq!(
        fleet.admin.object(&core("serviceaccounts/default"))["imagePullSecrets"],
        json!([{"name": "lighter-pull"}])
    );
    let listed = robots();
    assert!(listed.contains("shop-pull  pull  shop,shop/**"), "{listed}");

    let (_, told) = fleet.lighter(&arguments, 0);
    assert!(told.contains("as it is to be already"), "{told}");
    assert_eq!((secret(), robots()), (first.clone(), listed), "a token that is good for long is kept");

    let soon = json!({"metadata": {"annotations": {"lighter.dev/expires": "2026-01-01T00:00:00Z"}}});
    fleet.admin.patch(&core("secrets/lighter-pull"), &soon).expect_ok();
    fleet.lighter(&arguments, 0);
    assert_ne!(secret()["data"], first["data"]);
    assert_eq!(robots().lines().count(), 2, "the one before ends by itself");
    fleet.lighter(&[&arguments[..], &["--expires", "10d"]].concat(), 64);
}
