//! Files behind URLs: what ADD and contexts from elsewhere fetch. No registry and no login of one.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    LOCATION, USER_AGENT,
};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use super::client::Client;
use super::transport::{body, empty};
use crate::store::Body;
use crate::{Error, Result};

/// How many redirects are followed, as Go's client does.
const REDIRECTS: usize = 10;
/// How often a server that fails for the moment is asked again.
const RETRIES: u32 = 3;
/// The pause before that; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// What a server said to know a version of a file by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// `ETag`, as the server wrote it.
    pub etag: Option<String>,
    /// `Last-Modified`, likewise.
    pub last_modified: Option<String>,
}

impl Version {
    /// Whether the server can be asked if it is still this one.
    pub fn is_known(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }
}

/// A file on its way.
pub struct Download {
    /// Which version of it.
    pub version: Version,
    /// `Content-Type`, as the server wrote it.
    pub content_type: Option<String>,
    /// The content.
    pub body: Body,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("content_type", &self.content_type).finish_non_exhaustive()
    }
}

impl Client {
    /// Fetches a file behind an http(s) URL; redirects are followed. User and password may stand in the URL.
    pub async fn download(&self, url: &str) -> Result<Download> {
        let unasked = || Error::Protocol { host: shown(url), reason: "it says unchanged unasked".to_owned() };
        self.download_unless(url, &Version::default()).await?.ok_or_else(unasked)
    }

    /// The same, unless it is still the version that is known.
    pub async fn download_unless(&self, url: &str, known: &Version) -> Result<Option<Download>> {
        let mut pause = PAUSE;
        for left in (0..RETRIES).rev() {
            match self.follow(url, known).await {
                Err(error) if left > 0 && error.is_transient() && !is_final(&error) => {
                    tracing::debug!(%error, "asking for a file again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                outcome => return outcome,
            }
        }
        unreachable!("the last round of the loop returns")
    }

    async fn follow(&self, url: &str, known: &Version) -> Result<Option<Download>> {
        let mut at = Address::parse(url)?;
        for _ in 0..REDIRECTS {
            let answer = self.transport().send(at.request(known)?, false).await?;
            let status = answer.status();
            if status == StatusCode::NOT_MODIFIED && known.is_known() {
                return Ok(None);
            }
            if status.is_redirection() {
                let location = text(&answer, LOCATION).ok_or_else(|| at.broken("it redirects to nowhere"))?;
                at = at.next(&location)?;
                continue;
            }
            if !status.is_success() {
                let (host, request) = (at.host(), format!("GET {}", at.path()));
                return Err(Error::Refused { host, request, status: status.as_u16(), problems: Vec::new() });
            }
            return Ok(Some(Download {
                version: Version { etag: text(&answer, ETAG), last_modified: text(&answer, LAST_MODIFIED) },
                content_type: text(&answer, CONTENT_TYPE),
                body: body(answer, at.host()),
            }));
        }
        Err(at.broken(&format!("it redirects more than {REDIRECTS} times")))
    }
}

/// Nobody listens there: asking again at once is of no use.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Unreachable { reason, .. } if ["refused", "dns error", "certificate"].iter().any(|text| reason.contains(text)))
}

/// The host alone: a URL may carry a login.
fn shown(url: &str) -> String {
    Address::parse(url).map_or_else(|_| "the URL".to_owned(), |at| at.host())
}

fn text(answer: &Response<Incoming>, name: HeaderName) -> Option<String> {
    answer.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// A URL without its fragment and its login.
struct Address {
    uri: Uri,
    login: Option<String>,
}

impl Address {
    fn parse(url: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Protocol { host: "the URL".to_owned(), reason };
        let url = url.split('#').next().unwrap_or_default();
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme".to_owned()))?;
        if !matches!(scheme, "http" | "https") {
            return Err(wrong(format!("{scheme} is not spoken here")));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (login, host) = match rest[..end].rsplit_once('@') {
            Some((login, host)) => (Some(login.to_owned()), host),
            None => (None, &rest[..end]),
        };
        let slash = if rest[end..].starts_with('/') { "" } else { "/" };
        // Spaces are no part of a URL, and written in them anyway.
        let url = format!("{scheme}://{host}{slash}{}", &rest[end..]).replace(' ', "%20");
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
        Ok(Self { uri, login })
    }

    fn host(&self) -> String {
        self.uri.authority().map_or_else(String::new, ToString::to_string)
    }

    fn path(&self) -> &str {
        self.uri.path()
    }

    fn broken(&self, reason: &str) -> Error {
        Error::Protocol { host: self.host(), reason: reason.to_owned() }
    }

    fn request(&self, known: &Version) -> Result<Request<super::transport::Payload>> {
        let mut request = Request::builder()
            .uri(self.uri.clone())
            .header(USER_AGENT, concat!("lighter/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "identity");
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(login)));
        }
        for (name, value) in [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.last_modified)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(empty()).map_err(|error| self.broken(&error.to_string()))
    }

    /// Where a redirect leads; the login stays with its host.
    fn next(&self, location: &str) -> Result<Self> {
        let scheme = self.uri.scheme_str().unwrap_or("https");
        let mut next = match location {
            location if location.contains("://") => Self::parse(location)?,
            location if location.starts_with("//") => Self::parse(&format!("{scheme}:{location}"))?,
            location if location.starts_with('/') => Self::parse(&format!("{scheme}://{}{location}", self.host()))?,
            location => {
                let directory = self.path().rsplit_once('/').map_or("", |(directory, _)| directory);
                Self::parse(&format!("{scheme}://{}{directory}/{location}", self.host()))?
            }
        };
        if next.host() == self.host() && next.uri.scheme_str() == self.uri.scheme_str() && next.login.is_none() {
            next.login.clone_from(&self.login);
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_logins_stay_with_their_host() {
        let at = Address::parse("http://me:pw@h:81?x=a b#f").unwrap();
        assert_eq!((at.uri.to_string().as_str(), at.login.as_deref()), ("http://h:81/?x=a%20b", Some("me:pw")));
        let at = Address::parse("https://me:pw@h/a/b").unwrap();
        for (location, uri, login) in [
            ("c", "https://h/a/c", true),
            ("/c", "https://h/c", true),
            ("//i/c", "https://i/c", false),
            ("https://i/c", "https://i/c", false),
            ("http://h/c", "http://h/c", false),
        ] {
            let next = at.next(location).unwrap();
            assert_eq!((next.uri.to_string().as_str(), next.login.is_some()), (uri, login), "{location}");
        }
        assert!(at.next("ftp://h/c").is_err());
        assert!(Address::parse("x").is_err());
    }
}
