//! One repository of one registry, as source and sink.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use oci::wire::{Route, Scope};
use oci::{
    Descriptor, Digest, Host, MANIFEST_LIMIT, Manifest, Mismatch, RepoName, Selector, Tag, Verified, media_type,
};
use serde::Deserialize;

use super::client::{Call, Client, refused};
use super::transport::{body, empty, full};
use super::upload;
use crate::store::{Body, OpenBlob, Origin, Sink, Source, Swap, collect};
use crate::{Error, Result};

pub(super) const CONTENT_LENGTH_NAME: &str = "content-length";
/// How often a download is taken up again where it broke.
const RESUMES: u32 = 5;
/// Largest page of a tag list that is read, in bytes.
const PAGE_LIMIT: usize = 16 << 20;

/// A repository of a registry.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) client: Client,
    pub(super) host: Host,
    pub(super) name: RepoName,
}

#[derive(Deserialize)]
struct TagPage {
    #[serde(default)]
    tags: Option<Vec<Tag>>,
}

impl Repository {
    pub(super) fn new(client: Client, host: Host, name: RepoName) -> Self {
        Self { client, host, name }
    }

    /// The tags, as far as one page of the registry reaches.
    pub async fn tags(&self) -> Result<Vec<Tag>> {
        let answer = self.ask(Method::GET, &Route::Tags(self.name.clone()), "application/json").await?;
        if answer.status() != StatusCode::OK {
            return Err(self.error("GET tags/list", &self.pull(), answer).await);
        }
        let text = collect(body(answer, self.host.to_string()), PAGE_LIMIT).await?.unwrap_or_default();
        let page: TagPage = serde_json::from_slice(&text).map_err(|error| Error::Protocol {
            host: self.host.to_string(),
            reason: format!("its tag list: {error}"),
        })?;
        Ok(page.tags.unwrap_or_default())
    }

    pub(super) fn pull(&self) -> [Scope; 1] {
        [Scope { name: self.name.clone(), push: false }]
    }

    pub(super) fn push(&self) -> [Scope; 1] {
        [Scope { name: self.name.clone(), push: true }]
    }

    pub(super) async fn error(&self, request: &str, scopes: &[Scope], answer: Response<Incoming>) -> Error {
        refused(&self.host, &format!("{request} of {}", self.name), scopes, answer).await
    }

    async fn ask(&self, method: Method, route: &Route, accept: &str) -> Result<Response<Incoming>> {
        let scopes = self.pull();
        let call = Call::new(method, route.path(), &scopes).header("accept", accept);
        self.client.call(&self.host, &call, &empty, false).await
    }

    /// Whether a HEAD finds it.
    async fn exists(&self, route: &Route) -> Result<bool> {
        let answer = self.ask(Method::HEAD, route, media_type::ACCEPT_MANIFESTS).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.error("HEAD", &self.pull(), answer).await),
        }
    }

    async fn open(&self, blob: &Descriptor, from: u64) -> Result<Body> {
        let route = Route::Blob(self.name.clone(), blob.digest);
        let scopes = self.pull();
        let mut call = Call::new(Method::GET, route.path(), &scopes).header("accept", "*/*");
        if from > 0 {
            call = call.header("range", &format!("bytes={from}-"));
        }
        let answer = self.client.call(&self.host, &call, &empty, false).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => Ok(body(answer, self.host.to_string())),
            StatusCode::OK => Ok(skip(body(answer, self.host.to_string()), from)),
            StatusCode::RANGE_NOT_SATISFIABLE if from >= blob.size => Ok(Box::pin(futures_util::stream::empty())),
            StatusCode::NOT_FOUND => Err(Error::NoBlob { place: self.place(), digest: blob.digest }),
            _ => Err(self.error("GET blob", &scopes, answer).await),
        }
    }

    fn place(&self) -> String {
        format!("{}/{}", self.host, self.name)
    }

    async fn read_manifest(&self, answer: Response<Incoming>, which: &Selector) -> Result<Manifest> {
        let declared = answer.headers().get("content-type").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = collect(body(answer, self.host.to_string()), MANIFEST_LIMIT).await?;
        let invalid = |source| Error::Manifest { place: self.place(), source };
        let bytes = bytes.ok_or(oci::InvalidManifest::TooLarge).map_err(invalid)?;
        let Selector::Digest(expected) = which else {
            return Manifest::parse(known(declared.as_deref()), bytes).map_err(invalid);
        };
        let actual = Digest::of_with(expected.algorithm(), &bytes);
        if actual != *expected {
            let mismatch = Mismatch { expected: *expected, actual, size: bytes.len() as u64 };
            return Err(Error::Wrong { place: self.place(), mismatch });
        }
        Manifest::parse_named(known(declared.as_deref()), bytes, expected.algorithm()).map_err(invalid)
    }
}

/// Some registries answer every manifest with `application/json`, which says nothing.
fn known(declared: Option<&str>) -> Option<&str> {
    declared.filter(|declared| !declared.starts_with("application/json") && !declared.starts_with("text/"))
}

/// Leaves out the first bytes, for registries that do not know ranges.
fn skip(body: Body, from: u64) -> Body {
    let skipped = body.scan(from, |left, part| {
        let part = part.map(|mut part: Bytes| {
            let cut = (*left).min(part.len() as u64);
            *left -= cut;
            part.split_off(usize::try_from(cut).unwrap_or(usize::MAX))
        });
        std::future::ready(Some(part))
    });
    Box::pin(skipped)
}

/// A download that is taken up again where it breaks.
struct Resuming {
    repository: Repository,
    blob: Descriptor,
    body: Option<Body>,
    at: u64,
    left: u32,
}

impl Resuming {
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        loop {
            let body = self.body.as_mut()?;
            let error = match body.next().await {
                Some(Ok(part)) => {
                    self.at += part.len() as u64;
                    return Some((Ok(part), self));
                }
                None if self.at >= self.blob.size => return None,
                None => Error::Broken {
                    place: self.repository.place(),
                    reason: format!("it ended after {} of {} bytes", self.at, self.blob.size),
                },
                Some(Err(error)) => error,
            };
            self.body = None;
            if self.left == 0 || !error.is_transient() {
                return Some((Err(error), self));
            }
            self.left -= 1;
            tracing::debug!(%error, at = self.at, "taking a download up again");
            match self.repository.open(&self.blob, self.at).await {
                Ok(body) => self.body = Some(body),
                Err(error) => return Some((Err(error), self)),
            }
        }
    }
}

impl Source for Repository {
    async fn manifest(&self, which: &Selector) -> Result<Manifest> {
        let route = Route::Manifest(self.name.clone(), which.clone());
        let answer = self.ask(Method::GET, &route, media_type::ACCEPT_MANIFESTS).await?;
        match answer.status() {
            StatusCode::OK => self.read_manifest(answer, which).await,
            StatusCode::NOT_FOUND => Err(Error::NoManifest { place: self.place(), which: which.clone() }),
            _ => Err(self.error("GET manifest", &self.pull(), answer).await),
        }
    }

    async fn blob(&self, blob: &Descriptor, from: u64) -> Result<Body> {
        let body = Some(self.open(blob, from).await?);
        let resuming = Resuming { repository: self.clone(), blob: blob.clone(), body, at: from, left: RESUMES };
        Ok(Box::pin(futures_util::stream::unfold(resuming, Resuming::next)))
    }

    fn origins(&self, _blob: Digest) -> Vec<Origin> {
        self.origin().into_iter().collect()
    }
}

impl Repository {
    /// Sends a manifest, perhaps under a condition, which is a header. A registry that does not know it takes the
    /// manifest in any case.
    async fn send_manifest(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        condition: Option<(&'static str, String)>,
    ) -> Result<Swap> {
        let selector = tag.map_or(Selector::Digest(manifest.digest()), |tag| Selector::Tag(tag.clone()));
        let scopes = self.push();
        let bytes = Bytes::copy_from_slice(manifest.bytes());
        let mut call = Call::new(Method::PUT, Route::Manifest(self.name.clone(), selector).path(), &scopes)
            .header("content-type", manifest.media_type())
            .header(CONTENT_LENGTH_NAME, &bytes.len().to_string());
        if let Some((name, value)) = &condition {
            call = call.header(name, value);
        }
        let answer = self.client.call(&self.host, &call, &|| full(bytes.clone()), false).await?;
        if condition.is_some() && answer.status() == StatusCode::PRECONDITION_FAILED {
            return Ok(Swap::Lost);
        }
        if !answer.status().is_success() {
            return Err(self.error("PUT manifest", &scopes, answer).await);
        }
        let stored = answer.headers().get(oci::wire::DOCKER_CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        let stored: Option<Digest> = stored.and_then(|stored| stored.parse().ok());
        match stored
            .filter(|stored| stored.algorithm() == manifest.digest().algorithm() && *stored != manifest.digest())
        {
            None => Ok(Swap::Named),
            Some(actual) => {
                let mismatch = Mismatch { expected: manifest.digest(), actual, size: bytes.len() as u64 };
                Err(Error::Wrong { place: self.place(), mismatch })
            }
        }
    }
}

impl Sink for Repository {
    async fn has_blob(&self, digest: Digest) -> Result<bool> {
        self.exists(&Route::Blob(self.name.clone(), digest)).await
    }

    async fn has_manifest(&self, digest: Digest) -> Result<bool> {
        self.exists(&Route::Manifest(self.name.clone(), Selector::Digest(digest))).await
    }

    async fn put_blob(&self, blob: &Descriptor, content: &dyn OpenBlob) -> Result<Verified> {
        upload::put(self, blob, content).await
    }

    async fn put_manifest(&self, manifest: &Manifest, tag: Option<&Tag>) -> Result<()> {
        self.send_manifest(manifest, tag, None).await.map(drop)
    }

    async fn swap_manifest(&self, manifest: &Manifest, tag: &Tag, there: Option<Digest>) -> Result<Swap> {
        let condition = match there {
            Some(there) => ("if-match", format!("\"{there}\"")),
            None => ("if-none-match", "*".to_owned()),
        };
        self.send_manifest(manifest, Some(tag), Some(condition)).await
    }

    async fn mount(&self, blob: Digest, from: &RepoName) -> Result<bool> {
        let scopes = [self.push()[0].clone(), Scope { name: from.clone(), push: false }];
        let path = format!("{}?mount={blob}&from={from}", Route::Uploads(self.name.clone()).path());
        let call = Call::new(Method::POST, path, &scopes).header(CONTENT_LENGTH_NAME, "0");
        let answer = self.client.call(&self.host, &call, &empty, false).await?;
        if answer.status() == StatusCode::CREATED {
            return Ok(true);
        }
        if answer.status() == StatusCode::ACCEPTED {
            upload::cancel(self, &answer).await; // the registry opened an upload instead, which nobody will use
        }
        Ok(false) // not being allowed to mount is no reason not to push
    }

    fn origin(&self) -> Option<Origin> {
        Some(Origin { host: self.host.clone(), name: self.name.clone() })
    }
}
