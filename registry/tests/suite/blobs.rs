//! Blobs: pushing in every way the specification knows, pulling whole and in ranges, mounting, deleting.

use oci::{Algorithm, Digest};

use crate::client::{Registry, noise};

#[tokio::test]
async fn the_base_answers_in_every_spelling() {
    let registry = Registry::start().await;
    for path in ["/v2", "/v2/"] {
        registry.http.get(path).await.expect(200);
        registry.http.head(path).await.expect(200);
    }
}

#[tokio::test]
async fn http_2_without_tls_is_spoken_as_well() {
    let mut registry = Registry::start().await;
    registry.http = registry.http.over_http_2();
    let content = noise(2, 6_000_000);
    let digest = registry.http.push_blob("a", &content).await;
    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).body, content);
    registry.http.get("/v2/a/manifests/none").await.refuses(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_large_blob_is_forced_to_disk_in_parts_and_arrives_whole() {
    let registry = Registry::start().await;
    let content = noise(4, 70 << 20);
    let location = registry.http.open_upload("a").await;
    registry.http.send("PATCH", &location, &[], content[..20 << 20].to_vec()).await.expect(202);
    let digest = Digest::of(&content);
    registry
        .http
        .send("PUT", &format!("{location}?digest={digest}"), &[], content[20 << 20..].to_vec())
        .await
        .expect(201);
    let got = registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).body;
    assert!(got == content, "the same bytes come back");
}

#[tokio::test]
async fn a_blob_is_pushed_by_post_and_put_and_pulled() {
    let registry = Registry::start().await;
    let content = noise(1, 3_000_000);
    let digest = registry.http.push_blob("a/b", &content).await;
    let path = format!("/v2/a/b/blobs/{digest}");
    let get = registry.http.get(&path).await.expect(200);
    assert_eq!(get.body, content);
    let head = registry.http.head(&path).await.expect(200);
    assert!(head.body.is_empty());
    for name in ["content-length", "docker-content-digest", "content-type", "etag", "accept-ranges"] {
        assert_eq!(head.header(name), get.header(name), "HEAD is GET without its body: {name}");
    }
    assert_eq!(get.header("content-length"), "3000000");
    assert_eq!(get.header("content-type"), "application/octet-stream");
    registry.http.get(&format!("/v2/other/blobs/{digest}")).await.refuses(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let registry = Registry::start().await;
    let digest = registry.http.push_blob("a", b"").await;
    let get = registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200);
    assert_eq!((get.body.len(), get.header("content-length")), (0, "0"));
}

#[tokio::test]
async fn a_blob_is_pushed_in_one_request() {
    let registry = Registry::start().await;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = Digest::of_with(algorithm, b"content");
        let path = format!("/v2/a/blobs/uploads/?digest={digest}");
        let reply = registry.http.send("POST", &path, &[], "content").await.expect(201);
        assert_eq!(reply.header("location"), format!("/v2/a/blobs/{digest}"));
        assert_eq!(registry.http.get(reply.header("location")).await.expect(200).body, "content");
    }
    let wrong = Digest::of(b"other");
    let path = format!("/v2/a/blobs/uploads/?digest={wrong}");
    registry.http.send("POST", &path, &[], "content").await.refuses(400, "DIGEST_INVALID");
    registry.http.get(&format!("/v2/a/blobs/{wrong}")).await.refuses(404, "BLOB_UNKNOWN");
    let left = std::fs::read_dir(registry.data().join("uploads")).unwrap().count();
    assert_eq!(left, 0, "nothing of a refused push stays");
}

#[tokio::test]
async fn a_sha512_blob_is_pushed_with_and_without_telling_first() {
    let registry = Registry::start().await;
    let digest = Digest::of_with(Algorithm::Sha512, b"content");
    for query in ["", "?digest-algorithm=sha512"] {
        let post = registry.http.send("POST", &format!("/v2/a/blobs/uploads/{query}"), &[], "").await.expect(202);
        let put = format!("{}?digest={digest}", post.header("location"));
        registry.http.send("PUT", &put, &[], "content").await.expect(201);
    }
    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).body, "content");
    registry
        .http
        .send("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", &[], "")
        .await
        .refuses(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn a_stream_without_range_is_appended() {
    let registry = Registry::start().await;
    let location = registry.http.open_upload("a").await;
    let patch = registry.http.send("PATCH", &location, &[], "hello ").await.expect(202);
    assert_eq!((patch.header("range"), patch.header("location")), ("0-5", location.as_str()));
    assert!(location.ends_with(patch.header("docker-upload-uuid")) && !patch.header("docker-upload-uuid").is_empty());
    let status = registry.http.get(&location).await.expect(204);
    assert_eq!((status.header("range"), status.header("location")), ("0-5", location.as_str()));
    let digest = Digest::of(b"hello world");
    registry.http.send("PUT", &format!("{location}?digest={digest}"), &[], "world").await.expect(201);
    registry.http.get(&location).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).body, "hello world");
}

#[tokio::test]
async fn chunks_must_follow_each_other() {
    let registry = Registry::start().await;
    let location = registry.http.open_upload("a").await;
    let chunk = |range: &'static str, body: &'static str| {
        let (http, location) = (registry.http.clone(), location.clone());
        async move { http.send("PATCH", &location, &[("content-range", range)], body).await }
    };
    chunk("3-5", "def").await.refuses(416, "BLOB_UPLOAD_INVALID");
    chunk("0-2", "abc").await.expect(202);
    let again = chunk("0-2", "abc").await.refuses(416, "BLOB_UPLOAD_INVALID");
    assert_eq!((again.header("range"), again.header("location")), ("0-2", location.as_str()), "says where to go on");
    chunk("5-7", "fgh").await.refuses(416, "BLOB_UPLOAD_INVALID");
    chunk("3-9", "def").await.refuses(400, "SIZE_INVALID");
    chunk("5-3", "def").await.refuses(400, "BLOB_UPLOAD_INVALID");
    chunk("x", "def").await.refuses(400, "BLOB_UPLOAD_INVALID");
    chunk("3-5", "def").await.expect(202);
    let digest = Digest::of(b"abcdefgh");
    let put = format!("{location}?digest={digest}");
    registry.http.send("PUT", &put, &[("content-range", "7-8")], "gh").await.refuses(416, "BLOB_UPLOAD_INVALID");
    registry.http.send("PUT", &put, &[("content-range", "6-7")], "gh").await.expect(201);
    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).body, "abcdefgh");
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let mut registry = Registry::start().await;
    let content = noise(7, 2_500_000);
    let location = registry.http.open_upload("a/b").await;
    registry.http.send("PATCH", &location, &[], content[..2_000_000].to_vec()).await.expect(202);
    registry = registry.restart().await;
    assert_eq!(registry.http.get(&location).await.expect(204).header("range"), "0-1999999");
    let digest = Digest::of(&content);
    let put = format!("{location}?digest={digest}");
    registry
        .http
        .send("PUT", &put, &[("content-range", "2000000-2499999")], content[2_000_000..].to_vec())
        .await
        .expect(201);
    assert_eq!(registry.http.get(&format!("/v2/a/b/blobs/{digest}")).await.expect(200).body, content);
}

#[tokio::test]
async fn an_upload_is_cancelled_or_fails_without_a_trace() {
    let registry = Registry::start().await;
    let cancelled = registry.http.open_upload("a").await;
    registry.http.send("PATCH", &cancelled, &[], "some").await.expect(202);
    registry.http.delete(&cancelled).await.expect(204);
    registry.http.delete(&cancelled).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
    let failed = registry.http.open_upload("a").await;
    let digest = Digest::of(b"what was promised");
    let put = format!("{failed}?digest={digest}");
    let reply = registry.http.send("PUT", &put, &[], "what came").await.refuses(400, "DIGEST_INVALID");
    assert_eq!(reply.json()["errors"][0]["detail"]["actual"], Digest::of(b"what came").to_string());
    registry.http.get(&failed).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
    let unnamed = registry.http.open_upload("a").await;
    registry.http.send("PUT", &unnamed, &[], "x").await.refuses(400, "DIGEST_INVALID");
    registry.http.delete(&unnamed).await.expect(204);
    assert_eq!(std::fs::read_dir(registry.data().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn ranges() {
    let registry = Registry::start().await;
    let content = noise(3, 1_000_000);
    let digest = registry.http.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    for (range, expected, content_range) in [
        ("bytes=0-0", &content[..1], "bytes 0-0/1000000"),
        ("bytes=10-19", &content[10..20], "bytes 10-19/1000000"),
        ("bytes=999999-", &content[999_999..], "bytes 999999-999999/1000000"),
        ("bytes=300000-", &content[300_000..], "bytes 300000-999999/1000000"),
        ("bytes=-5", &content[999_995..], "bytes 999995-999999/1000000"),
        ("bytes=-2000000", &content[..], "bytes 0-999999/1000000"),
        ("bytes=5-2000000", &content[5..], "bytes 5-999999/1000000"),
    ] {
        let reply = registry.http.send("GET", &path, &[("range", range)], "").await.expect(206);
        assert_eq!(reply.body, expected, "{range}");
        assert_eq!(reply.header("content-range"), content_range);
        assert_eq!(reply.header("content-length"), expected.len().to_string());
    }
    for range in ["bytes=1000000-", "bytes=-0", "bytes=2000000-3000000", "bytes=500-0"] {
        let reply = registry.http.send("GET", &path, &[("range", range)], "").await.refuses(416, "RANGE_INVALID");
        assert_eq!(reply.header("content-range"), "bytes */1000000", "{range}");
    }
    for range in ["lines=1-2", "nonsense", "bytes=a-b"] {
        assert_eq!(registry.http.send("GET", &path, &[("range", range)], "").await.expect(200).body.len(), 1_000_000);
    }
    let stale = [("range", "bytes=0-0"), ("if-range", "\"sha256:other\"")];
    assert_eq!(registry.http.send("GET", &path, &stale, "").await.expect(200).body.len(), 1_000_000);
}

#[tokio::test]
async fn several_ranges_come_as_one_multipart_body() {
    let registry = Registry::start().await;
    let content = noise(3, 100_000);
    let digest = registry.http.push_blob("a", &content).await;
    let path = format!("/v2/a/blobs/{digest}");
    let reply = registry.http.send("GET", &path, &[("range", "bytes=0-9,50000-50004,-3")], "").await.expect(206);
    let kind = reply.header("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect(kind);
    let mut expected = Vec::new();
    for (range, part) in
        [("0-9", &content[..10]), ("50000-50004", &content[50_000..50_005]), ("99997-99999", &content[99_997..])]
    {
        expected
            .extend_from_slice(format!("\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n").as_bytes());
        expected.extend_from_slice(format!("Content-Range: bytes {range}/100000\r\n\r\n").as_bytes());
        expected.extend_from_slice(part);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(reply.body, expected);
    assert_eq!(reply.header("content-length"), expected.len().to_string());
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let registry = Registry::start().await;
    let digest = registry.http.push_blob("a", b"content").await;
    let etag = format!("\"{digest}\"");
    for tag in [etag.as_str(), "*", &format!("\"x\", W/{etag}")] {
        let path = format!("/v2/a/blobs/{digest}");
        for method in ["GET", "HEAD"] {
            let reply = registry.http.send(method, &path, &[("if-none-match", tag)], "").await.expect(304);
            assert!(reply.body.is_empty());
            assert!(!reply.headers.contains_key("content-length"), "{method}: that would be the blob's");
        }
        // What one may read is not for whoever shares a cache with him.
        assert_eq!(registry.http.get(&path).await.header("cache-control"), "max-age=31536000, immutable");
    }
}

#[tokio::test]
async fn more_than_everything_comes_once() {
    let registry = Registry::start().await;
    let content = noise(3, 100_000);
    let path = format!("/v2/a/blobs/{}", registry.http.push_blob("a", &content).await);
    for ranges in ["0-,0-,0-", "0-99999,5-5", "0-60000,40000-99999"] {
        let range = format!("bytes={ranges}");
        let reply = registry.http.send("GET", &path, &[("range", &range)], "").await.expect(200);
        assert!(reply.body == content, "{ranges}");
    }
    let twice = [("range", "bytes=0-0"), ("range", "bytes=5-6")];
    assert!(registry.http.send("GET", &path, &twice, "").await.expect(200).body == content);
}

#[tokio::test]
async fn a_condition_on_a_blob_is_heard() {
    let registry = Registry::start().await;
    let digest = registry.http.push_blob("a", b"content").await;
    let (path, etag) = (format!("/v2/a/blobs/{digest}"), format!("\"{digest}\""));
    for method in ["GET", "HEAD"] {
        registry.http.send(method, &path, &[("if-match", "\"other\"")], "").await.expect(412);
        registry.http.send(method, &path, &[("if-match", &etag)], "").await.expect(200);
        let known = registry.http.send(method, &path, &[("if-none-match", &etag)], "").await.expect(304);
        assert_eq!(known.header("etag"), etag);
    }
}

#[tokio::test]
async fn a_blob_is_mounted_instead_of_sent() {
    let registry = Registry::start().await;
    let digest = registry.http.push_blob("from/here", b"content").await;
    let mount = |to: &'static str, query: String| {
        let http = registry.http.clone();
        async move { http.send("POST", &format!("/v2/{to}/blobs/uploads/?{query}"), &[], "").await }
    };
    let reply = mount("to", format!("mount={digest}&from=from/here")).await.expect(201);
    assert_eq!(reply.header("location"), format!("/v2/to/blobs/{digest}"));
    assert_eq!(reply.header("docker-content-digest"), digest.to_string());
    assert_eq!(registry.http.get(&format!("/v2/to/blobs/{digest}")).await.expect(200).body, "content");
    mount("discovered", format!("mount={digest}")).await.expect(201);
    let missed = mount("new", format!("mount={digest}&from=nowhere")).await.expect(202);
    let put = format!("{}?digest={digest}", missed.header("location"));
    registry.http.send("PUT", &put, &[], "content").await.expect(201);
    mount("new", format!("mount={}", Digest::of(b"unknown"))).await.expect(202);
    mount("new", "mount=sha256:1".to_owned()).await.refuses(400, "DIGEST_INVALID");
    mount("new", format!("mount={digest}&from=../etc")).await.refuses(400, "NAME_INVALID");
}

#[tokio::test]
async fn a_deleted_blob_is_gone_at_once_and_can_be_pushed_again() {
    let registry = Registry::start().await;
    let digest = registry.http.push_blob("a", b"content").await;
    let path = format!("/v2/a/blobs/{digest}");
    registry.http.delete(&path).await.expect(202);
    registry.http.head(&path).await.expect(404);
    registry.http.delete(&path).await.refuses(404, "BLOB_UNKNOWN");
    assert_eq!(registry.http.push_blob("a", b"content").await, digest);
    registry.http.head(&path).await.expect(200);
}

#[tokio::test]
async fn a_blob_that_is_named_is_not_deleted() {
    let registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    let path = format!("/v2/a/blobs/{}", Digest::of(b"layer"));
    registry.http.delete(&path).await.refuses(405, "DENIED");
    registry.http.head(&path).await.expect(200);
}

#[tokio::test]
async fn damaged_content_is_told_and_healed_by_pushing_again() {
    let registry = Registry::start().await;
    let digest = registry.http.push_blob("a", b"content").await;
    let hex = digest.hex();
    let file = registry.data().join("blobs/sha256").join(&hex[..2]).join(&hex);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, b"cont").unwrap();
    registry.http.get(&format!("/v2/a/blobs/{digest}")).await.refuses(500, "UNKNOWN");
    registry.http.push_blob("a", b"content").await;
    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).body, "content");
}
