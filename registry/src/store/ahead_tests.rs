//! Small blobs and power cuts: what the disk did not have comes back from the journal, and nothing else does.

use std::path::Path;
use std::time::Duration;

use oci::{Algorithm, Digest, RepoName};

use super::*;
use crate::journal::{self, snapshot};
use crate::keeping::{Patience, Period};
use crate::state::{Item, Record};

fn repo() -> RepoName {
    "a".parse().unwrap()
}

fn impatient() -> Keeping {
    let mut keeping = Keeping::default();
    let none = Period::of(Duration::ZERO);
    (keeping.gc.blob_grace, keeping.gc.trash_grace, keeping.gc.untagged) = (none, none, Patience::For(none));
    keeping
}

fn open(dir: &Path) -> Store {
    Store::open_offline(dir, impatient()).unwrap()
}

async fn try_put(store: &Store, content: &[u8]) -> Result<Digest, StoreError> {
    let id = store.open_upload(&repo(), Algorithm::Sha256).await?;
    let mut upload = store.resume_upload(&repo(), &id, None, None, u64::MAX).await?;
    upload.append(vec![content.to_vec().into()]).await?;
    Ok(upload.finish(Digest::of(content)).await?.digest())
}

async fn put(store: &Store, content: &[u8]) -> Digest {
    try_put(store, content).await.unwrap()
}

async fn blocking<T: Send + 'static>(store: &Store, work: impl FnOnce(&Store) -> T + Send + 'static) -> T {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(&store)).await.unwrap()
}

async fn findings(store: &Store) -> Vec<String> {
    blocking(store, |store| {
        let mut findings = Vec::new();
        store.fsck(false, &mut |finding| findings.push(finding.to_string()), &|| false).unwrap();
        findings
    })
    .await
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_all(&path, &to) } else { assert!(std::fs::copy(&path, &to).is_ok()) }
    }
}

/// The data directory as it is while the store is open; on another boot, if so wanted.
fn cut(store: &Store, other_boot: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(store.inner.data.parent().unwrap()).unwrap();
    copy_all(&store.inner.data, dir.path());
    if other_boot {
        let state = dir.path().join("index.state");
        assert!(std::fs::read_to_string(&state).unwrap().starts_with("boot "));
        std::fs::write(state, "boot of another time\nmount 1").unwrap();
    }
    dir
}

fn file(dir: &Path, digest: &Digest) -> std::path::PathBuf {
    Shelf::existing(dir, Spread::Sharded).path(digest)
}

/// Lets a file be something else.
fn damage(dir: &Path, digest: &Digest, to: &[u8]) {
    std::fs::remove_file(file(dir, digest)).unwrap();
    std::fs::write(file(dir, digest), to).unwrap();
}

/// The blobs that the journal carries, in order.
fn carried(data: &Path) -> Vec<Digest> {
    let journal = Journal::open(&data.join("journal")).unwrap();
    let mut found = Vec::new();
    journal
        .replay(journal.oldest().unwrap().previous(), |_, payload| {
            let record = Record::decode(payload).unwrap();
            assert_eq!(Record::may_carry(payload), record.carried().is_some());
            found.extend(record.carried().map(|(digest, _)| digest));
            Ok::<(), journal::JournalError>(())
        })
        .unwrap();
    found
}

#[tokio::test]
async fn what_a_power_cut_took_of_small_blobs_comes_back_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_offline(&dir.path().join("data"), Keeping::default()).unwrap();
    let large = vec![7; ahead::LIMIT as usize + 1];
    let edge = vec![8; ahead::LIMIT as usize];
    let (empty, gone, short, flipped) = (
        put(&store, b"").await,
        put(&store, b"gone").await,
        put(&store, b"short").await,
        put(&store, b"flipped").await,
    );
    let (edge, large) = (put(&store, &edge).await, put(&store, &large).await);
    let collected = put(&store, b"collected").await;
    store.delete_blob(&repo(), collected).await.unwrap();
    let pass = blocking(&store, |store| store.collect().unwrap()).await;
    assert_eq!(pass.condemned, 1);
    assert_eq!(carried(&store.inner.data), [empty, gone, short, flipped, edge, collected], "and not the large one");

    let after = cut(&store, true);
    for digest in [empty, gone, edge] {
        std::fs::remove_file(file(after.path(), &digest)).unwrap();
    }
    damage(after.path(), &short, b"sh");
    damage(after.path(), &flipped, b"flippeD");
    let again = open(after.path());
    for (digest, size) in
        [(empty, 0), (gone, 4), (short, 5), (flipped, 7), (edge, ahead::LIMIT), (large, ahead::LIMIT + 1)]
    {
        assert!(ahead::is_whole(&file(after.path(), &digest), &digest).unwrap());
        assert_eq!(again.open_blob(&repo(), &digest).await.unwrap().1, size);
    }
    assert!(!file(after.path(), &collected).exists(), "it was collected");
    assert_eq!(findings(&again).await, Vec::<String>::new());
    // On the same boot and mount nothing is looked at, so that the start is quick.
    let same = cut(&store, false);
    std::fs::remove_file(file(same.path(), &gone)).unwrap();
    assert!(matches!(open(same.path()).open_blob(&repo(), &gone).await, Err(StoreError::Damaged(_))));
    // But a repair takes it from the journal, whatever the boot.
    let repaired = Store::open_rebuilt(same.path(), impatient()).unwrap();
    let found = blocking(&repaired, |store| store.fsck(true, &mut |_| (), &|| false).unwrap()).await;
    assert_eq!((found.findings, found.repaired), (1, 1));
    repaired.open_blob(&repo(), &gone).await.unwrap();
}

#[tokio::test]
async fn a_mount_of_another_time_is_looked_through_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let blob = put(&store, b"blob").await;
    let after = cut(&store, false);
    let state = after.path().join("index.state");
    let text = std::fs::read_to_string(&state).unwrap();
    let boot = text.lines().next().unwrap().to_owned();
    for text in [format!("{boot}\nmount 1"), boot] {
        std::fs::remove_file(file(after.path(), &blob)).unwrap();
        std::fs::write(&state, text).unwrap();
        drop(open(after.path()));
        assert!(file(after.path(), &blob).exists());
    }
}

#[tokio::test]
async fn a_blob_that_is_here_costs_the_journal_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blob = put(&store, b"blob").await;
    put(&store, b"blob").await;
    assert_eq!(carried(dir.path()), [blob]);
    // Its row says that the journal has it, or the disk; so what heals a lost file waits for the disk.
    std::fs::remove_file(file(dir.path(), &blob)).unwrap();
    put(&store, b"blob").await;
    assert_eq!(carried(dir.path()), [blob]);
    assert_eq!(std::fs::read(file(dir.path(), &blob)).unwrap(), b"blob");
    // Once it was given up, its record counts for nothing.
    blocking(&store, move |store| store.inner.committer.commit_blocking(Transaction::Lose { digest: blob }).unwrap())
        .await;
    put(&store, b"blob").await;
    assert_eq!(carried(dir.path()), [blob, blob]);
}

#[tokio::test]
async fn what_a_power_cut_left_without_a_row_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [pushed, swept, ghost] = [b"pushed", b"swept!", b"ghost!"].map(|content| Digest::of(content));
    for digest in [pushed, swept] {
        std::fs::write(file(dir.path(), &digest), b"\0\0\0\0\0\0").unwrap();
    }
    let told = findings(&store).await;
    assert!(told.len() == 2 && told.iter().all(|told| told.starts_with("leftover: ")), "{told:?}");
    put(&store, b"pushed").await;
    assert_eq!(std::fs::read(file(dir.path(), &pushed)).unwrap(), b"pushed");
    assert_eq!(blocking(&store, |store| store.adopt_all().unwrap()).await, 0);
    assert!(!file(dir.path(), &swept).exists());
    assert_eq!(findings(&store).await, Vec::<String>::new());

    // A blob in the trash that somebody asks for again.
    put(&store, b"ghost!").await;
    store.inner.leases.take(ghost);
    blocking(&store, move |store| {
        let link = Item::Link { repo: repo(), digest: ghost };
        let since = store.read(|view| view.doubted(&link)).unwrap().unwrap();
        let review = Transaction::Review { item: link, since, spared: false };
        store.inner.committer.commit_blocking(review).unwrap();
        store.collect().unwrap();
    })
    .await;
    assert!(store.trash(&ghost).exists(), "it lies in the trash");
    std::fs::remove_file(store.trash(&ghost)).unwrap();
    std::fs::write(store.trash(&ghost), b"\0\0\0\0\0\0").unwrap();
    assert!(!store.resurrect(&repo(), ghost).await.unwrap());
    assert!(matches!(store.blob_size(&repo(), &ghost), Err(StoreError::NoBlob(_))));
    put(&store, b"ghost!").await;
    assert_eq!(std::fs::read(file(dir.path(), &ghost)).unwrap(), b"ghost!");
}

#[tokio::test]
async fn files_that_cannot_be_synced_keep_the_journal_and_make_the_store_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path(), impatient(), None, 4 << 10).unwrap();
    let mut blobs = vec![put(&store, b"before").await];
    store.inner.ahead.break_sync();
    // It goes on until a snapshot needs the files.
    for number in 0..1000u32 {
        match try_put(&store, &[number.to_le_bytes().as_slice(), &[1; 500]].concat()).await {
            Ok(blob) => blobs.push(blob),
            Err(error) => {
                assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
                break;
            }
        }
    }
    assert!(store.read_only().expect("it is read-only").contains("sync"));
    assert!(matches!(try_put(&store, b"more").await, Err(StoreError::ReadOnly(_))));
    store.close().await;
    drop(store);
    assert!(!dir.path().join("index.state").exists(), "the next start takes nothing for granted");
    assert!(snapshot::list(&dir.path().join("snapshot")).unwrap().is_empty(), "nor says a snapshot that all is there");
    for blob in &blobs {
        std::fs::remove_file(file(dir.path(), blob)).unwrap();
    }
    let store = open(dir.path());
    for blob in &blobs {
        store.open_blob(&repo(), blob).await.unwrap();
    }
    // The push that was refused may have left its file, which goes as any that nobody knows.
    assert!(blocking(&store, |store| store.adopt_all().unwrap()).await <= 1);
    assert_eq!(findings(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_snapshot_bounds_what_a_start_looks_through() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = Store::open_with(&data, impatient(), None, 4 << 10).unwrap();
    let early = put(&store, b"early").await;
    let snapshots = data.join("snapshot");
    while snapshot::list(&snapshots).unwrap().is_empty() {
        put(&store, &uuid::Uuid::now_v7().as_bytes().repeat(64)).await;
    }
    store.close().await;
    drop(store);
    let store = open(&data);
    let late = put(&store, b"late").await;
    let after = cut(&store, true);
    for blob in [early, late] {
        std::fs::remove_file(file(after.path(), &blob)).unwrap();
    }
    let again = open(after.path());
    again.open_blob(&repo(), &late).await.unwrap();
    assert!(!file(after.path(), &early).exists(), "the disk had it before the snapshot was made");
}

#[tokio::test]
async fn a_backup_has_from_the_journal_what_the_disk_may_not_have() {
    let (dir, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (data, dest) = (dir.path().join("data"), dest.path().join("backup"));
    let store = open(&data);
    let (small, large) = (put(&store, b"small").await, put(&store, &vec![7; 20_000]).await);
    std::fs::remove_file(file(&data, &small)).unwrap();
    let done = backup(&data, &dest, false).unwrap();
    assert_eq!((done.blobs, done.new, done.missing), (2, 2, 0));
    let copy = open(&dest);
    for blob in [small, large] {
        copy.open_blob(&repo(), &blob).await.unwrap();
    }
    assert_eq!(findings(&copy).await, Vec::<String>::new());
}

#[tokio::test]
async fn data_of_the_version_before_opens_and_becomes_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let (data, dest) = (dir.path().join("data"), dir.path().join("backup"));
    let store = open(&data);
    let blob = put(&store, &vec![7; 20_000]).await;
    store.close().await;
    drop(store);
    let version = data.join("VERSION");
    std::fs::write(&version, "lighter registry 2\n").unwrap();
    backup(&data, &dest, false).unwrap();
    assert_eq!(
        std::fs::read_to_string(dest.join("VERSION")).unwrap(),
        "lighter registry 2\n",
        "whoever made it reads it"
    );
    let store = open(&data);
    assert_eq!(std::fs::read_to_string(&version).unwrap(), layout::VERSION);
    store.open_blob(&repo(), &blob).await.unwrap();
    for other in ["lighter registry 1\n", "lighter registry 4\n", "lighter registry 2"] {
        std::fs::write(&version, other).unwrap();
        let refused = Store::open_offline(&data, impatient()).err().expect("another version");
        assert!(matches!(refused, OpenError::Version { .. }), "{refused}");
    }
}
