//! Manifests: kept to the byte, complete before they are visible, named by tags, deleted.

use oci::{Algorithm, Digest};
use serde_json::json;

use registry::keeping::{Keeping, Sparse};
use registry::{Settings, Store};

use crate::client::{CONFIG, INDEX, LAYER, MANIFEST, Registry, describe, image, image_with, noise};

#[tokio::test]
async fn a_manifest_is_served_as_it_was_pushed() {
    let registry = Registry::start().await;
    let manifest = registry.http.push_image("shop/api", "v1", b"layer").await;
    let digest = Digest::of(&manifest);
    for reference in ["v1", &digest.to_string()] {
        let path = format!("/v2/shop/api/manifests/{reference}");
        // Accept never changes or refuses what is stored.
        for accept in ["*/*", MANIFEST, "application/vnd.docker.distribution.manifest.v2+json", "text/plain"] {
            let get =
                registry.http.send("GET", &path, &[("accept", accept), ("accept-encoding", "gzip, zstd")], "").await;
            let get = get.expect(200);
            assert_eq!(get.body, manifest);
            assert_eq!(get.header("content-type"), MANIFEST);
            assert_eq!(get.header("docker-content-digest"), digest.to_string());
            assert_eq!(get.header("content-length"), manifest.len().to_string());
            assert_eq!(get.header("content-encoding"), "");
        }
        let head = registry.http.head(&path).await.expect(200);
        assert!(head.body.is_empty());
        assert_eq!(head.header("content-type"), MANIFEST);
        assert_eq!(head.header("docker-content-digest"), digest.to_string());
        assert_eq!(head.header("content-length"), manifest.len().to_string());
        let etag = format!("\"{digest}\"");
        registry.http.send("GET", &path, &[("if-none-match", &etag)], "").await.expect(304);
    }
    registry.http.get("/v2/shop/api/manifests/v2").await.refuses(404, "MANIFEST_UNKNOWN");
    registry.http.get("/v2/nothing/manifests/v1").await.refuses(404, "MANIFEST_UNKNOWN");
    registry.http.get(&format!("/v2/other/manifests/{digest}")).await.refuses(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn every_kind_of_manifest_is_taken() {
    let registry = Registry::start().await;
    registry.http.push_blob("a", b"layer").await;
    registry.http.push_blob("a", b"{}").await;
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let document = json!({"schemaVersion": 2, "mediaType": docker, "config": describe("application/vnd.docker.container.image.v1+json", b"{}"), "layers": [describe("application/vnd.docker.image.rootfs.diff.tar.gzip", b"layer")]});
    let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": Digest::of(b"elsewhere"), "size": 9, "urls": ["https://example.com"]});
    let artifact = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example", "config": describe("application/vnd.oci.empty.v1+json", b"{}"), "layers": []});
    for (tag, kind, bytes) in [
        ("docker", docker, serde_json::to_vec(&document).unwrap()),
        ("foreign", MANIFEST, image_with(b"layer", json!({"layers": [foreign, describe(LAYER, b"layer")]}))),
        ("artifact", MANIFEST, serde_json::to_vec(&artifact).unwrap()),
        ("custom", MANIFEST, image_with(b"layer", json!({"org.example.more": [1, {"deep": null}]}))),
        ("empty-index", INDEX, serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": []})).unwrap()),
    ] {
        registry.http.put_manifest("a", tag, kind, bytes.clone()).await.expect(201);
        let get = registry.http.get(&format!("/v2/a/manifests/{tag}")).await.expect(200);
        assert_eq!((get.header("content-type"), &get.body[..]), (kind, &bytes[..]), "{tag}");
    }
}

#[tokio::test]
async fn a_tag_is_moved_only_if_it_is_what_the_client_thinks() {
    let registry = Registry::start().await;
    let old = registry.http.push_image("a", "v1", b"old").await;
    registry.http.push_blob("a", b"new").await;
    let (etag, new) = (format!("\"{}\"", Digest::of(&old)), image(b"new"));
    let put = |tag: &'static str, header: &'static str, value: String| {
        let (http, new) = (registry.http.clone(), new.clone());
        async move {
            let headers = [("content-type", MANIFEST), (header, value.as_str())];
            http.send("PUT", &format!("/v2/a/manifests/{tag}"), &headers, new).await
        }
    };
    let refused = put("v1", "if-none-match", "*".to_owned()).await.refuses(412, "PRECONDITION_FAILED");
    assert_eq!(refused.json()["errors"][0]["detail"]["actual"], Digest::of(&old).to_string());
    put("v1", "if-match", format!("\"{}\"", Digest::of(b"other"))).await.expect(412);
    put("v2", "if-match", "*".to_owned()).await.expect(412);
    put("v2", "if-match", etag.clone()).await.expect(412);
    assert_eq!(registry.http.get("/v2/a/manifests/v1").await.expect(200).body, old, "nothing was moved");
    registry.http.get("/v2/a/manifests/v2").await.expect(404);
    put("v1", "if-match", format!("\"x\", {etag}")).await.expect(201);
    put("v1", "if-match", etag).await.expect(412);
    put("v2", "if-none-match", "*".to_owned()).await.expect(201);
    registry.http.send("GET", "/v2/a/manifests/v1", &[("if-match", "\"x\"")], "").await.expect(412);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_move_a_tag_at_once_one_wins() {
    let registry = Registry::start().await;
    registry.http.push_image("a", "v0", b"layer").await;
    let pushes: Vec<_> = (0..16)
        .map(|number| {
            let http = registry.http.clone();
            tokio::spawn(async move {
                let manifest = image_with(b"layer", json!({"annotations": {"by": number.to_string()}}));
                let headers = [("content-type", MANIFEST), ("if-none-match", "*")];
                http.send("PUT", "/v2/a/manifests/lock", &headers, manifest).await.status.as_u16()
            })
        })
        .collect();
    let mut statuses = Vec::new();
    for push in pushes {
        statuses.push(push.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (201, &[412; 15][..]));
}

#[tokio::test]
async fn incomplete_images_are_taken_by_option() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.keeping.sparse = Sparse::In(vec!["a".parse().unwrap()]);
    let registry = Registry::start_with(dir, settings).await;
    let (present, missing) = (registry.http.push_image("a", "v1", b"layer").await, image(b"missing"));
    let children = [describe(MANIFEST, &present), describe(MANIFEST, &missing)];
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children})).unwrap();
    registry.http.push_image("b", "v1", b"layer").await;
    let refused = registry.http.put_manifest("b", "multi", INDEX, index.clone()).await;
    refused.refuses(404, "MANIFEST_BLOB_UNKNOWN");
    registry.http.put_manifest("a", "multi", INDEX, index.clone()).await.expect(201);
    assert_eq!(registry.http.get("/v2/a/manifests/multi").await.expect(200).body, index);
    let path = format!("/v2/a/manifests/{}", Digest::of(&missing));
    registry.http.get(&path).await.refuses(404, "MANIFEST_UNKNOWN");
    registry.http.put_manifest("a", &Digest::of(&missing).to_string(), MANIFEST, missing.clone()).await.expect(201);
    assert_eq!(registry.http.get(&path).await.expect(200).body, missing);
}

#[tokio::test]
async fn a_check_finds_sparse_indexes_only_where_they_are_not_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.keeping.sparse = Sparse::Everywhere(true);
    let registry = Registry::start_with(dir, settings).await;
    let children = [describe(MANIFEST, &image(b"missing"))];
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children})).unwrap();
    for repository in ["a", "mirror/a"] {
        registry.http.put_manifest(repository, "multi", INDEX, index.clone()).await.expect(201);
    }
    let dir = registry.stop().await;
    let findings = tokio::task::spawn_blocking(move || {
        let sparse = Sparse::In(vec!["mirror/*".parse().unwrap()]);
        let store = Store::open_offline(dir.path(), Keeping { sparse, ..Keeping::default() }).unwrap();
        let mut findings = Vec::new();
        store.fsck(false, &mut |finding| findings.push(finding.to_string()), &|| false).unwrap();
        findings
    });
    let findings = findings.await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("incomplete: a@sha256:"), "{findings:?}");
}

#[tokio::test]
async fn whoever_pushes_foreign_layers_is_warned() {
    let registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    let foreign = json!({"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "digest": Digest::of(b"elsewhere"), "size": 9});
    let with = image_with(b"layer", json!({"layers": [foreign]}));
    let told = registry.http.put_manifest("a", "foreign", MANIFEST, with).await.expect(201);
    assert!(told.header("warning").starts_with("299 - \"") && told.header("warning").ends_with('"'));
    let without = registry.http.put_manifest("a", "v1", MANIFEST, image(b"layer")).await.expect(201);
    assert_eq!(without.header("warning"), "");
}

#[tokio::test]
async fn a_manifest_of_four_megabytes_is_taken_and_a_larger_one_is_not() {
    let registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    let large = image_with(b"layer", json!({"annotations": {"large": "x".repeat(4 << 20)}}));
    registry.http.put_manifest("a", "large", MANIFEST, large.clone()).await.expect(201);
    let digest = Digest::of(&large);
    for reference in ["large", &digest.to_string()] {
        let path = format!("/v2/a/manifests/{reference}");
        assert!(registry.http.get(&path).await.expect(200).body == large);
        assert_eq!(registry.http.head(&path).await.expect(200).header("content-length"), large.len().to_string());
    }
    let larger = image_with(b"layer", json!({"annotations": {"large": "x".repeat(5 << 20)}}));
    let refused = registry.http.put_manifest("a", "larger", MANIFEST, larger).await.refuses(413, "MANIFEST_INVALID");
    assert!(refused.json()["errors"][0]["detail"]["limit"].as_u64().unwrap() >= 4 << 20);
}

#[tokio::test]
async fn an_index_needs_its_children_and_holds_on_to_them() {
    let registry = Registry::start().await;
    let child = image(b"layer");
    let index =
        serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [describe(MANIFEST, &child)]}))
            .unwrap();
    let refused =
        registry.http.put_manifest("a", "multi", INDEX, index.clone()).await.refuses(404, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(refused.json()["errors"][0]["detail"]["digest"], Digest::of(&child).to_string());
    registry.http.push_image("a", "v1", b"layer").await;
    registry.http.put_manifest("a", "multi", INDEX, index.clone()).await.expect(201);
    let child_path = format!("/v2/a/manifests/{}", Digest::of(&child));
    registry.http.delete(&child_path).await.refuses(405, "DENIED");
    registry.http.delete(&format!("/v2/a/manifests/{}", Digest::of(&index))).await.expect(202);
    registry.http.delete(&child_path).await.expect(202);
}

#[tokio::test]
async fn a_manifest_without_its_blobs_is_refused_and_the_old_tag_stays() {
    let registry = Registry::start().await;
    let old = registry.http.push_image("a", "v1", b"old").await;
    let refused =
        registry.http.put_manifest("a", "v1", MANIFEST, image(b"new")).await.refuses(404, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(refused.json()["errors"][0]["detail"]["digest"], Digest::of(b"new").to_string());
    assert_eq!(registry.http.get("/v2/a/manifests/v1").await.expect(200).body, old);
    // A blob in another repository does not count: it could not be pulled from this one.
    registry.http.push_blob("b", b"new").await;
    registry.http.put_manifest("a", "v1", MANIFEST, image(b"new")).await.refuses(404, "MANIFEST_BLOB_UNKNOWN");
    registry.http.push_blob("a", b"new").await;
    registry.http.put_manifest("a", "v1", MANIFEST, image(b"new")).await.expect(201);
    assert_eq!(registry.http.get("/v2/a/manifests/v1").await.expect(200).body, image(b"new"));
    let old = format!("/v2/a/manifests/{}", Digest::of(&old));
    registry.http.get(&old).await.expect(200);
}

#[tokio::test]
async fn a_push_by_digest_sets_many_tags_at_once() {
    let registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let manifest = image_with(b"layer", json!({"annotations": {"by": algorithm.as_str()}}));
        let digest = Digest::of_with(algorithm, &manifest);
        let tags: Vec<String> = (0..12).map(|number| format!("{algorithm}-{number}")).collect();
        let reference = format!("{digest}?tag={}", tags.join("&tag="));
        let reply = registry.http.put_manifest("a", &reference, MANIFEST, manifest.clone()).await.expect(201);
        assert_eq!(reply.header("location"), format!("/v2/a/manifests/{digest}"));
        let told: Vec<_> = reply.headers.get_all("oci-tag").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(told, tags);
        for tag in tags {
            let get = registry.http.get(&format!("/v2/a/manifests/{tag}")).await.expect(200);
            assert_eq!(
                (get.header("docker-content-digest"), &get.body[..]),
                (digest.to_string().as_str(), &manifest[..])
            );
        }
        registry.http.get(&format!("/v2/a/manifests/{digest}")).await.expect(200);
        let bad = format!("{digest}?tag=good&tag=-bad");
        registry.http.put_manifest("a", &bad, MANIFEST, manifest.clone()).await.refuses(400, "TAG_INVALID");
        registry.http.get("/v2/a/manifests/good").await.expect(404);
    }
    let many: String = (0..101).map(|number| format!("&tag=t{number}")).collect();
    let manifest = image(b"layer");
    let reference = format!("{}?{many}", Digest::of(&manifest));
    registry.http.put_manifest("a", &reference, MANIFEST, manifest).await.refuses(414, "TAG_INVALID");
}

#[tokio::test]
async fn a_manifest_must_be_what_it_says() {
    let registry = Registry::start().await;
    let good = registry.http.push_image("a", "v1", b"layer").await;
    let other = Digest::of(b"other").to_string();
    registry.http.put_manifest("a", &other, MANIFEST, good.clone()).await.refuses(400, "DIGEST_INVALID");
    for (kind, bytes) in [
        (MANIFEST, &b"not json"[..]),
        (MANIFEST, b""),
        (MANIFEST, b"{}"),
        (MANIFEST, b"[]"),
        (MANIFEST, b"{\"schemaVersion\":1}"),
        (INDEX, &good),
        ("text/plain", &good),
    ] {
        registry.http.put_manifest("a", "bad", kind, bytes.to_vec()).await.refuses(400, "MANIFEST_INVALID");
    }
    registry.http.get("/v2/a/manifests/bad").await.expect(404);
}

#[tokio::test]
async fn manifests_of_four_mebibytes_are_taken_and_larger_ones_refused() {
    let mut registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    let text: String = noise(1, 4_100_000).into_iter().map(|byte| char::from(b'a' + byte % 26)).collect();
    let large = image_with(b"layer", json!({"annotations": {"large": text}}));
    registry.http.put_manifest("a", "large", MANIFEST, large.clone()).await.expect(201);
    registry = registry.restart().await;
    assert_eq!(registry.http.get("/v2/a/manifests/large").await.expect(200).body, large);
    assert_eq!(
        registry.http.head("/v2/a/manifests/large").await.expect(200).header("content-length"),
        large.len().to_string()
    );
    let too_large = image_with(b"layer", json!({"annotations": {"large": "x".repeat(4_300_000)}}));
    registry.http.put_manifest("a", "large", MANIFEST, too_large).await.refuses(413, "MANIFEST_INVALID");
    assert_eq!(registry.http.get("/v2/a/manifests/large").await.expect(200).body, large);
}

#[tokio::test]
async fn deleting_a_tag_keeps_the_manifest_and_deleting_the_manifest_takes_its_tags() {
    let registry = Registry::start().await;
    let manifest = registry.http.push_image("a", "v1", b"layer").await;
    registry.http.put_manifest("a", "v2", MANIFEST, manifest.clone()).await.expect(201);
    let by_digest = format!("/v2/a/manifests/{}", Digest::of(&manifest));
    registry.http.delete("/v2/a/manifests/v1").await.expect(202);
    registry.http.get("/v2/a/manifests/v1").await.refuses(404, "MANIFEST_UNKNOWN");
    registry.http.delete("/v2/a/manifests/v1").await.refuses(404, "MANIFEST_UNKNOWN");
    registry.http.get(&by_digest).await.expect(200);
    registry.http.delete(&by_digest).await.expect(202);
    for path in [by_digest.as_str(), "/v2/a/manifests/v2"] {
        registry.http.head(path).await.expect(404);
    }
    assert_eq!(registry.http.get("/v2/a/tags/list").await.expect(200).json()["tags"], json!([]));
    registry.http.delete(&by_digest).await.refuses(404, "MANIFEST_UNKNOWN");
    registry.http.put_manifest("a", "v1", MANIFEST, manifest).await.expect(201);
    registry.http.get("/v2/a/manifests/v1").await.expect(200);
}

#[tokio::test]
async fn a_media_type_that_is_no_header_is_refused() {
    let registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    let odd = json!({"schemaVersion": 2, "mediaType": "a\nb", "config": describe(CONFIG, b"{}"), "layers": []});
    let path = "/v2/a/manifests/odd";
    registry.http.send("PUT", path, &[], serde_json::to_vec(&odd).unwrap()).await.refuses(400, "MANIFEST_INVALID");
}
