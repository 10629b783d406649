//! Every key of the configuration: what it is for, and how it is called in the environment. The one
//! list that reading, `check-config` and the documentation go by.

use toml::{Table, Value};

/// What environment variables start with.
pub const PREFIX: &str = "LIGHTER_REGISTRY_";
/// Variables that start like ours and belong to the client side of lighter.
const OTHERS: &[&str] = &["LIGHTER_REGISTRY_CA"];

/// How a value is written in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it is. Times (`30s`, `5m`, `90d`) and sizes (`10GiB`) too.
    Text,
    /// `true` or `false`.
    Flag,
    /// A number.
    Number,
    /// Values with commas between, or a TOML array.
    List,
    /// `true`, `false`, or values as in a list.
    FlagOrList,
    /// A TOML array of inline tables: `[{name = "gitlab", …}]`.
    Tables,
    /// Nothing: it stands inside one of a list of tables.
    Inner,
}

/// A key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its place: `tls.key`, `access.rules[].rights`.
    pub path: &'static str,
    /// How it is written in the environment.
    pub kind: Kind,
    /// What it is for.
    pub help: &'static str,
}

const fn key(path: &'static str, kind: Kind, help: &'static str) -> Key {
    Key { path, kind, help }
}

/// All keys.
pub const KEYS: &[Key] = &[
    key("addr", Kind::Text, "where to listen"),
    key("data", Kind::Text, "the directory where images are kept"),
    key("url", Kind::Text, "the URL by which clients reach the registry, where a proxy changes it"),
    key("proxies", Kind::List, "networks of proxies that are believed about X-Forwarded-For and -Proto"),
    key("insecure_allow_anonymous", Kind::Flag, "let everybody do everything on an address that others reach"),
    key("allow_anonymous", Kind::Flag, "the same, as it was called before"),
    key(
        "allow_sparse",
        Kind::FlagOrList,
        "take manifests that name content which is not here: true, or patterns of repositories",
    ),
    key("tls.certificate", Kind::Text, "certificate and chain, PEM; read again when it changes"),
    key("tls.key", Kind::Text, "its private key, PEM"),
    key("tls.client_ca", Kind::Text, "authorities of client certificates, PEM"),
    key("tls.client_certificates", Kind::Text, "required, or optional"),
    key("access.htpasswd", Kind::Text, "a file of users made with htpasswd -B; read again when it changes"),
    key("access.token_life", Kind::Text, "how long tokens of /token live, at least 1m"),
    key("access.refresh_life", Kind::Text, "how long docker login holds without its password; 0s gives no such tokens"),
    key("access.rules", Kind::Tables, "who may do what; what no rule allows is denied"),
    key("access.rules[].subjects", Kind::Inner, "anonymous, user:NAME, robot:NAME, issuer:NAME, certificate:SHA256"),
    key("access.rules[].claims", Kind::Inner, "what a token of an issuer must say"),
    key("access.rules[].repositories", Kind::Inner, "patterns of repositories"),
    key("access.rules[].tags", Kind::Inner, "patterns of tags; all if there are none"),
    key("access.rules[].rights", Kind::Inner, "pull, push, delete, overwrite"),
    key("access.issuers", Kind::Tables, "issuers of identity tokens: GitLab, Kubernetes"),
    key("access.issuers[].name", Kind::Inner, "what rules call it"),
    key("access.issuers[].issuer", Kind::Inner, "its URL, as its tokens say it (iss)"),
    key("access.issuers[].audiences", Kind::Inner, "for whom tokens must be meant (aud)"),
    key("access.issuers[].keys_url", Kind::Inner, "where its keys are, if not by discovery"),
    key("access.issuers[].keys_file", Kind::Inner, "its keys in a file, for registries without network"),
    key("access.issuers[].ca", Kind::Inner, "authorities of its server, PEM"),
    key("access.issuers[].token_file", Kind::Inner, "a token that its server wants to see, as Kubernetes does"),
    key("access.issuers[].pause", Kind::Inner, "how often its server is asked again at most"),
    key("limits.blob", Kind::Text, "largest blob"),
    key("limits.head", Kind::Text, "how long the head of a request may take, or a connection stay unused"),
    key("limits.idle", Kind::Text, "how long a body may pause"),
    key("limits.drain", Kind::Text, "how long requests may go on after a signal"),
    key("limits.requests_per_second", Kind::Number, "of one caller, in the long run; 0 is without limit"),
    key("limits.burst", Kind::Number, "requests of one caller at once"),
    key("metrics.addr", Kind::Text, "another address, for /metrics, /livez and /readyz"),
    key("metrics.public", Kind::Flag, "give /metrics on the main address too, where others reach it"),
    key("gc.enabled", Kind::Flag, "collect garbage while serving"),
    key("gc.interval", Kind::Text, "how long the collector rests between two passes"),
    key("gc.blob_grace", Kind::Text, "how long a blob stays that no manifest names"),
    key("gc.untagged", Kind::Text, "how long a manifest stays that nothing keeps, or forever"),
    key("gc.trash_grace", Kind::Text, "how long content lies in the trash"),
    key("gc.lease", Kind::Text, "how long what a client was told is there stays at least"),
    key("gc.uploads", Kind::Text, "after how long without a byte an upload is given up"),
    key("retention.interval", Kind::Text, "how often rules are applied, or forever for never"),
    key("retention.may_empty", Kind::Flag, "let rules take the last tag of a repository"),
    key("retention.immutable", Kind::Tables, "tags that can be set once"),
    key("retention.immutable[].repository", Kind::Inner, "in which repositories"),
    key("retention.immutable[].tags", Kind::Inner, "which tags, a regular expression"),
    key("retention.rules", Kind::Tables, "which tags stay"),
    key("retention.rules[].repository", Kind::Inner, "in which repositories"),
    key("retention.rules[].tags", Kind::Inner, "which tags, a regular expression; all if it is not said"),
    key("retention.rules[].keep_last", Kind::Inner, "keeps so many, those set last"),
    key("retention.rules[].younger_than", Kind::Inner, "keeps those set within this time"),
    key("retention.rules[].pulled_within", Kind::Inner, "keeps those pulled within this time"),
    key("webhooks", Kind::Tables, "who is told of pushes and deletes"),
    key("webhooks[].name", Kind::Inner, "its name in logs, and of its place in the journal"),
    key("webhooks[].url", Kind::Inner, "where events are sent"),
    key("webhooks[].format", Kind::Inner, "distribution, or cloudevents"),
    key("webhooks[].secret", Kind::Inner, "signs each event (HMAC-SHA256 in X-Lighter-Signature)"),
    key("webhooks[].repositories", Kind::Inner, "patterns of repositories; all if there are none"),
    key("webhooks[].events", Kind::Inner, "push, delete, pull, mount; the first two if it is not said"),
    key("webhooks[].blobs", Kind::Inner, "tell of blobs too"),
];

impl Key {
    /// Its name in the environment, if it can stand there.
    pub fn variable(&self) -> Option<String> {
        let name = self.path.to_ascii_uppercase().replace('.', "_");
        (self.kind != Kind::Inner).then(|| format!("{PREFIX}{name}"))
    }
}

/// A key or variable that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} `{name}`; is `{nearest}` meant?")]
pub struct UnknownKey {
    /// Key or variable.
    pub what: &'static str,
    /// As it was written.
    pub name: String,
    /// What it is most like.
    pub nearest: String,
}

/// Looks for keys that are none.
pub(super) fn check(table: &Table) -> Result<(), UnknownKey> {
    check_below(table, "")
}

fn check_below(table: &Table, prefix: &str) -> Result<(), UnknownKey> {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let is_key = KEYS.iter().any(|key| key.path == path);
        let is_section = KEYS.iter().any(|key| key.path.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.')));
        match value {
            Value::Table(inner) if is_section => check_below(inner, &path)?,
            Value::Array(values) if is_key => {
                for inner in values.iter().filter_map(Value::as_table) {
                    check_below(inner, &format!("{path}[]"))?;
                }
            }
            _ if is_key => {}
            _ => {
                let sections = KEYS.iter().filter_map(|key| key.path.split_once('.').map(|(section, _)| section));
                let names = KEYS.iter().map(|key| key.path).chain(sections.filter(|section| !section.ends_with(']')));
                let nearest = nearest(&path, names.map(str::to_owned));
                return Err(UnknownKey { what: "key", name: path, nearest });
            }
        }
    }
    Ok(())
}

/// Variables that look like ours and are none. They are told, not refused: Kubernetes makes variables
/// like `LIGHTER_REGISTRY_SERVICE_HOST` for every service of that name.
pub fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<UnknownKey> {
    let known: Vec<String> = KEYS.iter().filter_map(Key::variable).collect();
    let mut found: Vec<UnknownKey> = names
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name) && !OTHERS.contains(&name.as_str()))
        .map(|name| UnknownKey { what: "variable", nearest: nearest(&name, known.iter().cloned()), name })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// What a wrong name is most like.
fn nearest(name: &str, names: impl Iterator<Item = String>) -> String {
    names.min_by_key(|known| distance(name, known)).unwrap_or_default()
}

/// How many characters have to be changed, added or left out.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().take(200).enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = before + usize::from(a != *b);
            before = row[j + 1];
            row[j + 1] = changed.min(before + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

/// Puts what the environment says into a table.
pub(super) fn overlay(table: &mut Table, variable: impl Fn(&str) -> Option<String>) -> Result<(), (String, String)> {
    for key in KEYS {
        let Some(name) = key.variable() else { continue };
        let Some(text) = variable(&name) else { continue };
        let value = value(key.kind, &text).map_err(|reason| (name, reason))?;
        put(table, key.path, value);
    }
    Ok(())
}

fn value(kind: Kind, text: &str) -> Result<Value, String> {
    let parsed = || {
        let table: Table = toml::from_str(&format!("value = {text}")).map_err(|error| error.message().to_owned())?;
        table.get("value").cloned().ok_or_else(|| "there is no value".to_owned())
    };
    match kind {
        Kind::Text => Ok(Value::String(text.to_owned())),
        Kind::Flag => text.parse().map(Value::Boolean).map_err(|_| format!("{text:?} is neither true nor false")),
        Kind::FlagOrList => match text.parse() {
            Ok(flag) => Ok(Value::Boolean(flag)),
            Err(_) => value(Kind::List, text),
        },
        Kind::List if !text.trim_start().starts_with('[') => {
            let values = text.split(',').map(str::trim).filter(|value| !value.is_empty());
            Ok(Value::Array(values.map(|value| Value::String(value.to_owned())).collect()))
        }
        Kind::Number | Kind::List | Kind::Tables | Kind::Inner => parsed(),
    }
}

fn put(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value)),
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}
