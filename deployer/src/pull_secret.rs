//! Making pull secrets: a Secret with a login for a registry, and a service account whose pods pull with it.

use crate::api::Patch;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::{ObjectName, Resource};
use crate::plan::Change;
use crate::undo::{ATTEMPT_PAUSE, ATTEMPTS};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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
}

impl WantedPullSecret {
    fn config(&self) -> Value {
        let auth = STANDARD.encode(format!("{}:{}", self.username, self.password));
        json!({"auths": {&self.registry: {"username": self.username, "password": self.password, "auth": auth}}})
    }
}

impl Cluster {
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
        let change = match &live {
            Some(live) if live["type"] != "kubernetes.io/dockerconfigjson" => {
                let what = format!("is a Secret of type {}, which is another thing; choose another name", live["type"]);
                return Err(Error::Unfit { object: secret.into(), what });
            }
            Some(live) if live["data"][".dockerconfigjson"] == encoded(wanted) => Change::Nothing,
            Some(_) => Change::Update,
            None => Change::Create,
        };
        if change != Change::Nothing {
            let body = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
                "metadata": {"name": wanted.name, "namespace": secret.namespace}, "data": {".dockerconfigjson": encoded(wanted)}});
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
