//! What a cluster runs, or would go back to: the images of its workloads, by digest where that is known. For people who
//! ask what is out there, and for registries that are to keep it.

use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::{ObjectName, Resource};
use crate::ticket::verified;
use crate::workload::{self, text};
use crate::world::container_statuses;
use oci::{Pinned, Reference};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// The kinds that are looked through, beside Pods.
const KINDS: [&str; 4] = ["deployments", "statefulsets", "daemonsets", "cronjobs"];

/// One use of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct InUse {
    /// The image, as it is written or, of a pod, as the node reports it.
    pub image: String,
    /// What for.
    pub why: Why,
    /// By which object.
    pub object: ObjectName,
    /// In which of its containers.
    pub container: String,
}

/// What an image is in use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A workload is to run it.
    Wanted,
    /// It is what the workload would go back to: the last version that was seen to run well.
    LastGood,
    /// A pod runs it.
    Runs,
}

impl InUse {
    /// The image by its digest; `None` if only a tag is known.
    pub fn pinned(&self) -> Option<Pinned> {
        self.image.parse().ok()
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.why {
            Why::Wanted => "wanted",
            Why::LastGood => "last good",
            Why::Runs => "runs",
        };
        write!(f, "{}\t{why}\t{}\t{}", self.image, self.object, self.container)
    }
}

impl Cluster {
    /// All uses of images in the namespace, or in all of them.
    ///
    /// # Errors
    ///
    /// Fails if a kind may not be listed.
    pub async fn inventory(&self, everywhere: bool) -> Result<Vec<InUse>, Error> {
        let namespace = (!everywhere).then(|| self.namespace().to_owned());
        let mut uses = BTreeSet::new();
        for kind in KINDS {
            let resource = self.kinds.find(&self.api, kind).await?;
            for object in self.api.list(&resource, namespace.as_deref()).await? {
                uses.extend(of_workload(&resource, &object));
            }
        }
        let pods = Resource::core("Pod", "pods");
        for pod in self.api.list(&pods, namespace.as_deref()).await? {
            uses.extend(of_pod(&pods, &pod));
        }
        Ok(uses.into_iter().collect())
    }
}

fn name(resource: &Resource, object: &Value) -> ObjectName {
    let metadata = &object["metadata"];
    ObjectName::new(resource.clone(), text(&metadata["namespace"]), text(&metadata["name"]))
}

fn of_workload(resource: &Resource, object: &Value) -> Vec<InUse> {
    let object_name = name(resource, object);
    let one = |why, (container, image): (String, String)| InUse { image, why, object: object_name.clone(), container };
    let wanted: Vec<(String, String)> = workload::containers(resource, object)
        .into_iter()
        .filter(|container| !container.image.is_empty())
        .map(|container| (container.name, container.image))
        .collect();
    let last_good: Vec<(String, String)> =
        verified(object).into_iter().filter(|known| !wanted.contains(known)).collect();
    let last_good: Vec<InUse> = last_good.into_iter().map(|known| one(Why::LastGood, known)).collect();
    wanted.into_iter().map(|known| one(Why::Wanted, known)).chain(last_good).collect()
}

/// The digest is what the node reports; the repository is that of the pod, since nodes name any that has the content.
fn of_pod(resource: &Resource, pod: &Value) -> Vec<InUse> {
    let written = workload::containers(resource, pod);
    let one = |status: &Value| {
        let container = text(&status["name"]).to_owned();
        let (_, digest) = text(&status["imageID"]).rsplit_once('@')?;
        let image = &written.iter().find(|one| one.name == container)?.image;
        let image = match image.parse::<Pinned>() {
            Ok(_) => image.clone(),
            Err(_) => image.parse::<Reference>().ok()?.pin(digest.parse().ok()?).to_string(),
        };
        Some(InUse { image, why: Why::Runs, object: name(resource, pod), container })
    };
    container_statuses(pod).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::resource;
    use serde_json::json;

    #[test]
    fn what_is_wanted_what_ran_and_what_runs_is_in_use() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let (new, old) = (format!("r.test/web:2@{}", digest("2")), format!("r.test/web:1@{}", digest("1")));
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "shop", "annotations": {"lighter.dev/verified": json!({"web": old, "side": "r.test/side:1"}).to_string()}},
            "spec": {"template": {"spec": {"containers": [{"name": "web", "image": new}, {"name": "side", "image": "r.test/side:1"}]}}}});
        let uses = of_workload(&resource("apps", "Deployment"), &deployment);
        let shown: Vec<(&str, Why)> = uses.iter().map(|one| (one.image.as_str(), one.why)).collect();
        assert_eq!(shown, [(new.as_str(), Why::Wanted), ("r.test/side:1", Why::Wanted), (old.as_str(), Why::LastGood)]);
        assert_eq!(uses[2].to_string(), format!("{old}\tlast good\tdeployment/web in namespace shop\tweb"));

        let pod = json!({"metadata": {"name": "p", "namespace": "shop"},
            "spec": {"containers": [{"name": "side", "image": "r.test/side:1"}, {"name": "new", "image": "r.test/new:1"}]},
            "status": {"containerStatuses": [
                {"name": "side", "imageID": format!("elsewhere.test/x@{}", digest("3"))}, {"name": "new", "imageID": ""}]}});
        let uses = of_pod(&Resource::core("Pod", "pods"), &pod);
        let images: Vec<&str> = uses.iter().map(|one| one.image.as_str()).collect();
        assert_eq!(images, [format!("r.test/side:1@{}", digest("3"))]);
        assert!(uses[0].pinned().is_some());
    }
}
