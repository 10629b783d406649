//! Conditional requests (RFC 9110 §13): the ETag of content is its digest in quotes, so whoever knows a
//! digest can ask whether it is still what a tag names, and can move a tag only if nobody else did.

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, StatusCode};
use oci::Digest;
use oci::wire::ErrorCode;
use serde_json::json;

use super::failure::Failure;
use crate::state::Condition;

/// The ETag of content.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client has this content already. Weak tags count too (RFC 9110 §13.1.2).
pub(super) fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    if !headers.contains_key(IF_NONE_MATCH) {
        return false;
    }
    let etag = etag(digest);
    listed(headers, &IF_NONE_MATCH).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// Refuses a request for content that is not what the client wants it to be.
pub(super) fn must_match(headers: &HeaderMap, digest: &Digest) -> Result<(), Failure> {
    if !headers.contains_key(IF_MATCH) {
        return Ok(());
    }
    let etag = etag(digest);
    if listed(headers, &IF_MATCH).any(|tag| tag == "*" || tag == etag) {
        return Ok(());
    }
    Err(failed(Some(digest)))
}

/// What a push wants of what is there. A tag that is no digest is that of nothing here.
pub(super) fn of_push(headers: &HeaderMap) -> Condition {
    let digests = |name| listed(headers, name).filter_map(|tag| tag.trim_matches('"').parse().ok()).collect();
    let any = |name| listed(headers, name).any(|tag| tag == "*");
    if headers.contains_key(IF_MATCH) {
        return if any(&IF_MATCH) { Condition::There } else { Condition::OneOf(digests(&IF_MATCH)) };
    }
    match headers.contains_key(IF_NONE_MATCH) {
        true if any(&IF_NONE_MATCH) => Condition::Missing,
        true => Condition::NoneOf(digests(&IF_NONE_MATCH)),
        false => Condition::None,
    }
}

/// The answer to a request whose condition does not hold.
pub(super) fn failed(actual: Option<&Digest>) -> Failure {
    let message = match actual {
        Some(digest) => format!("the condition of the request does not hold: this is {digest} now"),
        None => "the condition of the request does not hold: there is nothing here now".to_owned(),
    };
    let code = ErrorCode::Other("PRECONDITION_FAILED".to_owned());
    Failure::new(StatusCode::PRECONDITION_FAILED, code, message).with_detail(json!({"actual": actual}))
}

fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_push_wants() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let of = |name: HeaderName, value: &str| of_push(&HeaderMap::from_iter([(name, value.parse().unwrap())]));
        assert_eq!(of_push(&HeaderMap::new()), Condition::None);
        assert_eq!(of(IF_MATCH, "*"), Condition::There);
        assert_eq!(of(IF_NONE_MATCH, "*"), Condition::Missing);
        assert_eq!(of(IF_MATCH, &format!("\"{one}\", \"{two}\"")), Condition::OneOf(vec![one, two]));
        assert_eq!(of(IF_MATCH, "\"x\""), Condition::OneOf(vec![]));
        assert_eq!(of(IF_MATCH, &format!("W/\"{one}\"")), Condition::OneOf(vec![]), "a weak tag never matches");
        assert_eq!(of(IF_NONE_MATCH, &etag(&one)), Condition::NoneOf(vec![one]));
    }
}
