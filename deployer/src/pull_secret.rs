//! Making pull secrets: a Secret with a login for a registry, and a service account whose pods pull with it. When the
//! login ends is noted on the Secret, so that whoever renews it knows when.

use crate::api::Patch;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::{ObjectName, Resource};
use crate::plan::Change;
use crate::preflight;
use crate::undo::{ATTEMPT_PAUSE, ATTEMPTS};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A pull secret as it is to be.
#[derive(Clone)]
pub struct WantedPullSecret {
    /// The Secret's name.
    pub name: String,
    /// For what the login is: `host:port`, or `host:port/path` for what is below that path.
    pub registry: String,
    /// The user.
    pub username: String,
    /// The password, or a token in its place.
    pub password: String,
    /// The service account whose pods pull with it.
    pub service_account: String,
    /// When the password ends; `None` if it does not, or nobody knows.
    pub expires: Option<Timestamp>,
}

/// A login that a Secret of ours holds already.
#[derive(Clone)]
pub struct KeptPullSecret {
    /// For what the login is.
    pub registry: String,
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
    /// When it ends, if that was noted.
    pub expires: Option<Timestamp>,
}

/// The annotation that says when the password ends.
const EXPIRES: &str = "lighter.dev/expires";

impl KeptPullSecret {
    /// Reads it from a Secret; `None` if it holds anything else than one login with a user and a password.
    fn read(secret: &Value) -> Option<KeptPullSecret> {
        let config: Value = serde_json::from_str(&preflight::config(secret)?).ok()?;
        let mut auths = config["auths"].as_object()?.iter();
        let ((registry, login), None) = (auths.next()?, auths.next()) else { return None };
        let word = |name: &str| login[name].as_str().map(str::to_owned);
        let expires = secret["metadata"]["annotations"][EXPIRES].as_str().and_then(|text| text.parse().ok());
        Some(KeptPullSecret {
            registry: registry.clone(),
            username: word("username")?,
            password: word("password")?,
            expires,
        })
    }
}

impl WantedPullSecret {
    fn config(&self) -> Value {
        let auth = STANDARD.encode(format!("{}:{}", self.username, self.password));
        json!({"auths": {&self.registry: {"username": self.username, "password": self.password, "auth": auth}}})
    }
}

impl Cluster {
    /// The login that a pull secret of this name holds; `None` if there is none, or it is of another shape.
    ///
    /// # Errors
    ///
    /// Fails if Secrets may not be read.
    pub async fn kept_pull_secret(&self, name: &str) -> Result<Option<KeptPullSecret>, Error> {
        let secret = ObjectName::new(Resource::core("Secret", "secrets"), self.namespace(), name);
        Ok(self.api.get(&secret).await?.as_ref().and_then(KeptPullSecret::read))
    }

    /// Makes the Secret or brings it up to date, and links it to the service account; says what changed of either.
    /// Nothing is written where it is so already.
    ///
    /// # Errors
    ///
    /// Fails if the service account does not exist, or if a Secret of that name is of another type.
    pub async fn ensure_pull_secret(&self, wanted: &WantedPullSecret) -> Result<[(ObjectName, Change); 2], Error> {
        let secret = ObjectName::new(Resource::core("Secret", "secrets"), self.namespace(), &wanted.name);
        let account = ObjectName::new(
            Resource::core("ServiceAccount", "serviceaccounts"),
            self.namespace(),
            &wanted.service_account,
        );
        let live_account = self.api.get(&account).await?.ok_or_else(|| Error::Missing(Box::new(account.clone())))?;
        let live = self.api.get(&secret).await?;
        let expires = wanted.expires.map(|time| time.to_string());
        let change = match &live {
            Some(live) if live["type"] != "kubernetes.io/dockerconfigjson" => {
                let what = format!("is a Secret of type {}, which is another thing; choose another name", live["type"]);
                return Err(Error::Unfit { object: secret.into(), what });
            }
            Some(live)
                if live["data"][".dockerconfigjson"] == encoded(wanted)
                    && live["metadata"]["annotations"][EXPIRES].as_str() == expires.as_deref() =>
            {
                Change::Nothing
            }
            Some(_) => Change::Update,
            None => Change::Create,
        };
        if change != Change::Nothing {
            let mut body = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
                "metadata": {"name": wanted.name, "namespace": secret.namespace}, "data": {".dockerconfigjson": encoded(wanted)}});
            if let Some(expires) = &expires {
                body["metadata"]["annotations"] = json!({EXPIRES: expires});
            }
            self.api.patch(&secret, Patch::Apply { force: true }, &body, false).await?;
        }
        let link = self.link(&account, live_account, &wanted.name).await?;
        Ok([(secret, change), (account, link)])
    }
}

impl Cluster {
    /// Adds a Secret to those that a service account's pods pull with. A patch replaces this list as a whole, so it
    /// is written for one version of the account, and anew if somebody else wrote meanwhile.
    async fn link(&self, account: &ObjectName, mut live: Value, secret: &str) -> Result<Change, Error> {
        let mut attempts = 1;
        loop {
            let mut links = live["imagePullSecrets"].as_array().cloned().unwrap_or_default();
            if links.iter().any(|entry| entry["name"] == secret) {
                return Ok(Change::Nothing);
            }
            links.push(json!({"name": secret}));
            let metadata =
                json!({"uid": live["metadata"]["uid"], "resourceVersion": live["metadata"]["resourceVersion"]});
            let body = json!({"metadata": metadata, "imagePullSecrets": links});
            match self.api.patch(account, Patch::Plain, &body, false).await {
                Err(Error::Changed { .. }) if attempts < ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(ATTEMPT_PAUSE).await;
                    live = self.api.get(account).await?.ok_or_else(|| Error::Missing(Box::new(account.clone())))?;
                }
                answer => return answer.map(|_| Change::Update),
            }
        }
    }
}

fn encoded(wanted: &WantedPullSecret) -> String {
    STANDARD.encode(wanted.config().to_string())
}
