//! The configuration: one TOML file, every key of which the environment may override. What is read here
//! becomes [`Settings`]; files that it names are opened later, when the server starts.

mod keys;
mod quantity;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use content::remote::Proxies;
use serde::{Deserialize, Serialize, Serializer};
use toml::Table;

use crate::access::{self, AccessSettings, IssuerSettings, KeySource, Rule, Subject, USUAL_LIFE, USUAL_REFRESH_LIFE};
use crate::api::{Front, Network};
use crate::hooks::{Action, Format, HookSettings};
use crate::keeping::{GcSettings, Keeping, Period, RepoGlob, Retention, Sparse};
use crate::limit::Rate;
use crate::tls::{ClientAuthority, TlsSettings};
use crate::{Limits, Settings};
pub use keys::{KEYS, Key, Kind, PREFIX, UnknownKey, unknown_variables};
pub use quantity::{InvalidSize, Size};

/// How long a caller that is slightly too fast waits rather than being refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not TOML, or a value is of the wrong kind.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// It has a key that is none.
    #[error(transparent)]
    Unknown(#[from] UnknownKey),
    /// A variable of the environment has no value that makes sense.
    #[error("the variable {name}: {reason}")]
    Variable {
        /// Which one.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// What it says does not go together.
    #[error("`{key}`: {reason}")]
    Meaning {
        /// The key that it is about.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

fn meaning(key: impl Into<String>, reason: impl Into<String>) -> ConfigError {
    ConfigError::Meaning { key: key.into(), reason: reason.into() }
}

/// A configuration as it was written, with what is said nowhere filled in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<SocketAddr>,
    /// Where images are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    proxies: Vec<String>,
    /// By which the server itself goes out, as the environment says.
    #[serde(skip)]
    outward: Proxies,
    /// Whether everybody may do everything.
    #[serde(alias = "allow_anonymous")]
    pub insecure_allow_anonymous: bool,
    /// Where manifests may name content that is not here.
    pub allow_sparse: Sparse,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access: Option<AccessPart>,
    limits: LimitsPart,
    metrics: MetricsPart,
    gc: GcSettings,
    retention: Retention,
    webhooks: Vec<Webhook>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsPart {
    certificate: PathBuf,
    key: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificates: Option<ClientCertificates>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClientCertificates {
    Required,
    Optional,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AccessPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    htpasswd: Option<PathBuf>,
    token_life: Period,
    refresh_life: Period,
    issuers: Vec<IssuerPart>,
    rules: Vec<Rule>,
}

impl Default for AccessPart {
    fn default() -> Self {
        let (token_life, refresh_life) = (Period::of(USUAL_LIFE), Period::of(USUAL_REFRESH_LIFE));
        Self { htpasswd: None, token_life, refresh_life, issuers: Vec::new(), rules: Vec::new() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerPart {
    name: String,
    issuer: String,
    audiences: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(default = "usual_pause")]
    pause: Period,
}

fn usual_pause() -> Period {
    Period::of(Duration::from_secs(10))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitsPart {
    blob: Size,
    head: Period,
    idle: Period,
    drain: Period,
    requests_per_second: f64,
    burst: f64,
}

impl Default for LimitsPart {
    fn default() -> Self {
        let Limits { blob, head, idle, drain } = Limits::default();
        Self {
            blob: Size(blob),
            head: Period::of(head),
            idle: Period::of(idle),
            drain: Period::of(drain),
            requests_per_second: 0.0,
            burst: 100.0,
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MetricsPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    addr: Option<SocketAddr>,
    public: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Webhook {
    name: String,
    url: String,
    #[serde(default)]
    format: Format,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "masked")]
    secret: Option<String>,
    #[serde(default)]
    repositories: Vec<RepoGlob>,
    #[serde(default = "usual_events")]
    events: Vec<Action>,
    #[serde(default)]
    blobs: bool,
}

fn usual_events() -> Vec<Action> {
    HookSettings::USUAL_EVENTS.to_vec()
}

/// Secrets are never printed.
fn masked<S: Serializer>(secret: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| "***").serialize(serializer)
}

impl Config {
    /// Reads a file's text, and what the environment says on top of it.
    pub fn read(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut table: Table = toml::from_str(text)?;
        let outward = Proxies::from_variables(&variable)
            .map_err(|error| ConfigError::Variable { name: error.variable.clone(), reason: error.reason.to_owned() })?;
        keys::overlay(&mut table, variable).map_err(|(name, reason)| ConfigError::Variable { name, reason })?;
        keys::check(&table)?;
        if table.contains_key("insecure_allow_anonymous") && table.contains_key("allow_anonymous") {
            return Err(meaning("allow_anonymous", "insecure_allow_anonymous is the same: say one of both"));
        }
        let config = Self { outward, ..table.try_into()? };
        config.check()?;
        Ok(config)
    }

    /// Whether it says who may do what.
    pub fn has_access_rules(&self) -> bool {
        self.access.is_some()
    }

    /// What is kept, and for how long.
    pub fn keeping(&self) -> Keeping {
        Keeping { gc: self.gc.clone(), retention: self.retention.clone(), sparse: self.allow_sparse.clone() }
    }

    /// What it says, as a configuration file with everything in it; secrets are masked.
    pub fn describe(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration is made of what TOML has")
    }

    /// What a server is to be, on this address and data.
    pub fn settings(&self, addr: SocketAddr, data: PathBuf) -> Result<Settings, ConfigError> {
        let mut settings = Settings::new(addr, data);
        settings.allow_anonymous = self.insecure_allow_anonymous;
        settings.access = self.access.as_ref().map(|part| access_settings(part, &self.outward));
        settings.tls = self.tls.as_ref().map(tls_settings);
        settings.front = self.front()?;
        let LimitsPart { blob, head, idle, drain, requests_per_second, burst } = self.limits;
        let (head, idle, drain) = (head.duration(), idle.duration(), drain.duration());
        settings.limits = Limits { blob: blob.0, head, idle, drain };
        settings.pace =
            (requests_per_second > 0.0).then_some(Rate { per_second: requests_per_second, burst, patience: PATIENCE });
        settings.admin = self.metrics.addr;
        settings.public_metrics = self.metrics.public;
        settings.keeping = self.keeping();
        settings.hooks = self.webhooks.iter().map(|part| hook(part, &self.outward)).collect();
        Ok(settings)
    }

    fn front(&self) -> Result<Front, ConfigError> {
        let wrong = |error: crate::InvalidNetwork| meaning("proxies", error.to_string());
        let networks: Result<Vec<Network>, _> = self.proxies.iter().map(|text| text.parse().map_err(wrong)).collect();
        Ok(Front { url: self.url.clone(), proxies: networks? })
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.front()?;
        if let Some(url) = &self.url {
            let uri: Option<http::Uri> = url.parse().ok();
            if !uri.is_some_and(|uri| uri.scheme().is_some() && uri.authority().is_some()) {
                return Err(meaning("url", "this is no URL; write https://registry.example"));
            }
        }
        if let Some(tls) = &self.tls
            && tls.client_certificates.is_some()
            && tls.client_ca.is_none()
        {
            return Err(meaning("tls.client_certificates", "they are checked with `tls.client_ca`, which is not said"));
        }
        if self.limits.requests_per_second < 0.0 || self.limits.burst < 1.0 {
            return Err(meaning("limits", "a rate is 0 or more, and a burst 1 or more"));
        }
        if let Some(access) = &self.access {
            if self.insecure_allow_anonymous {
                return Err(meaning("insecure_allow_anonymous", "there are access rules too: say one of both"));
            }
            check_access(access)?;
        }
        let mut names = Vec::new();
        for hook in &self.webhooks {
            if names.contains(&&hook.name) || !is_name(&hook.name) {
                return Err(meaning("webhooks[].name", format!("{:?} is no name, or is there twice", hook.name)));
            }
            names.push(&hook.name);
            let uri: Option<http::Uri> = hook.url.parse().ok();
            if !uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()) {
                return Err(meaning("webhooks[].url", format!("{:?} is no http or https URL", hook.url)));
            }
            if hook.events.is_empty() {
                return Err(meaning("webhooks[].events", "without any the webhook is told nothing"));
            }
            if hook.events.contains(&Action::Mount) && !hook.blobs {
                return Err(meaning("webhooks[].events", "only blobs are mounted: say blobs = true too"));
            }
        }
        Ok(())
    }

    /// What is allowed but probably not meant.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(access) = &self.access {
            if access.rules.is_empty() {
                warnings.push("no rule gives anybody a right: only robots with rights of their own get in".to_owned());
            }
            for rule in access.rules.iter().filter(|rule| !rule.claims.is_empty()) {
                // Paths and names can be given up and taken by somebody else; numbers cannot.
                let by_id = |claim: &String| claim.ends_with("_id") || claim.ends_with("/uid") || claim == "sub";
                if !rule.claims.keys().any(by_id) {
                    let claims: Vec<&str> = rule.claims.keys().map(String::as_str).collect();
                    warnings.push(format!(
                        "a rule goes by {} only: names can be taken by others later, so add an id (project_id, namespace_id)",
                        claims.join(", ")
                    ));
                }
            }
            if access.token_life.duration() < access::SHORTEST_LIFE {
                warnings
                    .push("access.token_life is below a minute, which clients do not take: it is a minute".to_owned());
            }
        }
        if self.tls.is_none() && self.access.is_some() && self.addr.is_some_and(|addr| !addr.ip().is_loopback()) {
            warnings.push("there is no TLS: passwords and tokens travel as they are".to_owned());
        }
        for hook in self.webhooks.iter().filter(|hook| hook.secret.is_none()) {
            warnings.push(format!("the webhook {} has no secret: its receiver cannot know who tells it", hook.name));
        }
        warnings
    }
}

/// A name that is safe as a file name.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn check_access(access: &AccessPart) -> Result<(), ConfigError> {
    let issuers: Vec<&str> = access.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    for (index, issuer) in access.issuers.iter().enumerate() {
        if issuers[..index].contains(&issuer.name.as_str()) || !is_name(&issuer.name) {
            return Err(meaning("access.issuers[].name", format!("{:?} is no name, or is there twice", issuer.name)));
        }
        let key = |name: &str| format!("access.issuers[{}].{name}", issuer.name);
        if issuer.audiences.is_empty() {
            return Err(meaning(key("audiences"), "without one, tokens that were made for others would be taken"));
        }
        if issuer.keys_url.is_some() && issuer.keys_file.is_some() {
            return Err(meaning(key("keys_url"), "there is a keys_file too: say one of both"));
        }
        let url = issuer.keys_url.as_ref().unwrap_or(&issuer.issuer);
        if issuer.keys_file.is_none() && !access::is_safe(url) {
            return Err(meaning(key("issuer"), format!("keys come by https only, and {url:?} is not")));
        }
    }
    for (number, rule) in access.rules.iter().enumerate() {
        let wrong = |reason: String| Err(meaning(format!("access.rules[{number}]"), reason));
        if rule.subjects.is_empty() || rule.repositories.is_empty() || rule.rights.is_empty() {
            return wrong("it needs subjects, repositories and rights".to_owned());
        }
        for subject in &rule.subjects {
            match subject {
                Subject::Issuer(name) if !issuers.contains(&name.as_str()) => {
                    return wrong(format!("there is no issuer {name:?}"));
                }
                Subject::Issuer(_) if rule.claims.is_empty() => {
                    return wrong(
                        "without claims it would be about everybody who has a token of that issuer".to_owned(),
                    );
                }
                Subject::Issuer(_) => {}
                _ if !rule.claims.is_empty() => {
                    return wrong(format!("only tokens of issuers have claims, and {subject} is none"));
                }
                Subject::User(_) if access.htpasswd.is_none() => {
                    return wrong(format!("there are no users for {subject}: access.htpasswd is not said"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn access_settings(part: &AccessPart, proxies: &Proxies) -> AccessSettings {
    AccessSettings {
        rules: part.rules.clone(),
        htpasswd: part.htpasswd.clone(),
        issuers: part.issuers.iter().map(|issuer| issuer_settings(issuer, proxies)).collect(),
        token_life: part.token_life.duration(),
        refresh_life: part.refresh_life.duration(),
    }
}

fn issuer_settings(part: &IssuerPart, proxies: &Proxies) -> IssuerSettings {
    let keys = match (&part.keys_url, &part.keys_file) {
        (_, Some(file)) => KeySource::File(file.clone()),
        (Some(url), None) => KeySource::Url(url.clone()),
        (None, None) => KeySource::Discovery,
    };
    IssuerSettings {
        name: part.name.clone(),
        issuer: part.issuer.clone(),
        audiences: part.audiences.clone(),
        keys,
        ca: part.ca.clone(),
        token: part.token_file.clone(),
        pause: part.pause.duration(),
        proxies: proxies.clone(),
    }
}

fn tls_settings(part: &TlsPart) -> TlsSettings {
    let required = part.client_certificates != Some(ClientCertificates::Optional);
    let clients = part.client_ca.clone().map(|file| ClientAuthority { file, required });
    TlsSettings { certificate: part.certificate.clone(), key: part.key.clone(), clients }
}

fn hook(part: &Webhook, proxies: &Proxies) -> HookSettings {
    HookSettings {
        name: part.name.clone(),
        url: part.url.clone(),
        format: part.format,
        secret: part.secret.clone(),
        repositories: part.repositories.clone(),
        events: part.events.clone(),
        blobs: part.blobs,
        proxies: proxies.clone(),
    }
}

#[cfg(test)]
mod tests;
