//! The door: who asks, what it needs, and what is said to those who may not. Handlers run only behind
//! it; what no rule allows is refused before the store is asked, so nobody learns what is there.

use http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Method, StatusCode};
use oci::wire::{Challenge, ErrorCode, Route};
use oci::{RepoName, Selector, Tag};
use serde_json::json;

use super::failure::Failure;
use super::front::peer;
use super::query::Query;
use super::{Api, Call, header};
use crate::access::{Action, BadLogin, Caller, Right, Scopes, Target, Verdict, claimed_user};
use crate::limit::Passage;

/// What tokens of ours are for, as clients repeat it to the token endpoint.
const SERVICE: &str = "lighter-registry";

/// Finds out who asks.
pub(super) async fn identify(api: &Api, parts: &Parts) -> Result<Caller, Failure> {
    let authorization = parts.headers.get(AUTHORIZATION);
    let user = authorization.and_then(claimed_user);
    let certificate = peer(parts).and_then(|peer| peer.certificate.as_deref());
    guess(api, parts, user.as_deref(), api.gate.caller(authorization, certificate)).await.map_err(|refused| {
        match refused {
            Refused::Login(error) => challenge(api, parts, &scopes_of(parts), error.code(), error.to_string()),
            Refused::TooMany(failure) => failure,
        }
    })
}

/// What a token has to be for so that a request is done, as far as its path and method say.
fn scopes_of(parts: &Parts) -> Scopes {
    let route = Route::parse(parts.uri.path());
    match route.as_ref().map(|route| (route, need(route, &parts.method))) {
        Ok((_, Some(need))) => wanted(need.right, need.repository),
        Ok((Route::Catalog, None)) => Scopes::catalog(),
        _ => Scopes::default(),
    }
}

/// What is wrong with a token, in the words of RFC 6750: clients that read this get another, others keep theirs.
const INVALID_TOKEN: &str = "invalid_token";
/// The same for one that is good, but not for this.
const INSUFFICIENT_SCOPE: &str = "insufficient_scope";

impl BadLogin {
    /// What is wrong with the token that was shown, if it was one.
    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Header | Self::Password => None,
            Self::Robot | Self::Issuer | Self::Token(_) | Self::Gone => Some(INVALID_TOKEN),
        }
    }
}

/// What is wrong with the token of a caller who may not do something, if it came with one.
pub(super) fn lacking(caller: &Caller) -> Option<&'static str> {
    caller.has_token().then_some(INSUFFICIENT_SCOPE)
}

/// Why a login is not taken.
pub(super) enum Refused {
    Login(BadLogin),
    TooMany(Failure),
}

/// Checks a login, unless too many of this user failed from this address.
pub(super) async fn guess(
    api: &Api,
    parts: &Parts,
    user: Option<&str>,
    check: impl Future<Output = Result<Caller, BadLogin>>,
) -> Result<Caller, Refused> {
    let client = api.front.client(parts);
    if let (Some(user), Some(client)) = (user, client)
        && let Passage::Refused(wait) = api.guesses.look(&(client, user.to_owned()))
    {
        return Err(Refused::TooMany(too_many(wait, "too many logins failed; wait before the next try")));
    }
    check.await.map_err(|error| {
        tracing::warn!(target: "audit", %error, user, client = client.map(tracing::field::display), "login refused");
        if let (Some(user), Some(client)) = (user, client) {
            api.guesses.take(&(client, user.to_owned()));
        }
        Refused::Login(error)
    })
}

pub(super) fn too_many(wait: std::time::Duration, message: &str) -> Failure {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Failure::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
        .with_header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
        .with_detail(json!({"seconds": seconds.max(1)}))
}

/// What a request needs.
#[derive(Debug, PartialEq, Eq)]
struct Need<'a> {
    right: Right,
    repository: &'a RepoName,
    target: Target<'a>,
}

/// The rights that a request needs; `None` for what is about no repository or is no request of ours.
fn need<'a>(route: &'a Route, method: &Method) -> Option<Need<'a>> {
    use Right::{Delete, Pull, Push};
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let (right, repository, target) = match route {
        Route::Base | Route::Catalog => return None,
        Route::Tags(name) | Route::Referrers(name, _) if reads => (Pull, name, Target::Content),
        Route::Manifest(name, which) => match (which, method.as_str()) {
            (Selector::Tag(tag), "GET" | "HEAD") => (Pull, name, Target::Tag(tag)),
            (Selector::Digest(_), "GET" | "HEAD") => (Pull, name, Target::Content),
            (Selector::Tag(tag), "PUT") => (Push, name, Target::Tag(tag)),
            (Selector::Digest(_), "PUT") => (Push, name, Target::Content),
            (Selector::Tag(tag), "DELETE") => (Delete, name, Target::Tag(tag)),
            (Selector::Digest(_), "DELETE") => (Delete, name, Target::AllTags),
            _ => return None,
        },
        Route::Blob(name, _) if reads => (Pull, name, Target::Content),
        Route::Blob(name, _) if *method == Method::DELETE => (Delete, name, Target::AllTags),
        Route::Uploads(name) if *method == Method::POST => (Push, name, Target::Content),
        Route::Upload(name, _) if reads || matches!(method.as_str(), "PATCH" | "PUT" | "DELETE") => {
            (Push, name, Target::Content)
        }
        _ => return None,
    };
    Some(Need { right, repository, target })
}

/// Lets a request pass, or says why not.
pub(super) fn check(api: &Api, parts: &Parts, query: &Query, route: &Route, caller: &Caller) -> Result<(), Failure> {
    let Some(need) = need(route, &parts.method) else { return check_rest(api, parts, route, caller) };
    match api.gate.judge(caller, need.right, need.repository, need.target) {
        Verdict::Allowed => Ok(()),
        Verdict::LoginNeeded => {
            let mut scopes = wanted(need.right, need.repository);
            let from = query.get("from").filter(|_| query.get("mount").is_some());
            if let Some(from) = from.and_then(|from| from.parse().ok()).filter(|from| from != need.repository) {
                scopes = scopes.with(&from, &[Action::Pull]);
            }
            let message = format!("{} of {} needs a login", need.right, need.repository);
            Err(challenge(api, parts, &scopes, lacking(caller), message))
        }
        Verdict::Denied => Err(denied(caller, need.right, need.repository)),
    }
}

fn check_rest(api: &Api, parts: &Parts, route: &Route, caller: &Caller) -> Result<(), Failure> {
    // A 200 here would tell docker and podman for ever that no login is needed.
    let unknown = !api.gate.is_open() && caller.identity.is_anonymous() && !caller.has_token();
    let scopes = match route {
        Route::Base if unknown => Scopes::default(),
        Route::Catalog if unknown || api.gate.judge_catalog(caller) != Verdict::Allowed => Scopes::catalog(),
        _ => return Ok(()),
    };
    Err(challenge(api, parts, &scopes, lacking(caller), "a login is needed".to_owned()))
}

/// Whether a further tag may be set by a push.
pub(super) fn check_tag(api: &Api, call: &Call<'_>, name: &RepoName, tag: &Tag) -> Result<(), Failure> {
    match api.gate.judge(call.caller, Right::Push, name, Target::Tag(tag)) {
        Verdict::Allowed => Ok(()),
        Verdict::LoginNeeded | Verdict::Denied => {
            Err(denied(call.caller, Right::Push, name).with_detail(json!({"tag": tag, "right": "push"})))
        }
    }
}

fn wanted(right: Right, repository: &RepoName) -> Scopes {
    let actions: &[Action] = match right {
        Right::Pull => &[Action::Pull],
        Right::Push | Right::Overwrite => &[Action::Pull, Action::Push],
        Right::Delete => &[Action::Delete],
    };
    Scopes::default().with(repository, actions)
}

/// A login of this caller does not help.
pub(super) fn denied(caller: &Caller, right: Right, repository: &RepoName) -> Failure {
    let message = format!("{} may not {right} here: {repository}", caller.identity);
    Failure::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
        .with_detail(json!({"repository": repository, "right": right}))
}

/// Says how to log in: by exactly one challenge, since clients differ in which of two they take.
pub(super) fn challenge(
    api: &Api,
    parts: &Parts,
    scopes: &Scopes,
    wrong: Option<&'static str>,
    message: String,
) -> Failure {
    let scope = (!scopes.is_empty()).then(|| scopes.to_string());
    let detail = json!({"scope": scope});
    let realm = format!("{}/token", api.front.base(parts));
    let mut text = Challenge::Bearer { realm, service: Some(SERVICE.to_owned()), scope }.to_string();
    if let Some(wrong) = wrong {
        text.push_str(&format!(",error=\"{wrong}\""));
    }
    Failure::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
        .with_header(WWW_AUTHENTICATE, header(&text))
        .with_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_that_touches_a_repository_needs_a_right() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let tag: Tag = "v1".parse().unwrap();
        let by_tag = Target::Tag(&tag);
        for (path, method, right, target) in [
            ("tags/list".to_owned(), "GET", Right::Pull, Target::Content),
            ("manifests/v1".to_owned(), "HEAD", Right::Pull, by_tag),
            ("manifests/v1".to_owned(), "PUT", Right::Push, by_tag),
            ("manifests/v1".to_owned(), "DELETE", Right::Delete, by_tag),
            (format!("manifests/{digest}"), "GET", Right::Pull, Target::Content),
            (format!("manifests/{digest}"), "PUT", Right::Push, Target::Content),
            (format!("manifests/{digest}"), "DELETE", Right::Delete, Target::AllTags),
            (format!("blobs/{digest}"), "GET", Right::Pull, Target::Content),
            (format!("blobs/{digest}"), "DELETE", Right::Delete, Target::AllTags),
            ("blobs/uploads/".to_owned(), "POST", Right::Push, Target::Content),
            ("blobs/uploads/x".to_owned(), "GET", Right::Push, Target::Content),
            ("blobs/uploads/x".to_owned(), "PATCH", Right::Push, Target::Content),
            ("blobs/uploads/x".to_owned(), "PUT", Right::Push, Target::Content),
            ("blobs/uploads/x".to_owned(), "DELETE", Right::Push, Target::Content),
            (format!("referrers/{digest}"), "GET", Right::Pull, Target::Content),
        ] {
            let route = Route::parse(&format!("/v2/a/{path}")).unwrap();
            let name = "a".parse().unwrap();
            let expected = Need { right, repository: &name, target };
            assert_eq!(need(&route, &method.parse().unwrap()), Some(expected), "{method} {path}");
        }
    }
}
