//! Checks before the first write: may this user do it, and could the nodes pull the image with what the pods
//! will have. How a registry is asked is the caller's business ([`Registry`]): no registry is known here.

use crate::api::Api;
use crate::assign::Assignment;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::image::Image;
use crate::object::{ObjectName, Resource};
use crate::plan::{Change, Finding, Plan};
use crate::rights;
use crate::workload::text;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci::Platform;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;

/// What pods pull with.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pull {
    /// The service account; empty for `default`.
    pub service_account: String,
    /// The names of the pod's own pull secrets.
    pub secrets: Vec<String>,
    /// The platforms of the nodes that the pods may come to; empty if unknown.
    pub platforms: BTreeSet<String>,
}

impl Pull {
    /// Reads it from a pod spec.
    pub(crate) fn of(pod_spec: Option<&Value>) -> Pull {
        let none = Value::Null;
        let spec = pod_spec.unwrap_or(&none);
        Pull {
            service_account: text(&spec["serviceAccountName"]).to_owned(),
            secrets: names(&spec["imagePullSecrets"]),
            platforms: BTreeSet::new(),
        }
    }
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|entry| text(&entry["name"]).to_owned()).collect()
}

/// A login that a pod has: a docker config, as a Secret holds it. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// The Secret's name.
    pub name: String,
    /// The docker config (JSON).
    pub config: String,
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PullSecret {{ name: {:?}, .. }}", self.name)
    }
}

/// What a registry says to a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pullable {
    /// All of it is there, and may be had.
    Yes,
    /// Something of it is not there.
    Missing(String),
    /// It may not be had with these logins.
    Denied(String),
    /// Nobody knows: the registry does not answer.
    Unknown(String),
}

/// The future of [`Registry::probe`].
pub type Probe<'a> = Pin<Box<dyn Future<Output = Pullable> + Send + 'a>>;

/// Somebody who can ask registries.
pub trait Registry: Sync {
    /// Asks whether manifest, config and every layer of an image can be had: for these platforms, all if there
    /// are none; with these logins, or with our own if there are `None`.
    fn probe<'a>(&'a self, image: &'a Image, platforms: &'a [Platform], logins: Option<&'a [PullSecret]>) -> Probe<'a>;
}

/// What is checked.
#[derive(Clone, Copy)]
pub struct Checks<'a> {
    /// Who asks the registry; `None` to ask none.
    pub registry: Option<&'a dyn Registry>,
    /// Whether nodes have logins of their own, so that a refusal of the pods' logins says little.
    pub nodes_log_in: bool,
    /// Whether CronJobs are also run once.
    pub run_once: bool,
}

impl Cluster {
    /// Checks, before anything of a plan is written, that this user may write it and watch it, and that its pods
    /// could pull its images. What cannot be checked is said in a finding.
    ///
    /// # Errors
    ///
    /// Fails with the rules that are missing, or with what the registry said.
    pub async fn preflight(
        &self,
        plan: &Plan,
        images: &[Assignment],
        checks: Checks<'_>,
    ) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        match rights::missing(&self.api, &rights::of_plan(plan, checks.run_once)).await {
            Ok(rules) if rules.is_empty() => {}
            Ok(rules) => return Err(Error::MissingRights { rules }),
            Err(error @ (Error::Forbidden { .. } | Error::Rejected { .. })) => {
                findings.push(Finding::note("", format!("nobody checked whether you may do all of this: {error}")));
            }
            Err(error) => return Err(error),
        }
        if let Some(registry) = checks.registry {
            findings.extend(self.check_pulls(plan, images, registry, checks.nodes_log_in).await?);
        }
        Ok(findings)
    }

    async fn check_pulls(
        &self,
        plan: &Plan,
        images: &[Assignment],
        registry: &dyn Registry,
        lenient: bool,
    ) -> Result<Vec<Finding>, Error> {
        // Who pulls in the same way is asked for once, with the images of all of them.
        type Asked<'a> = (&'a ObjectName, BTreeSet<&'a str>);
        let mut asked: BTreeMap<(Option<&str>, &Pull), Asked<'_>> = BTreeMap::new();
        let pulling =
            plan.actions.iter().filter(|action| !action.images.is_empty() && action.change != Change::Nothing);
        for action in pulling {
            let entry = asked.entry((action.object.namespace.as_deref(), &action.pull));
            let (_, wanted) = entry.or_insert((&action.object, BTreeSet::new()));
            wanted.extend(action.images.iter().map(|image| image.to.as_str()));
        }
        let mut findings = Vec::new();
        for ((namespace, pull), (object, wanted)) in asked {
            let logins = logins(&self.api, namespace.unwrap_or_default(), pull, &mut findings).await?;
            let platforms: Vec<Platform> = pull.platforms.iter().filter_map(|text| text.parse().ok()).collect();
            for image in images.iter().map(|one| &one.image) {
                if wanted.contains(image.pinned().to_string().as_str()) {
                    let answer = registry.probe(image, &platforms, logins.as_deref()).await;
                    findings.extend(judge(answer, object, image, (pull, logins.as_deref()), lenient)?);
                }
            }
        }
        Ok(findings)
    }
}

/// What a registry's answer means for a workload whose pods pull with these logins.
fn judge(
    answer: Pullable,
    object: &ObjectName,
    image: &Image,
    (pull, logins): (&Pull, Option<&[PullSecret]>),
    lenient: bool,
) -> Result<Option<Finding>, Error> {
    let refused =
        |why: String| Error::NotPullable { object: object.clone().into(), image: image.pinned().to_string(), why };
    let warning = |text: String| Ok(Some(Finding::warning(object.to_string(), text)));
    match answer {
        Pullable::Yes => Ok(None),
        Pullable::Missing(why) => Err(refused(why)),
        Pullable::Denied(why) if lenient || logins.is_none() => {
            warning(format!("the registry refuses the image: {why}"))
        }
        Pullable::Denied(why) => Err(refused(format!("{why} ({})", used(pull, logins)))),
        Pullable::Unknown(why) => warning(format!("nobody checked whether nodes can pull the image: {why}")),
    }
}

fn used(pull: &Pull, logins: Option<&[PullSecret]>) -> String {
    let account = if pull.service_account.is_empty() { "default" } else { &pull.service_account };
    match logins.unwrap_or_default() {
        [] => format!("its pods and the service account {account} have no imagePullSecrets"),
        logins => {
            let names: Vec<&str> = logins.iter().map(|login| login.name.as_str()).collect();
            format!("with the imagePullSecrets {}", names.join(", "))
        }
    }
}

/// Reads what pods of this kind pull with; `None` if that may not be read.
async fn logins(
    api: &Api,
    namespace: &str,
    pull: &Pull,
    findings: &mut Vec<Finding>,
) -> Result<Option<Vec<PullSecret>>, Error> {
    let skipped = |what: &str| {
        Finding::note(
            "",
            format!("{what} may not be read, so the image is looked up with your own login, not with that of the pods"),
        )
    };
    let mut names = pull.secrets.clone();
    if names.is_empty() {
        let account = if pull.service_account.is_empty() { "default" } else { &pull.service_account };
        let name = ObjectName::new(Resource::core("ServiceAccount", "serviceaccounts"), namespace, account);
        match api.get(&name).await {
            Ok(Some(found)) => names = self::names(&found["imagePullSecrets"]),
            Ok(None) => {} // it may come with the same manifests
            Err(Error::Forbidden { .. }) => {
                findings.push(skipped(&name.to_string()));
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    let mut logins = Vec::new();
    for secret in names {
        let name = ObjectName::new(Resource::core("Secret", "secrets"), namespace, &secret);
        match api.get(&name).await {
            Ok(Some(found)) => match config(&found) {
                Some(config) => logins.push(PullSecret { name: secret, config }),
                None => findings
                    .push(Finding::warning(name.to_string(), "is named as a pull secret, and holds no docker config")),
            },
            Ok(None) => {
                findings.push(Finding::warning(name.to_string(), "is named as a pull secret, and does not exist"))
            }
            Err(Error::Forbidden { .. }) => {
                findings.push(skipped(&name.to_string()));
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(logins))
}

/// The docker config of a Secret, in today's shape or in that of 2015.
pub(crate) fn config(secret: &Value) -> Option<String> {
    let text = |key: &str| -> Option<String> {
        let bytes = STANDARD.decode(secret["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let old = || {
        let auths: Value = serde_json::from_str(&text(".dockercfg")?).ok()?;
        Some(json!({"auths": auths}).to_string())
    };
    text(".dockerconfigjson").or_else(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_hold_a_docker_config_in_two_shapes() {
        let encoded = |value: &str| STANDARD.encode(value);
        let new = json!({"data": {".dockerconfigjson": encoded("{\"auths\":{}}")}});
        assert_eq!(config(&new).unwrap(), "{\"auths\":{}}");
        let old = json!({"data": {".dockercfg": encoded("{\"r.test\":{\"auth\":\"x\"}}")}});
        assert_eq!(config(&old).unwrap(), "{\"auths\":{\"r.test\":{\"auth\":\"x\"}}}");
        for broken in
            [json!({}), json!({"data": {".dockerconfigjson": "%"}}), json!({"data": {".dockercfg": encoded("{")}})]
        {
            assert_eq!(config(&broken), None);
        }
        let secret = PullSecret { name: "s".into(), config: "hunter2".into() };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
