//! Manifests: stored and served byte for byte, with the media type that they came with.

use axum::body::Body;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, WARNING};
use oci::wire::{self, ErrorCode, Route};
use oci::{Algorithm, Digest, MANIFEST_LIMIT, Manifest, RepoName, Selector, Tag, media_type};
use serde_json::json;

use super::blobs::{FOR_EVER, name_content};
use super::body::collect;
use super::conditions::{is_known, must_match, of_push};
use super::failure::Failure;
use super::{Answer, Api, Call, empty, guard, header};
use crate::access::{Right, Target};
use crate::hooks::Pulled;
use crate::state::Terms;
use crate::store::Store;

/// Most tags that one push may set; the specification asks for at least ten.
const TAGS_LIMIT: usize = 100;
/// A tag may name something else the next moment; asking again with the ETag is cheap.
const ASK_AGAIN: &str = "no-cache";
/// Said to those who push what only they can keep (distribution-spec, "Warnings"; the image
/// specification has deprecated such layers).
const FOREIGN: &str = "299 - \"some layers are non-distributable, which is deprecated: they are not kept here, and pulling them needs the place that they come from\"";

pub(super) async fn get(api: &Api, call: &Call<'_>, name: RepoName, which: Selector) -> Answer {
    let manifest = match call.is_head() {
        true => api.store.manifest_head(&name, &which)?,
        false => api.store.manifest(&name, &which).await?,
    };
    must_match(call.headers(), &manifest.digest)?;
    let unchanged = is_known(call.headers(), &manifest.digest);
    let mut response = empty(if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, header(&manifest.media_type));
    name_content(headers, &manifest.digest, if matches!(which, Selector::Tag(_)) { ASK_AGAIN } else { FOR_EVER });
    if !unchanged && !call.is_head() {
        api.pulls.tell(&name, || Pulled {
            digest: manifest.digest,
            tag: if let Selector::Tag(tag) = &which { Some(tag.clone()) } else { None },
            media_type: manifest.media_type.clone(),
            size: manifest.size,
            is_blob: false,
            by: call.asked(api),
        });
    }
    headers.remove(CONTENT_LENGTH); // that of a 304 would be that of the manifest (RFC 9110 §8.6)
    if !unchanged {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.size));
        *response.body_mut() = Body::from(manifest.bytes);
    }
    Ok(response)
}

pub(super) async fn put(api: &Api, call: &Call<'_>, body: &mut Body, name: RepoName, which: Selector) -> Answer {
    let tags = tags(call, &which)?;
    for tag in &tags {
        guard::check_tag(api, call, &name, tag)?;
    }
    let may_change = |tag: &&Tag| api.gate.allows(call.caller, Right::Overwrite, &name, Target::Tag(tag));
    let fixed = tags.iter().filter(|tag| !may_change(tag)).cloned().collect();
    let manifest = read(api, call, body, &which).await?;
    let (digest, subject) = (manifest.digest(), manifest.subject().map(|subject| subject.digest));
    let is_foreign = manifest.blobs().any(|blob| media_type::is_foreign_layer(&blob.media_type));
    let terms = Terms { sparse: api.store.keeping().sparse.means(&name), condition: of_push(call.headers()), fixed };
    call.store(api).put_manifest_on(&name, manifest, tags.clone(), terms).await?;
    tracing::info!(repository = %name, %digest, tags = tags.len(), "manifest stored");
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(&Route::Manifest(name, Selector::Digest(digest)).path()));
    headers.insert(HeaderName::from_static(wire::DOCKER_CONTENT_DIGEST), header(&digest.to_string()));
    if let Some(subject) = subject {
        headers.insert(HeaderName::from_static(wire::OCI_SUBJECT), header(&subject.to_string()));
    }
    if is_foreign {
        headers.insert(WARNING, HeaderValue::from_static(FOREIGN));
    }
    if matches!(which, Selector::Digest(_)) {
        for tag in &tags {
            headers.append(HeaderName::from_static(wire::OCI_TAG), header(tag.as_str()));
        }
    }
    Ok(response)
}

/// The tags to set: that of the path, or those of the query if the path is a digest.
fn tags(call: &Call<'_>, which: &Selector) -> Result<Vec<Tag>, Failure> {
    if let Selector::Tag(tag) = which {
        return Ok(vec![tag.clone()]);
    }
    let mut tags = Vec::new();
    for text in call.query.all("tag") {
        if tags.len() == TAGS_LIMIT {
            let message = format!("one push sets at most {TAGS_LIMIT} tags; send the others with another");
            return Err(Failure::new(StatusCode::URI_TOO_LONG, ErrorCode::TagInvalid, message));
        }
        let tag: Tag = text.parse().map_err(|error| {
            Failure::bad(ErrorCode::TagInvalid, format!("{error}")).with_detail(json!({"tag": text}))
        })?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(tags)
}

async fn read(api: &Api, call: &Call<'_>, body: &mut Body, which: &Selector) -> Result<Manifest, Failure> {
    let too_large = || {
        let message = format!("a manifest has at most {MANIFEST_LIMIT} bytes here");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::ManifestInvalid, message)
            .with_detail(json!({"limit": MANIFEST_LIMIT}))
    };
    if call.content_length().is_some_and(|length| length > MANIFEST_LIMIT as u64) {
        return Err(too_large());
    }
    let declared = declared_type(call)?;
    let bytes = collect(body, MANIFEST_LIMIT, api.limits.idle).await?.ok_or_else(too_large)?;
    let algorithm = match which {
        Selector::Digest(digest) => digest.algorithm(),
        Selector::Tag(_) => Algorithm::Sha256,
    };
    let found = Digest::of_with(algorithm, &bytes);
    if let Selector::Digest(digest) = which
        && *digest != found
    {
        return Err(Failure::bad(ErrorCode::DigestInvalid, format!("the manifest is {found}, not {digest}"))
            .with_detail(json!({"expected": digest, "actual": found})));
    }
    let manifest = Manifest::parse_named(declared.as_deref(), bytes, algorithm)?;
    if HeaderValue::from_str(manifest.media_type()).is_err() {
        return Err(Failure::bad(ErrorCode::ManifestInvalid, "the media type of the manifest is none"));
    }
    Ok(manifest)
}

fn declared_type(call: &Call<'_>) -> Result<Option<String>, Failure> {
    let Some(value) = call.only(&CONTENT_TYPE, ErrorCode::ManifestInvalid)? else { return Ok(None) };
    match value.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Failure::bad(ErrorCode::ManifestInvalid, "the Content-Type is no media type")),
    }
}

pub(super) async fn delete(store: &Store, name: RepoName, which: Selector) -> Answer {
    store.delete_manifest(&name, &which).await?;
    tracing::info!(repository = %name, reference = %which, "manifest or tag deleted");
    Ok(empty(StatusCode::ACCEPTED))
}
