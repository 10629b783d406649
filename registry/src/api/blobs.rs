//! Blobs: whole, in one range, or in several (RFC 9110 §14, `multipart/byteranges`).

use axum::response::Response;
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_RANGE,
    RANGE,
};
use http::{HeaderMap, StatusCode};
use oci::wire::range::{self, Requested};
use oci::wire::{self, ErrorCode};
use oci::{Digest, RepoName};
use serde_json::json;

use super::body;
use super::conditions::{etag, is_known, must_match};
use super::failure::Failure;
use super::{Answer, Api, Call, empty, header};
use crate::hooks::Pulled;
use crate::promise::Part;
use crate::store::Store;

const OCTETS: &str = "application/octet-stream";
/// Content under a digest never changes. But it is not for everybody: `public` would let a cache on the way give
/// to others what one was allowed to read (RFC 9111 §3.5).
pub(super) const FOR_EVER: &str = "max-age=31536000, immutable";

pub(super) async fn get(api: &Api, call: &Call<'_>, name: RepoName, digest: Digest) -> Answer {
    if call.is_head() {
        let size = api.store.blob_size(&name, &digest)?;
        must_match(call.headers(), &digest)?;
        if is_known(call.headers(), &digest) {
            return Ok(blob_answer(StatusCode::NOT_MODIFIED, digest));
        }
        let mut response = blob_answer(StatusCode::OK, digest);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
        return Ok(response);
    }
    let (file, size) = api.store.open_blob(&name, &digest).await?;
    must_match(call.headers(), &digest)?;
    if is_known(call.headers(), &digest) {
        return Ok(blob_answer(StatusCode::NOT_MODIFIED, digest));
    }
    let (mut response, parts) = match requested(call.headers(), &digest, size) {
        Requested::Whole => whole(digest, size),
        Requested::Parts(parts) => match <[_; 1]>::try_from(parts) {
            Ok([part]) => one_part(digest, size, part),
            Err(parts) => many_parts(digest, size, parts),
        },
        Requested::Unsatisfiable => {
            let message = format!("the blob has {size} bytes; the range lies outside");
            let range = header(&range::content_range_unsatisfied(size));
            return Err(Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid, message)
                .with_header(CONTENT_RANGE, range)
                .with_detail(json!({"digest": digest, "size": size})));
        }
    };
    if response.status() == StatusCode::OK {
        api.pulls.tell(&name, || Pulled {
            digest,
            tag: None,
            media_type: OCTETS.to_owned(),
            size,
            is_blob: true,
            by: call.asked(api),
        });
    }
    *response.body_mut() = body::of_file(file, parts, call.promises());
    Ok(response)
}

/// Which part of the blob is wanted; `If-Range` with another content means all of it.
fn requested(headers: &HeaderMap, digest: &Digest, size: u64) -> Requested {
    let unchanged = headers.get(IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag(digest).as_bytes());
    // Two of them say nothing that can be understood.
    let mut ranges = headers.get_all(RANGE).into_iter();
    let range = ranges.next().filter(|_| ranges.next().is_none());
    match range.and_then(|range| range.to_str().ok()) {
        Some(text) if unchanged => range::requested(text, size),
        _ => Requested::Whole,
    }
}

fn whole(digest: Digest, size: u64) -> (Response, Vec<Part>) {
    let mut response = blob_answer(StatusCode::OK, digest);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    (response, vec![Part::Range(0..size)])
}

fn one_part(digest: Digest, size: u64, part: std::ops::Range<u64>) -> (Response, Vec<Part>) {
    let mut response = blob_answer(StatusCode::PARTIAL_CONTENT, digest);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    headers.insert(CONTENT_RANGE, header(&range::content_range(&part, size)));
    (response, vec![Part::Range(part)])
}

fn many_parts(digest: Digest, size: u64, ranges: Vec<std::ops::Range<u64>>) -> (Response, Vec<Part>) {
    // Content that could hold the boundary would have to hold its own digest.
    let boundary = digest.hex()[..32].to_owned();
    let mut parts = Vec::with_capacity(2 * ranges.len() + 1);
    let mut length = 0;
    for range in ranges {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: {}\r\n\r\n",
            range::content_range(&range, size)
        );
        length += head.len() as u64 + (range.end - range.start);
        parts.push(Part::Text(Bytes::from(head)));
        parts.push(Part::Range(range));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    length += end.len() as u64;
    parts.push(Part::Text(Bytes::from(end)));
    let mut response = blob_answer(StatusCode::PARTIAL_CONTENT, digest);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_TYPE, header(&format!("multipart/byteranges; boundary={boundary}")));
    (response, parts)
}

fn blob_answer(status: StatusCode, digest: Digest) -> Response {
    let mut response = empty(status);
    response.headers_mut().remove(CONTENT_LENGTH); // that of a 304 would be that of the content (RFC 9110 §8.6)
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    name_content(headers, &digest, FOR_EVER);
    response
}

/// The headers that name content and say for how long the answer holds.
pub(super) fn name_content(headers: &mut HeaderMap, digest: &Digest, cache: &'static str) {
    headers.insert(HeaderName::from_static(wire::DOCKER_CONTENT_DIGEST), header(&digest.to_string()));
    headers.insert(ETAG, header(&etag(digest)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
}

pub(super) async fn delete(store: &Store, name: RepoName, digest: Digest) -> Answer {
    store.delete_blob(&name, digest).await?;
    Ok(empty(StatusCode::ACCEPTED))
}
