//! The client itself: connections to the API server, through a proxy where there is one. Which one that is, if any,
//! is the caller's business ([`Proxies`]): no environment is read here.
//!
//! kube's own client is for direct connections, and would be there once more for each kind of proxy.

use futures_util::TryFutureExt;
use http::{HeaderValue, Request, Uri};
use hyper::rt::{Read, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tower::{BoxError, Service, ServiceBuilder};

/// A proxy, and what it is told of who comes.
#[derive(Clone)]
pub struct Proxy {
    /// `http://HOST:PORT`, `https://…`, `socks5://…` or `socks5h://…`, without a password.
    pub url: Uri,
    /// What `Proxy-Authorization` says to a proxy of HTTP.
    pub authorization: Option<HeaderValue>,
    /// User and password for SOCKS.
    pub login: Option<(String, String)>,
}

/// Decides about the proxy for a server's URL, given the `proxy-url` of the kubeconfig; the sentence if that one
/// is none.
pub type Proxies = Arc<dyn Fn(&Uri, Option<&str>) -> Result<Option<Proxy>, String> + Send + Sync>;

/// Makes a client; nothing is sent yet.
pub(crate) fn client(config: &Config, proxy: Option<Proxy>) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let is_tls = proxy.as_ref().is_some_and(|proxy| proxy.url.scheme_str() == Some("https"));
    let to_proxy = if is_tls { Some(to_proxy(config, tcp.clone())?) } else { None };
    let dial = Dial { tcp, proxy, to_proxy };
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(dial)?);
    connector.set_connect_timeout(config.connect_timeout);
    let client: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_request(|request: Request<Body>| {
            tracing::debug!(method = %request.method(), url = %request.uri(), "request");
            request
        })
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// Connections to a proxy that speaks TLS itself. It is vouched for by the authorities of this machine, or as with
/// kubectl by that of the cluster; the certificate that is ours is for the cluster alone.
fn to_proxy(config: &Config, tcp: HttpConnector) -> kube::Result<HttpsConnector<HttpConnector>> {
    let machine = rustls_native_certs::load_native_certs();
    for error in &machine.errors {
        tracing::debug!(%error, "an authority of this machine cannot be read");
    }
    let known = machine.certs.iter().map(|certificate| certificate.to_vec());
    let mut plain = Config::new(config.cluster_url.clone());
    plain.root_cert = Some(known.chain(config.root_cert.iter().flatten().cloned()).collect());
    plain.rustls_https_connector_with_connector(tcp)
}

/// Makes connections that are like TCP, directly or through the proxy.
#[derive(Clone)]
struct Dial {
    tcp: HttpConnector,
    proxy: Option<Proxy>,
    /// Where the proxy speaks TLS.
    to_proxy: Option<HttpsConnector<HttpConnector>>,
}

type Connected = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A proxy that did not bring us to the server.
#[derive(Debug, thiserror::Error)]
#[error("through the proxy {proxy}: {reason}")]
struct Unhelpful {
    proxy: String,
    reason: String,
}

impl Service<Uri> for Dial {
    type Response = Connected;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        match self.proxy.clone() {
            None => Box::pin(self.tcp.call(server).map_ok(MaybeHttpsStream::Http).map_err(Into::into)),
            Some(proxy) => {
                let name = proxy.url.to_string().trim_end_matches('/').to_owned();
                let through = self.clone().through(proxy, server);
                Box::pin(through.map_err(|error| Unhelpful { proxy: name, reason: reason(&*error) }.into()))
            }
        }
    }
}

impl Dial {
    async fn through(self, proxy: Proxy, server: Uri) -> Result<Connected, BoxError> {
        let server = with_port(server)?;
        match (proxy.url.scheme_str(), self.to_proxy) {
            (Some("socks5" | "socks5h"), _) => {
                let mut socks = SocksV5::new(proxy.url, self.tcp);
                if let Some((user, password)) = proxy.login {
                    socks = socks.with_auth(user, password);
                }
                Ok(MaybeHttpsStream::Http(socks.call(server).await?))
            }
            (Some("https"), Some(to_proxy)) => tunnel(to_proxy, proxy.url, proxy.authorization, server).await,
            (Some("http"), _) => {
                let stream = tunnel(self.tcp, proxy.url, proxy.authorization, server).await?;
                Ok(MaybeHttpsStream::Http(stream))
            }
            _ => Err("proxies of API servers are spoken to by http, https, socks5 or socks5h".into()),
        }
    }
}

/// Asks a proxy for a connection to a server.
async fn tunnel<C>(to_proxy: C, url: Uri, login: Option<HeaderValue>, server: Uri) -> Result<C::Response, BoxError>
where
    C: Service<Uri>,
    C::Response: Read + Write + Unpin + Send + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let mut tunnel = Tunnel::new(url, to_proxy);
    if let Some(login) = login {
        tunnel = tunnel.with_auth(login);
    }
    Ok(tunnel.call(server).await?)
}

/// Proxies know no schemes, and so no ports that go without saying.
fn with_port(server: Uri) -> Result<Uri, BoxError> {
    if server.port().is_some() {
        return Ok(server);
    }
    let port = if server.scheme_str() == Some("http") { 80 } else { 443 };
    let host = server.host().unwrap_or_default().to_owned();
    let mut parts = server.into_parts();
    parts.authority = Some(format!("{host}:{port}").parse()?);
    Ok(Uri::from_parts(parts)?)
}

/// The last cause says most; hyper-util keeps the types of its errors to itself.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    match text.strip_prefix("tunnel error: ").unwrap_or(&text) {
        text if text.contains("UnknownIssuer") => {
            format!("neither this machine nor the kubeconfig knows who signed its certificate ({text})")
        }
        "proxy authorization required" => "it wants a user and password, or others".to_owned(),
        "unsuccessful" => "it refuses this connection: the user, the host or the port".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_server_is_said_to_proxies() {
        for (server, said) in [
            ("https://k.test/", "https://k.test:443/"),
            ("http://k.test/", "http://k.test:80/"),
            ("https://[::1]/", "https://[::1]:443/"),
            ("https://k.test:6443/", "https://k.test:6443/"),
        ] {
            assert_eq!(with_port(server.parse().unwrap()).unwrap().to_string(), said);
        }
    }
}
