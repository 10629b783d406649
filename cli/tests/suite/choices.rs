//! What a deploy can be asked for beyond an image and a target, on a real cluster: a bound on how much happens at once,
//! CronJobs that run once, nothing that runs at all, checks alone, manifests in waves, and the way back by ticket.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use fixtures::http::Scripted;
use fixtures::kubernetes::Cluster;
use fixtures::kubernetes::kubelet::Fate;
use serde_json::{Value, json};

use crate::desk::{Desk, Images};

const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const DAEMON_SETS: &str = "/apis/apps/v1/daemonsets";
const JOBS: &str = "/apis/batch/v1/jobs";
const WIDGETS: &str = "/apis/choices.test/v1/widgets";

/// A namespace in which pods of the bad image end with an error, and those called `task` when they are done.
fn scene(namespace: &'static str) -> Desk {
    let images = Images::shared();
    Desk::new(namespace, |pod| {
        let (image, name) = (&pod["spec"]["containers"][0]["image"], &pod["spec"]["containers"][0]["name"]);
        match (*image == images.bad, name == "task") {
            (true, true) => Fate::Fails(3, "there is no table `orders`".into()),
            (true, false) => Fate::Crashes(3, "there is no table `orders`".into()),
            (false, true) => Fate::Succeeds,
            (false, false) => Fate::Runs,
        }
    })
}

/// The image of the first container.
fn image_of(scene: &Desk, kind: &str, name: &str) -> String {
    let object = scene.object(kind, name);
    let places = ["/spec/template/spec/containers/0/image", "/spec/jobTemplate/spec/template/spec/containers/0/image"];
    let image = places.iter().find_map(|place| object.pointer(place)).and_then(Value::as_str);
    image.expect("a container has an image").to_owned()
}

/// Deploys an image; what was told on stderr.
fn deploy(scene: &Desk, image: &str, more: &[&str], code: i32) -> String {
    scene.lighter(&[&["deploy", "--timeout", "60s", "--image", image], more].concat(), code).1
}

/// A workload of pods with one container.
fn workload(kind: &str, name: &str, container: &str, image: &str) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template(name, container, image)});
    if kind == "Deployment" {
        spec["replicas"] = json!(1);
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn template(name: &str, container: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": container, "image": image}]}})
}

#[test]
fn only_so_many_are_rolled_out_at_a_time() {
    let scene = scene("choices-parallel");
    let Images { web: [old, new], bad, .. } = Images::shared();
    for name in ["a", "b", "c"] {
        scene.create(DEPLOYMENTS, &workload("Deployment", name, "web", old));
        scene.lighter(&["rollout", "wait", &format!("deployment/{name}"), "--timeout", "60s"], 0);
    }
    let all = ["--target", "deployment/a", "--target", "deployment/b", "--target", "deployment/c"];
    let keep = [&all[..], &["--on-failure", "keep", "--parallel", "2"]].concat();
    let before = scene.object(DEPLOYMENTS, "c")["metadata"]["generation"].clone();
    let told = deploy(&scene, bad, &keep, 20);
    assert!(told.contains("no table `orders`"), "{told}");
    assert_eq!([image_of(&scene, DEPLOYMENTS, "a"), image_of(&scene, DEPLOYMENTS, "b")], [bad.clone(), bad.clone()]);
    assert_eq!(scene.object(DEPLOYMENTS, "c")["metadata"]["generation"], before, "its turn did not come");
    deploy(&scene, new, &[&all[..], &["--parallel", "1"]].concat(), 0);
    for name in ["a", "b", "c"] {
        assert_eq!(image_of(&scene, DEPLOYMENTS, name), *new);
    }
    deploy(&scene, new, &[&all[..], &["--parallel", "0"]].concat(), 64);
}

/// The first comes to run only when the third is there: nobody waits for the slowest of two before the next begins.
#[test]
fn the_next_begins_as_soon_as_one_ends() {
    let Images { web: [old, new], bad, .. } = Images::shared();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let early = Arc::new(AtomicBool::new(false));
    let (met, too_early) = (Arc::clone(&seen), Arc::clone(&early));
    let scene = Desk::new("choices-window", move |pod| {
        let name = pod["metadata"]["labels"]["app"].as_str().unwrap_or_default();
        if pod["spec"]["containers"][0]["image"] == *bad {
            return if name == "b" { Fate::Crashes(3, "no room".into()) } else { Fate::Stuck };
        }
        if pod["spec"]["containers"][0]["image"] == *old {
            return Fate::Runs;
        }
        let mut met = met.lock().unwrap();
        met.insert(name.to_owned());
        too_early.fetch_or(name == "c" && !met.contains("b"), Ordering::Relaxed);
        if name == "a" && !met.contains("c") { Fate::Stuck } else { Fate::Runs }
    });
    for name in ["a", "b", "c"] {
        scene.create(DEPLOYMENTS, &workload("Deployment", name, "web", old));
    }
    scene.wait(&["a", "b", "c"]);
    let all = ["--target", "deployment/a", "--target", "deployment/b", "--target", "deployment/c", "--parallel", "2"];
    deploy(&scene, new, &all, 0);
    assert!(!early.load(Ordering::Relaxed), "two at a time");

    let before = scene.object(DEPLOYMENTS, "c")["metadata"]["generation"].clone();
    let told = deploy(&scene, bad, &all, 21);
    for words in [
        "no room",
        "deployment/a in namespace choices-window: back to web",
        "deployment/c in namespace choices-window: not begun",
    ] {
        assert!(told.contains(words), "{told}");
    }
    assert_eq!(scene.object(DEPLOYMENTS, "c")["metadata"]["generation"], before, "nothing begins after a failure");
    assert_eq!([image_of(&scene, DEPLOYMENTS, "a"), image_of(&scene, DEPLOYMENTS, "b")], [new.clone(), new.clone()]);

    // What is made while the watch is open was in no list of it.
    let made: Vec<String> = ["d", "e", "f"].map(|name| workload("Deployment", name, "web", old).to_string()).into();
    std::fs::write(scene.den.path().join("made.yaml"), made.join("\n---\n")).unwrap();
    let file = scene.den.path().join("made.yaml").display().to_string();
    let ticket = scene.den.path().join("ticket").display().to_string();
    deploy(&scene, new, &["-f", &file, "--parallel", "1", "--ticket", &ticket], 0);
    scene.lighter(&["rollout", "status", "deployment/d", "deployment/e", "deployment/f"], 0);
    scene.lighter(&["rollout", "wait", "--ticket", &ticket], 0);
}

/// One of two new pods runs, the other does not: enough for who asked for half, and for nobody else.
#[test]
fn half_of_it_may_be_enough_to_wait_for() {
    let Images { web: [old, new], .. } = Images::shared();
    let first = Mutex::new(None);
    let scene = Desk::new("choices-half", move |pod| {
        if pod["spec"]["containers"][0]["image"] == *old {
            return Fate::Runs;
        }
        let name = &pod["metadata"]["name"];
        if first.lock().unwrap().get_or_insert_with(|| name.clone()) == name { Fate::Runs } else { Fate::Stuck }
    });
    let mut object = workload("Deployment", "web", "web", old);
    object["spec"]["replicas"] = json!(2);
    scene.create(DEPLOYMENTS, &object);
    scene.wait(&["web"]);
    let told = deploy(&scene, new, &["--target", "deployment/web", "--require", "50%"], 0);
    assert!(told.contains("1 of 2 pods run the image"), "{told}");
    let told = scene.lighter(&["rollout", "status", "deployment/web"], 23).1;
    assert!(told.contains("still under way"), "{told}");
    scene.lighter(&["rollout", "wait", "deployment/web", "--require", "50%", "--timeout", "60s"], 0);
    scene.lighter(&["rollout", "wait", "deployment/web", "--timeout", "1s"], 23);
}

#[test]
fn manifests_may_be_behind_a_url() {
    let scene = scene("choices-url");
    let Images { web: [old, new], .. } = Images::shared();
    let manifest = workload("Deployment", "web", "web", old).to_string();
    let web = Scripted::start(move |request| {
        let to = |location: &str| (302, vec![("location", location.to_owned())], String::new());
        match request.target.as_str() {
            "/web.yaml?token=s3cret" => (200, vec![], manifest.clone()),
            "/moved" => to("/web.yaml?token=s3cret"),
            "/for/ever" => to("/for/ever"),
            "/large" => (200, vec![], " ".repeat((16 << 20) + 1)),
            "/page" => (200, vec![], "<html><body>Sign in".to_owned()),
            "/private" => (403, vec![], String::new()),
            _ => (404, vec![], String::new()),
        }
    });
    let url = |path: &str| format!("http://{}{path}", web.address());
    let told = deploy(&scene, new, &["-f", &url("/web.yaml?token=s3cret")], 0);
    assert!(told.contains(&url("/web.yaml")) && !told.contains("s3cret"), "{told}");
    assert_eq!(image_of(&scene, DEPLOYMENTS, "web"), *new);
    deploy(&scene, old, &["-f", &url("/moved").replace("//", "//me:s3cret@")], 0);
    assert_eq!(image_of(&scene, DEPLOYMENTS, "web"), *old);
    for (path, code, words) in [
        ("/for/ever", 69, "it redirects more than 10 times"),
        ("/large", 65, "is larger than 16777216 bytes"),
        ("/page", 65, "cannot read the manifest"),
        ("/nothing", 66, "answered 404"),
        ("/private", 77, "a login may stand in the URL"),
    ] {
        let told = deploy(&scene, new, &["-f", &url(path)], code);
        assert!(told.contains(words) && told.contains(&url(path)), "{told}");
    }
    let told = deploy(&scene, new, &["-f", &url("/web.yaml"), "--write"], 64);
    assert!(told.contains("--write writes into files") && told.contains(&url("/web.yaml")), "{told}");
    assert_eq!(image_of(&scene, DEPLOYMENTS, "web"), *old);
}

#[test]
fn a_cron_job_is_run_once_before_its_hour() {
    let scene = scene("choices-once");
    let Images { web: [old, new], bad, .. } = Images::shared();
    let mut template = template("report", "task", old);
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"metadata": {"labels": {"team": "shop"}}, "spec": {"backoffLimit": 0, "template": template}});
    let spec = json!({"schedule": "0 3 1 1 *", "jobTemplate": job});
    let cron_jobs = Cluster::shared().cron_jobs();
    scene.create(cron_jobs, &json!({"metadata": {"name": "report"}, "spec": spec}));
    let jobs = || {
        let list = scene.admin.object(scene.path(JOBS, "").trim_end_matches('/'));
        list["items"].as_array().cloned().unwrap_or_default()
    };

    deploy(&scene, new, &["--target", "cronjob/report"], 0);
    assert!(jobs().is_empty(), "nobody asked for it");
    let told = deploy(&scene, new, &["--target", "cronjob/report", "--run-once"], 0);
    let [job] = &jobs()[..] else { panic!("one job: {told}") };
    assert!(told.contains("it has done its work") && told.contains("runs once"), "{told}");
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["image"], new.as_str());
    assert_eq!(job["metadata"]["labels"]["team"], "shop");
    let owner = &job["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("CronJob"), &json!("report")));

    let told = deploy(&scene, bad, &["--target", "cronjob/report", "--run-once", "--logs", "5"], 21);
    assert!(told.contains("no table `orders`") && told.contains("BackoffLimitExceeded"), "{told}");
    assert!(told.contains("last lines of its log"), "{told}");
    assert_eq!(image_of(&scene, cron_jobs, "report"), *new, "it went back");
    assert_eq!(jobs().len(), 2);

    let deployment = workload("Deployment", "web", "web", old);
    scene.create(DEPLOYMENTS, &deployment);
    let told = deploy(&scene, new, &["--target", "deployment/web", "--run-once"], 64);
    assert!(told.contains("there is no CronJob"), "{told}");
    let role = scene.lighter(&["deploy", "rbac", "--target", "cronjob/report", "--run-once", "--minimal"], 0).0;
    assert!(role.contains("resources: [\"jobs\"], verbs: [\"create\", \"list\", \"watch\"]"), "{role}");
}

#[test]
fn a_daemon_set_that_no_node_fits_is_no_success_unless_that_is_meant() {
    let scene = scene("choices-zero");
    let Images { web: [old, new], .. } = Images::shared();
    let mut object = workload("DaemonSet", "agent", "web", old);
    object["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "node"});
    scene.create(DAEMON_SETS, &object);
    let target = ["--target", "daemonset/agent"];
    let told = deploy(&scene, new, &target, 23);
    assert!(told.contains("no node fits it") && told.contains("--allow-zero"), "{told}");
    assert_eq!(image_of(&scene, DAEMON_SETS, "agent"), *new, "nothing failed, so nothing goes back");
    deploy(&scene, old, &[&target[..], &["--allow-zero"]].concat(), 0);
    scene.lighter(&["rollout", "status", "daemonset/agent"], 0);
}

#[test]
fn a_check_writes_nothing() {
    let scene = scene("choices-check");
    let Images { web: [old, new], .. } = Images::shared();
    scene.create(DEPLOYMENTS, &workload("Deployment", "web", "web", old));
    let check =
        |image: &str, code| scene.lighter(&["deploy", "check", "--image", image, "--target", "deployment/web"], code).1;
    let told = check(new, 0);
    assert!(told.contains("web: ") && told.contains("nothing was written"), "{told}");
    assert_eq!(image_of(&scene, DEPLOYMENTS, "web"), *old);
    let missing = new.split('@').next().unwrap().replace("web:2", "web:none");
    check(&missing, 69);
    let told = scene.lighter(&["deploy", "check", "--image", new, "--target", "deployment/nobody"], 10).1;
    assert!(told.contains("deployment/nobody"), "{told}");
}

#[test]
fn waves_can_be_named_for_manifests() {
    let scene = scene("choices-waves");
    let Images { web: [old, _], bad, .. } = Images::shared();
    let file = scene.den.path().join("all.yaml");
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}});
    let write = |first: &str| {
        let objects = [
            workload("Deployment", "late", "web", old),
            workload("Deployment", "first", "web", first),
            settings.clone(),
        ];
        std::fs::write(&file, objects.map(|object| object.to_string()).join("\n---\n")).unwrap();
    };
    let apply = |waves: &[&str], code| {
        let arguments = [&["deploy", "--timeout", "60s", "-f", file.to_str().unwrap()], waves].concat();
        scene.lighter(&arguments, code).1
    };
    write(bad);
    let waves = ["--wave", "deploy/first", "--wave", "deployments.apps/late"];
    let told = apply(&waves, 20);
    assert!(told.contains("wave 2:") && told.contains("no table `orders`"), "{told}");
    let is_there = |kind: &str, name: &str| scene.admin.get(&scene.path(kind, name)).unwrap().status == 200;
    assert!(is_there("/api/v1/configmaps", "settings") && !is_there(DEPLOYMENTS, "late"), "{told}");
    write(old);
    apply(&waves, 0);
    assert!(is_there(DEPLOYMENTS, "late"));
    for (waves, words) in [
        (["--wave", "deploy/first", "--wave", "deploy/nobody"], "no manifest of -f is called so"),
        (["--wave", "deploy/first", "--wave", "deploy/first"], "stands in two waves"),
        (["--wave", "deploy/first", "--wave", "deploy/late/web"], "names a container"),
    ] {
        assert!(apply(&waves, 64).contains(words), "{words}");
    }
}

#[test]
fn what_a_cluster_uses_is_listed_and_kept() {
    let scene = scene("choices-inventory");
    let Images { web: [old, new], registry, .. } = Images::shared();
    let mut deployment = workload("Deployment", "web", "web", new);
    deployment["metadata"]["annotations"] = json!({"lighter.dev/verified": json!({"web": old}).to_string()});
    scene.create(DEPLOYMENTS, &deployment);
    scene.create(DAEMON_SETS, &workload("DaemonSet", "agent", "web", "registry.elsewhere.test/agent:1"));
    scene.lighter(&["rollout", "wait", "deployment/web", "--timeout", "60s", "--on-failure", "keep"], 0);
    // Waiting has noted that the new one runs well.
    let note = json!({"metadata": {"annotations": {"lighter.dev/verified": json!({"web": old}).to_string()}}});
    scene.admin.patch(&scene.path(DEPLOYMENTS, "web"), &note).expect_ok();

    let (data, _) = scene.lighter(&["inventory"], 0);
    let web = |image: &str, why: &str| format!("{image}\t{why}\tdeployment/web in namespace choices-inventory\tweb");
    for line in [web(new, "wanted"), web(old, "last good")] {
        assert!(data.lines().any(|one| one == line), "{line}\n{data}");
    }
    assert!(data.lines().any(|line| line.starts_with(&format!("{new}\truns\tpod/web-"))), "{data}");
    assert!(data.contains("registry.elsewhere.test/agent:1\twanted\tdaemonset/agent"), "{data}");

    let host = registry.address().to_string();
    let pin = ["inventory", "--pin", "--registry", &host, "-o", "json"];
    for _ in 0..2 {
        let (data, told) = scene.lighter(&pin, 0);
        let document: Value = serde_json::from_str(&data).unwrap();
        assert!(document["uses"].as_array().unwrap().len() >= 4);
        let kept = told.lines().filter(|line| line.contains("kept as in-use-"));
        assert_eq!(kept.count(), 2, "{told}");
    }
    let tags = registry.send("GET", "/v2/web/tags/list", &[], &[]).expect(200);
    let tags: Value = serde_json::from_slice(&tags.body).unwrap();
    let tags: Vec<&str> = tags["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for image in [old, new] {
        let digits = &image.split("sha256:").nth(1).unwrap()[..12];
        let is_it = |tag: &&&str| tag.starts_with("in-use-") && tag.contains(&format!("-{digits}-"));
        assert_eq!(tags.iter().filter(is_it).count(), 1, "{tags:?}");
    }
    scene.lighter(&["inventory", "--registry", &host], 64);
}

fn definition() -> Value {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.choices.test"},
        "spec": {"group": "choices.test", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": any}}}}]}})
}

#[test]
fn what_a_deploy_wrote_goes_back_by_its_ticket_and_custom_kinds_to_what_ran_well() {
    let scene = scene("choices-back");
    let Images { web: [old, new], .. } = Images::shared();
    let defined = scene.den.path().join("definition.json");
    std::fs::write(&defined, definition().to_string()).unwrap();
    scene.lighter(&["apply", "-f", defined.to_str().unwrap()], 0);
    let mut widget = json!({"apiVersion": "choices.test/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"template": template("w", "web", old)}});
    widget["metadata"]["annotations"] = json!({"lighter.dev/verified": json!({"web": old}).to_string()});
    scene.create(WIDGETS, &widget);
    scene.create(DEPLOYMENTS, &workload("Deployment", "web", "web", old));
    let path = ["--image-path", "choices.test/Widget=.spec.template.spec"];
    let ticket = scene.den.path().join("ticket.json");
    let ticket = ["--ticket", ticket.to_str().unwrap()];
    let both = ["--target", "widget/w", "--target", "deployment/web"];
    let images = |image: &String| {
        assert_eq!(
            [image_of(&scene, WIDGETS, "w"), image_of(&scene, DEPLOYMENTS, "web")],
            [image.clone(), image.clone()]
        )
    };
    deploy(&scene, new, &[&both[..], &path, &ticket].concat(), 0);
    images(new);

    let told = scene.lighter(&[&["rollout", "undo", "--dry-run"], &ticket[..]].concat(), 0).1;
    assert!(told.contains(old.as_str()) && told.contains("widget"), "{told}");
    images(new);
    scene.lighter(&[&["rollout", "undo", "--timeout", "60s"], &ticket[..]].concat(), 0);
    images(old);
    // What is not its own any more stays.
    let told = scene.lighter(&[&["rollout", "undo", "--timeout", "60s"], &ticket[..]].concat(), 12).1;
    assert!(told.contains("not all of it went back"), "{told}");

    deploy(&scene, new, &[&["--target", "widget/w"], &path[..]].concat(), 0);
    let (data, _) = scene.lighter(&[&["rollout", "history", "widget/w"], &path[..]].concat(), 0);
    let lines: Vec<&str> = data.lines().collect();
    let [first, second] = lines[..] else { panic!("{data}") };
    assert!(
        first == format!("1\tran well\tweb: {old}\t") && second.starts_with(&format!("2\tcurrent\tweb: {new}\t")),
        "{data}"
    );
    scene.lighter(&[&["rollout", "undo", "widget/w", "--timeout", "60s"], &path[..]].concat(), 0);
    assert_eq!(image_of(&scene, WIDGETS, "w"), *old);
    scene.lighter(&[&["rollout", "undo", "widget/w"], &path[..]].concat(), 10);
    scene.lighter(&["rollout", "undo"], 64);
}
