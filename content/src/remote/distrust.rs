//! Why a secure connection does not come about, found in the errors of the libraries below.

use std::error::Error as StdError;
use std::fmt;

use rustls::{CertificateError, InvalidMessage};

/// Why a certificate is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// Nobody whom this machine knows has signed it.
    UnknownAuthority,
    /// Its time is over, by this machine's clock.
    Expired,
    /// Its time has not come, by this machine's clock.
    NotYetValid,
    /// It is for other names.
    OtherName(Vec<String>),
    /// Anything else, in the words of the TLS library.
    Other(String),
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAuthority => f.write_str("it is signed by an authority that this machine does not know"),
            Self::Expired => f.write_str("it has expired, by this machine's clock"),
            Self::NotYetValid => f.write_str("it is not valid yet, by this machine's clock"),
            Self::OtherName(names) if names.is_empty() => f.write_str("it is for another name"),
            Self::OtherName(names) => write!(f, "it is for {}", names.join(", ")),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// What went wrong with TLS, if that is what went wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Distrust(Distrust),
    /// The other side does not speak TLS at all.
    PlainHttp,
}

/// Looks for an error of the TLS library among the causes of an error.
pub(super) fn trouble(error: &(dyn StdError + 'static)) -> Option<Trouble> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(error) = tls_error(cause) {
            return meaning(error);
        }
        next = cause.source();
    }
    None
}

/// I/O errors carry the library's own, or one another, without naming it as their source.
fn tls_error<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = cause;
    while let Some(inner) = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        cause = inner;
    }
    cause.downcast_ref()
}

fn meaning(error: &rustls::Error) -> Option<Trouble> {
    let distrust = match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => return Some(Trouble::PlainHttp),
        rustls::Error::InvalidCertificate(why) => why,
        _ => return None,
    };
    Some(Trouble::Distrust(match distrust {
        CertificateError::UnknownIssuer => Distrust::UnknownAuthority,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Distrust::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Distrust::NotYetValid,
        CertificateError::NotValidForName => Distrust::OtherName(Vec::new()),
        CertificateError::NotValidForNameContext { presented, .. } => {
            Distrust::OtherName(presented.iter().map(|name| readable(name)).collect())
        }
        other => Distrust::Other(other.to_string()),
    }))
}

/// `DnsName("vm2")` and `IpAddress(10.0.0.2)` are how the library names them.
fn readable(name: &str) -> String {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(name).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_s_errors_are_found_wherever_they_hide() {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let found = Some(Trouble::Distrust(Distrust::UnknownAuthority));
        assert_eq!(trouble(&unknown()), found);
        assert_eq!(trouble(&std::io::Error::other(unknown())), found);
        assert_eq!(trouble(&std::io::Error::other(std::io::Error::other(unknown()))), found);
        assert_eq!(trouble(&std::io::Error::other("broken")), None);
        let plain = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(trouble(&std::io::Error::other(plain)), Some(Trouble::PlainHttp));
    }

    #[test]
    fn names_are_told_as_people_write_them() {
        for (name, told) in [("DnsName(\"vm2\")", "vm2"), ("IpAddress(10.0.0.2)", "10.0.0.2"), ("odd", "odd")] {
            assert_eq!(readable(name), told);
        }
    }
}
