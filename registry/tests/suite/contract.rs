//! The one contract of all places of content, on the store itself.

use registry::Store;

#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    content::contract::check(&store.repository("contract/suite".parse().unwrap())).await;
    store.close().await;
}
