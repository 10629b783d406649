//! Connections, logins and tokens, shared by all repositories that a command touches.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::header::{AUTHORIZATION, LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use oci::wire::{Challenge, ErrorCode, Problems, Scope};
use oci::{Host, RepoName};

use super::auth::{self, Asking, Authorization};
use super::certificates::OfHost;
use super::map::Mappings;
use super::proxy::Proxies;
use super::repository::Repository;
use super::transport::{ClientCertificate, Payload, Transport, empty, error_body};
use crate::credentials::{Credentials, Login};
use crate::{Error, Result};

/// How often a request is tried again after a passing fault.
const RETRIES: u32 = 4;
/// The first pause before another try; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause before another try, whatever the registry says.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Registries that are spoken to over plain HTTP. Loopback needs no mention.
    pub insecure: Vec<Host>,
    /// Certificate authorities beyond the machine's own, as PEM.
    pub authorities: Vec<Vec<u8>>,
    /// Certificates of our own, by the registry that wants them.
    pub client_certificates: Vec<(Host, ClientCertificate)>,
    /// Directories with authorities and certificates by registry, as docker's `certs.d`.
    pub certificate_directories: Vec<PathBuf>,
    /// Registries in place of others.
    pub mappings: Mappings,
    /// Proxies between us and registries.
    pub proxies: Proxies,
    /// Logins.
    pub credentials: Credentials,
}

/// A client of registries.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Transport,
    /// For each registry, with the authorities and the certificate of ours that are for it alone.
    transports: Mutex<HashMap<Host, Transport>>,
    settings: Settings,
    authorizations: Mutex<HashMap<(Host, String), Authorization>>,
    schemes: Mutex<HashMap<Host, &'static str>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("insecure", &self.settings.insecure).finish_non_exhaustive()
    }
}

/// One call of the API, which may take several requests.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// A whole URL, or a path of the registry.
    pub(super) target: String,
    pub(super) scopes: &'a [Scope],
    pub(super) headers: HeaderMap,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, target: impl Into<String>, scopes: &'a [Scope]) -> Self {
        Self { method, target: target.into(), scopes, headers: HeaderMap::new() }
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = value.parse() {
            self.headers.insert(name, value);
        }
        self
    }
}

impl Client {
    /// Makes a client; connects to nothing yet.
    pub fn new(settings: Settings) -> Result<Self> {
        let transport = Transport::new(&settings.authorities, None, settings.proxies.clone())?;
        let shared = Shared {
            transport,
            transports: Mutex::default(),
            settings,
            authorizations: Mutex::default(),
            schemes: Mutex::default(),
        };
        let client = Self { shared: Arc::new(shared) };
        // What was given for a registry is read now, so that mistakes in it show whoever is spoken to.
        for (host, _) in &client.shared.settings.client_certificates {
            client.transport_to(host, true)?;
        }
        Ok(client)
    }

    /// A repository of a registry, or of the one that stands in its place.
    pub fn repository(&self, host: &Host, name: &RepoName) -> Repository {
        let (host, name) = self.shared.settings.mappings.resolve(host, name);
        Repository::new(self.clone(), host, name)
    }

    /// For those who are no registry.
    pub(super) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// A registry's own connections; other hosts of a redirect get nothing of them.
    fn transport_to(&self, host: &Host, same_host: bool) -> Result<Transport> {
        if !same_host {
            return Ok(self.shared.transport.clone());
        }
        let mut transports = self.shared.transports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(transport) = transports.get(host) {
            return Ok(transport.clone());
        }
        let Settings { authorities, client_certificates, certificate_directories, proxies, .. } = &self.shared.settings;
        let kept = OfHost::read(certificate_directories, host)?;
        let given =
            client_certificates.iter().rev().find(|(known, _)| known == host).map(|(_, certificate)| certificate);
        let transport = if given.is_none() && kept.is_empty() {
            self.shared.transport.clone()
        } else {
            let authorities = [&authorities[..], &kept.authorities].concat();
            Transport::new(&authorities, given.or(kept.client.as_ref()), proxies.clone())?
        };
        transports.insert(host.clone(), transport.clone());
        Ok(transport)
    }

    /// Checks that the registry can be reached and takes the login, if there is one.
    pub async fn check_login(&self, host: &Host) -> Result<()> {
        let answer = self.call(host, &Call::new(Method::GET, "/v2/", &[]), &|| empty(), false).await?;
        if answer.status().is_success() { Ok(()) } else { Err(refused(host, "GET /v2/", &[], answer).await) }
    }

    /// Sends a call, logging in where it is asked for, and trying again after passing faults.
    ///
    /// Answers with an error status are answers here; the caller knows what they mean.
    pub(super) async fn call(
        &self,
        host: &Host,
        call: &Call<'_>,
        payload: &(dyn Fn() -> Payload + Sync),
        streams: bool,
    ) -> Result<Response<Incoming>> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..RETRIES {
            let asked = match self.call_once(host, call, payload(), streams).await {
                Ok(answer) if !is_passing(answer.status()) => {
                    return self.challenged(host, call, payload, streams, answer).await;
                }
                Ok(answer) => retry_after(&answer),
                // A stream that broke has used up its content: only the caller can open it again.
                Err(error) if streams || !error.is_transient() || refuses_connections(&error) => return Err(error),
                Err(_) => None,
            };
            tokio::time::sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE)).await;
            pause *= 2;
        }
        let answer = self.call_once(host, call, payload(), streams).await?;
        self.challenged(host, call, payload, streams, answer).await
    }

    /// Answers a 401 by logging in and sending the call once more.
    async fn challenged(
        &self,
        host: &Host,
        call: &Call<'_>,
        payload: &(dyn Fn() -> Payload + Sync),
        streams: bool,
        answer: Response<Incoming>,
    ) -> Result<Response<Incoming>> {
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).into_iter();
        let challenges: Vec<Challenge> =
            headers.filter_map(|value| value.to_str().ok()).flat_map(Challenge::parse).collect();
        if challenges.is_empty() {
            return Ok(answer);
        }
        let login = self.login(host, call.scopes).await?;
        let asking = Asking {
            host: host.as_str(),
            https: self.scheme(host).await? == "https",
            scopes: call.scopes,
            login: login.as_ref(),
        };
        let authorization = auth::answer(&self.shared.transport, &challenges, &asking).await?;
        self.authorizations().insert((host.clone(), scope_key(call.scopes)), authorization);
        self.call_once(host, call, payload(), streams).await
    }

    async fn call_once(
        &self,
        host: &Host,
        call: &Call<'_>,
        payload: Payload,
        streams: bool,
    ) -> Result<Response<Incoming>> {
        let base = format!("{}://{}", self.scheme(host).await?, api_host(host));
        let mut url = resolve(&base, &call.target);
        let mut payload = Some(payload);
        for _ in 0..REDIRECTS {
            let same_host = url.strip_prefix(&base).is_some_and(|rest| rest.starts_with('/'));
            let mut request = Request::builder()
                .method(call.method.clone())
                .uri(&url)
                .header(USER_AGENT, concat!("lighter/", env!("CARGO_PKG_VERSION")));
            if let Some(headers) = request.headers_mut() {
                headers.extend(call.headers.clone());
            }
            if let Some(authorization) = self.authorization(host, call.scopes).filter(|_| same_host) {
                request = request.header(AUTHORIZATION, authorization.header);
            }
            let broken =
                |error: http::Error| Error::Protocol { host: host.to_string(), reason: format!("{url}: {error}") };
            let request = request.body(payload.take().unwrap_or_else(empty)).map_err(broken)?;
            let answer = self.transport_to(host, same_host)?.send(request, streams).await?;
            let followed = matches!(call.method, Method::GET | Method::HEAD) && answer.status().is_redirection();
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location.filter(|_| followed) {
                Some(location) => url = resolve(&base, location),
                None => return Ok(answer),
            }
        }
        Err(Error::Protocol { host: host.to_string(), reason: format!("it redirects more than {REDIRECTS} times") })
    }

    /// `https`, but for loopback and what was named as insecure; there, whichever answers.
    async fn scheme(&self, host: &Host) -> Result<&'static str> {
        if !host.is_loopback() && !self.shared.settings.insecure.contains(host) {
            return Ok("https");
        }
        if let Some(scheme) = self.schemes().get(host) {
            return Ok(scheme);
        }
        let request = Request::builder().uri(format!("http://{host}/v2/")).body(empty());
        let request = request.map_err(|error| Error::Protocol { host: host.to_string(), reason: error.to_string() })?;
        let scheme = match self.transport_to(host, true)?.send(request, false).await {
            // What Go's TLS servers say to plain HTTP.
            Ok(answer) if answer.status() == StatusCode::BAD_REQUEST => "https",
            Ok(_) => "http",
            Err(error) if refuses_connections(&error) => return Err(error),
            Err(_) => "https",
        };
        self.schemes().insert(host.clone(), scheme);
        Ok(scheme)
    }

    fn authorization(&self, host: &Host, scopes: &[Scope]) -> Option<Authorization> {
        let key = (host.clone(), scope_key(scopes));
        self.authorizations().get(&key).filter(|authorization| authorization.is_fresh()).cloned()
    }

    async fn login(&self, host: &Host, scopes: &[Scope]) -> Result<Option<Login>> {
        let name = match scopes.first() {
            Some(scope) => scope.name.clone(),
            None => "any".parse().expect("this is a repository name"),
        };
        let (credentials, host) = (self.shared.settings.credentials.clone(), host.clone());
        crate::disk::blocking(move || {
            let unknown = |error: crate::credentials::InvalidCredentials| Error::Unauthorized {
                host: host.to_string(),
                scope: name.to_string(),
                reason: error.to_string(),
            };
            credentials.lookup(&host, &name).map_err(unknown)
        })
        .await
    }

    fn authorizations(&self) -> MutexGuard<'_, HashMap<(Host, String), Authorization>> {
        self.shared.authorizations.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn schemes(&self) -> MutexGuard<'_, HashMap<Host, &'static str>> {
        self.shared.schemes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Docker Hub's API stands under another name than its images.
fn api_host(host: &Host) -> &str {
    if host.is_docker_hub() { "registry-1.docker.io" } else { host.as_str() }
}

fn resolve(base: &str, target: &str) -> String {
    if target.starts_with("http://") || target.starts_with("https://") {
        target.to_owned()
    } else {
        format!("{base}{target}")
    }
}

fn scope_key(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(" ")
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Nobody listens there, or the name is wrong: trying again at once is of no use.
fn refuses_connections(error: &Error) -> bool {
    matches!(error, Error::Unreachable { reason, .. } | Error::BehindProxy { reason, .. }
        if ["refused", "dns error", "it wants a user", "refuses this"].iter().any(|text| reason.contains(text)))
}

fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The typed error for an answer that is one.
pub(super) async fn refused(host: &Host, request: &str, scopes: &[Scope], answer: Response<Incoming>) -> Error {
    let status = answer.status();
    let problems = Problems::parse(&error_body(answer).await).map_or_else(Vec::new, |problems| problems.errors);
    let scope = || match scopes.first() {
        Some(Scope { name, push: true }) => format!("push to {name}"),
        Some(Scope { name, push: false }) => format!("pull from {name}"),
        None => "use it".to_owned(),
    };
    let reason = || problems.first().map_or_else(|| status.to_string(), ToString::to_string);
    let denied = problems.iter().any(|problem| problem.code == ErrorCode::Denied);
    match status {
        StatusCode::UNAUTHORIZED => Error::Unauthorized { host: host.to_string(), scope: scope(), reason: reason() },
        StatusCode::FORBIDDEN => Error::Denied { host: host.to_string(), scope: scope(), reason: reason() },
        _ if denied && status.is_client_error() => {
            Error::Denied { host: host.to_string(), scope: scope(), reason: reason() }
        }
        _ => Error::Refused { host: host.to_string(), request: request.to_owned(), status: status.as_u16(), problems },
    }
}
