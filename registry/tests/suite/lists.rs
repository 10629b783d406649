//! Lists: tags, repositories and referrers, in order and in pages.

use oci::Digest;
use serde_json::{Value, json};

use crate::client::{INDEX, MANIFEST, Registry, describe, image_with};

/// Follows `Link` from page to page.
async fn pages(registry: &Registry, first: &str, field: &str) -> Vec<Vec<Value>> {
    let mut found = Vec::new();
    let mut path = first.to_owned();
    loop {
        let reply = registry.http.get(&path).await.expect(200);
        found.push(reply.json()[field].as_array().expect("a list").clone());
        let Some(link) = reply.headers.get("link") else { return found };
        let link = link.to_str().unwrap();
        let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        path = next.expect(link).to_owned();
        assert!(found.len() < 50, "pages end");
    }
}

#[tokio::test]
async fn tags_are_sorted_and_paged() {
    let registry = Registry::start().await;
    let manifest = registry.http.push_image("a", "b2", b"layer").await;
    for tag in ["a", "B", "_", "b10", "b1", "1"] {
        registry.http.put_manifest("a", tag, MANIFEST, manifest.clone()).await.expect(201);
    }
    let all = registry.http.get("/v2/a/tags/list").await.expect(200);
    assert_eq!(all.json(), json!({"name": "a", "tags": ["1", "B", "_", "a", "b1", "b10", "b2"]}));
    assert!(all.headers.get("link").is_none());
    assert_eq!(
        pages(&registry, "/v2/a/tags/list?n=3", "tags").await,
        [vec![json!("1"), json!("B"), json!("_")], vec![json!("a"), json!("b1"), json!("b10")], vec![json!("b2")]]
    );
    assert_eq!(pages(&registry, "/v2/a/tags/list?n=7", "tags").await.len(), 1, "a full last page has no next one");
    let behind = registry.http.get("/v2/a/tags/list?last=b1").await.expect(200);
    assert_eq!(behind.json()["tags"], json!(["b10", "b2"]));
    let none = registry.http.get("/v2/a/tags/list?n=0").await.expect(200);
    assert_eq!(none.json()["tags"], json!([]));
    assert!(none.headers.get("link").is_none());
    registry.http.get("/v2/a/tags/list?n=x").await.refuses(400, "PAGINATION_NUMBER_INVALID");
    registry.http.get("/v2/a/tags/list?n=-1").await.refuses(400, "PAGINATION_NUMBER_INVALID");
    registry.http.get("/v2/a/tags/list?n=99999999999999999999").await.refuses(400, "PAGINATION_NUMBER_INVALID");
    registry.http.get("/v2/nothing/tags/list").await.refuses(404, "NAME_UNKNOWN");
    // A repository whose name continues ours is another one.
    registry.http.push_image("a/b", "other", b"layer").await;
    registry.http.push_image("a-b", "other", b"layer").await;
    assert_eq!(registry.http.get("/v2/a/tags/list").await.expect(200).json()["tags"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn repositories_are_sorted_and_paged() {
    let registry = Registry::start().await;
    assert_eq!(registry.http.get("/v2/_catalog").await.expect(200).json(), json!({"repositories": []}));
    for name in ["b", "a/c", "a", "a-b"] {
        registry.http.push_image(name, "v1", b"layer").await;
    }
    let expected = [json!("a"), json!("a-b"), json!("a/c"), json!("b")];
    assert_eq!(pages(&registry, "/v2/_catalog", "repositories").await, [expected.to_vec()]);
    assert_eq!(
        pages(&registry, "/v2/_catalog?n=3", "repositories").await,
        [expected[..3].to_vec(), expected[3..].to_vec()]
    );
}

fn attached(subject: &[u8], kind: &str, number: usize) -> Vec<u8> {
    let number = number.to_string();
    image_with(
        b"layer",
        json!({"artifactType": kind, "subject": describe(MANIFEST, subject), "annotations": {"number": number}}),
    )
}

#[tokio::test]
async fn referrers_are_listed_filtered_and_paged() {
    let registry = Registry::start().await;
    let subject = registry.http.push_image("a", "v1", b"layer").await;
    let path = format!("/v2/a/referrers/{}", Digest::of(&subject));
    let empty = registry.http.get(&path).await.expect(200);
    assert_eq!(empty.json(), json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}));
    assert_eq!(empty.header("content-type"), INDEX);
    for number in 0..40 {
        let kind = if number % 4 == 0 { "application/sbom+json" } else { "application/signature" };
        let manifest = attached(&subject, kind, number);
        let put =
            registry.http.put_manifest("a", &Digest::of(&manifest).to_string(), MANIFEST, manifest).await.expect(201);
        assert_eq!(put.header("oci-subject"), Digest::of(&subject).to_string());
    }
    let all = registry.http.get(&path).await.expect(200);
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 40);
    let filtered = registry.http.get(&format!("{path}?artifactType=application/sbom%2Bjson")).await.expect(200);
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let found = filtered.json()["manifests"].as_array().unwrap().clone();
    assert_eq!(found.len(), 10);
    let example = found.iter().find(|entry| entry["annotations"]["number"] == "8").expect("number 8 is an SBOM");
    let manifest = attached(&subject, "application/sbom+json", 8);
    assert_eq!(
        *example,
        json!({"mediaType": MANIFEST, "digest": Digest::of(&manifest), "size": manifest.len(),
               "artifactType": "application/sbom+json", "annotations": {"number": "8"}})
    );
    for (first, sizes) in [
        (format!("{path}?n=15"), vec![15, 15, 10]),
        (format!("{path}?n=20"), vec![20, 20]),
        (format!("{path}?n=5&artifactType=application/sbom%2Bjson"), vec![5, 5]),
        (format!("{path}?n=4&artifactType=application/sbom%2Bjson"), vec![4, 4, 2]),
    ] {
        let paged = pages(&registry, &first, "manifests").await;
        let counts: Vec<_> = paged.iter().map(Vec::len).collect();
        assert_eq!(counts, sizes, "{first}");
        let mut digests: Vec<_> = paged.iter().flatten().map(|entry| entry["digest"].to_string()).collect();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), sizes.iter().sum::<usize>(), "nothing twice");
    }
    registry.http.get(&format!("{path}?last=nonsense")).await.refuses(400, "PAGINATION_NUMBER_INVALID");
}

#[tokio::test]
async fn a_subject_may_come_later_and_a_deleted_referrer_is_gone() {
    let mut registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    let missing = image_with(b"layer", json!({"annotations": {"not": "pushed"}}));
    let manifest = attached(&missing, "application/signature", 1);
    registry.http.put_manifest("a", "signature", MANIFEST, manifest.clone()).await.expect(201);
    let path = format!("/v2/a/referrers/{}", Digest::of(&missing));
    registry = registry.restart().await;
    assert_eq!(registry.http.get(&path).await.expect(200).json()["manifests"].as_array().unwrap().len(), 1);
    registry.http.delete(&format!("/v2/a/manifests/{}", Digest::of(&manifest))).await.expect(202);
    assert_eq!(registry.http.get(&path).await.expect(200).json()["manifests"], json!([]));
    registry.http.get("/v2/nothing/referrers/sha256:1").await.refuses(400, "DIGEST_INVALID");
    let unknown = format!("/v2/nothing/referrers/{}", Digest::of(b""));
    assert_eq!(registry.http.get(&unknown).await.expect(200).json()["manifests"], json!([]));
}

#[tokio::test]
async fn referrers_with_large_annotations_come_in_pages_of_bounded_size() {
    let registry = Registry::start().await;
    let subject = registry.http.push_image("a", "v1", b"layer").await;
    for number in 0..8 {
        let more = json!({"subject": describe(MANIFEST, &subject), "annotations": {"large": "x".repeat(900_000), "number": number.to_string()}});
        registry.http.put_manifest("a", &format!("r{number}"), MANIFEST, image_with(b"layer", more)).await.expect(201);
    }
    let first = format!("/v2/a/referrers/{}", Digest::of(&subject));
    let paged = pages(&registry, &first, "manifests").await;
    assert_eq!(paged.iter().map(Vec::len).sum::<usize>(), 8);
}
