//! Issuers of identity tokens: GitLab, Kubernetes, and whoever else speaks OpenID Connect. Where their
//! keys come from, and for how long they hold; what a token may do is the business of `policy`.
//!
//! Keys are fetched when they are first needed, kept for an hour, and fetched again when a token names
//! one that is not there: so a rotation is followed at once. When the issuer cannot be reached, the keys
//! that are there hold for a day. Whoever sends junk makes us ask no more often than every few seconds.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use content::remote::{Proxies, Web};
use serde::Deserialize;

use super::identity::Identity;
use super::jwt::{self, InvalidToken, Key, Unverified};
use crate::watched::{ReadError, Watched, read};

/// How long keys are used without asking again.
const FRESH: Duration = Duration::from_secs(3600);
/// How long keys are used when the issuer cannot be asked.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Largest document of an issuer, in bytes.
const DOCUMENT_LIMIT: usize = 1 << 20;

/// An issuer whose tokens are taken.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// What rules call it.
    pub name: String,
    /// What its tokens say as `iss`.
    pub issuer: String,
    /// For whom tokens must be meant (`aud`): one of these.
    pub audiences: Vec<String>,
    /// Where its keys are.
    pub keys: KeySource,
    /// A file with certificate authorities (PEM) that its server may be signed by, beside the machine's own.
    pub ca: Option<PathBuf>,
    /// A file with a token that its server wants to see before it gives its keys, as Kubernetes does.
    pub token: Option<PathBuf>,
    /// How often its server is asked again at most.
    pub pause: Duration,
    /// Proxies on the way to its server.
    pub proxies: Proxies,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Where its `/.well-known/openid-configuration` says.
    Discovery,
    /// At this URL.
    Url(String),
    /// In this file, for registries that reach no network.
    File(PathBuf),
}

/// Why a token of an issuer is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untrusted {
    /// The token itself.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// There is nothing to check it with.
    #[error("the keys of its issuer cannot be had now")]
    NoKeys,
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Web(#[from] content::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{0} is not safe: keys come by https only, but from this machine itself")]
    Open(String),
    #[error("{url} says that its issuer is {found:?}")]
    OtherIssuer { url: String, found: String },
    #[error("{0} is no OpenID configuration")]
    Configuration(String),
    #[error("{url}: {error}")]
    Keys { url: String, error: jwt::InvalidKeys },
}

/// An issuer with what is known of its keys.
pub(crate) struct Issuer {
    settings: IssuerSettings,
    source: Source,
}

enum Source {
    File(Watched<Vec<Key>>),
    Server { web: Web, keys: RwLock<Option<Fetched>>, asking: tokio::sync::Mutex<Option<Instant>> },
}

#[derive(Clone)]
struct Fetched {
    keys: Arc<Vec<Key>>,
    at: Instant,
}

impl Issuer {
    /// Reads files; asks nobody yet.
    pub(crate) fn open(settings: IssuerSettings) -> Result<Self, ReadError> {
        let source = match &settings.keys {
            KeySource::File(path) => {
                let from = path.clone();
                let make = move || {
                    let wrong =
                        |error: jwt::InvalidKeys| ReadError::Content { path: from.clone(), reason: error.to_string() };
                    jwt::parse_keys(&read(&from, DOCUMENT_LIMIT as u64)?).map_err(wrong)
                };
                Source::File(Watched::new(vec![path.clone()], make)?)
            }
            KeySource::Discovery | KeySource::Url(_) => {
                let ca =
                    settings.ca.iter().map(|path| read(path, DOCUMENT_LIMIT as u64)).collect::<Result<Vec<_>, _>>()?;
                let web = Web::new(&ca, settings.proxies.clone()).map_err(|error| ReadError::Content {
                    path: settings.ca.clone().unwrap_or_default(),
                    reason: error.to_string(),
                })?;
                Source::Server { web, keys: RwLock::default(), asking: tokio::sync::Mutex::default() }
            }
        };
        Ok(Self { settings, source })
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// Whether a token says that it is of this issuer.
    pub(crate) fn made(&self, token: &Unverified<'_>) -> bool {
        token.issuer() == Some(&self.settings.issuer)
    }

    /// Checks a token of this issuer; `now` in seconds since 1970.
    pub(crate) async fn identify(&self, token: &Unverified<'_>, now: i64) -> Result<(Identity, i64), Untrusted> {
        let keys = self.keys().await?;
        let claims = match token.verify(&keys) {
            Ok(claims) => claims,
            // The issuer may have new keys since.
            Err(error) => match self.newer(&keys).await {
                Some(keys) => token.verify(&keys)?,
                None => return Err(error.into()),
            },
        };
        jwt::check_claims(claims, &self.settings.issuer, &self.settings.audiences, now)?;
        let subject = claims.get("sub").and_then(|subject| subject.as_str()).unwrap_or_default().to_owned();
        let end = claims.get("exp").and_then(|end| end.as_f64()).unwrap_or_default() as i64;
        Ok((Identity::Issued { issuer: self.settings.name.clone(), subject, claims: claims.clone() }, end))
    }

    async fn keys(&self) -> Result<Arc<Vec<Key>>, Untrusted> {
        let known = match &self.source {
            Source::File(file) => return Ok(file.current()),
            Source::Server { keys, .. } => known(keys),
        };
        if let Some(known) = known.filter(|known| known.at.elapsed() < FRESH) {
            return Ok(known.keys);
        }
        self.fetch(None)
            .await
            .filter(|known| known.at.elapsed() < STALE)
            .map(|known| known.keys)
            .ok_or(Untrusted::NoKeys)
    }

    /// Keys that are not those which did not help.
    async fn newer(&self, useless: &Arc<Vec<Key>>) -> Option<Arc<Vec<Key>>> {
        self.fetch(Some(useless)).await.map(|known| known.keys).filter(|keys| !Arc::ptr_eq(keys, useless))
    }

    /// Asks the server, one request at a time and not too often, and says what is known then.
    async fn fetch(&self, useless: Option<&Arc<Vec<Key>>>) -> Option<Fetched> {
        let Source::Server { web, keys, asking } = &self.source else { return None };
        let mut last = asking.lock().await;
        let known = known(keys);
        // Whoever waited may find that somebody else has asked meanwhile.
        let asked = match (&known, useless) {
            (Some(known), Some(useless)) => !Arc::ptr_eq(&known.keys, useless),
            (Some(known), None) => known.at.elapsed() < FRESH,
            (None, _) => false,
        };
        if asked || last.is_some_and(|last| last.elapsed() < self.settings.pause) {
            return known;
        }
        let answer = self.ask(web).await;
        *last = Some(Instant::now());
        match answer {
            Ok(new) => {
                tracing::info!(issuer = self.settings.name, keys = new.len(), "keys fetched");
                let new = Fetched { keys: Arc::new(new), at: Instant::now() };
                *keys.write().unwrap_or_else(PoisonError::into_inner) = Some(new.clone());
                Some(new)
            }
            Err(error) => {
                tracing::error!(issuer = self.settings.name, %error, "the keys of an issuer could not be fetched");
                known
            }
        }
    }

    async fn ask(&self, web: &Web) -> Result<Vec<Key>, FetchError> {
        let url = match &self.settings.keys {
            KeySource::Url(url) => url.clone(),
            _ => self.discover(web).await?,
        };
        let document = self.document(web, &url).await?;
        jwt::parse_keys(&document).map_err(|error| FetchError::Keys { url, error })
    }

    async fn discover(&self, web: &Web) -> Result<String, FetchError> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
            jwks_uri: String,
        }
        let url = format!("{}/.well-known/openid-configuration", self.settings.issuer.trim_end_matches('/'));
        let document = self.document(web, &url).await?;
        let found: Configuration =
            serde_json::from_slice(&document).map_err(|_| FetchError::Configuration(url.clone()))?;
        match found.issuer == self.settings.issuer {
            true => Ok(found.jwks_uri),
            false => Err(FetchError::OtherIssuer { url, found: found.issuer }),
        }
    }

    async fn document(&self, web: &Web, url: &str) -> Result<bytes::Bytes, FetchError> {
        if !is_safe(url) {
            return Err(FetchError::Open(url.to_owned()));
        }
        // The token of a pod changes: it is read each time.
        let token = match &self.settings.token {
            Some(path) => Some(String::from_utf8_lossy(&read(path, DOCUMENT_LIMIT as u64)?).trim().to_owned()),
            None => None,
        };
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        Ok(web.get(url, &headers, DOCUMENT_LIMIT).await?)
    }
}

fn known(keys: &RwLock<Option<Fetched>>) -> Option<Fetched> {
    keys.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether nobody on the way can change what comes from there.
pub(crate) fn is_safe(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => uri
            .authority()
            .is_some_and(|authority| authority.as_str().parse::<oci::Host>().is_ok_and(|host| host.is_loopback())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        for (url, safe) in [
            ("https://gitlab.example/keys", true),
            ("http://127.0.0.1:8080/keys", true),
            ("http://localhost/keys", true),
            ("http://gitlab.example/keys", false),
            ("file:///etc/passwd", false),
            ("/keys", false),
            ("", false),
        ] {
            assert_eq!(is_safe(url), safe, "{url}");
        }
    }
}
