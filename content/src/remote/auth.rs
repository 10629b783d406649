//! Answering challenges: Basic credentials, and Bearer tokens from a registry's token endpoint
//! (the token protocol of the distribution project; GET with Basic, POST with a refresh token).

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request};
use oci::wire::{Challenge, Scope};
use serde::Deserialize;

use super::transport::{Transport, body, empty, error_body, full};
use crate::credentials::Login;
use crate::{Error, Result};

/// Largest answer of a token endpoint, in bytes.
const TOKEN_LIMIT: usize = 1 << 20;
/// How long a token lives where the endpoint does not say (the token protocol's default).
const DEFAULT_LIFE: u64 = 60;
/// How much earlier than its end a token is given up.
const MARGIN: Duration = Duration::from_secs(10);

/// The value of an `Authorization` header, and until when it is good.
#[derive(Clone)]
pub(super) struct Authorization {
    pub(super) header: String,
    pub(super) until: Option<Instant>,
}

impl Authorization {
    fn forever(header: String) -> Self {
        Self { header, until: None }
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// Who asks for what, for messages and tokens.
pub(super) struct Asking<'a> {
    pub(super) host: &'a str,
    pub(super) https: bool,
    pub(super) scopes: &'a [Scope],
    pub(super) login: Option<&'a Login>,
}

impl Asking<'_> {
    fn refused(&self, reason: impl Into<String>) -> Error {
        let scope = self.scopes.first().map_or_else(|| "this registry".to_owned(), |scope| scope.name.to_string());
        Error::Unauthorized { host: self.host.to_owned(), scope, reason: reason.into() }
    }
}

/// Makes the header that satisfies one of the challenges.
pub(super) async fn answer(
    transport: &Transport,
    challenges: &[Challenge],
    asking: &Asking<'_>,
) -> Result<Authorization> {
    if let Some(Login::Bearer(token)) = asking.login {
        return Ok(Authorization::forever(format!("Bearer {token}")));
    }
    let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    if let Some(Challenge::Bearer { realm, service, scope }) = bearer {
        return token(transport, realm, service.as_deref(), scope.as_deref(), asking).await;
    }
    if !challenges.iter().any(|challenge| matches!(challenge, Challenge::Basic { .. })) {
        return Err(asking.refused("it wants a login of a kind that is not known here"));
    }
    match asking.login {
        Some(Login::Password { user, password }) => Ok(Authorization::forever(basic(user, password))),
        Some(_) => Err(asking.refused("it wants user and password, and only a token is known")),
        None => Err(asking.refused("it wants a login, and none is known")),
    }
}

pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn token(
    transport: &Transport,
    realm: &str,
    service: Option<&str>,
    scope: Option<&str>,
    asking: &Asking<'_>,
) -> Result<Authorization> {
    let uri: http::Uri =
        realm.parse().map_err(|_| asking.refused(format!("its token endpoint {realm:?} is no URL")))?;
    guard(&uri, asking)?;
    let mut scopes: Vec<String> = asking.scopes.iter().map(Scope::to_string).collect();
    scopes.extend(scope.filter(|_| asking.scopes.is_empty()).map(str::to_owned));
    let request = request(realm, service, &scopes, asking.login).map_err(|error| asking.refused(error.to_string()))?;
    let answer = transport.send(request, false).await?;
    let status = answer.status();
    if !status.is_success() {
        let said = String::from_utf8_lossy(&error_body(answer).await).chars().take(200).collect::<String>();
        return Err(asking.refused(format!("its token endpoint answered {status}: {}", said.trim())));
    }
    let text = crate::store::collect(body(answer, asking.host.to_owned()), TOKEN_LIMIT).await?;
    let answer: Option<TokenAnswer> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let answer = answer.ok_or_else(|| asking.refused("its token endpoint sent no token"))?;
    let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
    if token.is_empty() {
        return Err(asking.refused("its token endpoint sent an empty token"));
    }
    let life = Duration::from_secs(answer.expires_in.filter(|life| *life > 0).unwrap_or(DEFAULT_LIFE));
    let until = Instant::now().checked_add(life.saturating_sub(MARGIN));
    Ok(Authorization { header: format!("Bearer {token}"), until })
}

/// A registry must not lure a password onto an open line.
fn guard(realm: &http::Uri, asking: &Asking<'_>) -> Result<()> {
    let host: Option<oci::Host> = realm.authority().and_then(|authority| authority.as_str().parse().ok());
    let Some(host) = host else { return Err(asking.refused("its token endpoint has no host")) };
    let open = realm.scheme_str() != Some("https");
    if open && asking.https && asking.login.is_some() && !host.is_loopback() {
        return Err(asking.refused(format!("its token endpoint {realm} is plain HTTP, where no password is sent")));
    }
    Ok(())
}

fn request(
    realm: &str,
    service: Option<&str>,
    scopes: &[String],
    login: Option<&Login>,
) -> std::result::Result<Request<super::transport::Payload>, http::Error> {
    let mut pairs: Vec<(&str, &str)> = service.into_iter().map(|service| ("service", service)).collect();
    if let Some(Login::Identity(token)) = login {
        let joined = scopes.join(" ");
        pairs.extend([
            ("grant_type", "refresh_token"),
            ("client_id", "lighter"),
            ("refresh_token", token),
            ("scope", &joined),
        ]);
        return Request::builder()
            .method(Method::POST)
            .uri(realm)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(full(form(&pairs)));
    }
    pairs.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
    let separator = if realm.contains('?') { '&' } else { '?' };
    let mut request = Request::builder().uri(format!("{realm}{separator}{}", form(&pairs)));
    if let Some(Login::Password { user, password }) = login {
        request = request.header("authorization", basic(user, password));
    }
    request.body(empty())
}

/// `application/x-www-form-urlencoded`.
fn form(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
    pairs.join("&")
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_off_open_lines() {
        let login = Login::Password { user: "u".to_owned(), password: "p".to_owned() };
        let asking = |https| Asking { host: "r.example", https, scopes: &[], login: Some(&login) };
        let guarded = |realm: &str, https| guard(&realm.parse().unwrap(), &asking(https)).is_ok();
        assert!(guarded("https://auth.example/token", true));
        assert!(!guarded("http://auth.example/token", true));
        assert!(guarded("http://127.0.0.1:5001/token", true));
        assert!(guarded("http://auth.example/token", false)); // the registry itself is on an open line already
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull,push"), ("x", "ä &=")]),
            "scope=repository%3Aa%2Fb%3Apull%2Cpush&x=%C3%A4%20%26%3D"
        );
    }
}
