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
mod lists;
mod manifests;
mod query;
mod uploads;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use http::header::{ALLOW, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use oci::wire::{self, ErrorCode, Route};
use tracing::Instrument;

use crate::Limits;
use crate::promise::Promises;
use crate::store::Store;
use failure::Failure;
use query::Query;

/// An answer, or why there is none.
type Answer = Result<Response, Failure>;

/// What handlers need.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    /// Whether manifests may name content that is not here.
    pub(crate) sparse: bool,
}

/// A request after its path was read.
struct Call<'a> {
    parts: &'a Parts,
    query: Query,
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
        self.parts.extensions.get::<Promises>().filter(|_| is_http_1).cloned()
    }

    fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }
}

/// Answers a request. No router stands before this: none can route names with slashes, so the path is
/// read by [`Route`].
pub(crate) async fn handle(api: Arc<Api>, request: Request<Body>) -> Result<Response, Infallible> {
    let (parts, mut body) = request.into_parts();
    // What happens on the way says whose request it was only when somebody debugs: a span for each
    // request costs as much as a manifest. The line at the end tells the operator.
    let span = tracing::debug_span!("request", method = %parts.method, path = parts.uri.path());
    async move {
        let begun = Instant::now();
        let answer = dispatch(&api, &parts, &mut body).await;
        let mut response = match answer {
            Ok(response) => response,
            Err(failure) => {
                // A client that is still sending would not read the answer from a reset connection, so
                // the rest is taken beside the answer. One that waits for `100 Continue` has sent
                // nothing, and must not be told to.
                if !parts.headers.contains_key(EXPECT) && !body.is_end_stream() {
                    tokio::spawn(body::drain(body));
                }
                failure.into_response()
            }
        };
        if parts.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        let version = HeaderValue::from_static(wire::DOCKER_API_VERSION_2);
        response.headers_mut().insert(HeaderName::from_static(wire::DOCKER_API_VERSION), version);
        let (status, micros) = (response.status().as_u16(), begun.elapsed().as_micros() as u64);
        tracing::info!(method = %parts.method, path = parts.uri.path(), status, micros, "answered");
        Ok(response)
    }
    .instrument(span)
    .await
}

async fn dispatch(api: &Api, parts: &Parts, body: &mut Body) -> Answer {
    let route = Route::parse(parts.uri.path())?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let call = Call { parts, query };
    match (route, parts.method.as_str()) {
        (Route::Base, "GET" | "HEAD") => Ok(json(StatusCode::OK, &serde_json::json!({}))),
        (Route::Catalog, "GET" | "HEAD") => lists::catalog(api, &call).await,
        (Route::Tags(name), "GET" | "HEAD") => lists::tags(api, &call, name).await,
        (Route::Referrers(name, subject), "GET" | "HEAD") => lists::referrers(api, &call, name, subject).await,
        (Route::Manifest(name, which), "GET" | "HEAD") => manifests::get(api, &call, name, which).await,
        (Route::Manifest(name, which), "PUT") => manifests::put(api, &call, body, name, which).await,
        (Route::Manifest(name, which), "DELETE") => manifests::delete(api, name, which).await,
        (Route::Blob(name, digest), "GET" | "HEAD") => blobs::get(api, &call, name, digest).await,
        (Route::Blob(name, digest), "DELETE") => blobs::delete(api, name, digest).await,
        (Route::Uploads(name), "POST") => uploads::start(api, &call, body, name).await,
        (Route::Upload(name, id), "GET" | "HEAD") => uploads::status(api, name, id).await,
        (Route::Upload(name, id), "PATCH") => uploads::append(api, &call, body, name, id).await,
        (Route::Upload(name, id), "PUT") => uploads::finish(api, &call, body, name, id).await,
        (Route::Upload(name, id), "DELETE") => uploads::cancel(api, name, id).await,
        (route, _) => Err(not_allowed(&route)),
    }
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
