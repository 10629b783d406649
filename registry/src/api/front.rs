//! How the registry looks from outside: by which address clients reach it, who they are behind proxies,
//! and what each request is called in logs. Pure.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Version;
use http::header::{HOST, HeaderName, HeaderValue};
use http::request::Parts;
use oci::wire::ErrorCode;
use serde_json::json;
use tokio::sync::Notify;

use super::failure::Failure;
use crate::promise::Promises;

/// What clients and proxies say that a request is called.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// Longest name of a request that is taken from outside, in bytes.
const ID_LIMIT: usize = 128;

/// How clients reach the registry.
#[derive(Debug, Clone, Default)]
pub struct Front {
    /// The URL by which they call it, where that is not the one of their requests.
    pub url: Option<String>,
    /// Proxies that are believed when they say for whom they ask.
    pub proxies: Vec<Network>,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    /// Whether the connection is TLS.
    pub(crate) secure: bool,
    /// The SHA-256 fingerprint of the client's certificate.
    pub(crate) certificate: Option<Arc<str>>,
    /// What bodies may promise with, where the connection keeps promises.
    pub(crate) promises: Option<Promises>,
    /// Ends the connection, whatever is under way on it.
    pub(crate) hang_up: Arc<Notify>,
}

/// Refuses a request of HTTP/1 that does not say for which host it is, or says several: others on the way may
/// have read another (RFC 9112 §3.2).
pub(super) fn check_host(parts: &Parts) -> Result<(), Failure> {
    let hosts = parts.headers.get_all(HOST).iter().count();
    let fits = match parts.version {
        Version::HTTP_11 => hosts == 1,
        _ => hosts <= 1,
    };
    let message = "a request names the host that it is for, once";
    if fits { Ok(()) } else { Err(Failure::bad(ErrorCode::Unsupported, message).with_detail(json!({"host": hosts}))) }
}

/// A range of addresses: `10.0.0.0/8`, `192.0.2.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write 10.0.0.0/8 or 192.0.2.1")]
pub struct InvalidNetwork(String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let wrong = || InvalidNetwork(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        if bits <= all { Ok(Self { address, bits }) } else { Err(wrong()) }
    }
}

impl Network {
    fn has(&self, address: IpAddr) -> bool {
        let number = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, true),
            IpAddr::V6(address) => (address.to_bits(), false),
        };
        let ((ours, four), (other, other_four)) = (number(self.address), number(address));
        let differs = (ours ^ other).checked_shr(128 - u32::from(self.bits)).unwrap_or(0);
        four == other_four && differs == 0
    }
}

impl Front {
    /// The address of whoever asks: the last one that a believed proxy was asked by.
    pub(super) fn client(&self, parts: &Parts) -> Option<IpAddr> {
        let mut client = peer(parts)?.addr.ip().to_canonical();
        let forwarded = parts.headers.get_all(FORWARDED_FOR).iter().rev().filter_map(|value| value.to_str().ok());
        for hop in forwarded.flat_map(|list| list.rsplit(',')) {
            if !self.is_proxy(client) {
                break;
            }
            let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
            client = address.to_canonical();
        }
        Some(client)
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.has(address))
    }

    /// The URL by which a request reached us, without a path.
    pub(super) fn base(&self, parts: &Parts) -> String {
        if let Some(url) = &self.url {
            return url.trim_end_matches('/').to_owned();
        }
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        // What is no host is not repeated to the client, who would go there.
        let host = host.filter(|host| host.parse::<http::uri::Authority>().is_ok());
        let scheme = if self.is_secure(parts) { "https" } else { "http" };
        format!("{scheme}://{}", host.unwrap_or("localhost"))
    }

    fn is_secure(&self, parts: &Parts) -> bool {
        let Some(peer) = peer(parts) else { return false };
        let said = parts.headers.get(FORWARDED_PROTO).and_then(|value| value.to_str().ok());
        match said.filter(|_| self.is_proxy(peer.addr.ip().to_canonical())) {
            Some(said) => said.eq_ignore_ascii_case("https"),
            None => peer.secure,
        }
    }
}

/// The other end of the connection that a request came by.
pub(super) fn peer(parts: &Parts) -> Option<&Peer> {
    parts.extensions.get()
}

/// What a request is called: as the client says if that is harmless in a log, else a name of ours.
pub(super) fn request_id(parts: &Parts) -> HeaderValue {
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b'/' | b'=');
    let given = parts.headers.get(&REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        !bytes.is_empty() && bytes.len() <= ID_LIMIT && bytes.iter().all(is_good)
    });
    match given {
        Some(given) => given.clone(),
        None => super::header(new_id().simple().encode_lower(&mut uuid::Uuid::encode_buffer())),
    }
}

/// A name that no other request has: a UUID of version 7 (RFC 9562 §5.7) whose random part is drawn once, and
/// counted up from. Asking the kernel for each request would cost as much as looking its answer up.
fn new_id() -> uuid::Uuid {
    static LAST: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(uuid::Uuid::now_v7().as_u128() as u64));
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut rest = [0; 10];
    rest[2..].copy_from_slice(&LAST.fetch_add(1, Relaxed).to_be_bytes());
    uuid::Builder::from_unix_timestamp_millis(since_1970.as_millis() as u64, &rest).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(peer: &str, secure: bool, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri("/v2/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let addr = SocketAddr::new(peer.parse().unwrap(), 1);
        parts.extensions.insert(Peer { addr, secure, certificate: None, promises: None, hang_up: Arc::default() });
        parts
    }

    #[test]
    fn networks_hold_their_addresses() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("fd00::/8", "fd12::1", "fe80::1"),
            ("::1", "::1", "::2"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.has(inside.parse().unwrap()), "{inside}");
            assert!(!network.has(outside.parse().unwrap()), "{outside}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0.0/", "host", "::/129", "10.0.0.0/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_believed_proxies_say_who_asks() {
        let front = Front { url: None, proxies: vec!["10.0.0.0/8".parse().unwrap()] };
        for (peer, forwarded, client) in [
            ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
            ("10.0.0.1", "nonsense", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            let parts = parts(peer, false, &[("x-forwarded-for", forwarded)]);
            assert_eq!(front.client(&parts), Some(client.parse().unwrap()), "{peer} {forwarded}");
        }
    }

    #[test]
    fn the_url_is_the_one_that_the_client_used() {
        let front = Front { url: None, proxies: vec!["10.0.0.1".parse().unwrap()] };
        let of = |peer, secure, headers: &[(&str, &str)]| front.base(&parts(peer, secure, headers));
        assert_eq!(of("127.0.0.1", false, &[("host", "vm2:5000")]), "http://vm2:5000");
        assert_eq!(of("127.0.0.1", true, &[("host", "vm2")]), "https://vm2");
        assert_eq!(of("10.0.0.1", false, &[("host", "r"), ("x-forwarded-proto", "https")]), "https://r");
        assert_eq!(of("10.0.0.2", false, &[("host", "r"), ("x-forwarded-proto", "https")]), "http://r");
        assert_eq!(of("127.0.0.1", false, &[("host", "a\"b")]), "http://localhost");
        let fixed = Front { url: Some("https://registry.example/".to_owned()), ..Front::default() };
        assert_eq!(fixed.base(&parts("127.0.0.1", false, &[("host", "x")])), "https://registry.example");
    }

    #[test]
    fn request_ids_from_outside_are_taken_if_they_are_harmless() {
        let id = |given: &str| request_id(&parts("127.0.0.1", false, &[("x-request-id", given)]));
        assert_eq!(id("abc-123"), "abc-123");
        for bad in ["", "a b", "a\"b", &"a".repeat(129)] {
            assert_eq!(id(bad).len(), 32, "{bad}");
        }
    }

    #[test]
    fn ids_of_ours_are_all_different_and_in_order_of_time() {
        let ids: Vec<_> = std::iter::repeat_with(new_id).take(10_000).collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
        let unique: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len());
        assert!(ids.iter().map(|id| id.as_u128() >> 80).is_sorted());
    }
}
