//! A registry of its own for each test, and a plain HTTP client.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use oci::Digest;
use registry::{BindError, OpenError, Server, Settings};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A registry that runs in this process until it is dropped.
pub struct Registry {
    pub dir: tempfile::TempDir,
    pub http: Http,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Registry {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory")).await
    }

    pub async fn start_in(dir: tempfile::TempDir) -> Self {
        let settings = Settings::new("127.0.0.1:0".parse().expect("an address"), dir.path());
        Self::start_with(dir, settings).await
    }

    pub async fn start_with(dir: tempfile::TempDir, settings: Settings) -> Self {
        let server = bind(settings).await;
        let http = Http::new(server.local_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.serve(async {
            let _ = stopped.await; // an error is a stop as well
        }));
        Self { dir, http, stop: Some(stop), task }
    }

    pub fn data(&self) -> &Path {
        self.dir.path()
    }

    /// Ends the server in an orderly way and starts another on the same data.
    pub async fn restart(self) -> Self {
        self.restart_after(|| ()).await
    }

    /// The same, with something done to the data in between.
    pub async fn restart_after(self, change: impl FnOnce()) -> Self {
        let dir = self.stop().await;
        change();
        Self::start_in(dir).await
    }

    /// Ends the server in an orderly way.
    pub async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        self.task.await.expect("the server ends");
        self.dir
    }
}

/// Starts a server. Its data may still be locked by a process that another test is just starting: between
/// fork and exec it has every file that we have open.
async fn bind(settings: Settings) -> Server {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match Server::bind(settings.clone()).await {
            Err(BindError::Open(OpenError::InUse { .. })) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            bound => return bound.expect("the registry starts"),
        }
    }
}

/// A client of one registry.
#[derive(Clone)]
pub struct Http {
    pub addr: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are text"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The code of the first error; every error must be JSON of the specification's form.
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        self.json()["errors"][0]["code"].as_str().expect("an error has a code").to_owned()
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{:?} {:?}", self.headers, self.body);
        assert_eq!(self.header("docker-distribution-api-version"), "registry/2.0");
        self
    }

    #[track_caller]
    pub fn refuses(self, status: u16, code: &str) -> Self {
        let reply = self.expect(status);
        assert_eq!(reply.code(), code, "{:?}", reply.body);
        let told: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let culprits = told["errors"].as_array().into_iter().flatten().all(|error| error["detail"].is_object());
        assert!(culprits, "no culprit: {:?}", reply.body);
        reply
    }
}

impl Http {
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// The same registry, spoken to in HTTP/2 from the first byte.
    pub fn over_http_2(&self) -> Self {
        Self { addr: self.addr, client: Client::builder(TokioExecutor::new()).http2_only(true).build_http() }
    }

    pub async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply, String> {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = self.client.request(request).await.map_err(|error| format!("{error:?}"))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        self.try_send(method, path, headers, body).await.expect("the registry answers")
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub async fn head(&self, path: &str) -> Reply {
        self.send("HEAD", path, &[], "").await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], "").await
    }

    /// Opens an upload and says where it is.
    pub async fn open_upload(&self, name: &str) -> String {
        let reply = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], "").await.expect(202);
        let location = reply.header("location").to_owned();
        assert!(location.starts_with(&format!("/v2/{name}/blobs/uploads/")), "relative: {location}");
        location
    }

    /// Pushes a blob the way most clients do.
    pub async fn push_blob(&self, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let location = self.open_upload(name).await;
        let put = self.send("PUT", &format!("{location}?digest={digest}"), &[], content.to_vec()).await.expect(201);
        assert_eq!(put.header("docker-content-digest"), digest.to_string());
        assert_eq!(put.header("location"), format!("/v2/{name}/blobs/{digest}"));
        digest
    }

    /// Tries to push a blob onto a full disk.
    pub async fn push_is_refused(&self, name: &str, content: &[u8]) {
        let reply = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], "").await;
        if reply.status == 202 {
            let put = format!("{}?digest={}", reply.header("location"), Digest::of(content));
            self.send("PUT", &put, &[], content.to_vec()).await.refuses(507, "DENIED");
        } else {
            reply.refuses(507, "DENIED");
        }
    }

    pub async fn put_manifest(&self, name: &str, reference: &str, kind: &str, bytes: Vec<u8>) -> Reply {
        self.send("PUT", &format!("/v2/{name}/manifests/{reference}"), &[("content-type", kind)], bytes).await
    }

    /// Pushes an image of one layer under a tag; gives its manifest.
    pub async fn push_image(&self, name: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
        self.push_blob(name, layer).await;
        self.push_blob(name, b"{}").await;
        let manifest = image(layer);
        self.put_manifest(name, tag, MANIFEST, manifest.clone()).await.expect(201);
        manifest
    }
}

pub fn describe(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(content), "size": content.len()})
}

/// A manifest of one layer and an empty config.
pub fn image(layer: &[u8]) -> Vec<u8> {
    image_with(layer, json!({}))
}

/// The same, with more fields.
pub fn image_with(layer: &[u8], more: Value) -> Vec<u8> {
    let mut document = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": describe(CONFIG, b"{}"), "layers": [describe(LAYER, layer)],
    });
    let fields = document.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    serde_json::to_vec_pretty(&document).expect("JSON")
}

/// Bytes that look random, and the same for the same seed.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..size).map(|_| (next() >> 32) as u8).collect()
}
