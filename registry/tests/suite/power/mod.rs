//! Power cuts at every system call. A real server process is traced while clients push, move tags and
//! delete; from the trace come the states that a disk may be in if the power went at any moment (`disk`).
//! From each of them the store must open, have everything that had been acknowledged by then, and be
//! sound. So an answer that is sent before what it promises is durable fails here, as does a name that is
//! durable before its content, however short the moment.
//!
//! Blobs are small and large: small ones lie in the journal until the disk has their files, and come back
//! from there at the start. The server makes snapshots all the while, after which the journal is no longer
//! asked. And each state is that of another boot, as it is after a cut: or it would be trusted as after
//! `kill -9`, and nothing would be made again.

mod disk;
mod repair;
mod trace;

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use content::{Sink, Source};
use oci::{Algorithm, Digest, Manifest, RepoName, Selector};
use registry::{Keeping, OpenError, Store};
use serde_json::json;
use tokio::runtime::Handle;

use crate::client::{Http, MANIFEST, image_with, noise};
use crate::durability::{CALM, SNAPSHOT_EVERY, Victim};
use disk::{Act, Disk, Event, Luck, Tree};

const CLIENTS: usize = 3;
const ROUNDS: usize = 6;
/// Each so-manieth state is also written to after the cut.
const GOES_ON: usize = 4;
/// States of the disk that are tried at the same time.
const AT_ONCE: usize = 4;

/// What a request changes: the manifest that a tag names, or whether a repository has a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Tag { repo: String, tag: String },
    Blob { repo: String, digest: Digest },
}

/// What requests change, client by client in the order in which each sent them.
#[derive(Default)]
struct Log {
    changes: [Vec<Change>; CLIENTS],
    /// All manifests that were ever sent.
    manifests: BTreeMap<Digest, Vec<u8>>,
}

struct Change {
    request: usize,
    key: Key,
    /// What the tag names then, or the blob if it is there then.
    value: Option<Digest>,
}

/// A client: one request after the other.
struct Client {
    http: Http,
    number: usize,
    requests: Arc<AtomicUsize>,
    log: Arc<Mutex<Log>>,
    /// Whether blobs stay that no manifest names.
    calm: bool,
}

impl Client {
    async fn send(
        &self,
        method: &str,
        path: &str,
        body: impl Into<bytes::Bytes>,
        changes: Vec<(Key, Option<Digest>)>,
    ) -> crate::client::Reply {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        self.log.lock().unwrap().changes[self.number].extend(changes.into_iter().filter_map(|(key, value)| {
            let kept = self.calm || matches!(key, Key::Tag { .. });
            kept.then_some(Change { request, key, value })
        }));
        let headers = [("x-request-id", &*request.to_string()), ("content-type", MANIFEST)];
        let headers = if path.contains("/manifests/") { &headers[..] } else { &headers[..1] };
        self.http.send(method, path, headers, body).await
    }

    /// Pushes a blob in one of the ways in which clients do.
    async fn push_blob(&self, repo: &str, content: &[u8], way: usize) -> Digest {
        let algorithm = if way == 3 { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let digest = Digest::of_with(algorithm, content);
        let uploads = format!("/v2/{repo}/blobs/uploads/");
        let there = vec![(Key::Blob { repo: repo.to_owned(), digest }, Some(digest))];
        if way == 0 {
            self.send("POST", &format!("{uploads}?digest={digest}"), content.to_vec(), there).await.expect(201);
            return digest;
        }
        let post = self.send("POST", &format!("{uploads}?digest-algorithm={algorithm}"), "", vec![]).await.expect(202);
        let location = post.header("location");
        let (first, second) = content.split_at(if way == 1 { 0 } else { content.len() / 2 });
        let glue = if location.contains('?') { '&' } else { '?' };
        if !first.is_empty() {
            self.send("PATCH", location, first.to_vec(), vec![]).await.expect(202);
        }
        let put = format!("{location}{glue}digest={digest}");
        self.send("PUT", &put, second.to_vec(), there).await.expect(201);
        digest
    }

    async fn push_image(&self, repo: &str, round: usize) -> Digest {
        let seed = (self.number * ROUNDS + round) as u64;
        // Each way of pushing with a blob that the journal takes as well, and with one that is too large.
        let size = if round < ROUNDS / 2 { 700 + round * 900 } else { 16_500 + round * 200 };
        let layer = noise(seed, size);
        // Every so often one that is too large for the journal, so that it lies in a file.
        let note = if round % 4 == 2 { "x".repeat(70_000) } else { String::new() };
        let manifest = image_with(&layer, json!({"annotations": {"round": round.to_string(), "note": note}}));
        let digest = Digest::of(&manifest);
        self.log.lock().unwrap().manifests.insert(digest, manifest.clone());
        let tag = |tag: String| (Key::Tag { repo: repo.to_owned(), tag }, Some(digest));
        let changes = || vec![tag("moving".to_owned()), tag(format!("round-{round}"))];
        let put = format!("/v2/{repo}/manifests/{digest}?tag=moving&tag=round-{round}");
        loop {
            self.push_blob(repo, &layer, round % 3).await;
            self.push_blob(repo, b"{}", 1).await;
            let answer = self.send("PUT", &put, manifest.clone(), changes()).await;
            // What nothing names may be collected between blob and manifest where patience is short.
            if answer.status == 404 && !self.calm {
                continue;
            }
            answer.expect(201);
            return digest;
        }
    }

    async fn work(&self, rounds: Range<usize>) {
        let repo = format!("repo-{}", self.number);
        for round in rounds {
            let digest = self.push_image(&repo, round).await;
            match round % 3 {
                0 => {
                    let blob = self.push_blob(&repo, &noise(1000 + round as u64, 3000), 3).await;
                    let key = |repo: &str| Key::Blob { repo: repo.to_owned(), digest: blob };
                    if self.calm {
                        let other = format!("{repo}/mounted");
                        let mount = format!("/v2/{other}/blobs/uploads/?mount={blob}&from={repo}");
                        self.send("POST", &mount, "", vec![(key(&other), Some(blob))]).await.expect(201);
                        let gone = format!("/v2/{repo}/blobs/{blob}");
                        self.send("DELETE", &gone, "", vec![(key(&repo), None)]).await.expect(202);
                    }
                }
                1 => {
                    let tag = format!("round-{}", round - 1);
                    let path = format!("/v2/{repo}/manifests/{tag}");
                    let gone = vec![(Key::Tag { repo: repo.clone(), tag }, None)];
                    self.send("DELETE", &path, "", gone).await.expect(202);
                }
                _ => {
                    let tags = ["moving".to_owned(), format!("round-{round}")];
                    let gone = tags.map(|tag| (Key::Tag { repo: repo.clone(), tag }, None)).to_vec();
                    self.send("DELETE", &format!("/v2/{repo}/manifests/{digest}"), "", gone).await.expect(202);
                }
            }
        }
    }
}

/// Lets clients work on a traced server; gives what they asked for and what the server did.
async fn traced_work(calm: bool) -> (Log, Vec<Event>) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let written = directory.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-xx", "-s", "1000000", "-e", trace::CALLS, "-e", "signal=none", "-o"]).arg(&written);
    strace.arg(std::env::current_exe().unwrap());
    if calm {
        strace.env(CALM, "yes");
    }
    strace.env(SNAPSHOT_EVERY, "30000");
    let mut victim = Victim::start_as(&data, &mut strace);
    let traced = traced(&victim.process);
    let (log, requests) = (Arc::<Mutex<Log>>::default(), Arc::<AtomicUsize>::default());
    let addr = victim.http.addr;
    for rounds in [0..ROUNDS / 2, ROUNDS / 2..ROUNDS] {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (requests, log, rounds) = (requests.clone(), log.clone(), rounds.clone());
                let client = Client { http: Http::new(addr), number, requests, log, calm };
                tokio::spawn(async move { client.work(rounds).await })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        // What an orderly stop writes, and what a start makes of it, is part of the trace.
        rustix::process::kill_process(traced, rustix::process::Signal::HUP).unwrap();
        victim.listens_again();
    }
    // strace ends by itself, with its file whole, once the process is gone that it traces.
    rustix::process::kill_process(traced, rustix::process::Signal::KILL).unwrap();
    victim.process.wait().unwrap();
    let text = std::fs::read_to_string(&written).unwrap();
    let events = disk::events(&trace::calls(&text), data.to_str().unwrap());
    (std::mem::take(&mut *log.lock().unwrap()), events)
}

/// The process that strace has started.
fn traced(strace: &Child) -> rustix::process::Pid {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", strace.id())).unwrap();
    children.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("strace has one child")
}

/// What a key may be after a cut: the last acknowledged value, or what was being asked for.
type Allowed = BTreeMap<Key, Vec<Option<Digest>>>;

fn allowed(log: &Log, answered: &HashSet<usize>) -> Allowed {
    let mut allowed = Allowed::new();
    for changes in &log.changes {
        let mut asked = None;
        for change in changes {
            let values = allowed.entry(change.key.clone()).or_insert_with(|| vec![None]);
            if answered.contains(&change.request) {
                *values = vec![change.value];
            } else if *asked.get_or_insert(change.request) == change.request {
                values.push(change.value);
            }
        }
    }
    allowed
}

/// Opens the store as the cut left it, and looks whether everything is there.
fn verify(data: &Path, allowed: &Allowed, manifests: &BTreeMap<Digest, Vec<u8>>) -> Result<(), String> {
    let store = open(data)?;
    Handle::current().block_on(everything_is_there(&store, allowed, manifests))?;
    let mut findings = Vec::new();
    store.adopt_all().map_err(|error| error.to_string())?;
    store.fsck(false, &mut |finding| findings.push(finding.to_string()), &|| false).map_err(|e| e.to_string())?;
    if !findings.is_empty() {
        return Err(format!("unsound: {findings:?}"));
    }
    Ok(())
}

/// Opens the store. Its lock may still be held by a process that another test is just starting: between
/// fork and exec it has every file that was open here.
fn open(data: &Path) -> Result<Store, String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match Store::open_offline(data, Keeping::default()) {
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened.map_err(|error| format!("does not open: {error:?}")),
        }
    }
}

async fn everything_is_there(
    store: &Store,
    allowed: &Allowed,
    manifests: &BTreeMap<Digest, Vec<u8>>,
) -> Result<(), String> {
    for (key, values) in allowed {
        let found = match key {
            Key::Tag { repo, tag } => tagged(&store.repository(name(repo)), tag, manifests).await?,
            Key::Blob { repo, digest } => {
                let repository = store.repository(name(repo));
                match repository.has_blob(*digest).await.map_err(|error| format!("{key:?}: {error}"))? {
                    true => Some(read(&repository, *digest).await?),
                    false => None,
                }
            }
        };
        if !values.contains(&found) {
            return Err(format!("{key:?} is {found:?}, may be {values:?}"));
        }
    }
    Ok(())
}

/// The store takes what is written after the cut, and has it at its next start.
async fn goes_on(data: &Path, allowed: &Allowed) -> Result<(), String> {
    let mut tags = allowed.iter().filter_map(|(key, values)| match (key, &values[..]) {
        (Key::Tag { repo, tag }, [Some(_)]) => Some((repo, tag)),
        _ => None,
    });
    let Some((repo, tag)) = tags.next_back() else { return Ok(()) };
    let told = |error: content::Error| format!("after the cut: {error}");
    let repository = open(data)?.repository(name(repo));
    let manifest = repository.manifest(&Selector::Tag(tag.parse().unwrap())).await.map_err(told)?;
    repository.put_manifest(&manifest, Some(&"after".parse().unwrap())).await.map_err(told)?;
    drop(repository);
    let found = open(data)?.repository(name(repo)).manifest(&Selector::Tag("after".parse().unwrap())).await;
    match found.map_err(told)?.digest() == manifest.digest() {
        true => Ok(()),
        false => Err("what was written after the cut is something else".to_owned()),
    }
}

/// What a tag names, with everything below it read and hashed.
async fn tagged(
    repository: &registry::Repository,
    tag: &str,
    manifests: &BTreeMap<Digest, Vec<u8>>,
) -> Result<Option<Digest>, String> {
    let manifest = match repository.manifest(&Selector::Tag(tag.parse().unwrap())).await {
        Ok(manifest) => manifest,
        Err(content::Error::NoManifest { .. }) => return Ok(None),
        Err(error) => return Err(format!("tag {tag}: {error}")),
    };
    let sent = manifests.get(&manifest.digest()).ok_or_else(|| format!("{tag} names what nobody sent"))?;
    if manifest.bytes() != sent {
        return Err(format!("{tag}: the manifest is not what was sent"));
    }
    for blob in blobs(&manifest) {
        read(repository, blob).await?;
    }
    Ok(Some(manifest.digest()))
}

fn blobs(manifest: &Manifest) -> Vec<Digest> {
    let document: serde_json::Value = serde_json::from_slice(manifest.bytes()).unwrap();
    let layers = document["layers"].as_array().unwrap().iter();
    let all = layers.chain([&document["config"]]);
    all.map(|blob| blob["digest"].as_str().unwrap().parse().unwrap()).collect()
}

/// Reads a blob and says what it is.
async fn read(repository: &registry::Repository, digest: Digest) -> Result<Digest, String> {
    let told = |error: content::Error| format!("blob {digest}: {error}");
    let blob = oci::Descriptor::new("application/octet-stream", digest, 0);
    let body = repository.blob(&blob, 0).await.map_err(told)?;
    let bytes = content::collect(body, 1 << 20).await.map_err(told)?.ok_or("the blob has more bytes than any")?;
    Ok(Digest::of_with(digest.algorithm(), &bytes))
}

fn name(repo: &str) -> RepoName {
    repo.parse().unwrap()
}

/// How thoroughly the states of each moment are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Care {
    /// The cruellest and the kindest disk at every moment, and one of the others.
    Usual,
    /// All kinds, and several that are made up by chance.
    Great,
}

impl Care {
    fn lucks(self, moment: usize) -> Vec<Luck> {
        let chance = |times| (0..times).map(move |time| Luck::Some((moment * 100 + time) as u64));
        let mut lucks = vec![Luck::None, Luck::All];
        match (self, moment % 3) {
            (Self::Great, _) => {
                lucks.extend([Luck::Names, Luck::Data]);
                lucks.extend(chance(8));
            }
            (Self::Usual, 0) => lucks.push(Luck::Names),
            (Self::Usual, 1) => lucks.push(Luck::Data),
            (Self::Usual, _) => lucks.extend(chance(1)),
        }
        lucks
    }
}

/// Where states of disks are laid out: in memory, where that is possible.
fn workplace() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap()
}

async fn the_power_goes_at_every_moment(calm: bool, care: Care) {
    let (log, events) = traced_work(calm).await;
    let last: HashSet<_> = log.changes.iter().flatten().map(|change| change.request).collect();
    let log = Arc::new(log);
    let workplace = workplace();
    let (mut disk, mut answered, mut seen) = (Disk::new(&events), HashSet::new(), HashSet::new());
    let (mut moment, mut tried, mut outcomes) = (0, 0, Vec::new());
    let mut running = tokio::task::JoinSet::new();
    while let Some(event) = disk.step() {
        moment += 1;
        if let Act::Answer { request, status } = event.act
            && (200..300).contains(&status)
        {
            answered.insert(request);
        }
        for luck in care.lucks(moment) {
            let tree = disk.after_the_cut(luck);
            if !seen.insert(fingerprint(&tree, answered.len())) {
                continue;
            }
            tried += 1;
            let (log, allowed) = (log.clone(), allowed(&log, &answered));
            let place = workplace.path().join(tried.to_string());
            let told = format!("after event {moment} ({:?}), {luck:?}", what(event));
            running.spawn(try_state(tree, place, allowed, log, tried % GOES_ON == 0, told));
            if running.len() >= AT_ONCE {
                outcomes.push(running.join_next().await.unwrap().unwrap());
            }
        }
    }
    outcomes.extend(running.join_all().await);
    let (mut failures, mut lacking, mut restored) = (Vec::new(), 0, 0);
    for outcome in outcomes {
        match outcome {
            Ok(blobs) => (lacking, restored) = (lacking + usize::from(blobs > 0), restored + blobs),
            Err(error) => failures.push(error),
        }
    }
    // The trace has all of the work, or nothing was proved.
    assert!(last.is_subset(&answered) || !calm, "the trace lacks answers: {:?}", last.difference(&answered));
    assert!(tried > events.len() / 2, "{tried} states of {} events", events.len());
    let mut out = std::io::stderr().lock();
    let told = format_args!(
        "{} events, {tried} states of the disk, {restored} blobs that {lacking} of them lacked\n",
        events.len()
    );
    std::io::Write::write_fmt(&mut out, told).unwrap();
    let shown: Vec<_> = failures.iter().take(10).collect();
    assert!(failures.is_empty(), "{} of {tried} states lost something: {shown:#?}", failures.len());
    assert!(lacking > tried / 10, "only {lacking} of {tried} states lacked what the journal has");
}

/// Opens the store in a state and looks at it; says how many files it wrote again.
async fn try_state(
    tree: Tree,
    place: PathBuf,
    allowed: Allowed,
    log: Arc<Log>,
    goes_on_too: bool,
    told: String,
) -> Result<usize, String> {
    let tried = tokio::task::spawn_blocking(move || {
        tree.write_to(&place);
        start_machine_anew(&place);
        let before = whole_blobs(&place.join("blobs"));
        let mut verified = verify(&place, &allowed, &log.manifests);
        let restored = whole_blobs(&place.join("blobs")).difference(&before).count();
        if goes_on_too && verified.is_ok() {
            verified = Handle::current().block_on(goes_on(&place, &allowed));
        }
        if verified.is_ok() {
            std::fs::remove_dir_all(&place).unwrap();
        }
        verified.map(|()| restored)
    });
    tried.await.unwrap_or_else(|panic| Err(panic.to_string())).map_err(|error| format!("{told}: {error}"))
}

/// The files that are what their names say.
fn whole_blobs(directory: &Path) -> HashSet<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return HashSet::new() };
    let mut found = HashSet::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(whole_blobs(&path));
            continue;
        }
        let (bytes, name) = (std::fs::read(&path).unwrap(), path.file_name().unwrap().to_str().unwrap());
        if [Algorithm::Sha256, Algorithm::Sha512].iter().any(|kind| Digest::of_with(*kind, &bytes).hex() == name) {
            found.insert(name.to_owned());
        }
    }
    found
}

/// The mark of a boot in the data is that of one long ago.
fn start_machine_anew(data: &Path) {
    let state = data.join("index.state");
    if std::fs::read_to_string(&state).is_ok_and(|mark| mark.starts_with("boot ")) {
        std::fs::write(&state, "boot of another time").unwrap();
    }
}

fn fingerprint(tree: &Tree, answered: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tree, answered).hash(&mut hasher);
    hasher.finish()
}

fn what(event: &Event) -> String {
    match &event.act {
        Act::Write { inode, at, data } => format!("{} bytes at {at} of {inode}", data.len()),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_wherever_the_power_goes() {
    the_power_goes_at_every_moment(true, Care::Usual).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_wherever_the_power_goes_while_garbage_is_collected() {
    the_power_goes_at_every_moment(false, Care::Usual).await;
}

/// `cargo test --release --workspace --test suite -- --ignored --nocapture unlucky`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes long"]
async fn nothing_acknowledged_is_lost_however_unlucky_the_disk() {
    for calm in [true, false] {
        the_power_goes_at_every_moment(calm, Care::Great).await;
    }
}
