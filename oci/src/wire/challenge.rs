//! `WWW-Authenticate`: what a registry wants before it answers (RFC 9110 §11.6.1, and the token
//! protocol of the distribution project).

use std::fmt;

/// Longest header that is looked at, in bytes.
const HEADER_LIMIT: usize = 8 << 10;

/// One way to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request.
    Basic {
        /// What the password is for, as the server calls it.
        realm: String,
    },
    /// A token, fetched from `realm`.
    Bearer {
        /// The URL of the token endpoint.
        realm: String,
        /// Which service the token is for.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads a header; unknown schemes are passed over, malformed rests are dropped.
    pub fn parse(header: &str) -> Vec<Self> {
        if header.len() > HEADER_LIMIT {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut rest = header.trim_start();
        while !rest.is_empty() {
            let (scheme, after) = token(rest);
            if scheme.is_empty() {
                break;
            }
            let (parameters, after) = parameters(after);
            rest = after;
            found.extend(Self::from_parts(scheme, &parameters));
        }
        found
    }

    fn from_parts(scheme: &str, parameters: &[(String, String)]) -> Option<Self> {
        let value = |key: &str| parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Some(Self::Basic { realm: value("realm").unwrap_or_default() }),
            "bearer" => Some(Self::Bearer { realm: value("realm")?, service: value("service"), scope: value("scope") }),
            _ => None,
        }
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { realm } => write!(f, "Basic realm=\"{}\"", escape(realm)),
            Self::Bearer { realm, service, scope } => {
                write!(f, "Bearer realm=\"{}\"", escape(realm))?;
                for (key, value) in [("service", service), ("scope", scope)] {
                    if let Some(value) = value {
                        write!(f, ",{key}=\"{}\"", escape(value))?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn escape(text: &str) -> String {
    text.chars()
        .filter(|char| !char.is_control())
        .flat_map(|char| matches!(char, '"' | '\\').then_some('\\').into_iter().chain([char]))
        .collect()
}

/// A token (RFC 9110 §5.6.2) at the start, and what follows it.
fn token(text: &str) -> (&str, &str) {
    let end = text
        .find(|char: char| !char.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(char))
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// `key=value` pairs up to the next scheme: a token that no `=` follows.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ', '\t']);
        let (key, after) = token(text);
        let Some(after) = after.strip_prefix('=') else { return (found, text) };
        if key.is_empty() {
            return (found, "");
        }
        let (value, after) = value(after.trim_start());
        found.push((key.to_ascii_lowercase(), value));
        text = after;
    }
}

fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            char => value.push(char),
        }
    }
    (value, "")
}

/// What a token allows: `repository:shop/api:pull,push`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The repository.
    pub name: crate::RepoName,
    /// Whether pushing is meant too; pulling always is.
    pub push: bool,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository:{}:{}", self.name, if self.push { "pull,push" } else { "pull" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn reads_what_registries_send() {
        let basic = |realm: &str| Challenge::Basic { realm: realm.to_owned() };
        for (header, expected) in [
            ("Basic realm=\"Registry Realm\"", vec![basic("Registry Realm")]),
            ("basic", vec![basic("")]),
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"",
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                )],
            ),
            ("Bearer realm=x, service=y , error=\"insufficient_scope\"", vec![bearer("x", Some("y"), None)]),
            ("Negotiate, Basic realm=\"a\\\"b\", Bearer realm=\"r\"", vec![basic("a\"b"), bearer("r", None, None)]),
            ("Bearer service=\"no realm\"", vec![]),
            ("", vec![]),
            ("Basic realm=\"open", vec![basic("open")]),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(realm in "[ -~]{0,20}", service in proptest::option::of("[ -~]{0,10}"), scope in proptest::option::of("[ -~]{0,10}")) {
            let challenge = Challenge::Bearer { realm, service, scope };
            proptest::prop_assert_eq!(Challenge::parse(&challenge.to_string()), vec![challenge]);
        }

        #[test]
        fn parsing_ends(header: String) {
            let _ = Challenge::parse(&header); // only whether it returns matters here
        }
    }
}
