//! Power cuts at every system call of a repair. A process fills a store, damages it in all the ways that a
//! check knows, and repairs it, traced. Whatever the disk may hold if the power went at any moment in between,
//! a store opens on it, gives nothing for what it is not once it was repaired to the end, has lost nothing that
//! was good or that the journal has, and is whole again when what was lost is pushed.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};

use content::{Body, OpenBlob, Sink, Source, body_of};
use oci::{Descriptor, Digest, Manifest, RepoName, Selector, Tag, media_type};
use registry::{Keeping, Repository, Store};
use tokio::runtime::Handle;

use super::disk::{self, Act, Disk, Luck};
use super::{AT_ONCE, Care, fingerprint, open, read, start_machine_anew, trace, what, workplace};
use crate::client::{image_with, noise};

const DIRECTORY: &str = "REGISTRY_TEST_REPAIR";
/// Files beside the data, by which the trace tells how far the process is.
const DAMAGED: &str = "damaged";
const REPAIRED: &str = "repaired";

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    None,
    Changed,
    Emptied,
    Removed,
}

/// An image with one layer, and what happens to it.
struct Thing {
    name: &'static str,
    size: usize,
    harm: Harm,
    /// Where the bytes of the layer are to be found again.
    kept: Kept,
    /// Whether it is the file of the manifest that suffers, which is large then.
    in_manifest: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// The journal has them.
    InJournal,
    /// They are too large for it.
    Nowhere,
    /// They are small, but the journal knows only that a file was taken in.
    OnlyInFile,
}

const fn thing(name: &'static str, size: usize, harm: Harm, kept: Kept) -> Thing {
    Thing { name, size, harm, kept, in_manifest: false }
}

const THINGS: [Thing; 11] = [
    thing("small", 900, Harm::None, Kept::InJournal),
    thing("large", 20_000, Harm::None, Kept::Nowhere),
    thing("small-changed", 901, Harm::Changed, Kept::InJournal),
    thing("small-emptied", 902, Harm::Emptied, Kept::InJournal),
    thing("small-removed", 903, Harm::Removed, Kept::InJournal),
    thing("large-changed", 20_001, Harm::Changed, Kept::Nowhere),
    thing("large-removed", 20_002, Harm::Removed, Kept::Nowhere),
    thing("adopted-changed", 904, Harm::Changed, Kept::OnlyInFile),
    thing("adopted-removed", 905, Harm::Removed, Kept::OnlyInFile),
    Thing { name: "manifest-changed", size: 906, harm: Harm::Changed, kept: Kept::Nowhere, in_manifest: true },
    Thing { name: "manifest-removed", size: 907, harm: Harm::Removed, kept: Kept::Nowhere, in_manifest: true },
];

impl Thing {
    fn layer(&self) -> Vec<u8> {
        noise(self.size as u64, self.size)
    }

    fn tag(&self) -> Tag {
        self.name.parse().unwrap()
    }

    fn manifest(&self) -> Manifest {
        // Larger than what the journal takes, so that it lies in a file.
        let note = if self.in_manifest { "x".repeat(70_000) } else { String::new() };
        let annotations = serde_json::json!({"annotations": {"name": self.name, "note": note}});
        Manifest::parse(None, image_with(&self.layer(), annotations)).unwrap()
    }

    /// What suffers.
    fn harmed(&self) -> Digest {
        if self.in_manifest { self.manifest().digest() } else { Digest::of(&self.layer()) }
    }

    /// Whether it has to be as it was whenever the power went.
    fn stays(&self) -> bool {
        self.harm == Harm::None || self.kept == Kept::InJournal
    }

    async fn push(&self, repository: &Repository) {
        for content in [b"{}".to_vec(), self.layer()] {
            let blob = Descriptor::new(media_type::OCI_LAYER, Digest::of(&content), content.len() as u64);
            repository.put_blob(&blob, &InHand(content)).await.unwrap();
        }
        repository.put_manifest(&self.manifest(), Some(&self.tag())).await.unwrap();
    }
}

struct InHand(Vec<u8>);

impl OpenBlob for InHand {
    fn open(&self, from: u64) -> Pin<Box<dyn Future<Output = content::Result<Body>> + Send + '_>> {
        Box::pin(std::future::ready(Ok(body_of(self.0[from as usize..].to_vec()))))
    }
}

/// Files that no row speaks of: their content, and what lies there.
fn orphans() -> [(Digest, Vec<u8>); 3] {
    let (good, small, large) = (noise(1, 30_000), noise(2, 800), noise(3, 30_001));
    let other = |content: &[u8]| content.iter().map(|byte| !byte).collect();
    [(Digest::of(&good), good), (Digest::of(&small), other(&small)), (Digest::of(&large), other(&large))]
}

fn place(data: &Path, digest: &Digest) -> PathBuf {
    data.join("blobs").join(digest.algorithm().as_str()).join(&digest.hex()[..2]).join(digest.hex())
}

fn repo() -> RepoName {
    "repo".parse().unwrap()
}

/// Fills a store, damages it and repairs it: this test binary, started again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the test of power cuts while a store is repaired"]
async fn repairing_process() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let root = PathBuf::from(directory);
    let data = root.join("data");
    let store = reopen(&data).await;
    let adopted = THINGS.iter().filter(|thing| thing.kept == Kept::OnlyInFile);
    adopted.for_each(|thing| std::fs::write(place(&data, &thing.harmed()), thing.layer()).unwrap());
    let store = blocking(store, |store| assert!(store.adopt_all().unwrap() >= 2)).await;
    for thing in &THINGS {
        thing.push(&store.repository(repo())).await;
    }
    store.close().await;
    drop(store);
    damage(&data);
    rustix::fs::syncfs(File::open(&root).unwrap()).unwrap();
    File::create(root.join(DAMAGED)).unwrap();
    let store = reopen(&data).await;
    blocking(store, |store| {
        store.fsck(true, &mut |_| (), &|| false).unwrap();
    })
    .await;
    File::create(root.join(REPAIRED)).unwrap();
}

fn damage(data: &Path) {
    for thing in &THINGS {
        let path = place(data, &thing.harmed());
        let mut bytes = std::fs::read(&path).unwrap();
        if thing.harm != Harm::None {
            std::fs::remove_file(&path).unwrap();
        }
        bytes[100] ^= 1;
        match thing.harm {
            Harm::Changed => std::fs::write(&path, bytes).unwrap(),
            Harm::Emptied => std::fs::write(&path, "").unwrap(),
            Harm::None | Harm::Removed => {}
        }
    }
    for (digest, content) in orphans() {
        std::fs::write(place(data, &digest), content).unwrap();
    }
}

async fn reopen(data: &Path) -> Store {
    let data = data.to_owned();
    tokio::task::spawn_blocking(move || Store::open_offline(&data, Keeping::default())).await.unwrap().unwrap()
}

async fn blocking(store: Store, work: impl FnOnce(&Store) + Send + 'static) -> Store {
    let work = move || {
        work(&store);
        store
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// What the process did.
fn traced_repair() -> Vec<disk::Event> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let written = directory.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-xx", "-s", "1000000", "-e", trace::CALLS, "-e", "signal=none", "-o"]).arg(&written);
    strace.arg(std::env::current_exe().unwrap());
    strace.args(["--exact", "power::repair::repairing_process", "--ignored", "--nocapture"]).env(DIRECTORY, &root);
    let done = strace.stdout(Stdio::null()).output().expect("strace traces a process: install strace");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = std::fs::read_to_string(&written).unwrap();
    disk::events(&trace::calls(&text), root.to_str().unwrap())
}

/// How far the process was when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Preparing,
    Repairing,
    Repaired,
}

impl Progress {
    fn after(self, event: &disk::Event) -> Self {
        match &event.act {
            Act::File { at, .. } if at.1 == DAMAGED => Self::Repairing,
            Act::File { at, .. } if at.1 == REPAIRED => Self::Repaired,
            _ => self,
        }
    }
}

/// Looks at a store as the cut left it, repairs it once more, and lets clients heal it.
fn verify(data: &Path, progress: Progress) -> Result<(), String> {
    let store = open(data)?;
    let repository = store.repository(repo());
    let here = Handle::current();
    here.block_on(unharmed(&repository, |thing| thing.harm == Harm::None))?;
    if progress == Progress::Repaired {
        // Nothing is left to do, for the disk either.
        sound(&store, true)?;
    }
    check(&store, true)?;
    here.block_on(unharmed(&repository, Thing::stays))?;
    here.block_on(nothing_is_given_for_something_else(&repository))?;
    sound(&store, true)?;
    put_away(data)?;
    drop((store, repository));
    let store = open(data)?;
    let repository = store.repository(repo());
    sound(&store, true)?;
    here.block_on(async {
        for thing in &THINGS {
            thing.push(&repository).await;
        }
        unharmed(&repository, |_| true).await
    })?;
    sound(&store, false)
}

async fn unharmed(repository: &Repository, which: impl Fn(&Thing) -> bool) -> Result<(), String> {
    for thing in THINGS.iter().filter(|thing| which(thing)) {
        let told = |error: String| format!("{}: {error}", thing.name);
        let manifest = repository.manifest(&Selector::Tag(thing.tag())).await;
        let manifest = manifest.map_err(|error| told(error.to_string()))?;
        let found = read(repository, Digest::of(&thing.layer())).await.map_err(told)?;
        if manifest.bytes() != thing.manifest().bytes() || found != Digest::of(&thing.layer()) {
            return Err(told("is something else".to_owned()));
        }
    }
    Ok(())
}

/// What a repository says that it has, it has.
async fn nothing_is_given_for_something_else(repository: &Repository) -> Result<(), String> {
    for thing in &THINGS {
        let told = |error: String| format!("{}, after the repair: {error}", thing.name);
        let layer = Digest::of(&thing.layer());
        if repository.has_blob(layer).await.map_err(|error| told(error.to_string()))? {
            let found = read(repository, layer).await.map_err(told)?;
            if found != layer {
                return Err(told(format!("{layer} is given as {found}")));
            }
        }
        match repository.manifest(&Selector::Digest(thing.manifest().digest())).await {
            Ok(manifest) if manifest.bytes() != thing.manifest().bytes() => return Err(told("is other".to_owned())),
            Err(error) if !error.is_missing() => return Err(told(error.to_string())),
            _ => {}
        }
    }
    Ok(())
}

fn check(store: &Store, repair: bool) -> Result<BTreeSet<String>, String> {
    let mut findings = BTreeSet::new();
    let mut tell = |finding: &registry::Finding| findings.extend([finding.to_string()]);
    let checked = store.fsck(repair, &mut tell, &|| false).map_err(|error| error.to_string())?;
    match !repair || checked.repaired <= checked.findings {
        true => Ok(findings),
        false => Err(format!("{checked:?}")),
    }
}

/// Nothing is found but, where that may be, images that wait for a push.
fn sound(store: &Store, may_lack: bool) -> Result<(), String> {
    let findings = check(store, false)?;
    match findings.iter().all(|finding| may_lack && finding.starts_with("incomplete:")) {
        true => Ok(()),
        false => Err(format!("unsound: {findings:#?}")),
    }
}

/// What was large and damaged lies where somebody may look at it.
fn put_away(data: &Path) -> Result<(), String> {
    let of_a_thing = |thing: &Thing| thing.harm == Harm::Changed && thing.size > 16 << 10;
    let things = THINGS.iter().filter(|thing| of_a_thing(thing)).map(Thing::harmed);
    let [_, _, (orphan, _)] = orphans();
    for digest in things.chain([orphan]) {
        let path = data.join("quarantine").join(format!("{}-{}", digest.algorithm(), digest.hex()));
        if !path.exists() {
            return Err(format!("{} was not put away", path.display()));
        }
    }
    Ok(())
}

/// Opens the store in a state of the disk, and says what is wrong with it. After a mere kill the machine is
/// still the same.
async fn try_state(tree: disk::Tree, place: PathBuf, progress: Progress, luck: Luck) -> Result<(), String> {
    let tried = tokio::task::spawn_blocking(move || {
        tree.write_to(&place);
        if !matches!(luck, Luck::All) {
            start_machine_anew(&place.join("data"));
        }
        let verified = verify(&place.join("data"), progress);
        if verified.is_ok() {
            std::fs::remove_dir_all(&place).unwrap();
        }
        verified
    });
    tried.await.unwrap_or_else(|panic| Err(panic.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_may_be_cut_off_at_every_moment() {
    let events = traced_repair();
    let workplace = workplace();
    let (mut disk, mut progress, mut seen) = (Disk::new(&events), Progress::Preparing, BTreeSet::new());
    let (mut running, mut failures) = (tokio::task::JoinSet::new(), Vec::new());
    let (mut moment, mut tried) = (0, 0);
    while let Some(event) = disk.step() {
        moment += 1;
        progress = progress.after(event);
        if progress == Progress::Preparing {
            continue;
        }
        for luck in Care::Usual.lucks(moment) {
            let tree = disk.after_the_cut(luck);
            if !seen.insert((fingerprint(&tree, 0), matches!(luck, Luck::All), progress == Progress::Repaired)) {
                continue;
            }
            tried += 1;
            let told = format!("after event {moment} ({:?}), {luck:?}, {progress:?}", what(event));
            let place = workplace.path().join(tried.to_string());
            running.spawn(async move {
                let outcome = try_state(tree, place, progress, luck).await;
                outcome.map_err(|error| format!("{told}: {error}"))
            });
            if running.len() >= AT_ONCE {
                failures.extend(running.join_next().await.unwrap().unwrap().err());
            }
        }
    }
    failures.extend(running.join_all().await.into_iter().filter_map(Result::err));
    assert_eq!(progress, Progress::Repaired, "the trace lacks the end");
    assert!(tried > 60, "{tried} states of {} events", events.len());
    let shown: Vec<_> = failures.iter().take(5).collect();
    assert!(failures.is_empty(), "{} of {tried} states lost something: {shown:#?}", failures.len());
}
