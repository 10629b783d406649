//! Lists: repositories, tags, referrers; sorted bytewise and handed out in pages.

use axum::response::Response;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue, LINK};
use oci::wire::{self, ErrorCode, Route};
use oci::{Descriptor, Digest, RepoName, media_type};
use serde_json::json;

use super::failure::Failure;
use super::query::{Query, encode};
use super::{Answer, Api, Call, header, json, response};
use crate::access::{Caller, Right, Target};

/// Most entries of a page, and how many there are if the client does not say.
const PAGE: usize = 10_000;
/// Referrers are read a few at a time, since their annotations may be large.
const REFERRERS_AT_A_TIME: usize = 16;
/// A page of referrers ends before it is longer than this, in bytes: clients read it like a manifest.
const REFERRERS_BYTES: usize = 2 << 20;

pub(super) async fn catalog(api: &Api, call: &Call<'_>) -> Answer {
    let (limit, last) = page(&call.query)?;
    let (names, next) = visible(api, call.caller, last, limit).await?;
    let response = json(StatusCode::OK, &json!({"repositories": names}));
    Ok(linked(response, &Route::Catalog, limit, next.as_ref().map(RepoName::as_str)))
}

/// Up to `limit` repositories behind `last` that the caller may pull from, and behind which one there
/// are more.
pub(super) async fn visible(
    api: &Api,
    caller: &Caller,
    mut last: String,
    limit: usize,
) -> Result<(Vec<RepoName>, Option<RepoName>), Failure> {
    let mut names = Vec::new();
    while limit > 0 && names.len() <= limit {
        let some = api.store.repositories(last, limit.saturating_add(1)).await?;
        let is_end = some.len() <= limit;
        last = some.last().map_or_else(String::new, RepoName::to_string);
        names.extend(some.into_iter().filter(|name| api.gate.sees(caller, name)));
        if is_end {
            break;
        }
    }
    let more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| more).cloned();
    Ok((names, next))
}

pub(super) async fn tags(api: &Api, call: &Call<'_>, name: RepoName) -> Answer {
    let (limit, mut last) = page(&call.query)?;
    let mut tags = Vec::new();
    loop {
        let some = api.store.tags(&name, last, limit.saturating_add(1)).await?;
        let is_end = limit == 0 || some.len() <= limit;
        last = some.last().map_or_else(String::new, oci::Tag::to_string);
        let sees = |tag: &oci::Tag| api.gate.allows(call.caller, Right::Pull, &name, Target::Tag(tag));
        tags.extend(some.into_iter().filter(sees));
        if is_end || tags.len() > limit {
            break;
        }
    }
    let more = limit > 0 && tags.len() > limit;
    tags.truncate(limit);
    let response = json(StatusCode::OK, &json!({"name": name, "tags": tags}));
    Ok(linked(response, &Route::Tags(name), limit, tags.last().filter(|_| more).map(oci::Tag::as_str)))
}

/// `n` and `last`: how many entries are wanted, and behind which.
fn page(query: &Query) -> Result<(usize, String), Failure> {
    let limit = match query.get("n") {
        None => PAGE,
        Some(text) => text.parse::<u64>().map(|n| usize::try_from(n).unwrap_or(PAGE).min(PAGE)).map_err(|_| {
            let code = ErrorCode::Other("PAGINATION_NUMBER_INVALID".to_owned());
            Failure::bad(code, "n must be a number of entries").with_detail(json!({"n": text}))
        })?,
    };
    Ok((limit, query.get("last").unwrap_or_default().to_owned()))
}

/// Adds where the next page is (RFC 8288), if there is one.
fn linked(mut response: Response, route: &Route, limit: usize, last: Option<&str>) -> Response {
    if let Some(last) = last {
        let link = format!("<{}?n={limit}&last={}>; rel=\"next\"", route.path(), encode(last));
        response.headers_mut().insert(LINK, header(&link));
    }
    response
}

pub(super) async fn referrers(api: &Api, call: &Call<'_>, name: RepoName, subject: Digest) -> Answer {
    let filter = call.query.get("artifactType").filter(|kind| !kind.is_empty()).map(str::to_owned);
    let mut after = call.query.get("last").map(parse_place).transpose()?;
    let (limit, _) = page(&call.query)?;
    let (mut found, mut bytes, mut more) = (Vec::new(), 0, true);
    'page: while more && found.len() < limit {
        let wanted = REFERRERS_AT_A_TIME.min(limit - found.len());
        let some = api.store.referrers(&name, subject, filter.clone(), after.clone(), wanted).await?;
        more = some.len() == wanted;
        for descriptor in some {
            let entry = serde_json::to_string(&descriptor).expect("descriptors hold strings and numbers");
            bytes += entry.len();
            if bytes > REFERRERS_BYTES && !found.is_empty() {
                more = true;
                break 'page;
            }
            after = Some(place(&descriptor));
            found.push(entry);
        }
    }
    // A full page may have been the last one.
    if more && limit > 0 && found.len() == limit {
        more = !api.store.referrers(&name, subject, filter.clone(), after.clone(), 1).await?.is_empty();
    }
    let kind = media_type::OCI_INDEX;
    let document = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{}]}}"#, found.join(","));
    let mut response = response(StatusCode::OK, kind, document.into_bytes());
    if filter.is_some() {
        let applied = HeaderValue::from_static("artifactType");
        response.headers_mut().insert(HeaderName::from_static(wire::OCI_FILTERS_APPLIED), applied);
    }
    if let (true, Some((kind, digest))) = (more && limit > 0, after) {
        let filter = filter.map_or_else(String::new, |filter| format!("artifactType={}&", encode(&filter)));
        let place = encode(&format!("{digest},{kind}"));
        let link = format!("<{}?{filter}n={limit}&last={place}>; rel=\"next\"", Route::Referrers(name, subject).path());
        response.headers_mut().insert(LINK, header(&link));
    }
    Ok(response)
}

/// Where in the list of referrers a descriptor stands: they are sorted by type, then digest.
fn place(descriptor: &Descriptor) -> (String, Digest) {
    (descriptor.artifact_type.clone().unwrap_or_default(), descriptor.digest)
}

fn parse_place(text: &str) -> Result<(String, Digest), Failure> {
    let (digest, kind) = text.split_once(',').unwrap_or((text, ""));
    match digest.parse() {
        Ok(digest) => Ok((kind.to_owned(), digest)),
        Err(_) => {
            let code = ErrorCode::Other("PAGINATION_NUMBER_INVALID".to_owned());
            Err(Failure::bad(code, "last must come from a Link of this registry").with_detail(json!({"last": text})))
        }
    }
}
