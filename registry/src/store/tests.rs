//! Snapshots while pushes go on, and many clients on the same content at once.

use std::sync::Arc;

use oci::{Algorithm, Manifest, RepoName, Selector, Verified};
use serde_json::json;

use super::*;

fn repo() -> RepoName {
    "a/b".parse().unwrap()
}

async fn put_blob(store: &Store, content: Vec<u8>) -> Result<Verified, StoreError> {
    let digest = Digest::of(&content);
    let id = store.open_upload(&repo(), Algorithm::Sha256).await?;
    let mut upload = store.resume_upload(&repo(), &id, None, None, u64::MAX).await?;
    upload.append(vec![content.into()]).await?;
    upload.finish(digest).await
}

fn manifest(number: usize) -> Manifest {
    let config = json!({"mediaType": "application/x", "digest": Digest::of(b"config"), "size": 6});
    let document =
        json!({"schemaVersion": 2, "config": config, "layers": [], "annotations": {"number": number.to_string()}});
    Manifest::parse(None, serde_json::to_vec(&document).unwrap()).unwrap()
}

fn tag(number: usize) -> Tag {
    format!("v{number}").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_snapshots_comes_back_without_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path(), Keeping::default(), None, 16 << 10).unwrap();
    put_blob(&store, b"config".to_vec()).await.unwrap();
    for number in 0..400 {
        store.put_manifest(&repo(), manifest(number), vec![tag(number % 50)]).await.unwrap();
        if number % 3 == 0 {
            store.delete_manifest(&repo(), &Selector::Tag(tag(number % 50))).await.unwrap();
        }
    }
    let tags = store.tags(&repo(), String::new(), 1000).await.unwrap();
    store.close().await;
    drop(store);
    let snapshots = std::fs::read_dir(dir.path().join("snapshot")).unwrap().count();
    assert!((1..=2).contains(&snapshots), "two snapshots are kept at most, there are {snapshots}");
    std::fs::remove_dir_all(dir.path().join("index.sled")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.tags(&repo(), String::new(), 1000).await.unwrap(), tags);
    for number in 0..400 {
        let digest = manifest(number).digest();
        let stored = store.manifest(&repo(), &Selector::Digest(digest)).await.unwrap();
        assert_eq!(stored.bytes, manifest(number).bytes());
    }
}

/// Pushes, retags and deletes the same few things from many tasks. Errors that say that something is
/// missing or in use are what the others did; anything else is a bug.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_on_the_same_content_leave_a_consistent_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path(), Keeping::default(), None, 64 << 10).unwrap();
    let tasks: Vec<_> = (0..16).map(|client| tokio::spawn(disturb(store.clone(), client))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    check_consistent(&store).await;
    let tags = store.tags(&repo(), String::new(), 1000).await.unwrap();
    store.close().await;
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    check_consistent(&store).await;
    assert_eq!(store.tags(&repo(), String::new(), 1000).await.unwrap(), tags);
}

async fn disturb(store: Store, client: usize) {
    for round in 0..40 {
        let step = client * 7 + round * 13;
        let done = match step % 6 {
            0 | 1 => put_blob(&store, b"config".to_vec()).await.map(drop),
            2 | 3 => store.put_manifest(&repo(), manifest(step % 4), vec![tag(step % 3), tag(step % 5)]).await,
            4 => store.delete_manifest(&repo(), &Selector::Digest(manifest(step % 4).digest())).await,
            _ => store.delete_blob(&repo(), Digest::of(b"config")).await,
        };
        match done {
            Ok(()) | Err(StoreError::Refused(_)) => {}
            Err(other) => panic!("client {client} round {round}: {other}"),
        }
    }
}

/// Every tag names a manifest that is there, and every manifest's blob can be read.
async fn check_consistent(store: &Store) {
    let Ok(tags) = store.tags(&repo(), String::new(), 1000).await else { return };
    for tag in tags {
        let stored = store.manifest(&repo(), &Selector::Tag(tag)).await.unwrap();
        let parsed = Manifest::parse(None, stored.bytes.to_vec()).unwrap();
        assert_eq!(parsed.digest(), stored.digest);
        for blob in parsed.blobs() {
            let (file, size) = store.open_blob(&repo(), &blob.digest).await.unwrap();
            assert_eq!((file.metadata().unwrap().len(), size), (6, 6));
        }
    }
}

#[tokio::test]
async fn a_closed_store_takes_nothing_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    store.close().await;
    assert!(matches!(put_blob(&store, b"late".to_vec()).await, Err(StoreError::Closing)));
    store.close().await;
}
