//! The token endpoint: logins in, short-lived tokens out. GET with Basic or nothing, POST with a form
//! (the token protocol of the distribution project, OAuth 2 in the form that containerd sends it, and
//! token exchange, RFC 8693). Who asks for it keeps a refresh token in place of a password.

use axum::body::Body;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use jiff::Timestamp;
use oci::wire::ErrorCode;
use serde_json::json;

use super::body::collect;
use super::failure::Failure;
use super::guard::{self, Refused};
use super::query::Query;
use super::{Answer, Api, json};
use crate::access::{BadLogin, Caller, Gate, Scopes};

/// Largest form, in bytes: an identity token and a few scopes.
const FORM_LIMIT: usize = 64 << 10;

pub(super) async fn answer(api: &Api, parts: &Parts, body: &mut Body, who: &mut Caller) -> Answer {
    let Gate::Guarded(access) = &api.gate else {
        return Err(Failure::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, "this registry wants no logins"));
    };
    let form = match parts.method {
        Method::GET | Method::HEAD => {
            *who = guard::identify(api, parts).await?;
            Query::parse(parts.uri.query().unwrap_or_default())
        }
        Method::POST => {
            let form = collect(body, FORM_LIMIT, api.limits.idle).await?.ok_or_else(|| {
                Failure::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::Unsupported, "the form is too large")
            })?;
            let form = Query::parse(&String::from_utf8_lossy(&form));
            *who = by_form(api, access, parts, &form).await?;
            form
        }
        _ => {
            let message = "tokens are given to GET and POST";
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
                .with_header(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, POST")));
        }
    };
    let caller = &*who;
    let issued = access.issue(caller, Scopes::parse(form.all("scope")), Timestamp::now());
    tracing::debug!(who = %caller.identity, scope = %issued.scopes, "token issued");
    // GET asks in the words of the one protocol, POST in those of the other.
    let wants_to_keep = form.get("offline_token") == Some("true") || form.get("access_type") == Some("offline");
    let mut answer = json!({
        "token": issued.token,
        "access_token": issued.token,
        "token_type": "Bearer",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "expires_in": issued.life.as_secs(),
        "issued_at": Timestamp::from_second(issued.issued_at.as_second()).unwrap_or(issued.issued_at),
        "scope": issued.scopes.to_string(),
    });
    if wants_to_keep && let Some(refresh) = access.refresh_token(caller, Timestamp::now()) {
        tracing::info!(target: "audit", who = %caller.identity, "refresh token issued");
        answer["refresh_token"] = refresh.into();
    }
    let mut response = json(StatusCode::OK, &answer);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A login by the fields of a form.
async fn by_form(api: &Api, access: &crate::access::Access, parts: &Parts, form: &Query) -> Result<Caller, Failure> {
    let field = |name: &str| form.get(name).unwrap_or_default();
    let refused = |error: BadLogin| guard::challenge(api, parts, &Scopes::default(), None, error.to_string());
    let (user, password) = match field("grant_type") {
        "password" => (field("username"), field("password")),
        "urn:ietf:params:oauth:grant-type:token-exchange" => ("", field("subject_token")),
        // It is signed, so there is nothing to guess.
        "refresh_token" => return access.refresh(field("refresh_token"), Timestamp::now()).map_err(refused),
        other => {
            let message = "the grant types here are password, refresh_token and token-exchange";
            return Err(Failure::bad(ErrorCode::Unsupported, message).with_detail(json!({"grant_type": other})));
        }
    };
    let check = access.log_in(user, password, Timestamp::now());
    guard::guess(api, parts, Some(user), check).await.map_err(|error| match error {
        Refused::Login(error) => refused(error),
        Refused::TooMany(failure) => failure,
    })
}
