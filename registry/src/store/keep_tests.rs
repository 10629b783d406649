//! Collecting, bringing back, retention, checking and backup on a store without a server.

use std::path::Path;
use std::time::Duration;

use oci::{Algorithm, Digest, Manifest, RepoName, Selector, Verified};
use serde_json::json;

use super::*;
use crate::keeping::{Patience, Period};

fn repo(name: &str) -> RepoName {
    name.parse().unwrap()
}

fn tag(name: &str) -> Selector {
    Selector::Tag(name.parse().unwrap())
}

/// No grace at all, unless a test gives some.
fn impatient() -> Keeping {
    let mut keeping = Keeping::default();
    let none = Period::of(Duration::ZERO);
    (keeping.gc.blob_grace, keeping.gc.trash_grace, keeping.gc.untagged) = (none, none, Patience::For(none));
    keeping
}

fn open(dir: &Path, keeping: &Keeping) -> Store {
    Store::open_offline(dir, keeping.clone()).unwrap()
}

async fn put_blob(store: &Store, name: &str, content: &[u8]) -> Verified {
    let id = store.open_upload(&repo(name), Algorithm::Sha256).await.unwrap();
    let mut upload = store.resume_upload(&repo(name), &id, None, None, u64::MAX).await.unwrap();
    upload.append(vec![content.to_vec().into()]).await.unwrap();
    upload.finish(Digest::of(content)).await.unwrap()
}

fn image(layers: &[&[u8]]) -> Manifest {
    let describe =
        |content: &&[u8]| json!({"mediaType": "application/x", "digest": Digest::of(content), "size": content.len()});
    let layers: Vec<_> = layers.iter().map(describe).collect();
    let document = json!({"schemaVersion": 2, "config": layers[0], "layers": layers});
    Manifest::parse(None, serde_json::to_vec(&document).unwrap()).unwrap()
}

async fn put_image(store: &Store, name: &str, tags: &[&str], layers: &[&[u8]]) -> Result<Digest, StoreError> {
    let manifest = image(layers);
    let digest = manifest.digest();
    store.put_manifest(&repo(name), manifest, tags.iter().map(|tag| tag.parse().unwrap()).collect()).await?;
    Ok(digest)
}

/// Collects until nothing is due, on a thread that may block.
async fn collect_all(store: &Store) -> Pass {
    let store = store.clone();
    let collected = tokio::task::spawn_blocking(move || {
        let mut all = Pass::default();
        loop {
            let pass = store.collect().unwrap();
            all.manifests += pass.manifests;
            all.condemned += pass.condemned;
            all.blobs += pass.blobs;
            all.freed_bytes += pass.freed_bytes;
            if pass.reviewed == 0 {
                return all;
            }
        }
    });
    collected.await.unwrap()
}

async fn check(store: &Store, repair: bool) -> (Vec<String>, Checked) {
    let store = store.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let mut findings = Vec::new();
        let checked = store.fsck(repair, &mut |finding| findings.push(finding.to_string()), &|| false).unwrap();
        (findings, checked)
    });
    checked.await.unwrap()
}

fn files(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn only_what_nothing_names_goes_and_its_file_goes_through_the_trash() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeping = impatient();
    keeping.gc.trash_grace = Period::of(Duration::from_secs(3600));
    let store = open(dir.path(), &keeping);
    for blob in [b"base".as_slice(), b"old", b"new", b"unnamed"] {
        put_blob(&store, "a", blob).await;
    }
    let old = put_image(&store, "a", &["v1"], &[b"base", b"old"]).await.unwrap();
    put_image(&store, "a", &["v1"], &[b"base", b"new"]).await.unwrap();
    let planned = store.plan_collection().unwrap();
    assert!(planned.contains(&Planned::Manifest { repo: repo("a"), digest: old }), "{planned:?}");
    let pass = collect_all(&store).await;
    assert_eq!((pass.manifests, pass.condemned, pass.blobs), (1, 2, 0));
    assert!(store.manifest(&repo("a"), &Selector::Digest(old)).await.is_err());
    assert_eq!((files(&dir.path().join("blobs")), files(&dir.path().join("trash"))), (2, 2));
    read_all(&store, "a").await;
    // Later, after the second grace:
    store.close().await;
    drop(store);
    let store = open(dir.path(), &impatient());
    let pass = collect_all(&store).await;
    assert_eq!((pass.blobs, pass.freed_bytes), (2, 3 + 7));
    assert_eq!((files(&dir.path().join("blobs")), files(&dir.path().join("trash"))), (2, 0));
    read_all(&store, "a").await;
}

#[tokio::test]
async fn an_index_keeps_its_images_and_a_subject_its_referrers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &impatient());
    put_blob(&store, "a", b"layer").await;
    let child = put_image(&store, "a", &[], &[b"layer"]).await.unwrap();
    let describe = |digest: Digest| json!({"mediaType": "application/x", "digest": digest, "size": 1});
    let index = json!({"schemaVersion": 2, "manifests": [describe(child)]});
    let index = Manifest::parse(None, serde_json::to_vec(&index).unwrap()).unwrap();
    store.put_manifest(&repo("a"), index.clone(), vec!["v1".parse().unwrap()]).await.unwrap();
    put_blob(&store, "a", b"signature").await;
    let subject = describe(index.digest());
    let blob = describe(Digest::of(b"signature"));
    let signature = json!({"schemaVersion": 2, "config": blob, "layers": [], "subject": subject});
    let signature = Manifest::parse(None, serde_json::to_vec(&signature).unwrap()).unwrap();
    store.put_manifest(&repo("a"), signature.clone(), Vec::new()).await.unwrap();

    assert_eq!(collect_all(&store).await, Pass::default(), "everything hangs on the tag");
    for digest in [child, index.digest(), signature.digest()] {
        store.manifest(&repo("a"), &Selector::Digest(digest)).await.unwrap();
    }
    store.delete_manifest(&repo("a"), &tag("v1")).await.unwrap();
    let pass = collect_all(&store).await;
    assert_eq!((pass.manifests, pass.condemned, pass.blobs, pass.freed_bytes), (3, 2, 2, 5 + 9));
    assert_eq!(files(&dir.path().join("blobs")) + files(&dir.path().join("trash")), 0);
    assert_eq!(store.gc_status().backlog, 0);
    assert_eq!(check(&store, false).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn untagged_manifests_stay_for_ever_if_that_is_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeping = impatient();
    keeping.gc.untagged = Patience::Forever;
    let store = open(dir.path(), &keeping);
    put_blob(&store, "a", b"layer").await;
    let digest = put_image(&store, "a", &["v1"], &[b"layer"]).await.unwrap();
    store.delete_manifest(&repo("a"), &tag("v1")).await.unwrap();
    assert_eq!(collect_all(&store).await.manifests, 0);
    store.manifest(&repo("a"), &Selector::Digest(digest)).await.unwrap();
    let explained = store.explain(&digest).unwrap();
    assert_eq!(explained.doubts.len(), 1);
    assert_eq!(explained.doubts[0].due, None, "it is never due");
}

#[tokio::test]
async fn a_large_manifest_goes_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &impatient());
    put_blob(&store, "a", b"layer").await;
    let layer = json!({"mediaType": "application/x", "digest": Digest::of(b"layer"), "size": 5});
    let padding = "x".repeat(100_000);
    let document = json!({"schemaVersion": 2, "config": layer, "layers": [], "annotations": {"padding": padding}});
    let manifest = Manifest::parse(None, serde_json::to_vec(&document).unwrap()).unwrap();
    for name in ["a", "b"] {
        put_blob(&store, name, b"layer").await;
        store.put_manifest(&repo(name), manifest.clone(), vec!["v1".parse().unwrap()]).await.unwrap();
    }
    assert_eq!(files(&dir.path().join("blobs")), 2);
    store.delete_manifest(&repo("a"), &Selector::Digest(manifest.digest())).await.unwrap();
    collect_all(&store).await;
    assert_eq!(store.manifest(&repo("b"), &tag("v1")).await.unwrap().bytes, manifest.bytes());
    store.delete_manifest(&repo("b"), &tag("v1")).await.unwrap();
    assert_eq!(collect_all(&store).await.blobs, 2);
    assert_eq!(files(&dir.path().join("blobs")), 0);
}

#[tokio::test]
async fn what_was_condemned_comes_back_when_it_is_named_mounted_or_pushed() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeping = impatient();
    keeping.gc.trash_grace = Period::of(Duration::from_secs(3600));
    let store = open(dir.path(), &keeping);
    let contents: [&[u8]; 3] = [b"named", b"mounted", b"pushed"];
    for content in contents {
        put_blob(&store, "a", content).await;
    }
    assert_eq!(collect_all(&store).await.condemned, 3);
    assert_eq!((files(&dir.path().join("blobs")), files(&dir.path().join("trash"))), (0, 3));
    for content in contents {
        assert!(store.blob_size(&repo("a"), &Digest::of(content)).is_err(), "it is gone for whoever asks");
    }
    put_image(&store, "a", &["v1"], &[b"named"]).await.unwrap();
    assert!(store.mount(&repo("b"), Digest::of(b"mounted"), Some(repo("a"))).await.unwrap());
    put_blob(&store, "a", b"pushed").await;
    put_image(&store, "a", &["v2"], &[b"pushed"]).await.unwrap();
    put_image(&store, "b", &["v1"], &[b"mounted"]).await.unwrap();
    collect_all(&store).await;
    for (name, content) in [("a", contents[0]), ("b", contents[1]), ("a", contents[2])] {
        let (mut file, _) = store.open_blob(&repo(name), &Digest::of(content)).await.unwrap();
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut read).unwrap();
        assert_eq!(read, content);
    }
    // What was deleted by name does not come back, though it was collected before and pushed again.
    for _ in 0..2 {
        put_blob(&store, "a", b"deleted").await;
        collect_all(&store).await;
    }
    put_blob(&store, "a", b"deleted").await;
    store.delete_blob(&repo("a"), Digest::of(b"deleted")).await.unwrap();
    assert!(put_image(&store, "a", &["v3"], &[b"deleted"]).await.is_err());
    // Nobody who never had it gets it.
    let secret = put_blob(&store, "c", b"secret").await.digest();
    collect_all(&store).await;
    assert!(put_image(&store, "d", &["v1"], &[b"secret"]).await.is_err());
    assert!(!store.mount(&repo("d"), secret, Some(repo("a"))).await.unwrap());
}

#[tokio::test]
async fn a_crash_between_record_and_rename_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeping = impatient();
    keeping.gc.trash_grace = Period::of(Duration::from_secs(3600));
    let store = open(dir.path(), &keeping);
    let digest = put_blob(&store, "a", b"left").await.digest();
    collect_all(&store).await;
    // As if the process had ended right before the file was moved.
    let (trash, place) = (store.trash(&digest), store.inner.shelf.path(&digest));
    std::fs::rename(&trash, &place).unwrap();
    // And as if another had ended right before its record.
    let orphan = Digest::of(b"orphan");
    std::fs::create_dir_all(store.inner.shelf.path(&orphan).parent().unwrap()).unwrap();
    std::fs::write(store.inner.shelf.path(&orphan), b"orphan").unwrap();
    store.close().await;
    drop(store);
    let store = open(dir.path(), &impatient());
    let adopting = store.clone();
    assert_eq!(tokio::task::spawn_blocking(move || adopting.adopt_all()).await.unwrap().unwrap(), 2);
    collect_all(&store).await;
    assert_eq!(files(&dir.path().join("blobs")) + files(&dir.path().join("trash")), 0);
}

#[tokio::test]
async fn stale_uploads_are_given_up_and_busy_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeping = impatient();
    keeping.gc.uploads = Period::of(Duration::ZERO);
    let store = open(dir.path(), &keeping);
    let [stale, busy] = [(); 2]
        .map(|()| store.clone())
        .map(|store| async move { store.open_upload(&repo("a"), Algorithm::Sha256).await.unwrap() });
    let (stale, busy) = (stale.await, busy.await);
    let upload = store.resume_upload(&repo("a"), &busy, None, None, u64::MAX).await.unwrap();
    let purging = store.clone();
    let pass = tokio::task::spawn_blocking(move || purging.collect().unwrap()).await.unwrap();
    assert_eq!(pass.uploads, 1);
    assert!(matches!(store.upload_status(&repo("a"), &stale).await, Err(StoreError::NoUpload)));
    drop(upload);
    store.upload_status(&repo("a"), &busy).await.unwrap();
}

#[tokio::test]
async fn immutable_tags_are_set_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeping = impatient();
    let immutable = r#"immutable = [{ repository = "a", tags = "v[0-9]+" }]"#;
    keeping.retention = toml::from_str(immutable).unwrap();
    let store = open(dir.path(), &keeping);
    for (name, blob) in [("a", b"one"), ("a", b"two"), ("b", b"one"), ("b", b"two")] {
        put_blob(&store, name, blob).await;
    }
    let first = put_image(&store, "a", &["v1", "latest"], &[b"one"]).await.unwrap();
    put_image(&store, "a", &["v1"], &[b"one"]).await.unwrap(); // the same again is no change
    let refused = |done: Result<(), StoreError>| {
        assert!(matches!(done, Err(StoreError::Refused(Refusal::Immutable { .. }))), "{done:?}");
    };
    refused(put_image(&store, "a", &["latest", "v1"], &[b"two"]).await.map(drop));
    assert_eq!(store.manifest(&repo("a"), &tag("latest")).await.unwrap().digest, first, "both or nothing");
    refused(store.delete_manifest(&repo("a"), &tag("v1")).await);
    refused(store.delete_manifest(&repo("a"), &Selector::Digest(first)).await);
    put_image(&store, "a", &["latest"], &[b"two"]).await.unwrap();
    put_image(&store, "b", &["v1"], &[b"one"]).await.unwrap();
    put_image(&store, "b", &["v1"], &[b"two"]).await.unwrap();
}

#[tokio::test]
async fn retention_deletes_what_no_rule_keeps_and_counts_pulls() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeping = impatient();
    let rules = r#"rules = [{ repository = "ci/*", keep_last = 1, pulled_within = "1h" }]"#;
    keeping.retention = toml::from_str(rules).unwrap();
    let store = open(dir.path(), &keeping);
    for (number, layer) in [b"0", b"1", b"2", b"3"].into_iter().enumerate() {
        for name in ["ci/a", "b"] {
            put_blob(&store, name, layer).await;
            put_image(&store, name, &[&format!("v{number}")], &[layer]).await.unwrap();
        }
    }
    store.manifest(&repo("ci/a"), &tag("v1")).await.unwrap();
    for dry_run in [true, false] {
        let retaining = store.clone();
        let judged = tokio::task::spawn_blocking(move || retaining.retain(dry_run).unwrap()).await.unwrap();
        let kept: Vec<_> = judged.iter().map(|judged| (judged.tag.as_str(), judged.keeps)).collect();
        assert_eq!(kept, [("v0", false), ("v1", true), ("v2", false), ("v3", true)]);
        assert_eq!(judged[1].reason, "it was pulled within 1h");
    }
    let left = store.tags(&repo("ci/a"), String::new(), 9).await.unwrap();
    assert_eq!(left.iter().map(Tag::as_str).collect::<Vec<_>>(), ["v1", "v3"]);
    assert_eq!(store.tags(&repo("b"), String::new(), 9).await.unwrap().len(), 4);
    // Pulls are kept over a restart.
    store.close().await;
    drop(store);
    let store = open(dir.path(), &keeping);
    let retaining = store.clone();
    let judged = tokio::task::spawn_blocking(move || retaining.retain(true).unwrap()).await.unwrap();
    assert!(judged.iter().all(|judged| judged.keeps));
}

#[tokio::test]
async fn a_check_finds_damage_puts_it_away_and_a_push_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &impatient());
    // The journal has the small ones.
    let small: [&[u8]; 4] = [b"good", b"flipped", b"short", b"gone"];
    let large = small.map(|content| content.repeat(5000));
    let contents: Vec<&[u8]> = small.into_iter().chain(large.iter().map(Vec::as_slice)).collect();
    for content in &contents {
        put_blob(&store, "a", content).await;
    }
    put_image(&store, "a", &["v1"], &contents).await.unwrap();
    assert_eq!(check(&store, false).await.0, Vec::<String>::new());
    let path = |content: &[u8]| store.inner.shelf.path(&Digest::of(content));
    let damage = |content: &[u8], to: &[u8]| {
        std::fs::remove_file(path(content)).unwrap();
        std::fs::write(path(content), to).unwrap();
    };
    for at in [1, 5] {
        damage(contents[at], &contents[at].to_ascii_uppercase());
        damage(contents[at + 1], b"sh");
        std::fs::remove_file(path(contents[at + 2])).unwrap();
    }
    let orphan = path(b"orphan");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, b"orphan").unwrap();

    let (findings, checked) = check(&store, false).await;
    assert_eq!((findings.len(), checked.findings, checked.repaired), (7, 7, 0), "{findings:#?}");
    let (findings, checked) = check(&store, true).await;
    assert_eq!(checked.repaired, 7, "{findings:#?}");
    assert_eq!(files(&dir.path().join("quarantine")), 4);
    for content in &contents[..5] {
        store.open_blob(&repo("a"), &Digest::of(content)).await.unwrap();
        assert_eq!(std::fs::read(path(content)).unwrap(), *content);
    }
    for content in &contents[5..] {
        let asked = store.blob_size(&repo("a"), &Digest::of(content));
        assert!(matches!(asked, Err(StoreError::NoBlob(_))), "so that clients send it again");
    }
    // What is left to say is that the image is not whole.
    let (findings, _) = check(&store, true).await;
    assert!(findings.iter().all(|finding| finding.starts_with("incomplete: ")) && findings.len() == 3, "{findings:#?}");
    for content in &contents[5..] {
        put_blob(&store, "a", content).await;
    }
    assert_eq!(check(&store, false).await.0, Vec::<String>::new());
    store.close().await;
    drop(store);
    let store = Store::open_rebuilt(dir.path(), impatient()).unwrap();
    assert_eq!(check(&store, false).await.0, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_beside_pushes_and_collections_takes_nothing_that_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &impatient());
    let pusher = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 0..200u32 {
                // The same few over and over, so that they are collected and come back; small and large ones.
                let layer = vec![number as u8 % 5; if number % 2 == 0 { 10 } else { 20_000 }];
                // A blob that was collected before its image came is pushed again, as clients do.
                loop {
                    put_blob(&store, "a", &layer).await;
                    if put_image(&store, "a", &["moving", &format!("v{}", number % 3)], &[&layer]).await.is_ok() {
                        break;
                    }
                }
            }
        }
    });
    let mut rounds = 0;
    while !pusher.is_finished() || rounds < 3 {
        let (_, (findings, _)) = tokio::join!(collect_all(&store), check(&store, true));
        assert!(findings.iter().all(|finding| finding.starts_with("orphan: ")), "{findings:#?}");
        rounds += 1;
    }
    pusher.await.unwrap();
    read_all(&store, "a").await;
    assert_eq!(files(&dir.path().join("quarantine")), 0);
    assert_eq!(check(&store, false).await.0, Vec::<String>::new());
}

/// Every tag of the copy, with all that its manifest names, read from disk.
async fn read_all(store: &Store, name: &str) -> Vec<(Tag, Digest)> {
    let mut found = Vec::new();
    for tag in store.tags(&repo(name), String::new(), 10_000).await.unwrap() {
        let stored = store.manifest(&repo(name), &Selector::Tag(tag.clone())).await.unwrap();
        for blob in Manifest::parse(None, stored.bytes.to_vec()).unwrap().blobs() {
            store.open_blob(&repo(name), &blob.digest).await.unwrap();
        }
        found.push((tag, stored.digest));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_store_in_use_is_whole_and_is_brought_up_to_date() {
    let (dir, dest) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (data, dest) = (dir.path().to_owned(), dest.path().join("backup"));
    // Short snapshots, so that the journal is cut while it is copied.
    let mut keeping = impatient();
    keeping.gc.trash_grace = Period::of(Duration::from_secs(3600));
    let store = Store::open_with(&data, keeping.clone(), None, 16 << 10).unwrap();
    put_blob(&store, "a", b"first").await;
    put_image(&store, "a", &["first"], &[b"first"]).await.unwrap();
    let pusher = tokio::spawn({
        let store = store.clone();
        async move {
            for number in 0..300u32 {
                let layer = number.to_le_bytes();
                put_blob(&store, "a", &layer).await;
                put_image(&store, "a", &["moving", &format!("v{}", number % 50)], &[&layer]).await.unwrap();
                if number % 16 == 0 {
                    collect_all(&store).await;
                }
            }
        }
    });
    let mut rounds = 0;
    let mut last = BackedUp::default();
    while !pusher.is_finished() || rounds < 2 {
        let (from, to) = (data.clone(), dest.clone());
        last = tokio::task::spawn_blocking(move || backup(&from, &to, rounds % 2 == 1).unwrap()).await.unwrap();
        assert_eq!(last.missing, 0);
        let copy = open(&dest, &keeping);
        assert!(read_all(&copy, "a").await.contains(&("first".parse().unwrap(), image(&[b"first"]).digest())));
        assert_eq!(check(&copy, false).await.0, Vec::<String>::new());
        copy.close().await;
        drop(copy);
        rounds += 1;
    }
    pusher.await.unwrap();
    let (from, to) = (data.clone(), dest.clone());
    let again = tokio::task::spawn_blocking(move || backup(&from, &to, false).unwrap()).await.unwrap();
    assert!(again.record >= last.record && again.new <= again.blobs);
    let copy = open(&dest, &keeping);
    assert_eq!(read_all(&copy, "a").await, read_all(&store, "a").await);
    assert!(matches!(backup(&data, dir.path(), false), Err(BackupError::Foreign(_))), "it overwrites nothing else");
}

#[tokio::test]
async fn an_export_is_a_layout_that_an_import_reads_back() {
    let (dir, other, layout) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path(), &impatient());
    for name in ["a", "b/c"] {
        put_blob(&store, name, b"shared").await;
        put_image(&store, name, &["v1", "latest"], &[b"shared"]).await.unwrap();
    }
    let subject = json!({"mediaType": "application/x", "digest": image(&[b"shared"]).digest(), "size": 1});
    let blob = json!({"mediaType": "application/x", "digest": Digest::of(b"shared"), "size": 6});
    let signature = json!({"schemaVersion": 2, "config": blob, "layers": [], "subject": subject});
    let signature = Manifest::parse(None, serde_json::to_vec(&signature).unwrap()).unwrap();
    store.put_manifest(&repo("a"), signature.clone(), Vec::new()).await.unwrap();

    let disk = content::Disk::create(layout.path()).unwrap();
    let moved = store.export(&disk, &[], &|_| ()).await.unwrap();
    assert_eq!((moved.images, moved.blobs), (5, 1), "shared layers are written once");
    let imported = open(other.path(), &impatient());
    let disk = content::Disk::open(layout.path()).unwrap();
    imported.import(&disk, None, &|_| ()).await.unwrap();
    for name in ["a", "b/c"] {
        assert_eq!(read_all(&imported, name).await, read_all(&store, name).await);
    }
    let referrers = imported.referrers(&repo("a"), image(&[b"shared"]).digest(), None, None, 9).await.unwrap();
    assert_eq!(referrers.iter().map(|referrer| referrer.digest).collect::<Vec<_>>(), [signature.digest()]);
}
