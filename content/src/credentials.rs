//! Logins, found where docker, podman and GitLab put them.
//!
//! The caller reads the files and variables (this crate reads no environment) and hands over their
//! texts in order of precedence; the first that knows a registry wins. Credential helpers are
//! programs named `docker-credential-NAME` and are asked only for the registry at hand.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci::{Host, RepoName};
use serde::Deserialize;

/// What to log in with. Never printed: `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A user and a password (or a token in its place).
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A refresh token of the token endpoint (docker's `identitytoken`).
    Identity(String),
    /// A token to be sent as it is (docker's `registrytoken`).
    Bearer(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password {{ user: {user:?}, .. }}"),
            Self::Identity(_) => f.write_str("Identity(..)"),
            Self::Bearer(_) => f.write_str("Bearer(..)"),
        }
    }
}

/// Why logins cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredentials {
    /// A file is no docker config.
    #[error("{place} is not a docker config: {reason}")]
    File {
        /// The file or variable.
        place: String,
        /// What is wrong; never the content.
        reason: String,
    },
    /// A helper could not be asked.
    #[error("the credential helper docker-credential-{helper} of {place} failed: {reason}")]
    Helper {
        /// The helper's name.
        helper: String,
        /// The file that names it.
        place: String,
        /// What happened.
        reason: String,
    },
}

/// All logins that are known, in order of precedence.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<AuthFile>,
}

#[derive(Debug, Clone)]
struct AuthFile {
    place: String,
    logins: Vec<(String, Login)>,
    helpers: BTreeMap<String, String>,
    default_helper: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Document {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl Credentials {
    /// No logins at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds the docker config `text` that was found at `place`, behind those added before.
    pub fn add(&mut self, place: &str, text: &str) -> Result<(), InvalidCredentials> {
        let wrong = |reason: String| InvalidCredentials::File { place: place.to_owned(), reason };
        // Errors of serde_json quote no content but for unexpected strings, so only line and column are told.
        let document: Document = serde_json::from_str(text)
            .map_err(|error| wrong(format!("it cannot be read at line {}, column {}", error.line(), error.column())))?;
        let mut logins = Vec::new();
        for (key, entry) in document.auths {
            let login = login(&entry).map_err(|reason| wrong(format!("the entry of {key} {reason}")))?;
            logins.extend(login.map(|login| (normalise(&key), login)));
        }
        // Longest first: podman allows `host/namespace/repository`, and the closest one counts.
        logins.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        let helpers = document.cred_helpers.into_iter().map(|(key, helper)| (normalise(&key), helper)).collect();
        let default_helper = document.creds_store.filter(|helper| !helper.is_empty());
        self.files.push(AuthFile { place: place.to_owned(), logins, helpers, default_helper });
        Ok(())
    }

    /// Adds one login, in front of all others.
    pub fn prefer(&mut self, host: &Host, login: Login) {
        let logins = vec![(normalise(host.as_str()), login)];
        let file =
            AuthFile { place: "the command line".to_owned(), logins, helpers: BTreeMap::new(), default_helper: None };
        self.files.insert(0, file);
    }

    /// The login for a repository, if any file or helper has one. May run a helper: blocking.
    pub fn lookup(&self, host: &Host, name: &RepoName) -> Result<Option<Login>, InvalidCredentials> {
        let registry = normalise(host.as_str());
        let full = format!("{registry}/{name}");
        let covers = |key: &str| full == key || full.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
        for file in &self.files {
            if let Some((_, login)) = file.logins.iter().find(|(key, _)| covers(key)) {
                return Ok(Some(login.clone()));
            }
            if let Some(helper) = file.helpers.get(&registry).or(file.default_helper.as_ref())
                && let Some(login) = ask_helper(helper, &registry, &file.place)?
            {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }
}

fn login(entry: &Entry) -> Result<Option<Login>, &'static str> {
    if !entry.registrytoken.is_empty() {
        return Ok(Some(Login::Bearer(entry.registrytoken.clone())));
    }
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Login::Identity(entry.identitytoken.clone())));
    }
    if !entry.auth.is_empty() {
        let decoded = STANDARD.decode(entry.auth.trim()).map_err(|_| "has an `auth` that is not base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "has an `auth` that is not UTF-8")?;
        let (user, password) = decoded.split_once(':').ok_or("has an `auth` that is not base64 of USER:PASSWORD")?;
        let password = password.trim_end_matches('\0').to_owned();
        return Ok(Some(Login::Password { user: user.to_owned(), password }));
    }
    if !entry.username.is_empty() {
        return Ok(Some(Login::Password { user: entry.username.clone(), password: entry.password.clone() }));
    }
    Ok(None) // docker writes an empty entry where a helper holds the secret
}

/// Keys are hosts, old URLs of hosts, or paths below a host; all Docker Hub names are one.
fn normalise(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").trim_end_matches('/');
    let (host, path) = key.split_once('/').map_or((key, None), |(host, path)| (host, Some(path)));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

/// Asks a helper by the protocol of docker-credential-helpers: the server on stdin, JSON on stdout.
fn ask_helper(helper: &str, registry: &str, place: &str) -> Result<Option<Login>, InvalidCredentials> {
    let failed =
        |reason: String| InvalidCredentials::Helper { helper: helper.to_owned(), place: place.to_owned(), reason };
    if helper.is_empty()
        || !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    {
        return Err(failed("its name is not the name of a program".to_owned()));
    }
    let server = if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
    let mut child = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input answers all the same, or fails below.
        let _ = writeln!(stdin, "{server}");
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        let unknown = said.contains("credentials not found") || said.contains("no credentials");
        return if unknown { Ok(None) } else { Err(failed(output.status.to_string())) };
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is not JSON with Username and Secret".to_owned()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Login::Identity(answer.secret),
        _ => Login::Password { user: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password { user: user.to_owned(), password: password.to_owned() })
    }

    fn lookup(credentials: &Credentials, image: &str) -> Option<Login> {
        let reference: oci::Reference = image.parse().unwrap();
        credentials.lookup(reference.host(), reference.name()).unwrap()
    }

    #[test]
    fn finds_what_docker_podman_and_gitlab_write() {
        let mut credentials = Credentials::none();
        let config = r#"{"auths": {
            "vm2:5000": {"auth": "Y2k6c2VjcmV0"},
            "vm2:5000/shop": {"username": "shop", "password": "p:w"},
            "https://index.docker.io/v1/": {"auth": "aHViOng="},
            "token.example": {"auth": "dTpw", "identitytoken": "abc"},
            "helper.example": {}
        }}"#;
        credentials.add("config.json", config).unwrap();
        credentials
            .add("second", r#"{"auths": {"vm2:5000": {"auth": "b3RoZXI6eA=="}, "b.example": {"auth": "Yjpi"}}}"#)
            .unwrap();
        assert_eq!(lookup(&credentials, "vm2:5000/api"), password("ci", "secret"));
        assert_eq!(lookup(&credentials, "vm2:5000/shop/api"), password("shop", "p:w"));
        assert_eq!(lookup(&credentials, "vm2:5000/shopping"), password("ci", "secret"));
        assert_eq!(lookup(&credentials, "alpine"), password("hub", "x"));
        assert_eq!(lookup(&credentials, "token.example/a"), Some(Login::Identity("abc".to_owned())));
        assert_eq!(lookup(&credentials, "b.example/a"), password("b", "b"));
        assert_eq!(lookup(&credentials, "helper.example/a"), None);
        assert_eq!(lookup(&credentials, "vm2:5001/a"), None);
    }

    #[test]
    fn errors_and_debug_never_show_a_secret() {
        let mut credentials = Credentials::none();
        let error = credentials.add("DOCKER_AUTH_CONFIG", r#"{"auths": {"a": {"auth": "!s3cret"}}}"#).unwrap_err();
        assert!(error.to_string().contains("base64") && !error.to_string().contains("s3cret"), "{error}");
        let error = credentials.add("DOCKER_AUTH_CONFIG", r#"{"auths": "s3cret"}"#).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        credentials.add("x", r#"{"auths": {"a.b": {"username": "u", "password": "s3cret"}}}"#).unwrap();
        assert!(!format!("{credentials:?}").contains("s3cret"));
    }
}
