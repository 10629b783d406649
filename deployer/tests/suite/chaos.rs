//! Rollouts on a server that misbehaves: a simulated Deployment controller whose watches end, break and expire,
//! whose lists are refused, while others scale, overtake, pause and delete. The end is known beforehand; not
//! one verdict may be another. The seed is fixed: what fails once fails again.

use deployer::{Cause, Cluster, ConnectOptions, End, Evidence, ObjectName, Policy, Resource, Ticket};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

const SEED: u64 = 0x5eed_0000_1d0c;
const OLD: &str = "registry.test/web:1@sha256:1111111111111111111111111111111111111111111111111111111111111111";
const NEW: &str = "registry.test/web:2@sha256:2222222222222222222222222222222222222222222222222222222222222222";
const OTHER: &str = "registry.test/web:3@sha256:3333333333333333333333333333333333333333333333333333333333333333";
/// Rollouts that run at the same time.
const AT_ONCE: usize = 24;

/// xorshift64*: enough for dice.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What is going to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Runs,
    /// An old deadline is still written on the Deployment.
    RunsAfterDeadline,
    Scaled,
    NeverPulled,
    Crashes,
    Overtaken,
    Deleted,
    Paused,
    Empty,
    Stuck,
}

const FATES: [Fate; 14] = [
    Fate::Runs,
    Fate::Runs,
    Fate::Runs,
    Fate::RunsAfterDeadline,
    Fate::Scaled,
    Fate::Scaled,
    Fate::NeverPulled,
    Fate::Crashes,
    Fate::Overtaken,
    Fate::Deleted,
    Fate::Paused,
    Fate::Empty,
    Fate::Runs,
    Fate::Stuck,
];

fn is_right(fate: Fate, pods: i64, end: &End) -> bool {
    let cause = |troubles: &[deployer::Trouble]| troubles[0].cause;
    match (fate, end) {
        (Fate::Runs | Fate::RunsAfterDeadline | Fate::Scaled, End::Done { evidence }) => {
            *evidence == Evidence::Verified { pods }
        }
        (Fate::NeverPulled, End::Failed { troubles, .. }) => cause(troubles) == Cause::ImageMissing,
        (Fate::Crashes, End::Failed { troubles, .. }) => cause(troubles) == Cause::Crash,
        (Fate::Overtaken, End::Superseded { by }) => by.contains(OTHER),
        (Fate::Empty, End::Done { evidence }) => *evidence == Evidence::NoReplicas,
        (Fate::Deleted, End::Gone) | (Fate::Paused, End::Paused) | (Fate::Stuck, End::Undecided { .. }) => true,
        _ => false,
    }
}

/// The objects of one namespace, and everything that ever happened to them.
#[derive(Default)]
struct Store {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    changes: Vec<(u64, String, &'static str, Value)>,
    closed: bool,
}

#[derive(Default)]
struct Namespace {
    store: Mutex<Store>,
    changed: Condvar,
}

impl Namespace {
    fn write(&self, kind: &str, mut object: Value) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.version += 1;
        object["metadata"]["resourceVersion"] = json!(store.version.to_string());
        let key = (kind.to_owned(), object["metadata"]["uid"].as_str().unwrap().to_owned());
        let what = if store.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        let version = store.version;
        store.changes.push((version, kind.to_owned(), what, object));
        self.changed.notify_all();
    }

    fn delete(&self, kind: &str, uid: &str) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.version += 1;
        let version = store.version;
        if let Some(mut object) = store.objects.remove(&(kind.to_owned(), uid.to_owned())) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            store.changes.push((version, kind.to_owned(), "DELETED", object));
        }
        self.changed.notify_all();
    }

    fn close(&self) {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }
}

/// One Deployment and its controller.
struct Play<'a> {
    namespace: &'a Namespace,
    dice: Dice,
    replicas: i64,
    generation: i64,
    image: &'static str,
    paused: bool,
    stale: bool,
}

impl Play<'_> {
    fn rest(&mut self) {
        std::thread::sleep(Duration::from_millis(self.dice.below(6))); // the script: things take their time
    }

    fn template(&self) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": self.image}]}})
    }

    fn deployment(&self, observed: i64, updated: i64, available: i64, total: i64) {
        let condition = if self.stale {
            json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet \"web-old\" has timed out", "lastUpdateTime": "2020-01-01T00:00:00Z"})
        } else {
            json!({"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"})
        };
        let mut spec = json!({"replicas": self.replicas, "template": self.template(), "progressDeadlineSeconds": 600});
        if self.paused {
            spec["paused"] = json!(true);
        }
        self.namespace.write("deployments", json!({
            "metadata": {"name": "web", "uid": "d", "generation": self.generation}, "spec": spec,
            "status": {"observedGeneration": observed, "updatedReplicas": updated, "availableReplicas": available, "replicas": total, "conditions": [condition]},
        }));
    }

    fn replica_set(&self, uid: &str, image: &str) {
        let mut template = self.template();
        template["spec"]["containers"][0]["image"] = json!(image);
        template["metadata"]["labels"]["pod-template-hash"] = json!(uid);
        self.namespace.write(
            "replicasets",
            json!({"metadata": {"name": uid, "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"controller": true, "uid": "d"}]}, "spec": {"template": template}}),
        );
    }

    fn pod(&self, uid: &str, owner: &str, status: Value) {
        self.namespace.write("pods", json!({"metadata": {"name": uid, "uid": uid, "ownerReferences": [{"controller": true, "uid": owner}]}, "status": status}));
    }

    fn ready(&self, uid: &str, owner: &str, image: &str) {
        self.pod(uid, owner, json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "web", "ready": true, "restartCount": 0, "imageID": image, "state": {"running": {}}}]}));
    }

    fn waiting(&self, uid: &str, reason: &str, message: &str, restarts: i64) {
        let last = if restarts > 0 { json!({"terminated": {"exitCode": 1, "reason": "Error"}}) } else { json!({}) };
        self.pod(
            uid,
            "new",
            json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"name": "web", "ready": false, "restartCount": restarts, "imageID": "",
                "state": {"waiting": {"reason": reason, "message": message}}, "lastState": last}]}),
        );
    }

    /// What was there before our patch, and the patch.
    fn begin(&mut self, fate: Fate) {
        self.replica_set("old", OLD);
        for number in 0..self.replicas {
            self.ready(&format!("old-{number}"), "old", OLD);
        }
        self.image = NEW;
        self.generation = 2;
        self.stale = fate == Fate::RunsAfterDeadline;
        self.paused = fate == Fate::Paused;
        if fate == Fate::Empty {
            (0..self.replicas).for_each(|number| self.namespace.delete("pods", &format!("old-{number}")));
            self.replicas = 0;
        }
        // The picture that a patch leaves: all is well, of the version before.
        self.deployment(1, self.replicas, self.replicas, self.replicas);
    }

    /// Plays until the end; how many pods there are to be.
    fn go_on(&mut self, fate: Fate) {
        self.rest();
        let doomed = self.dice.below(self.replicas.max(1) as u64) as i64;
        match fate {
            Fate::Paused | Fate::Empty => return self.deployment(2, 0, 0, 0),
            Fate::Deleted => {
                self.rest();
                return self.namespace.delete("deployments", "d");
            }
            _ => {}
        }
        self.replica_set("new", NEW);
        self.rest();
        self.deployment(2, 0, self.replicas, self.replicas);
        let mut number = 0;
        while number < self.replicas {
            let uid = format!("new-{number}");
            self.waiting(&uid, "ContainerCreating", "", 0);
            self.deployment(2, number + 1, self.replicas, self.replicas + 1);
            self.rest();
            match fate {
                Fate::NeverPulled if number == doomed => {
                    self.waiting(&uid, "ErrImagePull", "web@sha256:2222: not found", 0);
                    self.rest();
                    self.namespace.write(
                        "events",
                        json!({"metadata": {"name": "e", "uid": "e"}, "involvedObject": {"uid": uid},
                        "type": "Warning", "reason": "Failed", "message": "Failed to pull image \"web\": not found"}),
                    );
                    return self.waiting(&uid, "ImagePullBackOff", "Back-off pulling image", 0);
                }
                Fate::Crashes if number == doomed => {
                    self.waiting(&uid, "CrashLoopBackOff", "back-off 10s", 1);
                    self.rest();
                    return self.waiting(&uid, "CrashLoopBackOff", "back-off 20s", 2);
                }
                Fate::Stuck if number == doomed => return,
                Fate::Overtaken if number == doomed => {
                    self.image = OTHER;
                    self.generation = 3;
                    return self.deployment(2, number, self.replicas, self.replicas);
                }
                Fate::Scaled if number == doomed => {
                    self.replicas += 1 + self.dice.below(2) as i64;
                    self.generation += 1;
                    self.deployment(self.generation - 1, number + 1, number, self.replicas - 1);
                }
                _ if self.dice.percent(30) => {
                    self.waiting(&uid, "ErrImagePull", "dial tcp: connection refused", 0);
                    self.rest();
                }
                _ if self.dice.percent(20) => self.waiting(&uid, "CrashLoopBackOff", "back-off 10s", 1),
                _ => {}
            }
            self.rest();
            self.ready(&uid, "new", "docker-pullable://elsewhere.test/x@sha256:2222222222222222222222222222222222222222222222222222222222222222");
            self.namespace.delete("pods", &format!("old-{number}"));
            number += 1;
            self.deployment(self.generation, number, number, self.replicas.max(number));
        }
        self.rest();
        if self.dice.percent(50) {
            self.stale = false;
        }
        self.deployment(self.generation, self.replicas, self.replicas, self.replicas);
    }
}

struct Server {
    address: String,
    namespaces: Arc<Mutex<HashMap<String, Arc<Namespace>>>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let namespaces = Arc::new(Mutex::new(HashMap::<String, Arc<Namespace>>::new()));
        let known = Arc::clone(&namespaces);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let known = Arc::clone(&known);
                let dice = Dice(SEED ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                // A client that goes away early is its own business.
                std::thread::spawn(move || answer(&stream, &known, dice).ok());
            }
        });
        Server { address, namespaces }
    }
}

fn refuse(mut stream: &TcpStream, code: u16) -> std::io::Result<()> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "not now", "reason": "x"}).to_string();
    write!(
        stream,
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn answer(
    mut stream: &TcpStream,
    known: &Mutex<HashMap<String, Arc<Namespace>>>,
    mut dice: Dice,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let url = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let (path, query) = url.split_once('?').unwrap_or((&url, ""));
    let parts: Vec<&str> = path.split('/').collect();
    let Some(place) = parts.iter().position(|part| *part == "namespaces") else {
        let body = json!({"gitVersion": "v1.30.0"}).to_string();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
    };
    let (name, kind) = (parts[place + 1], parts[place + 2]);
    let Some(namespace) = known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned() else {
        return refuse(stream, 404);
    };
    match dice.below(100) {
        0..3 => return Ok(()), // the connection breaks
        3..10 => return refuse(stream, [429, 500, 503, 504][dice.below(4) as usize]),
        _ => {}
    }
    if query.contains("watch=") {
        let version =
            query.split('&').find_map(|part| part.strip_prefix("resourceVersion=")).and_then(|text| text.parse().ok());
        return watch(stream, &namespace, kind, version.unwrap_or(0), &mut dice);
    }
    let store = namespace.store.lock().unwrap_or_else(PoisonError::into_inner);
    let items: Vec<&Value> = store.objects.iter().filter(|((of, _), _)| of == kind).map(|(_, object)| object).collect();
    let body = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": store.version.to_string()}, "items": items}).to_string();
    drop(store);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn watch(mut stream: &TcpStream, namespace: &Namespace, kind: &str, from: u64, dice: &mut Dice) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")?;
    let mut sent = from;
    loop {
        let changes: Vec<(u64, &'static str, Value)> = {
            let mut store = namespace.store.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let new: Vec<_> = store
                    .changes
                    .iter()
                    .filter(|(version, of, ..)| *version > sent && of == kind)
                    .map(|(version, _, what, object)| (*version, *what, object.clone()))
                    .collect();
                if !new.is_empty() || store.closed {
                    break new;
                }
                store = namespace
                    .changed
                    .wait_timeout(store, Duration::from_secs(1))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        };
        if changes.is_empty() {
            return Ok(());
        }
        for (version, what, mut object) in changes {
            (object["apiVersion"], object["kind"]) = (json!("v1"), json!("X"));
            let line = json!({"type": what, "object": object}).to_string();
            match dice.below(100) {
                0..6 => return Ok(()),
                6..10 => {
                    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}});
                    return writeln!(stream, "{gone}");
                }
                10..12 => return write!(stream, "{}", &line[..line.len() / 2]),
                12..16 => {
                    let bookmark = json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "X", "metadata": {"resourceVersion": sent.to_string()}}});
                    writeln!(stream, "{bookmark}")?;
                }
                _ => {}
            }
            writeln!(stream, "{line}")?;
            stream.flush()?;
            sent = version;
        }
    }
}

fn ticket(namespace: &str) -> Ticket {
    let resource =
        json!({"group": "apps", "version": "v1", "kind": "Deployment", "plural": "deployments", "namespaced": true});
    let resource: Resource = serde_json::from_value(resource).unwrap();
    let digest = NEW.rsplit_once('@').unwrap().1.parse().unwrap();
    let image = |image: &str| BTreeMap::from([("web".to_owned(), image.to_owned())]);
    Ticket {
        object: ObjectName::new(resource, namespace, "web"),
        uid: "d".into(),
        generation: 2,
        version: String::new(),
        changed: true,
        created: false,
        want: BTreeMap::from([("web".to_owned(), vec![digest])]),
        images: image(NEW),
        before: image(OLD),
        template: None,
        running: image(NEW),
        was_well: true,
        verified: BTreeMap::new(),
        written: "2099-01-01T00:00:00Z".parse().unwrap(),
    }
}

/// Runs one rollout; what was wrong with its end, if anything.
async fn rollout(server: &Server, cluster: &Cluster, number: u64) -> Option<String> {
    let mut dice = Dice(SEED.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
    let fate = FATES[dice.below(FATES.len() as u64) as usize];
    let name = format!("r-{number}");
    let namespace = Arc::new(Namespace::default());
    server.namespaces.lock().unwrap().insert(name.clone(), Arc::clone(&namespace));
    let replicas = 1 + dice.below(4) as i64;
    let stage = Arc::clone(&namespace);
    let mut play = Play {
        namespace: &namespace,
        dice: dice.clone(),
        replicas,
        generation: 1,
        image: OLD,
        paused: false,
        stale: false,
    };
    play.begin(fate);
    let (dice, replicas) = (play.dice.clone(), play.replicas);
    let (paused, stale) = (play.paused, play.stale);
    let player = std::thread::spawn(move || {
        let mut play = Play { namespace: &stage, dice, replicas, generation: 2, image: NEW, paused, stale };
        play.go_on(fate);
        play.replicas
    });
    // What is stuck is waited for as long as every broken connection of the others may take.
    let timeout = Duration::from_secs(if fate == Fate::Stuck { 4 } else { 90 });
    let policy = Policy { timeout, ..Policy::default() };
    let outcome = cluster.watch(&[ticket(&name)], &policy, |_| {}).await;
    let pods = player.join().unwrap();
    namespace.close();
    server.namespaces.lock().unwrap().remove(&name);
    match outcome {
        Ok(outcome) if is_right(fate, pods, &outcome.targets[0].end) => None,
        // Broken at the very moment in which the time was over: nothing is claimed.
        Err(error) if fate == Fate::Stuck && error.class() == deployer::Class::Unreachable => None,
        other => Some(format!("rollout {number} ({fate:?}, {pods} pods) ended with {other:?}")),
    }
}

async fn rollouts(count: u64) {
    let server = Arc::new(Server::start());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "clusters": [{"name": "c", "cluster": {"server": server.address}}]});
    std::fs::write(&path, config.to_string()).unwrap();
    let options = ConnectOptions { kubeconfig: vec![path], ..ConnectOptions::default() };
    let cluster = Arc::new(Cluster::connect(&options).await.unwrap());
    let places = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut running = Vec::new();
    for number in 0..count {
        let (server, cluster, places) = (Arc::clone(&server), Arc::clone(&cluster), Arc::clone(&places));
        running.push(tokio::spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            rollout(&server, &cluster, number).await
        }));
    }
    let mut wrong = Vec::new();
    for one in running {
        wrong.extend(one.await.unwrap());
    }
    assert!(wrong.is_empty(), "{} of {count} verdicts are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_verdict_is_wrong_on_a_server_that_misbehaves() {
    rollouts(60).await;
}

/// The same with a thousand: `cargo test --release -p deployer --test suite -- --ignored chaos`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute"]
async fn not_one_of_a_thousand_verdicts_is_wrong() {
    rollouts(1000).await;
}
