//! The Distribution API over HTTP: every request is parsed into a [`Route`], matched with its method,
//! and answered from the store. No handler touches a path or a row.
//!
//! What holds for every answer: `Location` is relative, so proxies and other names for the host do not
//! matter. `Accept` and `Accept-Encoding` change nothing: a digest names exact bytes. HEAD is GET
//! without its body. Every error is JSON.

mod blobs;
mod body;
mod conditions;
mod failure;
mod front;
mod guard;
mod lists;
mod manifests;
mod operation;
mod query;
mod token;
mod uploads;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use http::header::{ALLOW, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use oci::wire::{self, ErrorCode, Route};
use tracing::Instrument;

use crate::Limits;
use crate::access::{Caller, Gate, Identity};
use crate::hooks::Pulls;
use crate::limit::{Limiter, Passage};
use crate::metrics::{Kind, Metrics};
use crate::promise::Promises;
use crate::state::Asked;
use crate::store::Store;
use failure::Failure;
pub(crate) use front::Peer;
pub use front::{Front, InvalidNetwork, Network};
use query::Query;

/// Longest name of a client or of the registry that others are told, in characters.
const TOLD_LIMIT: usize = 256;

/// An answer, or why there is none.
type Answer = Result<Response, Failure>;

/// What handlers need.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    pub(crate) gate: Gate,
    pub(crate) front: Front,
    pub(crate) metrics: Arc<Metrics>,
    /// How often callers may ask, if that is limited.
    pub(crate) pace: Option<Limiter<Asker>>,
    /// How often logins of one user may fail from one address.
    pub(crate) guesses: Limiter<(IpAddr, String)>,
    /// Those who are told of pulls.
    pub(crate) pulls: Pulls,
    /// Whether requests should go elsewhere.
    pub(crate) draining: AtomicBool,
    /// Whether this address tells what it counts.
    pub(crate) shows_metrics: bool,
}

/// Who is made to wait: a caller with a login, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Asker {
    Known(String),
    Address(Option<IpAddr>),
}

/// A request after its path was read and its caller found out.
struct Call<'a> {
    parts: &'a Parts,
    query: Query,
    caller: &'a Caller,
    /// What the request is called.
    id: &'a str,
}

impl Call<'_> {
    fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// The one value of a header; two of them are refused, since others on the way may have read the other.
    fn only(&self, name: &HeaderName, code: ErrorCode) -> Result<Option<&HeaderValue>, Failure> {
        let mut values = self.headers().get_all(name).into_iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Failure::bad(code, format!("the header {name} was sent more than once"))),
        }
    }

    /// The announced length of the body, if there is one.
    fn content_length(&self) -> Option<u64> {
        self.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// What a body may promise with, where this connection can keep it.
    fn promises(&self) -> Option<Promises> {
        let is_http_1 = self.parts.version <= Version::HTTP_11;
        front::peer(self.parts).filter(|_| is_http_1)?.promises.clone()
    }

    /// The store, changed on behalf of this request.
    fn store(&self, api: &Api) -> Store {
        api.store.on_behalf_of(self.asked(api))
    }

    /// Who asks for what, for those who are told.
    fn asked(&self, api: &Api) -> Asked {
        let text = |name: &HeaderName| {
            let value = self.headers().get(name)?.to_str().ok()?;
            Some(value.chars().take(TOLD_LIMIT).collect())
        };
        Asked {
            id: self.id.to_owned(),
            actor: self.caller.identity.to_string(),
            addr: api.front.client(self.parts),
            host: text(&HOST).or_else(|| self.parts.uri.authority().map(ToString::to_string)),
            method: self.parts.method.to_string(),
            agent: text(&USER_AGENT),
            mounted: None,
        }
    }

    fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }
}

/// Answers a request. No router stands before this: none can route names with slashes, so the path is
/// read by [`Route`].
pub(crate) async fn answer(api: Arc<Api>, request: Request<Body>) -> Response {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let id = front::request_id(&parts);
    let asked = Path::parse(parts.uri.path());
    let kind = asked.kind();
    let under_way = api.metrics.begin(kind);
    let path = parts.uri.path();
    let name = id.to_str().unwrap_or_default().to_owned();
    // A span costs as much as a manifest, so reads have one only for who debugs; the line at their end
    // tells the operator the same.
    let reads = is_read(&parts);
    let span = match reads {
        true => tracing::debug_span!("request", id = name, method = %parts.method, path),
        false => tracing::info_span!("request", id = name, method = %parts.method, path),
    };
    async move {
        let mut body = api.metrics.receiving(body);
        let mut caller = Caller::anonymous();
        let answer = dispatch(&api, &parts, &mut body, asked, &mut caller, &name).await;
        audit(&api, &parts, &name, kind, &caller.identity, &answer);
        let mut response = match answer {
            Ok(response) => response,
            Err(failure) => {
                // A client that is still sending would not read the answer from a reset connection, so
                // the rest is taken beside the answer. One that waits for `100 Continue` has sent
                // nothing, and must not be told to.
                if !parts.headers.contains_key(EXPECT) && !body.is_end_stream() {
                    // A connection of HTTP/1 would wait for the rest for ever: nothing wakes it when the
                    // body is dropped. A stream of HTTP/2 ends by itself.
                    let hang_up = front::peer(&parts).filter(|_| parts.version <= Version::HTTP_11);
                    let hang_up = hang_up.map(|peer| peer.hang_up.clone());
                    tokio::spawn(async move {
                        if !body::drain(body).await
                            && let Some(hang_up) = hang_up
                        {
                            hang_up.notify_one();
                        }
                    });
                }
                failure.of(&parts).into_response()
            }
        };
        if parts.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        let version = HeaderValue::from_static(wire::DOCKER_API_VERSION_2);
        response.headers_mut().insert(HeaderName::from_static(wire::DOCKER_API_VERSION), version);
        response.headers_mut().insert(front::REQUEST_ID, id);
        let took = begun.elapsed();
        api.metrics.answered(kind, &parts.method, response.status(), took);
        let (status, micros) = (response.status().as_u16(), took.as_micros() as u64);
        let who = &caller.identity;
        match kind {
            Kind::OPERATION => tracing::debug!(status, micros, "answered"),
            _ if reads => {
                let path = parts.uri.path();
                tracing::info!(id = name, method = %parts.method, path, status, micros, %who, "answered");
            }
            _ => tracing::info!(status, micros, %who, "answered"),
        }
        response.map(|body| api.metrics.sending(body, under_way))
    }
    .instrument(span)
    .await
}

/// What a path is about.
enum Path {
    Token,
    Live,
    Ready,
    Metrics,
    Usage,
    Protocol(Result<Route, wire::InvalidRoute>),
}

impl Path {
    fn parse(path: &str) -> Self {
        match path {
            "/token" => Self::Token,
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/api/v1/usage" => Self::Usage,
            path => Self::Protocol(Route::parse(path)),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Token => Kind::TOKEN,
            Self::Live | Self::Ready | Self::Metrics | Self::Usage => Kind::OPERATION,
            Self::Protocol(Ok(route)) => Kind::of(route),
            Self::Protocol(Err(_)) => Kind::OTHER,
        }
    }
}

async fn dispatch(api: &Api, parts: &Parts, body: &mut Body, asked: Path, who: &mut Caller, id: &str) -> Answer {
    front::check_host(parts)?;
    let route = match asked {
        Path::Token => return token::answer(api, parts, body, who).await,
        Path::Live | Path::Ready | Path::Metrics if !is_read(parts) => return Err(only_read()),
        Path::Live => return Ok(operation::live()),
        Path::Ready => return Ok(operation::ready(api)),
        Path::Metrics if api.shows_metrics => return Ok(operation::metrics(api)),
        Path::Metrics => return Err(wire::InvalidRoute::Unknown.into()),
        Path::Usage => None,
        Path::Protocol(route) => Some(route?),
    };
    *who = guard::identify(api, parts).await?;
    pace(api, parts, &who.identity).await?;
    let Some(route) = route else {
        return if is_read(parts) { operation::usage(api, parts, who).await } else { Err(only_read()) };
    };
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    guard::check(api, parts, &query, &route, who)?;
    serve(api, &Call { parts, query, caller: who, id }, body, route).await
}

/// Pushes are boxed one by one: their states are large, and every answer to a pull would be moved about
/// with room for them.
async fn serve(api: &Api, call: &Call<'_>, body: &mut Body, route: Route) -> Answer {
    match (route, call.parts.method.as_str()) {
        (Route::Base, "GET" | "HEAD") => Ok(json(StatusCode::OK, &serde_json::json!({}))),
        (Route::Catalog, "GET" | "HEAD") => Box::pin(lists::catalog(api, call)).await,
        (Route::Tags(name), "GET" | "HEAD") => Box::pin(lists::tags(api, call, name)).await,
        (Route::Referrers(name, subject), "GET" | "HEAD") => Box::pin(lists::referrers(api, call, name, subject)).await,
        (Route::Manifest(name, which), "GET" | "HEAD") => manifests::get(api, call, name, which).await,
        (Route::Manifest(name, which), "PUT") => Box::pin(manifests::put(api, call, body, name, which)).await,
        (Route::Manifest(name, which), "DELETE") => Box::pin(manifests::delete(&call.store(api), name, which)).await,
        (Route::Blob(name, digest), "GET" | "HEAD") => blobs::get(api, call, name, digest).await,
        (Route::Blob(name, digest), "DELETE") => Box::pin(blobs::delete(&call.store(api), name, digest)).await,
        (Route::Uploads(name), "POST") => Box::pin(uploads::start(api, call, body, name)).await,
        (Route::Upload(name, id), "GET" | "HEAD") => Box::pin(uploads::status(api, name, id)).await,
        (Route::Upload(name, id), "PATCH") => Box::pin(uploads::append(api, call, body, name, id)).await,
        (Route::Upload(name, id), "PUT") => Box::pin(uploads::finish(api, call, body, name, id)).await,
        (Route::Upload(name, id), "DELETE") => Box::pin(uploads::cancel(api, name, id)).await,
        (route, _) => Err(not_allowed(&route)),
    }
}

/// Answers only what operators ask, for an address of its own.
pub(crate) async fn answer_operator(api: Arc<Api>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let mut response = match Path::parse(parts.uri.path()) {
        Path::Live | Path::Ready | Path::Metrics if !is_read(&parts) => only_read().of(&parts).into_response(),
        Path::Live => operation::live(),
        Path::Ready => operation::ready(&api),
        Path::Metrics => operation::metrics(&api),
        _ => Failure::from(wire::InvalidRoute::Unknown).of(&parts).into_response(),
    };
    if parts.method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Makes those wait who ask too often.
async fn pace(api: &Api, parts: &Parts, identity: &Identity) -> Result<(), Failure> {
    let Some(pace) = &api.pace else { return Ok(()) };
    let asker = match identity.is_anonymous() {
        true => Asker::Address(api.front.client(parts)),
        false => Asker::Known(identity.to_string()),
    };
    match pace.take(&asker) {
        Passage::Free => Ok(()),
        Passage::After(wait) => {
            tokio::time::sleep(wait).await;
            Ok(())
        }
        Passage::Refused(wait) => Err(guard::too_many(wait, "too many requests; slow down")),
    }
}

/// One line for every request that wants to change something, done or not. It stands alone: who keeps only these
/// lines has no span around them that says the rest.
fn audit(api: &Api, parts: &Parts, id: &str, kind: Kind, who: &Identity, answer: &Answer) {
    if is_read(parts) || kind == Kind::TOKEN {
        return;
    }
    let status = match answer {
        Ok(response) => response.status(),
        Err(failure) => failure.status(),
    };
    let (header, agent) = (HeaderName::from_static(wire::DOCKER_CONTENT_DIGEST), http::header::USER_AGENT);
    let digest = answer.as_ref().ok().and_then(|response| response.headers().get(header)?.to_str().ok());
    tracing::info!(
        target: "audit",
        parent: None,
        id,
        method = %parts.method,
        path = parts.uri.path(),
        who = %who,
        client = api.front.client(parts).map(tracing::field::display),
        agent = parts.headers.get(agent).and_then(|agent| agent.to_str().ok()),
        query = parts.uri.query(),
        digest,
        outcome = status.as_u16(),
        "audit"
    );
}

fn is_read(parts: &Parts) -> bool {
    matches!(parts.method, Method::GET | Method::HEAD)
}

fn only_read() -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, "only GET and HEAD can be done here")
        .with_header(ALLOW, HeaderValue::from_static("GET, HEAD"))
}

fn not_allowed(route: &Route) -> Failure {
    let allowed = match route {
        Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
        Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
        Route::Blob(..) => "GET, HEAD, DELETE",
        Route::Uploads(_) => "POST",
        Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
    };
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, format!("only {allowed} can be done here"))
        .with_header(ALLOW, HeaderValue::from_static(allowed))
}

/// An answer with a JSON body.
fn json(status: StatusCode, document: &serde_json::Value) -> Response {
    response(status, "application/json", document.to_string().into_bytes())
}

/// An answer with a body that is in memory.
fn response(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = empty(status);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    *response.body_mut() = Body::from(bytes);
    response
}

/// An answer without a body.
fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// A header value from text that our own types hold: names, digests and numbers are visible ASCII.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
