//! Requests to web servers that are no registries: documents to read, notifications to send. The same
//! connections, TLS and time limits as for registries; no redirects, no logins of its own.

use bytes::Bytes;
use http::{Method, Request};

use super::proxy::Proxies;
use super::transport::{Payload, Transport, body, empty, error_body, full};
use crate::{Error, Result};

/// A client of web servers.
#[derive(Debug, Clone)]
pub struct Web {
    transport: Transport,
}

impl Web {
    /// Trusts the machine's authorities and those in `authorities` (PEM texts).
    pub fn new(authorities: &[Vec<u8>], proxies: Proxies) -> Result<Self> {
        Ok(Self { transport: Transport::new(authorities, None, proxies)? })
    }

    /// Reads a document of at most `limit` bytes.
    pub async fn get(&self, url: &str, headers: &[(&str, &str)], limit: usize) -> Result<Bytes> {
        let answer = self.transport.send(request(Method::GET, url, headers, empty())?, false).await?;
        let status = answer.status();
        if !status.is_success() {
            return Err(protocol(url, format!("it answered {status}")));
        }
        let text = crate::store::collect(body(answer, url.to_owned()), limit).await?;
        text.map(Bytes::from).ok_or_else(|| protocol(url, format!("it sent more than {limit} bytes")))
    }

    /// Sends a message, and says with which status it was answered.
    pub async fn post(&self, url: &str, headers: &[(&str, &str)], message: Bytes) -> Result<u16> {
        let answer = self.transport.send(request(Method::POST, url, headers, full(message))?, false).await?;
        let status = answer.status().as_u16();
        let _ = error_body(answer).await; // read to its end, so that the connection can be used again
        Ok(status)
    }
}

fn request(method: Method, url: &str, headers: &[(&str, &str)], payload: Payload) -> Result<Request<Payload>> {
    let agent = concat!("lighter/", env!("CARGO_PKG_VERSION"));
    let mut request = Request::builder().method(method).uri(url).header(http::header::USER_AGENT, agent);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(payload).map_err(|error| protocol(url, error.to_string()))
}

fn protocol(url: &str, reason: String) -> Error {
    Error::Protocol { host: url.to_owned(), reason }
}
