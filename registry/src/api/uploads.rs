//! Uploads: in one request, in a stream, or in chunks (distribution-spec, "Pushing blobs").

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_RANGE, HeaderName, HeaderValue, LOCATION, RANGE};
use oci::wire::range::{self, Chunk};
use oci::wire::{self, ErrorCode, Route, UploadId};
use oci::{Algorithm, Digest, RepoName};
use serde_json::json;

use super::body::fill;
use super::failure::Failure;
use super::{Answer, Api, Call, empty, header};
use crate::access::{Right, Target};
use crate::state::{Asked, Mounted};
use crate::store::{StoreError, Upload};

/// `POST`: mounts a blob, takes it in one request, or opens a session.
pub(super) async fn start(api: &Api, call: &Call<'_>, body: &mut Body, name: RepoName) -> Answer {
    if let Some(mount) = call.query.get("mount").filter(|mount| !mount.is_empty()) {
        let digest = parse_digest(mount)?;
        if mounts(api, call, &name, digest).await? {
            return Ok(created(name, digest));
        }
    } else if let Some(digest) = call.query.get("digest") {
        let digest = parse_digest(digest)?;
        return in_one_request(api, call, body, name, digest).await;
    }
    let algorithm = match call.query.get("digest-algorithm") {
        Some(text) => text.parse().map_err(|error| {
            Failure::bad(ErrorCode::DigestInvalid, format!("{error}")).with_detail(json!({"digest-algorithm": text}))
        })?,
        None => Algorithm::Sha256,
    };
    let id = api.store.open_upload(&name, algorithm).await?;
    Ok(progress(StatusCode::ACCEPTED, name, &id, 0))
}

/// Mounts a blob from a repository that the caller may pull from; where it may not, the blob is as good
/// as not there.
async fn mounts(api: &Api, call: &Call<'_>, name: &RepoName, digest: Digest) -> Result<bool, Failure> {
    let may_pull = |from: &RepoName| api.gate.allows(call.caller, Right::Pull, from, Target::Content);
    let from = match call.query.get("from").filter(|from| !from.is_empty()) {
        Some(from) => {
            let from = from.parse().map_err(|error| {
                Failure::bad(ErrorCode::NameInvalid, format!("{error}")).with_detail(json!({"from": from}))
            })?;
            if !may_pull(&from) {
                return Ok(false);
            }
            Some(from)
        }
        None if api.gate.is_open() => None,
        None => match api.store.a_holder(digest, may_pull).await? {
            Some(holder) => Some(holder),
            None => return Ok(false),
        },
    };
    let asked = Asked { mounted: Some(Mounted { from: from.clone() }), ..call.asked(api) };
    Ok(api.store.on_behalf_of(asked).mount(name, digest, from).await?)
}

async fn in_one_request(api: &Api, call: &Call<'_>, body: &mut Body, name: RepoName, digest: Digest) -> Answer {
    let id = api.store.open_upload(&name, digest.algorithm()).await?;
    let announced = call.content_length();
    let upload = call.store(api).resume_upload(&name, &id, None, announced, api.limits.blob).await;
    let mut upload = match upload {
        Ok(upload) => upload,
        Err(error) => {
            api.store.cancel_upload(&name, &id).await?;
            return Err(error.into());
        }
    };
    if let Err(failure) = fill(&mut upload, body, api.limits.idle).await {
        upload.discard().await;
        return Err(failure);
    }
    upload.finish(digest).await?;
    Ok(created(name, digest))
}

/// `GET`: says what has arrived.
pub(super) async fn status(api: &Api, name: RepoName, id: UploadId) -> Answer {
    let received = api.store.upload_status(&name, &id).await?;
    Ok(progress(StatusCode::NO_CONTENT, name, &id, received))
}

/// `PATCH`: takes the next chunk, or a stream.
pub(super) async fn append(api: &Api, call: &Call<'_>, body: &mut Body, name: RepoName, id: UploadId) -> Answer {
    let mut upload = resume(api, call, &name, &id).await?;
    fill(&mut upload, body, api.limits.idle).await?;
    let received = upload.received();
    Ok(progress(StatusCode::ACCEPTED, name, &id, received))
}

/// `PUT`: takes the last chunk, if there is one, and files the blob.
pub(super) async fn finish(api: &Api, call: &Call<'_>, body: &mut Body, name: RepoName, id: UploadId) -> Answer {
    let digest = call.query.get("digest").ok_or_else(|| {
        Failure::bad(ErrorCode::DigestInvalid, "the end of an upload needs ?digest=, the digest of the whole blob")
    })?;
    let digest = parse_digest(digest)?;
    let mut upload = resume(api, call, &name, &id).await?;
    fill(&mut upload, body, api.limits.idle).await?;
    let size = upload.finish(digest).await?.size();
    tracing::info!(repository = %name, %digest, size, "blob stored");
    Ok(created(name, digest))
}

/// `DELETE`: forgets what has arrived.
pub(super) async fn cancel(api: &Api, name: RepoName, id: UploadId) -> Answer {
    api.store.cancel_upload(&name, &id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

async fn resume(api: &Api, call: &Call<'_>, name: &RepoName, id: &UploadId) -> Result<Upload, Failure> {
    let chunk = match call.only(&CONTENT_RANGE, ErrorCode::BlobUploadInvalid)? {
        None => None,
        Some(value) => Some(parse_chunk(value)?),
    };
    let resumed = call.store(api).resume_upload(name, id, chunk, call.content_length(), api.limits.blob).await;
    resumed.map_err(|error| match error {
        // Tell the client where to go on.
        StoreError::OutOfOrder { received, .. } => {
            let location = Route::Upload(name.clone(), id.clone()).path();
            Failure::from(error)
                .with_header(RANGE, header(&range::received(received)))
                .with_header(LOCATION, header(&location))
        }
        other => other.into(),
    })
}

fn parse_chunk(value: &HeaderValue) -> Result<Chunk, Failure> {
    let text = value.to_str().unwrap_or_default();
    text.parse().map_err(|error: range::InvalidChunk| {
        Failure::bad(ErrorCode::BlobUploadInvalid, error.to_string()).with_detail(json!({"content-range": text}))
    })
}

fn parse_digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|error: oci::InvalidDigest| {
        Failure::bad(ErrorCode::DigestInvalid, error.to_string()).with_detail(json!({"digest": text}))
    })
}

/// The answer for a blob that can be read now.
fn created(name: RepoName, digest: Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(&Route::Blob(name, digest).path()));
    headers.insert(HeaderName::from_static(wire::DOCKER_CONTENT_DIGEST), header(&digest.to_string()));
    response
}

/// The answer for an upload that goes on.
fn progress(status: StatusCode, name: RepoName, id: &UploadId, received: u64) -> Response {
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(&Route::Upload(name, id.clone()).path()));
    headers.insert(RANGE, header(&range::received(received)));
    headers.insert(HeaderName::from_static(wire::DOCKER_UPLOAD_UUID), header(id.as_str()));
    response
}
