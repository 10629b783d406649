//! Uploads: POST opens a session, PATCH sends, PUT closes; a break is taken up where the registry
//! says it stopped (distribution-spec, "Pushing blobs").

use http::header::{LOCATION, RANGE};
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use oci::wire::Route;
use oci::wire::range::Chunk;
use oci::{Descriptor, Verified, Verifier};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};

use super::auth::escape;
use super::client::Call;
use super::repository::{CONTENT_LENGTH_NAME, Repository};
use super::transport::{empty, full, streaming};
use crate::store::{Body, OpenBlob, collect};
use crate::{Error, Result};

/// Blobs up to this size, in bytes, are sent from memory in the closing PUT.
const SMALL: u64 = 1 << 20;
/// How often a broken upload is taken up again.
const RESUMES: u32 = 4;

/// Uploads a blob, which the registry checks against its digest; so do we while sending.
pub(super) async fn put(repository: &Repository, blob: &Descriptor, content: &dyn OpenBlob) -> Result<Verified> {
    let location = start(repository).await?;
    if blob.size <= SMALL {
        return put_small(repository, blob, content, &location).await;
    }
    let (location, verified) = send(repository, blob, content, location).await?;
    close(repository, blob, &location).await?;
    Ok(verified)
}

async fn start(repository: &Repository) -> Result<String> {
    let scopes = repository.push();
    let call = Call::new(Method::POST, Route::Uploads(repository.name.clone()).path(), &scopes)
        .header(CONTENT_LENGTH_NAME, "0");
    let answer = repository.client.call(&repository.host, &call, &empty, false).await?;
    match answer.status() {
        StatusCode::ACCEPTED => location(repository, &answer),
        _ => Err(repository.error("POST upload", &scopes, answer).await),
    }
}

/// Takes back a session that will not be used. Best effort: registries purge what is left open.
pub(super) async fn cancel(repository: &Repository, opened: &Response<Incoming>) {
    let Ok(target) = location(repository, opened) else { return };
    let scopes = repository.push();
    let call = Call::new(Method::DELETE, target, &scopes);
    if let Err(error) = repository.client.call(&repository.host, &call, &empty, false).await {
        tracing::debug!(%error, "an unused upload session stays open");
    }
}

fn location(repository: &Repository, answer: &Response<Incoming>) -> Result<String> {
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let none = || Error::Protocol {
        host: repository.host.to_string(),
        reason: "it opened an upload without saying where".to_owned(),
    };
    location.map(str::to_owned).ok_or_else(none)
}

async fn put_small(
    repository: &Repository,
    blob: &Descriptor,
    content: &dyn OpenBlob,
    location: &str,
) -> Result<Verified> {
    let limit = usize::try_from(SMALL).expect("a megabyte fits");
    let bytes = collect(content.open(0).await?, limit).await?.unwrap_or_default();
    let mut verifier = Verifier::new(blob.digest.algorithm());
    verifier.update(&bytes);
    let verified = check(verifier, blob)?;
    let bytes = bytes::Bytes::from(bytes);
    let scopes = repository.push();
    let call = Call::new(Method::PUT, with_digest(location, blob), &scopes)
        .header("content-type", "application/octet-stream")
        .header(CONTENT_LENGTH_NAME, &bytes.len().to_string());
    let answer = repository.client.call(&repository.host, &call, &|| full(bytes.clone()), false).await?;
    if answer.status().is_success() { Ok(verified) } else { Err(repository.error("PUT upload", &scopes, answer).await) }
}

fn check(verifier: Verifier, blob: &Descriptor) -> Result<Verified> {
    verifier.finish(blob.digest).map_err(|mismatch| Error::Wrong { place: "the source".to_owned(), mismatch })
}

/// Sends the content, in one piece where nothing breaks.
async fn send(
    repository: &Repository,
    blob: &Descriptor,
    content: &dyn OpenBlob,
    first: String,
) -> Result<(String, Verified)> {
    let mut location = first;
    let mut at = 0;
    let hashing = Arc::new(Mutex::new((Verifier::new(blob.digest.algorithm()), 0)));
    for left in (0..=RESUMES).rev() {
        match patch(repository, blob, content, &location, at, &hashing).await {
            Ok(next) => {
                let verifier = hashing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.clone();
                return Ok((next, check(verifier, blob)?));
            }
            Err(error) if left == 0 || !error.is_transient() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "taking an upload up again");
                tokio::time::sleep(Duration::from_millis(300)).await;
                (location, at) = status(repository, &location).await?;
            }
        }
    }
    unreachable!("the last round of the loop returns")
}

type Hashing = Arc<Mutex<(Verifier, u64)>>;

/// Hashes each byte of a stream once, also when parts of it are sent again.
fn hashed(body: Body, mut at: u64, hashing: Hashing) -> Pin<Box<dyn Stream<Item = Result<bytes::Bytes>> + Send>> {
    Box::pin(body.map(move |part| {
        let part = part?;
        let mut hashing = hashing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = usize::try_from(hashing.1.saturating_sub(at)).unwrap_or(usize::MAX).min(part.len());
        hashing.0.update(&part[known..]);
        at += part.len() as u64;
        hashing.1 = hashing.1.max(at);
        Ok(part)
    }))
}

async fn patch(
    repository: &Repository,
    blob: &Descriptor,
    content: &dyn OpenBlob,
    target: &str,
    at: u64,
    hashing: &Hashing,
) -> Result<String> {
    if at >= blob.size {
        return Ok(target.to_owned());
    }
    let scopes = repository.push();
    let body = Mutex::new(Some(hashed(content.open(at).await?, at, hashing.clone())));
    let payload = || match body.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        Some(body) => streaming(body),
        None => streaming(Box::pin(futures_util::stream::once(std::future::ready(Err(Error::Broken {
            place: "the upload".to_owned(),
            reason: "it has to start again".to_owned(),
        }))))),
    };
    let call = Call::new(Method::PATCH, target, &scopes)
        .header("content-type", "application/octet-stream")
        .header("content-range", &Chunk { first: at, last: blob.size - 1 }.to_string())
        .header(CONTENT_LENGTH_NAME, &(blob.size - at).to_string());
    let answer = repository.client.call(&repository.host, &call, &payload, true).await?;
    if !answer.status().is_success() {
        return Err(repository.error("PATCH upload", &scopes, answer).await);
    }
    location(repository, &answer)
}

/// Where the registry stands: the next location, and how many bytes it has.
async fn status(repository: &Repository, target: &str) -> Result<(String, u64)> {
    let scopes = repository.push();
    let call = Call::new(Method::GET, target, &scopes);
    let answer = repository.client.call(&repository.host, &call, &empty, false).await?;
    if !answer.status().is_success() {
        return Err(repository.error("GET upload", &scopes, answer).await);
    }
    let range = answer.headers().get(RANGE).and_then(|value| value.to_str().ok());
    let at = match range.and_then(|range| range.parse::<Chunk>().ok()) {
        Some(Chunk { last: 0, .. }) | None => 0, // `0-0` means nothing or one byte: sending one again is refused, so start over
        Some(chunk) => chunk.last + 1,
    };
    Ok((location(repository, &answer).unwrap_or_else(|_| target.to_owned()), at))
}

async fn close(repository: &Repository, blob: &Descriptor, target: &str) -> Result<()> {
    let scopes = repository.push();
    let call = Call::new(Method::PUT, with_digest(target, blob), &scopes).header(CONTENT_LENGTH_NAME, "0");
    let answer = repository.client.call(&repository.host, &call, &empty, false).await?;
    if answer.status().is_success() { Ok(()) } else { Err(repository.error("PUT upload", &scopes, answer).await) }
}

fn with_digest(location: &str, blob: &Descriptor) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={}", escape(&blob.digest.to_string()))
}
