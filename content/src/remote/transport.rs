//! One HTTP request: connections, TLS, time limits, and errors that say what to do.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::distrust::{Trouble, trouble};
use super::proxy::{Connector, Proxies, Unhelpful};
use crate::store::Body;
use crate::{Error, Result};

/// How long a registry may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may take to begin an answer to a request without a body.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a transfer may stand still.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest error body that is read, in bytes.
const ERROR_LIMIT: usize = 64 << 10;

pub(super) type Payload = UnsyncBoxBody<Bytes, Error>;

/// A certificate of ours and its key, as PEM.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate, and those that it is signed by.
    pub chain: Vec<u8>,
    /// The key; it may stand in the same file.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive() // the key is nobody's business
    }
}

/// The connections.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: hyper_util::client::legacy::Client<HttpsConnector<Connector>, Payload>,
    proxies: Proxies,
}

impl Transport {
    /// Trusts the machine's authorities and those in `authorities` (PEM texts).
    /// Shows `certificate` to whoever wants one.
    pub(super) fn new(
        authorities: &[Vec<u8>],
        certificate: Option<&ClientCertificate>,
        proxies: Proxies,
    ) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
        for pem in authorities {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let wrong = |reason: String| Error::Protocol { host: "the given CA file".to_owned(), reason };
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions of TLS")
            .with_root_certificates(roots);
        let tls_to_proxy = tls.clone().with_no_client_auth(); // the certificate is for the server alone
        let tls = match certificate {
            None => tls.with_no_client_auth(),
            Some(certificate) => {
                let wrong = |reason: String| Error::Protocol { host: "the client certificate".to_owned(), reason };
                let chain =
                    CertificateDer::pem_slice_iter(&certificate.chain).collect::<std::result::Result<Vec<_>, _>>();
                let chain = chain.map_err(|error| wrong(error.to_string()))?;
                let key = PrivateKeyDer::from_pem_slice(&certificate.key).map_err(|error| wrong(error.to_string()))?;
                tls.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))?
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let to_proxy = HttpsConnectorBuilder::new()
            .with_tls_config(tls_to_proxy)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp.clone());
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(Connector::new(tcp, to_proxy, proxies.clone()));
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .http2_adaptive_window(true)
            .build(connector);
        Ok(Self { client, proxies })
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(&self, mut request: Request<Payload>, streams: bool) -> Result<Response<Incoming>> {
        let host = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let https = request.uri().scheme_str() == Some("https");
        if let Some(authorization) = self.proxies.authorization(request.uri()) {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        let answer = self.client.request(request);
        let answer = if streams {
            answer.await // as long as the body moves; a dead peer shows by TCP keep-alive
        } else {
            let late =
                |_| Error::Unreachable { host: host.clone(), reason: format!("no answer within {ANSWER_TIMEOUT:?}") };
            tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(late)?
        };
        answer.map_err(|error| match trouble(&error) {
            Some(Trouble::Distrust(why)) => Error::Untrusted { host, why },
            Some(Trouble::PlainHttp) if https => Error::PlainHttp { host },
            _ => match unhelpful(&error) {
                Some(Unhelpful { proxy, reason }) => {
                    Error::BehindProxy { host, proxy: proxy.clone(), reason: reason.clone() }
                }
                None => Error::Unreachable { reason: below(&error), host },
            },
        })
    }
}

/// What a proxy had to say, if it was one.
fn unhelpful(error: &hyper_util::client::legacy::Error) -> Option<&Unhelpful> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

/// What went wrong below HTTP, told for a person.
fn below(error: &hyper_util::client::legacy::Error) -> String {
    error.source().map_or_else(|| error.to_string(), reason)
}

/// An error and its causes in one line.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// An error and its causes.
fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

pub(super) fn empty() -> Payload {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Payload {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn streaming(body: Body) -> Payload {
    StreamBody::new(body.map(|part| part.map(Frame::data))).boxed_unsync()
}

/// The body of an answer, as a stream that does not wait for ever.
pub(super) fn body(answer: Response<Incoming>, host: String) -> Body {
    let stream = futures_util::stream::unfold(Some(answer.into_body()), move |body| {
        let host = host.clone();
        async move {
            let mut body = body?;
            let broken = |reason: String| Error::Broken { place: host, reason };
            loop {
                match tokio::time::timeout(IDLE_TIMEOUT, body.frame()).await {
                    Err(_) => return Some((Err(broken(format!("nothing came for {IDLE_TIMEOUT:?}"))), None)),
                    Ok(None) => return None,
                    Ok(Some(Err(error))) => return Some((Err(broken(error.to_string())), None)),
                    Ok(Some(Ok(frame))) => {
                        if let Ok(data) = frame.into_data() {
                            return Some((Ok(data), Some(body)));
                        }
                    }
                }
            }
        }
    });
    Box::pin(stream)
}

/// The body of an error answer, as far as it is worth reading.
pub(super) async fn error_body(answer: Response<Incoming>) -> Vec<u8> {
    let stream = body(answer, String::new());
    match crate::store::collect(stream, ERROR_LIMIT).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) | Err(_) => Vec::new(), // the status says enough
    }
}
