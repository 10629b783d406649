//! What was acknowledged survives `kill -9`: a real server process under a real load of pushes is
//! killed at a random moment, again and again; afterwards everything that it said yes to is there.
//! Garbage is collected all the while, without any grace worth the name, so what nothing names goes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use oci::Digest;
use registry::keeping::{Patience, Period};
use registry::{Keeping, Server, Settings, Store};

use crate::client::{Http, MANIFEST, Registry, image, noise};

/// Each costs a start, some pushes and a kill.
const ROUNDS: u64 = 200;
const MANY_ROUNDS: u64 = 10_000;
/// Each so-manieth image gets a tag that never moves; of the others only the last of a client stays.
const PINNED: u64 = 3;
const CLIENTS: u64 = 6;
const DIRECTORY: &str = "REGISTRY_TEST_DIRECTORY";
/// How it says that it has started.
const LISTENS: &str = "listening on ";
/// Set where the server collects garbage as it does by default.
pub const CALM: &str = "REGISTRY_TEST_CALM";
/// After how many bytes of journal the server makes a snapshot, where that is not as by default.
pub const SNAPSHOT_EVERY: &str = "REGISTRY_TEST_SNAPSHOT_EVERY";

/// The server process of the tests below and of `power`: this test binary, started again. After SIGHUP it
/// stops in an orderly way and starts again where it was.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the kill -9 test"]
async fn server_process() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), directory);
    if std::env::var_os(CALM).is_none() {
        settings.keeping = restless();
    }
    if let Ok(bytes) = std::env::var(SNAPSHOT_EVERY) {
        settings.snapshot_every = bytes.parse().unwrap();
    }
    let mut hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).unwrap();
    loop {
        let server = Server::bind(settings.clone()).await;
        let server = server.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        settings.addr = server.local_addr();
        // The harness writes its own lines to stdout; the address goes to stderr.
        writeln!(std::io::stderr(), "{LISTENS}{}", server.local_addr()).unwrap();
        server
            .serve(async {
                hangups.recv().await;
            })
            .await;
    }
}

/// Collects all the time, and promises next to nothing.
fn restless() -> Keeping {
    let mut keeping = Keeping::default();
    let of = |milliseconds| Period::of(Duration::from_millis(milliseconds));
    (keeping.gc.interval, keeping.gc.lease) = (of(5), of(100));
    (keeping.gc.blob_grace, keeping.gc.trash_grace, keeping.gc.untagged) = (of(0), of(0), Patience::For(of(0)));
    keeping
}

pub struct Victim {
    pub process: Child,
    pub http: Http,
    /// What it goes on saying.
    lines: Option<mpsc::Receiver<String>>,
}

impl Victim {
    fn start(directory: &Path) -> Self {
        Self::start_as(directory, &mut Command::new(std::env::current_exe().unwrap()))
    }

    pub fn start_as(directory: &Path, command: &mut Command) -> Self {
        let process = command
            .args(["--exact", "durability::server_process", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let nowhere = Http::new(([127, 0, 0, 1], 0).into());
        let mut victim = Self { process, http: nowhere, lines: None };
        let mut said = Vec::new();
        let mut lines = BufReader::new(victim.process.stderr.take().unwrap()).lines();
        for line in &mut lines {
            let line = line.unwrap();
            if let Some(addr) = line.strip_prefix(LISTENS) {
                victim.http = Http::new(addr.parse().unwrap());
                let (say, said) = mpsc::channel();
                victim.lines = Some(said);
                // Keep reading, so that the process never blocks on a full pipe; also where nobody listens.
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(say.send(line))));
                return victim;
            }
            said.push(line);
        }
        panic!("the server did not start: {said:#?}");
    }

    /// Waits until it has started again.
    pub fn listens_again(&self) {
        let lines = self.lines.as_ref().expect("it has started");
        while !lines.recv_timeout(Duration::from_secs(60)).expect("it starts again").starts_with(LISTENS) {}
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        self.process.wait().expect("a killed process ends");
    }
}

/// What the server said yes to.
#[derive(Default)]
struct Acknowledged {
    pushes: u64,
    /// The numbers of images whose own tag was acknowledged.
    pinned: Vec<u64>,
    /// For each client's tag: the number of the last acknowledged push, and of those that were tried since; a
    /// server that is killed may have carried out each of them.
    tags: BTreeMap<String, (u64, Vec<u64>)>,
}

fn layer(number: u64) -> Vec<u8> {
    // Mostly small, so that a round is short; some of more than one piece of an upload.
    let most = if number.is_multiple_of(16) { 600_000 } else { 20_000 };
    noise(number, 1000 + (number as usize * 7919) % most)
}

/// Pushes images until the server is gone. Each client moves a tag of its own forward.
async fn push(http: Http, client: u64, next: Arc<AtomicU64>, acknowledged: Arc<Mutex<Acknowledged>>) {
    let tag = format!("client-{client}");
    http_loop(&http, &tag, &next, &acknowledged).await.expect_err("a client stops only when the server is killed");
}

async fn http_loop(http: &Http, tag: &str, next: &AtomicU64, acknowledged: &Mutex<Acknowledged>) -> Result<(), String> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        acknowledged.lock().unwrap().tags.entry(tag.to_owned()).or_default().1.push(number);
        let manifest = image(&layer(number));
        let pinned = number.is_multiple_of(PINNED);
        let digest = Digest::of(&manifest);
        let own = if pinned { format!("&tag=pinned-{number}") } else { String::new() };
        let put = format!("/v2/load/test/manifests/{digest}?tag={tag}{own}");
        loop {
            for content in [layer(number), b"{}".to_vec()] {
                push_blob(http, content).await?;
            }
            let answer = http.try_send("PUT", &put, &[("content-type", MANIFEST)], manifest.clone()).await?;
            // On a slow machine more time than the promise holds may pass between blob and manifest.
            if answer.status != 404 {
                answer.expect(201);
                break;
            }
            assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN");
        }
        let mut acknowledged = acknowledged.lock().unwrap();
        acknowledged.pushes += 1;
        acknowledged.pinned.extend(pinned.then_some(number));
        acknowledged.tags.insert(tag.to_owned(), (number, Vec::new()));
    }
}

async fn push_blob(http: &Http, content: Vec<u8>) -> Result<(), String> {
    let digest = Digest::of(&content);
    if http.try_send("HEAD", &format!("/v2/load/test/blobs/{digest}"), &[], "").await?.status == 200 {
        return Ok(());
    }
    let post = http.try_send("POST", "/v2/load/test/blobs/uploads/", &[], "").await?.expect(202);
    let location = post.header("location");
    http.try_send("PATCH", location, &[], content).await?.expect(202);
    http.try_send("PUT", &format!("{location}?digest={digest}"), &[], "").await?.expect(201);
    Ok(())
}

/// Reads an image by its tag to the last byte; says which of the candidates it is.
async fn read_image(http: &Http, tag: &str, candidates: &[u64]) -> u64 {
    let manifest = http.get(&format!("/v2/load/test/manifests/{tag}")).await.expect(200);
    let number = candidates.iter().find(|number| manifest.body == image(&layer(**number)));
    let number = *number.unwrap_or_else(|| panic!("{tag} is none of {candidates:?}"));
    for content in [layer(number), b"{}".to_vec()] {
        let blob = http.get(&format!("/v2/load/test/blobs/{}", Digest::of(&content))).await.expect(200);
        assert!(blob.body == content, "{tag} has a layer of other bytes");
    }
    number
}

async fn verify(http: &Http, acknowledged: &Acknowledged) {
    for number in &acknowledged.pinned {
        read_image(http, &format!("pinned-{number}"), &[*number]).await;
    }
    for (tag, (done, tried)) in &acknowledged.tags {
        if *done > 0 {
            read_image(http, tag, &[&[*done], &tried[..]].concat()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    kill_again_and_again(ROUNDS).await;
}

/// `cargo test --release --workspace --test suite -- --ignored --nocapture ten_thousand`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes an hour"]
async fn what_was_acknowledged_survives_ten_thousand_kills() {
    kill_again_and_again(MANY_ROUNDS).await;
}

async fn kill_again_and_again(rounds: u64) {
    let begun = Instant::now();
    let directory = tempfile::tempdir().unwrap();
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    let next = Arc::new(AtomicU64::new(1));
    for round in 0..rounds {
        let victim = Victim::start(directory.path());
        let before = acknowledged.lock().unwrap().pushes;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| tokio::spawn(push(victim.http.clone(), client, next.clone(), acknowledged.clone())))
            .collect();
        // At least one push must have gone through for the kill to prove anything; then at any moment.
        let deadline = Instant::now() + Duration::from_secs(60);
        while acknowledged.lock().unwrap().pushes == before {
            assert!(Instant::now() < deadline, "no push went through in round {round}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(round * 7 % 20)).await;
        drop(victim);
        for client in clients {
            client.await.unwrap();
        }
        // Every third round without the index: it must come back from the journal alone.
        if round % 3 == 2 {
            std::fs::remove_dir_all(directory.path().join("index.sled")).unwrap();
        }
    }
    let victim = Victim::start(directory.path());
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    assert!(acknowledged.pushes >= rounds);
    verify(&victim.http, &acknowledged).await;
    drop(victim);
    let took = begun.elapsed().as_secs();
    let mut log = std::io::stderr().lock();
    writeln!(log, "{rounds} kills, {} acknowledged pushes, none lost, {took} s", acknowledged.pushes).unwrap();

    // Nothing is damaged, and what nothing names is gone: all of it, also what crashes left behind.
    let keeping = restless();
    let directory = directory.path().to_owned();
    let left = tokio::task::spawn_blocking(move || {
        let store = Store::open_offline(&directory, keeping).unwrap();
        store.adopt_all().unwrap();
        while store.collect().unwrap().reviewed > 0 {}
        let mut findings = Vec::new();
        store.fsck(false, &mut |finding| findings.push(finding.to_string()), &|| false).unwrap();
        assert_eq!(findings, Vec::<String>::new());
        let files = |name: &str| walk(&directory.join(name));
        (files("blobs"), files("trash"))
    });
    let (blobs, trash) = left.await.unwrap();
    // One layer for each image that was ever pinned and for each client's tag, and the one config.
    let tried = next.load(Ordering::Relaxed);
    let most = tried / PINNED + 1 + CLIENTS + 1;
    assert!(blobs as u64 <= most && trash == 0, "{blobs} files of {tried} images, {trash} in the trash");
}

fn walk(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { walk(&path) } else { 1 }).sum()
}

/// The layer with its data, its name and its record, the record of the config with the config in it, and the
/// record of the manifest. It was 38 with docker-registry.
const SYNCS_OF_A_PUSH: usize = 5;
/// The same if the layer is small, too.
const SYNCS_OF_A_SMALL_PUSH: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_push_of_one_layer_waits_for_the_disk_five_times() {
    let (syncs, calls) = syncs_of_a_push(&noise(1, 100_000)).await;
    assert!(syncs > 0 && syncs <= SYNCS_OF_A_PUSH, "{syncs} syncs:\n{calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_push_of_a_small_layer_waits_for_the_disk_three_times() {
    let (syncs, calls) = syncs_of_a_push(b"layer").await;
    assert!(syncs > 0 && syncs <= SYNCS_OF_A_SMALL_PUSH, "{syncs} syncs:\n{calls}");
}

/// How often the server waits for the disk while an image is pushed, in whatever way.
async fn syncs_of_a_push(layer: &[u8]) -> (usize, String) {
    let directory = tempfile::tempdir().unwrap();
    let victim = Victim::start_as(directory.path(), Command::new(std::env::current_exe().unwrap()).env(CALM, "yes"));
    let calls = directory.path().with_extension("calls");
    let mut strace = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,sync,msync", "-o"])
        .arg(&calls)
        .args(["-p", &victim.process.id().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("`strace` is needed: apt-get install strace");
    let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
    let attached = lines.next().expect("strace says that it is there").unwrap();
    assert!(attached.contains("attached"), "{attached}");
    std::thread::spawn(move || lines.for_each(drop));
    victim.http.push_image("a", "v1", layer).await;
    // Once strace is gone it has written everything.
    rustix::process::kill_process(rustix::process::Pid::from_child(&strace), rustix::process::Signal::INT).unwrap();
    strace.wait().unwrap();
    let traced = std::fs::read_to_string(&calls).unwrap();
    std::fs::remove_file(&calls).unwrap();
    let waits = |line: &&str| line.contains("sync") && !line.contains("resumed>");
    (traced.lines().filter(waits).count(), traced)
}

#[tokio::test]
async fn a_torn_tail_of_the_journal_loses_nothing_that_was_acknowledged() {
    let mut registry = Registry::start().await;
    let manifest = registry.http.push_image("a", "v1", b"layer").await;
    let segment = registry.data().join("journal/00000000000000000001.wal");
    registry = registry
        .restart_after(|| {
            // What a write leaves behind that a crash cut short.
            let mut bytes = std::fs::read(&segment).unwrap();
            bytes.extend_from_slice(&[0x55; 37]);
            std::fs::write(&segment, bytes).unwrap();
        })
        .await;
    assert_eq!(registry.http.get("/v2/a/manifests/v1").await.expect(200).body, manifest);
    registry.http.push_image("a", "v2", b"other layer").await;
    registry = registry.restart().await;
    registry.http.get("/v2/a/manifests/v2").await.expect(200);
}

#[tokio::test]
async fn a_deleted_or_corrupted_index_changes_nothing_that_is_served() {
    let mut registry = Registry::start().await;
    for tag in ["v1", "v2", "v3"] {
        registry.http.push_image("a", tag, tag.as_bytes()).await;
    }
    registry.http.delete("/v2/a/manifests/v2").await.expect(202);
    let before = registry.http.get("/v2/a/tags/list").await.expect(200).body;
    for damage in ["deleted", "overwritten"] {
        let data = registry.dir.path().to_owned();
        // The files can only be changed at rest, so: stop, change, start.
        registry = registry
            .restart_after(|| match damage {
                "deleted" => std::fs::remove_dir_all(data.join("index.sled")).unwrap(),
                _ => std::fs::write(data.join("index.sled/db"), b"no database").unwrap(),
            })
            .await;
        assert_eq!(registry.http.get("/v2/a/tags/list").await.expect(200).body, before, "{damage}");
        assert_eq!(registry.http.get("/v2/a/manifests/v3").await.expect(200).body, image(b"v3"));
    }
}
