//! Hostile input: names that are paths, digests that are none, bodies that break off or never end,
//! two writers at once. Every answer is an error of the specification's form, and nothing leaks.

use std::time::Duration;

use oci::Digest;
use registry::{BindError, Limits, OpenError, Server, Settings, Store};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access::{guarded_with, rules};
use crate::client::{Http, MANIFEST, Registry, image, noise};

/// Sends bytes as they are and reads what comes until the server closes.
async fn raw(http: &Http, request: &str) -> String {
    let mut stream = TcpStream::connect(http.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_position_of_a_path_escapes() {
    let registry = Registry::start().await;
    let secret = registry.data().join("blobs/secret");
    std::fs::write(&secret, "secret").unwrap();
    let digest = Digest::of(b"x");
    let names =
        ["..", "../..", "a/../b", ".", "a//b", "a/./b", "/etc", "a%2f..%2fb", "%2e%2e", "a\\..\\b", "A", "a b", "é"];
    let mut paths = Vec::new();
    for name in names {
        for tail in [
            "tags/list",
            "manifests/v1",
            &format!("blobs/{digest}"),
            "blobs/uploads/",
            "blobs/uploads/x",
            &format!("referrers/{digest}"),
        ] {
            paths.push(format!("/v2/{name}/{tail}"));
        }
    }
    for last in
        ["..", "../../secret", "sha256:../../secret", "%2e%2e", "sha256:%2e%2e%2fsecret", "sha256:", "sha1:00", ":"]
    {
        for kind in ["manifests", "blobs", "blobs/uploads", "referrers"] {
            paths.push(format!("/v2/a/{kind}/{last}"));
        }
    }
    paths.extend(["/", "/etc/passwd", "/v2/../etc", "/v3/", "/v2/%00/tags/list", "//v2/"].map(str::to_owned));
    for path in paths {
        for method in ["GET", "PUT", "DELETE", "POST", "PATCH"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let answer = raw(&registry.http, &request).await;
            let status: u16 = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
            assert!((400..500).contains(&status), "{method} {path}: {answer}");
            assert!(!answer.contains("secret\r\n") && !answer.ends_with("secret"), "{method} {path}: {answer}");
        }
    }
    assert_eq!(std::fs::read_dir(registry.data().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn wrong_methods_say_which_are_right() {
    let registry = Registry::start().await;
    let digest = Digest::of(b"x");
    for (method, path, allow) in [
        ("POST", "/v2/".to_owned(), "GET, HEAD"),
        ("PUT", "/v2/_catalog".to_owned(), "GET, HEAD"),
        ("DELETE", "/v2/a/tags/list".to_owned(), "GET, HEAD"),
        ("POST", "/v2/a/manifests/v1".to_owned(), "GET, HEAD, PUT, DELETE"),
        ("PUT", format!("/v2/a/blobs/{digest}"), "GET, HEAD, DELETE"),
        ("GET", "/v2/a/blobs/uploads/".to_owned(), "POST"),
        ("POST", "/v2/a/blobs/uploads/x".to_owned(), "GET, HEAD, PATCH, PUT, DELETE"),
        ("BREW", "/v2/".to_owned(), "GET, HEAD"),
    ] {
        let reply = registry.http.send(method, &path, &[], "").await.refuses(405, "UNSUPPORTED");
        assert_eq!(reply.header("allow"), allow, "{method} {path}");
    }
    registry.http.get("/v2/a/nothing/here").await.refuses(404, "UNSUPPORTED");
}

#[tokio::test]
async fn upload_ids_of_others_and_of_nobody() {
    let registry = Registry::start().await;
    let location = registry.http.open_upload("mine").await;
    let id = location.rsplit('/').next().unwrap();
    let digest = Digest::of(b"x");
    for path in [
        format!("/v2/yours/blobs/uploads/{id}"),
        "/v2/mine/blobs/uploads/00000000-0000-7000-8000-000000000000".to_owned(),
    ] {
        registry.http.get(&path).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
        registry.http.send("PATCH", &path, &[], "x").await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
        registry
            .http
            .send("PUT", &format!("{path}?digest={digest}"), &[], "x")
            .await
            .refuses(404, "BLOB_UPLOAD_UNKNOWN");
        registry.http.delete(&path).await.refuses(404, "BLOB_UPLOAD_UNKNOWN");
    }
    registry.http.get(&location).await.expect(204);
}

#[tokio::test]
async fn abandoned_uploads_hold_no_file_open() {
    let registry = Registry::start().await;
    let mut last = String::new();
    for _ in 0..50 {
        last = registry.http.open_upload("a").await;
        registry.http.send("PATCH", &last, &[], "some").await.expect(202);
    }
    let uploads = registry.data().join("uploads");
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.unwrap().path().read_link().ok());
    assert_eq!(open.filter(|path| path.starts_with(&uploads) && *path != uploads).count(), 0);
    assert_eq!(registry.http.get(&last).await.expect(204).header("range"), "0-3");
}

#[tokio::test]
async fn a_body_that_breaks_off_keeps_what_came_and_the_client_goes_on() {
    let registry = Registry::start().await;
    let content = noise(5, 3_000_000);
    let location = registry.http.open_upload("a").await;
    let mut stream = TcpStream::connect(registry.http.addr).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", content.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content[..2_000_000]).await.unwrap();
    drop(stream);
    // The server may still be reading what was on its way.
    let received = loop {
        let range = registry.http.get(&location).await.expect(204).header("range").to_owned();
        let received = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
        if received == 2_000_000 {
            break received;
        }
        tokio::task::yield_now().await;
    };
    let range = format!("{received}-{}", content.len() - 1);
    loop {
        let patch =
            registry.http.send("PATCH", &location, &[("content-range", &range)], content[received..].to_vec()).await;
        match patch.status.as_u16() {
            409 => tokio::task::yield_now().await,
            _ => break drop(patch.expect(202)),
        }
    }
    let digest = Digest::of(&content);
    registry.http.send("PUT", &format!("{location}?digest={digest}"), &[], "").await.expect(201);
    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).body, content);
}

#[tokio::test]
async fn a_put_that_breaks_off_files_nothing() {
    let registry = Registry::start().await;
    let location = registry.http.open_upload("a").await;
    // The part that comes even hashes to the digest; the request is not whole all the same.
    let digest = Digest::of(b"part");
    let mut stream = TcpStream::connect(registry.http.addr).await.unwrap();
    let head = format!("PUT {location}?digest={digest} HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\npart");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await; // it may be cut off, which is an answer too
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    registry.http.get(&format!("/v2/a/blobs/{digest}")).await.refuses(404, "BLOB_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_upload_never_mix() {
    let registry = Registry::start().await;
    for round in 0..20 {
        let location = registry.http.open_upload("a").await;
        let (one, two) = (noise(round, 600_000), noise(round + 100, 600_000));
        let (first, second) = tokio::join!(
            registry.http.send("PATCH", &location, &[], one.clone()),
            registry.http.send("PATCH", &location, &[], two.clone()),
        );
        let mut accepted = Vec::new();
        for (reply, content) in [(&first, &one), (&second, &two)] {
            match reply.status.as_u16() {
                202 => accepted.push(content.clone()),
                status => assert_eq!(status, 409, "{reply:?}"),
            }
        }
        assert!(!accepted.is_empty());
        // Whichever came first: each accepted body is there whole.
        let orders = [accepted.concat(), accepted.iter().rev().cloned().collect::<Vec<_>>().concat()];
        let mut filed = 0;
        for content in orders {
            let digest = Digest::of(&content);
            let put = registry.http.send("PUT", &format!("{location}?digest={digest}"), &[], "").await;
            match put.status.as_u16() {
                201 => {
                    assert_eq!(registry.http.get(&format!("/v2/a/blobs/{digest}")).await.expect(200).body, content);
                    filed += 1;
                    break;
                }
                // The wrong order ends the session: fine if it was the other one.
                status => assert!(matches!(status, 400 | 404), "{put:?}"),
            }
        }
        assert!(filed == 1 || accepted.len() == 2, "one body alone is always filed");
    }
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let registry = Registry::start().await;
    let body = "x".repeat(200_000);
    for (head, status) in [
        ("PUT /v2/A/manifests/v1".to_owned(), 400),
        (format!("PUT /v2/a/blobs/uploads/nobody?digest={}", Digest::of(b"x")), 404),
        ("PATCH /v2/a/blobs/uploads/nobody".to_owned(), 404),
    ] {
        let request =
            format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let answer = raw(&registry.http, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("{\"errors\":["), "{answer}");
    }
    let waiting = "PUT /v2/a/blobs/uploads/nobody?digest=x HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    let answer = raw(&registry.http, waiting).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "refused without asking for the body: {answer}");
}

#[tokio::test]
async fn a_manifest_that_never_ends_is_cut_off() {
    let registry = Registry::start().await;
    let mut stream = TcpStream::connect(registry.http.addr).await.unwrap();
    let head = "PUT /v2/a/manifests/v1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    let mut sent = 0;
    let (mut reader, mut writer) = stream.into_split();
    let sending = tokio::spawn(async move {
        while writer.write_all(chunk.as_bytes()).await.is_ok() {
            sent += 65_536;
            if sent > 512 << 20 {
                break;
            }
        }
        sent
    });
    let mut answer = vec![0; 12];
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    drop(reader);
    // It takes some of the rest, so that the answer is not lost in a reset; but not all of it.
    assert!(sending.await.unwrap() < 512 << 20, "the server stops reading");
}

#[tokio::test]
async fn blobs_beyond_the_limit_are_refused_with_and_without_a_length() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.limits = Limits { blob: 1000, ..Limits::default() };
    let registry = Registry::start_with(dir, settings).await;
    let location = registry.http.open_upload("a").await;
    registry.http.send("PATCH", &location, &[], noise(1, 1001)).await.refuses(413, "SIZE_INVALID");
    let chunked = format!(
        "PATCH {location} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1001)
    );
    assert!(raw(&registry.http, &chunked).await.starts_with("HTTP/1.1 413"));
    registry.http.send("PATCH", &location, &[], noise(1, 600)).await.expect(202);
    registry.http.send("PATCH", &location, &[], noise(2, 600)).await.refuses(413, "SIZE_INVALID");
    registry.http.send("PATCH", &location, &[], noise(2, 400)).await.expect(202);
    let digest = Digest::of(&[noise(1, 600), noise(2, 400)].concat());
    registry.http.send("PUT", &format!("{location}?digest={digest}"), &[], "").await.expect(201);
}

/// Whoever sends too much, or what nobody wants, and then nothing more, is answered at once and hung up on
/// soon after: none of it waits for as long as a body may pause.
#[tokio::test]
async fn a_refusal_does_not_wait_for_the_rest_of_a_body() {
    let limits = Limits { blob: 1000, idle: Duration::from_secs(24 * 3600), ..Limits::default() };
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.limits = limits.clone();
    let registry = Registry::start_with(dir, settings).await;
    let guarded = guarded_with(rules(serde_json::json!([])), |settings| settings.limits = limits).await;
    let location = registry.http.open_upload("a").await;
    let stalls = |http: &Http, head: String, sent: usize, status: u16| {
        let addr = http.addr;
        async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let head_and_chunk = format!("{head} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4c4b40\r\n");
            let request = head_and_chunk + &"x".repeat(sent);
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer));
            let closed = read.await.is_ok_and(|read| read.is_ok());
            let answer = String::from_utf8_lossy(&answer);
            assert!(closed, "{head} leaves the connection open after {answer:?}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
        }
    };
    tokio::join!(
        stalls(&registry.http, format!("PATCH {location}"), 1001, 413),
        stalls(&registry.http, "PUT /v2/a/manifests/v1".to_owned(), 4_300_000, 413),
        stalls(&registry.http, "PUT /v2/A/manifests/v1".to_owned(), 10, 400),
        stalls(&guarded.http, "POST /token".to_owned(), 70_000, 413),
        stalls(&guarded.http, "PUT /v2/a/manifests/v1".to_owned(), 10, 401),
    );
}

#[tokio::test]
async fn a_body_that_pauses_too_long_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.limits = Limits { idle: Duration::from_millis(50), ..Limits::default() };
    let registry = Registry::start_with(dir, settings).await;
    let location = registry.http.open_upload("a").await;
    let request = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\nabc");
    assert!(raw(&registry.http, &request).await.starts_with("HTTP/1.1 408"));
    assert_eq!(registry.http.get(&location).await.expect(204).header("range"), "0-2", "what came stays");
}

#[tokio::test]
async fn headers_that_contradict_each_other_are_refused() {
    let registry = Registry::start().await;
    let location = registry.http.open_upload("a").await;
    let twice = [("content-range", "0-2"), ("content-range", "3-5")];
    registry.http.send("PATCH", &location, &twice, "abc").await.refuses(400, "BLOB_UPLOAD_INVALID");
    let twice = [("content-type", MANIFEST), ("content-type", "text/plain")];
    registry.http.send("PUT", "/v2/a/manifests/v1", &twice, "{}").await.refuses(400, "MANIFEST_INVALID");
    for lengths in [
        "content-length: 3\r\ncontent-length: 4",
        "content-length: 3\r\ntransfer-encoding: chunked",
        "content-length: -1",
        "transfer-encoding: chunked, gzip",
    ] {
        let request = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lengths}\r\n\r\nxyz");
        let answer = raw(&registry.http, &request).await;
        // A length beside chunks is dropped, as RFC 9112 §6.3 has it; then `xyz` is no chunk.
        assert!(answer.starts_with("HTTP/1.1 400"), "{lengths}: {answer}");
    }
    assert_eq!(registry.http.get(&location).await.expect(204).header("range"), "0-0", "nothing was taken");
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let registry = Registry::start().await;
    for (head, status) in [
        ("GET /v2/ HTTP/1.1\r\nhost: x", 200),
        ("GET /v2/ HTTP/1.0", 200),
        ("GET /v2/ HTTP/1.1", 400),
        ("GET /v2/ HTTP/1.1\r\nhost: x\r\nhost: y", 400),
        ("GET /v2/ HTTP/1.0\r\nhost: x\r\nhost: y", 400),
    ] {
        let answer = raw(&registry.http, &format!("{head}\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(answer.split(' ').nth(1), Some(&*status.to_string()), "{head}: {answer}");
    }
}

#[tokio::test]
async fn every_refusal_names_the_culprit() {
    let registry = Registry::start().await;
    registry.http.push_blob("a", b"content").await;
    for (method, path, culprit) in [
        ("GET", "/nothing/here", json!({"method": "GET", "path": "/nothing/here"})),
        ("GET", "/v2/a/nothing/here", json!({"method": "GET", "path": "/v2/a/nothing/here"})),
        ("GET", "/v2/A/tags/list", json!({"method": "GET", "path": "/v2/A/tags/list"})),
        ("PUT", "/v2/_catalog", json!({"method": "PUT", "path": "/v2/_catalog"})),
        ("POST", "/livez", json!({"method": "POST", "path": "/livez"})),
        ("POST", "/v2/a/blobs/uploads/?digest=sha256:0", json!({"digest": "sha256:0"})),
        ("POST", "/v2/a/blobs/uploads/?mount=x&from=a", json!({"digest": "x"})),
        ("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", json!({"digest-algorithm": "md5"})),
        ("PATCH", "/v2/a/blobs/uploads/x", json!({"method": "PATCH", "path": "/v2/a/blobs/uploads/x"})),
        ("PUT", "/v2/a/manifests/v1", json!({"method": "PUT", "path": "/v2/a/manifests/v1"})),
    ] {
        let reply = registry.http.send(method, path, &[], "").await;
        assert_eq!(reply.json()["errors"][0]["detail"], culprit, "{method} {path}");
    }
    let long = registry.http.get(&format!("/{}", "x".repeat(50_000))).await.refuses(404, "UNSUPPORTED");
    assert!(long.body.len() < 1000, "a long path is not said back whole");
    // Where there is nothing to mount, a session begins.
    registry.http.send("POST", "/v2/a/blobs/uploads/?mount=&from=", &[], "").await.expect(202);
}

#[tokio::test]
async fn heads_have_limits() {
    let registry = Registry::start().await;
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let request = format!("GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{many}\r\n");
    let answer = raw(&registry.http, &request).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    for endless in ["GET /v2/ HTTP/1.1\r\nhost: x\r\nx-long: ", "GET /v2/"] {
        let mut stream = TcpStream::connect(registry.http.addr).await.unwrap();
        stream.write_all(endless.as_bytes()).await.unwrap();
        let (mut sent, letters) = (0, [b'y'; 16 << 10]);
        while stream.write_all(&letters).await.is_ok() {
            sent += letters.len();
            assert!(sent < 64 << 20, "the server takes a head without end");
        }
    }
    registry.http.get("/v2/").await.expect(200);
}

#[tokio::test]
async fn a_client_that_sends_no_head_is_hung_up_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
    settings.limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
    let registry = Registry::start_with(dir, settings).await;
    // Nothing, the beginning of both versions of HTTP, and heads that never end.
    for begun in ["", "P", "PRI * HTTP", "GET /v2/ HT", "GET /v2/ HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let answer = tokio::time::timeout(Duration::from_secs(60), raw(&registry.http, begun)).await;
        assert!(answer.is_ok(), "{begun:?} holds a connection for ever");
    }
    // So is one that had its answer and asks no more. (A slow machine may not even get to ask.)
    let asked = raw(&registry.http, "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n");
    let answer = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("the connection ends");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_it_is_wanted() {
    let registry = Registry::start().await;
    let location = registry.http.open_upload("a").await;
    let mut stream = TcpStream::connect(registry.http.addr).await.unwrap();
    let digest = Digest::of(b"content");
    let head = format!(
        "PUT {location}?digest={digest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 7\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"content").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[tokio::test]
async fn pushes_without_a_body_are_told_what_is_missing() {
    let registry = Registry::start().await;
    let location = registry.http.open_upload("a").await;
    let digest = Digest::of(b"content");
    registry
        .http
        .send("PUT", "/v2/a/manifests/v1", &[("content-type", MANIFEST)], "")
        .await
        .refuses(400, "MANIFEST_INVALID");
    registry.http.send("PATCH", &location, &[], "").await.expect(202);
    registry.http.send("PUT", &format!("{location}?digest={digest}"), &[], "").await.refuses(400, "DIGEST_INVALID");
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    registry.http.send("POST", &path, &[], "").await.refuses(400, "DIGEST_INVALID");
    // Of nothing, the digest is right.
    let nothing = Digest::of(b"");
    registry.http.send("POST", &format!("/v2/a/blobs/uploads/?digest={nothing}"), &[], "").await.expect(201);
}

#[tokio::test]
async fn a_namespace_of_another_registry_changes_nothing() {
    let registry = Registry::start().await;
    let manifest = registry.http.push_image("a", "v1", b"layer").await;
    for path in ["/v2/a/manifests/v1", "/v2/a/tags/list", &format!("/v2/a/blobs/{}", Digest::of(b"layer"))] {
        let reply = registry.http.get(&format!("{path}?ns=docker.io")).await.expect(200);
        // Only who stands for that namespace says so.
        assert_eq!(reply.header("oci-namespace"), "", "{path}");
    }
    registry.http.put_manifest("a", "v2?ns=docker.io", MANIFEST, manifest).await.expect(201);
    registry.http.get("/v2/a/manifests/v3?ns=docker.io").await.refuses(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn odd_queries_and_headers_are_nobodys_mistake() {
    let registry = Registry::start().await;
    registry.http.push_image("a", "v1", b"layer").await;
    registry.http.get("/v2/a/manifests/v1?ns=docker.io&x=%zz&&=").await.expect(200);
    let long = "x".repeat(4000);
    registry.http.send("GET", "/v2/a/manifests/v1", &[("x-long", &long), ("range", "bytes=0-1")], "").await.expect(200);
    let deep = "[".repeat(100_000);
    let path = "/v2/a/manifests/deep";
    registry.http.send("PUT", path, &[("content-type", MANIFEST)], deep).await.refuses(400, "MANIFEST_INVALID");
    registry
        .http
        .put_manifest("a", "v1", "application/vnd.oci.image.manifest.v1+json; charset=utf-8", image(b"layer"))
        .await
        .expect(201);
}

#[tokio::test]
async fn the_server_refuses_to_be_open_to_the_world_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("0.0.0.0:0".parse().unwrap(), dir.path());
    let refused = Server::bind(settings.clone()).await.err().expect("nothing protects this registry");
    assert!(matches!(refused, BindError::Unprotected(_)), "{refused}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
    settings.allow_anonymous = true;
    Server::bind(settings).await.expect("told so");
}

#[tokio::test]
async fn one_data_directory_has_one_process_and_is_not_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(OpenError::InUse { .. })));
    store.close().await;
    drop(store);
    drop(Store::open(dir.path()).unwrap());
    std::fs::write(dir.path().join("VERSION"), "lighter registry 99\n").unwrap();
    assert!(matches!(Store::open(dir.path()), Err(OpenError::Version { .. })));
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("diary.txt"), "mine").unwrap();
    assert!(matches!(Store::open(foreign.path()), Err(OpenError::Foreign { .. })));
    assert_eq!(std::fs::read_dir(foreign.path()).unwrap().count(), 1, "nothing was written");
}
