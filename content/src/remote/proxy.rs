//! Connections through the proxies that the environment names.
//!
//! [`Proxies`] decides as curl and Go's programs do, docker and kubectl among them: `HTTPS_PROXY`, `HTTP_PROXY` and
//! `ALL_PROXY`, `NO_PROXY` with names, networks and ports, each in either case; and this machine itself is never asked
//! for through a proxy. `Connector` makes the connections: a tunnel (`CONNECT`, RFC 9110, 9.3.6) to HTTPS servers and
//! for SOCKS, and for plain HTTP the proxy in the server's place, which is then sent whole URLs (RFC 9112, 3.2.2).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

/// How long a proxy may take until it has connected to the server.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(30);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Which servers are spoken to through which proxy. By default none.
#[derive(Clone, Default)]
pub struct Proxies {
    rules: Option<Arc<Rules>>,
}

struct Rules {
    matcher: Matcher,
    /// What `NO_PROXY` says with a port, which the matcher does not know: a domain and its port.
    direct: Vec<(String, u16)>,
}

/// A variable that names no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {variable} is no URL of a proxy: {reason}")]
pub struct InvalidProxy {
    /// As it stands in the environment.
    pub variable: String,
    /// Never has the value, in which a password may stand.
    pub reason: &'static str,
}

impl Proxies {
    /// What these variables say. Of two spellings, the lower case one counts, as for curl.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidProxy> {
        // A CGI program's HTTP_PROXY may be a header of the request ("httpoxy").
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let first = |upper: &str| {
            let names = [upper.to_lowercase(), upper.to_owned()];
            let named = names.into_iter().filter(|name| !(is_cgi && name == "HTTP_PROXY"));
            named
                .filter_map(|name| Some((variable(&name)?.trim().to_owned(), name)))
                .find(|(value, _)| !value.is_empty())
        };
        let checked = |upper: &str| match first(upper) {
            None => Ok(String::new()),
            Some((value, variable)) => {
                check(&value).map(|()| value).map_err(|reason| InvalidProxy { variable, reason })
            }
        };
        let (all, http, https) = (checked("ALL_PROXY")?, checked("HTTP_PROXY")?, checked("HTTPS_PROXY")?);
        if all.is_empty() && http.is_empty() && https.is_empty() {
            return Ok(Self::default());
        }
        let no = first("NO_PROXY").map(|(value, _)| value).unwrap_or_default();
        let direct = no.split(',').filter_map(|entry| with_port(entry.trim())).collect();
        let matcher = Matcher::builder().all(all).http(http).https(https).no(no).build();
        Ok(Self { rules: Some(Arc::new(Rules { matcher, direct })) })
    }

    /// The proxy for a server; none if it is spoken to directly.
    fn of(&self, server: &Uri) -> Option<Intercept> {
        let rules = self.rules.as_ref()?;
        let host = server.host()?;
        let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("http") { 80 } else { 443 });
        let is_direct = |(domain, direct_port): &(String, u16)| *direct_port == port && is_within(host, domain);
        if is_loopback(host) || rules.direct.iter().any(is_direct) {
            return None;
        }
        rules.matcher.intercept(server)
    }

    /// The proxy for a server that is none of ours to speak to; none if it is spoken to directly.
    pub fn through(&self, server: &Uri) -> Option<Through> {
        self.of(server).as_ref().map(Through::of)
    }

    /// What a request says of itself to a proxy that stands in the server's place.
    pub(super) fn authorization(&self, server: &Uri) -> Option<HeaderValue> {
        let proxy = self.of(server).filter(|_| server.scheme_str() == Some("http"))?;
        proxy.basic_auth().cloned()
    }
}

/// A proxy, and what it is told of who comes. Never printed.
#[derive(Clone)]
pub struct Through {
    /// Its URL, without a password.
    pub url: Uri,
    /// What `Proxy-Authorization` says to a proxy of HTTP.
    pub authorization: Option<HeaderValue>,
    /// User and password for SOCKS.
    pub login: Option<(String, String)>,
}

impl Through {
    /// Reads the URL of a proxy that is gone through whatever the server.
    ///
    /// # Errors
    ///
    /// Fails with what is wrong with it; the URL itself, which may hold a password, is not repeated.
    pub fn named(url: &str) -> Result<Self, &'static str> {
        check(url)?;
        let any = Uri::from_static("https://server.invalid/");
        let proxy = Matcher::builder().all(url.to_owned()).build().intercept(&any);
        proxy.as_ref().map(Self::of).ok_or("it does not read as http://HOST:PORT")
    }

    fn of(proxy: &Intercept) -> Self {
        let login = proxy.raw_auth().map(|(user, password)| (user.to_owned(), password.to_owned()));
        Self { url: proxy.uri().clone(), authorization: proxy.basic_auth().cloned(), login }
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matcher = self.rules.as_ref().map(|rules| &rules.matcher); // shows no passwords
        f.debug_struct("Proxies").field("matcher", &matcher).finish_non_exhaustive()
    }
}

fn check(value: &str) -> Result<(), &'static str> {
    let url: Uri = value.parse().map_err(|_| "it does not read as http://HOST:PORT")?;
    let authority = url.authority().ok_or("it has no host")?.as_str();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    let port = url.host().and_then(|host| address.strip_prefix(host)).and_then(|rest| rest.strip_prefix(':'));
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("its port is no number");
    }
    match url.scheme_str() {
        None | Some("http" | "https" | "socks5" | "socks5h") => Ok(()),
        Some(_) => Err("proxies are spoken to by http, https, socks5 or socks5h"),
    }
}

/// `DOMAIN:PORT`, if it is one and not an IPv6 address.
fn with_port(entry: &str) -> Option<(String, u16)> {
    let (domain, port) = entry.rsplit_once(':')?;
    let is_domain = !domain.is_empty() && (!domain.contains(':') || domain.starts_with('['));
    let domain = domain.trim_start_matches("*.").trim_start_matches('.');
    Some((domain.to_ascii_lowercase(), port.parse().ok()?)).filter(|_| is_domain)
}

fn is_within(host: &str, domain: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// A proxy that did not bring us to the server.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Unhelpful {
    /// Its URL, without a password.
    pub(super) proxy: String,
    pub(super) reason: String,
}

impl Unhelpful {
    fn new(proxy: &Uri, error: &(dyn std::error::Error + 'static)) -> Self {
        // The library keeps the type of its error to itself.
        let reason = super::transport::reason(error);
        let reason = match reason.strip_prefix("tunnel error: ").unwrap_or(&reason) {
            "proxy authorization required" => "it wants a user and password, or others",
            "unsuccessful" => "it refuses this connection: the user, the host or the port",
            reason => reason.strip_prefix("failed to create underlying connection: ").unwrap_or(reason),
        };
        let reason = reason.to_owned();
        Self { proxy: proxy.to_string().trim_end_matches('/').to_owned(), reason }
    }
}

/// Makes TCP connections, directly or through a proxy.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    /// To proxies, some of which speak TLS themselves.
    to_proxy: HttpsConnector<HttpConnector>,
    proxies: Proxies,
}

impl Connector {
    pub(super) fn new(tcp: HttpConnector, to_proxy: HttpsConnector<HttpConnector>, proxies: Proxies) -> Self {
        Self { tcp, to_proxy, proxies }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Cause;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Cause>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.of(&server) else {
            let connecting = self.tcp.call(server);
            return Box::pin(async move { Ok(Stream::Direct(connecting.await?)) });
        };
        let (tcp, to_proxy, url) = (self.tcp.clone(), self.to_proxy.clone(), proxy.uri().clone());
        let connecting = async move { connect(tcp, to_proxy, &proxy, server).await };
        Box::pin(async move {
            let connected = tokio::time::timeout(TUNNEL_TIMEOUT, connecting).await;
            let connected = connected.unwrap_or_else(|_| Err(format!("no tunnel within {TUNNEL_TIMEOUT:?}").into()));
            connected.map_err(|error| Unhelpful::new(&url, error.as_ref()).into())
        })
    }
}

async fn connect(
    tcp: HttpConnector,
    mut to_proxy: HttpsConnector<HttpConnector>,
    proxy: &Intercept,
    server: Uri,
) -> Result<Stream, Cause> {
    let url = proxy.uri().clone();
    if url.scheme_str().is_some_and(|scheme| scheme.starts_with("socks5")) {
        let mut socks = SocksV5::new(url, tcp);
        if let Some((user, password)) = proxy.raw_auth() {
            socks = socks.with_auth(user.to_owned(), password.to_owned());
        }
        return Ok(Stream::Direct(socks.call(with_explicit_port(server)?).await?));
    }
    if server.scheme_str() == Some("http") {
        return Ok(Stream::InPlace(to_proxy.call(url).await?));
    }
    let mut tunnel = Tunnel::new(url, to_proxy);
    if let Some(authorization) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    Ok(Stream::Tunnel(tunnel.call(server).await?))
}

/// SOCKS knows no schemes, and so no ports that go without saying.
fn with_explicit_port(server: Uri) -> Result<Uri, Cause> {
    if server.port().is_some() {
        return Ok(server);
    }
    let port = if server.scheme_str() == Some("http") { 80 } else { 443 };
    let mut parts = server.into_parts();
    let host = parts.authority.as_ref().map(|authority| authority.host().to_owned()).unwrap_or_default();
    parts.authority = Some(format!("{host}:{port}").parse()?);
    Ok(Uri::from_parts(parts)?)
}

/// A connection.
pub(super) enum Stream {
    /// To the server, or through a proxy that is not noticed.
    Direct(TokioIo<TcpStream>),
    /// Through a proxy's tunnel.
    Tunnel(MaybeHttpsStream<TokioIo<TcpStream>>),
    /// To a proxy, which wants to be told whole URLs.
    InPlace(MaybeHttpsStream<TokioIo<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Direct(stream) => stream.connected(),
            Self::Tunnel(_) => Connected::new(),
            Self::InPlace(_) => Connected::new().proxy(true),
        }
    }
}

/// Calls a method of whichever connection it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Direct($inner) => $call,
            Stream::Tunnel($inner) | Stream::InPlace($inner) => $call,
        }
    };
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_read(context, buffer))
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        either!(self, inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_shutdown(context))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Direct(inner) => inner.is_write_vectored(),
            Self::Tunnel(inner) | Self::InPlace(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        either!(self, inner => Pin::new(inner).poll_write_vectored(context, parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(variables: &[(&str, &str)], server: &str) -> Option<String> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let proxies = Proxies::from_variables(find).unwrap();
        proxies.of(&server.parse().unwrap()).map(|proxy| proxy.uri().to_string())
    }

    #[test]
    fn the_environment_decides_as_for_curl_and_go() {
        const P: &str = "http://p:3128";
        let p = Some("http://p:3128/");
        for (variables, server, proxy) in [
            (vec![], "https://r.example/v2/", None),
            (vec![("HTTPS_PROXY", P)], "https://r.example/v2/", p),
            (vec![("HTTPS_PROXY", P)], "http://r.example/v2/", None),
            (vec![("HTTP_PROXY", P)], "http://r.example:5000/v2/", p),
            (vec![("HTTP_PROXY", P)], "https://r.example/v2/", None),
            (vec![("ALL_PROXY", P)], "https://r.example/v2/", p),
            (vec![("https_proxy", "p:3128")], "https://r.example/", p),
            (vec![("https_proxy", "q:1"), ("HTTPS_PROXY", P)], "https://r.example/", Some("http://q:1/")),
            (vec![("https_proxy", ""), ("HTTPS_PROXY", P)], "https://r.example/", p),
            (vec![("HTTPS_PROXY", "https://me:secret@p:3128/path")], "https://r/", Some("https://p:3128/")),
            (vec![("HTTPS_PROXY", "socks5h://p:1080")], "https://r.example/", Some("socks5h://p:1080/")),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", "other, r.example")], "https://r.example/", None),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", ".example")], "https://r.example/", None),
            (vec![("HTTPS_PROXY", P), ("no_proxy", "xample")], "https://r.example/", p),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", "10.0.0.0/8")], "https://10.1.2.3:5000/", None),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", "10.0.0.0/8")], "https://11.1.2.3:5000/", p),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", "r.example:5000")], "https://r.example:5000/", None),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", "R.example:5000")], "https://a.r.example:5000/", None),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", "r.example:5000")], "https://r.example/", p),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", "r.example:443")], "https://r.example/", None),
            (vec![("HTTPS_PROXY", P), ("NO_PROXY", "*")], "https://r.example/", None),
            (vec![("ALL_PROXY", P)], "http://localhost:5000/v2/", None),
            (vec![("ALL_PROXY", P)], "http://127.0.0.9:5000/v2/", None),
            (vec![("ALL_PROXY", P)], "http://[::1]:5000/v2/", None),
            (vec![("HTTP_PROXY", P), ("REQUEST_METHOD", "GET")], "http://r.example/", None),
            (vec![("http_proxy", P), ("REQUEST_METHOD", "GET")], "http://r.example/", p),
        ] {
            assert_eq!(through(&variables, server).as_deref(), proxy, "{variables:?} {server}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_showing_it() {
        for value in ["ftp://me:secret@p", "http://", "me:secret", "socks4://secret", "http://se cret"] {
            let find = |name: &str| (name == "HTTPS_PROXY").then(|| value.to_owned());
            let error = Proxies::from_variables(find).unwrap_err();
            assert_eq!(error.variable, "HTTPS_PROXY", "{value}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_password_is_for_the_proxy_and_not_for_debugging() {
        let find = |name: &str| (name == "http_proxy").then(|| "http://me:s%40cret@p:1".to_owned());
        let proxies = Proxies::from_variables(find).unwrap();
        let value = proxies.authorization(&"http://r.example/".parse().unwrap()).unwrap();
        assert_eq!(value, "Basic bWU6c0BjcmV0");
        assert_eq!(proxies.authorization(&"https://r.example/".parse().unwrap()), None);
        assert!(!format!("{proxies:?} {value:?}").contains("cret"));
    }
}
