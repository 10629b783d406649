//! From kubeconfigs (or the pod that we run in) to a client. Which files there are is the caller's
//! business; nothing here looks for them.

use crate::dial::{self, Proxies};
use crate::error::Error;
use crate::kinds::ImagePath;
use crate::object::segment;
use crate::redact::redact;
use http::header::{HeaderName, HeaderValue, USER_AGENT};
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster,
    NamedContext,
};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How to reach a cluster.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// The kubeconfigs, merged in this order as kubectl does: from the flag, `$KUBECONFIG`, or `~/.kube/config`.
    pub kubeconfig: Vec<PathBuf>,
    /// Whether these files must exist, because somebody named them. Else missing ones are skipped.
    pub must_exist: bool,
    /// The context; `None` for the current one.
    pub context: Option<String>,
    /// The namespace; `None` for that of the context.
    pub namespace: Option<String>,
    /// Whether to use the pod's own service account when there is no kubeconfig.
    pub in_cluster: bool,
    /// The API server's URL; with it, no kubeconfig is read.
    pub server: Option<String>,
    /// The token to show to `server`.
    pub token: Option<String>,
    /// The certificate (PEM) that `server`'s is signed by; the machine's own authorities if there is none.
    pub certificate_authority: Option<PathBuf>,
    /// Where images are in custom kinds.
    pub image_paths: Vec<ImagePath>,
    /// In whose name to act, instead of that of the login; what the kubeconfig says of it, if nothing is said here.
    pub impersonate: Impersonate,
    /// Where to remember which kinds a server has; `None` to ask it in each run.
    pub discovery: Option<PathBuf>,
    /// Which servers are reached through which proxy; `None` to reach all directly.
    pub proxies: Option<Proxies>,
}

/// Somebody else in whose name to act, where the login may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impersonate {
    /// The user; `None` for nobody else.
    pub user: Option<String>,
    /// The groups; those of the kubeconfig if there are none.
    pub groups: Vec<String>,
}

/// A client, the server's URL and the namespace that is meant.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) server: String,
    pub(crate) namespace: String,
    /// The user in whose name requests are, if that is not the one who logs in.
    pub(crate) acts_as: Option<String>,
}

/// Makes a client; nothing is sent yet.
pub(crate) async fn connect(options: &ConnectOptions) -> Result<Connection, Error> {
    let (mut config, named_proxy) =
        match named_server(options).map_or_else(|| kubeconfig(options), |named| Ok(Some(named)))? {
            Some(kubeconfig) => from_kubeconfig(kubeconfig, options).await?,
            None if options.in_cluster => (Config::incluster().map_err(|error| Error::Login(error.to_string()))?, None),
            None => return Err(Error::NoCluster),
        };
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.default_retry = false; // it would pause up to 1000 s; `api` and the watches have limits of their own
    let impersonation = impersonation(&config.auth_info, &options.impersonate)?;
    let acts_as = impersonation.first().and_then(|(_, user)| user.to_str().ok().map(str::to_owned));
    config.headers.extend(impersonation);
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("lighter/", env!("CARGO_PKG_VERSION")))));
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let proxy = match &options.proxies {
        Some(proxies) => proxies(&config.cluster_url, named_proxy.as_deref()).map_err(Error::Login)?,
        None => None,
    };
    let client = dial::client(&config, proxy).map_err(|error| Error::Login(redact(&error.to_string())))?;
    Ok(Connection { client, server, namespace, acts_as })
}

/// The headers that say in whose name a request is; kube reads these fields of a kubeconfig, and sends none of them.
fn impersonation(login: &AuthInfo, asked: &Impersonate) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let Some(user) = asked.user.as_ref().or(login.impersonate.as_ref()).filter(|user| !user.is_empty()) else {
        let has_groups = !asked.groups.is_empty() || login.impersonate_groups.iter().flatten().next().is_some();
        return match has_groups {
            true => Err(Error::Login("groups to act as are named, and no user to act as".into())),
            false => Ok(Vec::new()),
        };
    };
    let header = |name: &str, value: &str| {
        let wrong = || Error::Login(format!("{name}: {value:?} cannot be sent"));
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        Ok::<_, Error>((name, value.parse().map_err(|_| wrong())?))
    };
    let groups = match asked.groups.as_slice() {
        [] => login.impersonate_groups.clone().unwrap_or_default(),
        groups => groups.to_vec(),
    };
    let extra = login.impersonate_user_extra.iter().flatten();
    let extra = extra.flat_map(|(key, values)| values.iter().map(move |value| (segment(&key.to_lowercase()), value)));
    let mut headers = vec![header("impersonate-user", user)?];
    for group in &groups {
        headers.push(header("impersonate-group", group)?);
    }
    if let Some(uid) = login.impersonate_uid.as_ref().filter(|_| asked.user.is_none()) {
        headers.push(header("impersonate-uid", uid)?);
    }
    for (key, value) in extra {
        headers.push(header(&format!("impersonate-extra-{key}"), value)?);
    }
    Ok(headers)
}

/// A kubeconfig for a server that is named without one; what it points to is read later, as from a file.
fn named_server(options: &ConnectOptions) -> Option<Kubeconfig> {
    const NAME: &str = "command line";
    let cluster = Cluster {
        server: Some(options.server.clone()?),
        certificate_authority: options.certificate_authority.as_ref().map(|path| path.display().to_string()),
        ..Cluster::default()
    };
    let auth_info = AuthInfo { token: options.token.clone().map(Into::into), ..AuthInfo::default() };
    let context = Context { cluster: NAME.into(), user: Some(NAME.into()), ..Context::default() };
    Some(Kubeconfig {
        clusters: vec![NamedCluster { name: NAME.into(), cluster: Some(cluster), ..NamedCluster::default() }],
        auth_infos: vec![NamedAuthInfo { name: NAME.into(), auth_info: Some(auth_info), ..NamedAuthInfo::default() }],
        contexts: vec![NamedContext { name: NAME.into(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(NAME.into()),
        ..Kubeconfig::default()
    })
}

/// Reads and merges the files; `None` if there is not one context in them.
fn kubeconfig(options: &ConnectOptions) -> Result<Option<Kubeconfig>, Error> {
    let mut merged: Option<Kubeconfig> = None;
    for path in &options.kubeconfig {
        if !options.must_exist && !path.exists() {
            continue;
        }
        let broken = |error: KubeconfigError| Error::Kubeconfig { path: path.clone(), reason: reason(&error, path) };
        let next = Kubeconfig::read_from(path).map_err(broken)?;
        merged = Some(match merged {
            Some(first) => first.merge(next).map_err(broken)?,
            None => next,
        });
    }
    Ok(merged.filter(|kubeconfig| !kubeconfig.contexts.is_empty()))
}

/// A parser's message may quote the file, and the file has secrets in it: only its first line is shown.
fn reason(error: &KubeconfigError, path: &Path) -> String {
    let text = match error {
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        error => error.to_string(),
    };
    let first = text.lines().next().unwrap_or_default().replace(&path.display().to_string(), "it");
    redact(first.trim_end_matches(':'))
}

/// The configuration, and the proxy that the kubeconfig names.
async fn from_kubeconfig(kubeconfig: Kubeconfig, options: &ConnectOptions) -> Result<(Config, Option<String>), Error> {
    let path = options.kubeconfig.first().cloned().unwrap_or_default();
    let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let wanted = options.context.clone().or_else(|| kubeconfig.current_context.clone()).filter(|name| !name.is_empty());
    let Some(context) = wanted.as_ref().filter(|wanted| known.contains(wanted)) else {
        return Err(Error::UnknownContext { wanted, known });
    };
    let proxy = proxy_of(&kubeconfig, context);
    let choice = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let loaded = Config::from_custom_kubeconfig(kubeconfig, &choice).await;
    let config = loaded.map_err(|error| Error::Kubeconfig { reason: reason(&error, &path), path })?;
    Ok((config, proxy))
}

fn proxy_of(kubeconfig: &Kubeconfig, context: &str) -> Option<String> {
    let context = kubeconfig.contexts.iter().find(|named| named.name == context)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?.cluster.as_ref()?;
    cluster.proxy_url.clone().filter(|proxy| !proxy.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn options(files: &[(&str, &str)], directory: &Path) -> ConnectOptions {
        let kubeconfig = files.iter().map(|(name, text)| {
            let path = directory.join(name);
            if !text.is_empty() {
                std::fs::write(&path, text).unwrap();
            }
            path
        });
        ConnectOptions { kubeconfig: kubeconfig.collect(), ..ConnectOptions::default() }
    }

    const ONE: &str = "apiVersion: v1\nkind: Config\ncurrent-context: one\ncontexts: [{name: one, context: {cluster: c, user: u, namespace: shop}}]\n\
                       clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: []\n";
    const TWO: &str =
        "apiVersion: v1\nkind: Config\ncurrent-context: two\ncontexts: [{name: two, context: {cluster: c, user: u}}]\n";

    #[tokio::test]
    async fn kubeconfigs_are_merged_and_missing_ones_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let files = options(&[("missing", ""), ("one", ONE), ("two", TWO)], directory.path());
        let connection = connect(&files).await.unwrap();
        assert_eq!((connection.server.as_str(), connection.namespace.as_str()), ("http://127.0.0.1:1", "shop"));
        let second = ConnectOptions { context: Some("two".into()), namespace: Some("mine".into()), ..files };
        assert_eq!(connect(&second).await.unwrap().namespace, "mine");
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let none = options(&[("missing", "")], directory.path());
        assert!(matches!(connect(&none).await, Err(Error::NoCluster)));
        assert!(matches!(connect(&options(&[("empty", "{}")], directory.path())).await, Err(Error::NoCluster)));
        let must = ConnectOptions { must_exist: true, ..none };
        assert!(connect(&must).await.err().unwrap().to_string().contains("No such file"));
        let elsewhere = ConnectOptions { context: Some("prod".into()), ..options(&[("one", ONE)], directory.path()) };
        let error = connect(&elsewhere).await.err().unwrap().to_string();
        assert_eq!(error, "there is no context \"prod\" in the kubeconfig; there is one");
    }

    #[test]
    fn whoever_is_acted_for_is_named_in_every_request() {
        let sent = |login: Value, asked: Impersonate| {
            let headers = impersonation(&serde_json::from_value(login).unwrap(), &asked)?;
            let lines = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
            Ok::<_, Error>(lines.collect::<Vec<_>>())
        };
        let asked = |user: &str, groups: &[&str]| Impersonate {
            user: Some(user.to_owned()).filter(|user| !user.is_empty()),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        let own =
            json!({"as": "bob", "as-uid": "7", "as-groups": ["dev"], "as-user-extra": {"Example.org/Scope": ["x"]}});
        assert_eq!(sent(json!({}), asked("", &[])).unwrap(), Vec::<String>::new());
        let extra = "impersonate-extra-example.org%2Fscope: x".to_lowercase();
        assert_eq!(
            sent(own.clone(), asked("", &[])).unwrap(),
            ["impersonate-user: bob", "impersonate-group: dev", "impersonate-uid: 7", &extra]
        );
        assert_eq!(
            sent(own, asked("eve", &["ops", "all"])).unwrap(),
            ["impersonate-user: eve", "impersonate-group: ops", "impersonate-group: all", &extra]
        );
        assert!(sent(json!({}), asked("", &["ops"])).is_err());
        assert!(sent(json!({}), asked("a\nb", &[])).is_err(), "no line of its own");
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_names_the_file_and_shows_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let broken =
            options(&[("broken", "users:\n- name: u\n  user: {token: s3cret-token-value\n  x: [")], directory.path());
        let error = connect(&broken).await.err().unwrap().to_string();
        assert!(error.contains("/broken cannot be used: ") && !error.contains("s3cret"), "{error}");
    }
}
