//! The client itself: connections to the API server, through a proxy where there is one. Which one that is, if any,
//! is the caller's business ([`Proxies`]): no environment is read here.
//!
//! kube's own client is for direct connections, and would be there once more for each kind of proxy.

use futures_util::TryFutureExt;
use http::{HeaderValue, Request, Uri};
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
    /// `http://HOST:PORT`, `socks5://…` or `socks5h://…`, without a password.
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
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(Dial { tcp, proxy })?);
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

/// Makes TCP connections, directly or through the proxy.
#[derive(Clone)]
struct Dial {
    tcp: HttpConnector,
    proxy: Option<Proxy>,
}

/// A proxy that did not bring us to the server.
#[derive(Debug, thiserror::Error)]
#[error("through the proxy {proxy}: {reason}")]
struct Unhelpful {
    proxy: String,
    reason: String,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        match self.proxy.clone() {
            None => Box::pin(self.tcp.call(server).map_err(Into::into)),
            Some(proxy) => {
                let name = proxy.url.to_string().trim_end_matches('/').to_owned();
                let through = through(self.tcp.clone(), proxy, server);
                Box::pin(through.map_err(|error| Unhelpful { proxy: name, reason: reason(&*error) }.into()))
            }
        }
    }
}

async fn through(tcp: HttpConnector, proxy: Proxy, server: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
    let server = with_port(server)?;
    match proxy.url.scheme_str() {
        Some("socks5" | "socks5h") => {
            let mut socks = SocksV5::new(proxy.url, tcp);
            if let Some((user, password)) = proxy.login {
                socks = socks.with_auth(user, password);
            }
            Ok(socks.call(server).await?)
        }
        Some("http") => {
            let mut tunnel = Tunnel::new(proxy.url, tcp);
            if let Some(authorization) = proxy.authorization {
                tunnel = tunnel.with_auth(authorization);
            }
            Ok(tunnel.call(server).await?)
        }
        _ => Err("proxies of API servers are spoken to by http, socks5 or socks5h".into()),
    }
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
