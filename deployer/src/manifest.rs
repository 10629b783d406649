//! Manifests: YAML or JSON text with any number of documents, read into objects and put in the order in
//! which they can be created. What they mean to the cluster is not known here.

use crate::{Target, builtin, yaml};
use serde_json::Value;

/// Longest text that is read, in bytes; etcd takes 1.5 MB per object.
const TEXT_LIMIT: usize = 16 << 20;
/// How deep lists of lists are followed.
const LIST_DEPTH: usize = 4;
/// What only the server writes; `kubectl get -o yaml` prints it, and server-side apply refuses it.
const SERVER_FIELDS: [&str; 6] =
    ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"];

/// Which manifests are to run well before others are written.
const WAVE: &str = "lighter.dev/wave";

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}, document {document}: {reason}")]
pub struct InvalidManifest {
    /// The file, or what else the text came from.
    pub source_name: String,
    /// Which document of it, from 1.
    pub document: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// One object of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Where it was read: file and number of the document.
    pub origin: (String, usize),
    /// The object, without what only the server writes.
    pub object: Value,
    /// When its turn is, if somebody else than the manifest says so.
    pub turn: Option<i32>,
}

impl Manifest {
    /// Reads all documents of a text, in the order in which they are to be applied. `source_name` is for messages.
    ///
    /// # Errors
    ///
    /// Fails on text that is no YAML, on objects without `apiVersion`, `kind` or `metadata.name`, and
    /// when there is no object at all.
    pub fn parse_all(source_name: &str, text: &str) -> Result<Vec<Manifest>, InvalidManifest> {
        let wrong =
            |document, reason: String| InvalidManifest { source_name: source_name.to_owned(), document, reason };
        if text.len() > TEXT_LIMIT {
            return Err(wrong(1, format!("it has {} bytes, and {TEXT_LIMIT} is the most that is read", text.len())));
        }
        let mut manifests = Vec::new();
        for (index, document) in yaml::documents(text).enumerate() {
            let value = document.map_err(|error| wrong(index + 1, error.to_string()))?;
            let mut objects = Vec::new();
            flatten(value, LIST_DEPTH, &mut objects).map_err(|reason| wrong(index + 1, reason))?;
            for object in objects {
                let object = checked(object).map_err(|reason| wrong(index + 1, reason))?;
                manifests.push(Manifest { origin: (source_name.to_owned(), index + 1), object, turn: None });
            }
        }
        if manifests.is_empty() {
            return Err(wrong(1, "there is no object in it".into()));
        }
        Manifest::sort(&mut manifests);
        Ok(manifests)
    }

    /// Puts manifests, of several files perhaps, in the order in which they are to be applied.
    pub fn sort(manifests: &mut [Manifest]) {
        // Stable: the files' order within a rank. A wave that is no number is an error later, when it is planned.
        manifests.sort_by_key(|manifest| (manifest.wave().unwrap_or_default(), rank(manifest.kind())));
    }

    /// `apps/v1`
    pub fn api_version(&self) -> &str {
        self.object["apiVersion"].as_str().unwrap_or_default()
    }

    /// `Deployment`
    pub fn kind(&self) -> &str {
        self.object["kind"].as_str().unwrap_or_default()
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// When its turn is: the number in its annotation `lighter.dev/wave`, lower ones first; 0 where it says nothing.
    ///
    /// # Errors
    ///
    /// Fails if that is no number.
    pub fn wave(&self) -> Result<i32, InvalidManifest> {
        if let Some(turn) = self.turn {
            return Ok(turn);
        }
        let wave = &self.object["metadata"]["annotations"][WAVE];
        let number = wave.as_str().map_or_else(|| wave.is_null().then_some(0), |text| text.parse().ok());
        number.ok_or_else(|| InvalidManifest {
            source_name: self.origin.0.clone(),
            document: self.origin.1,
            reason: format!("the annotation {WAVE} is {wave}, which is no whole number in quotes"),
        })
    }

    /// Whether it is the object that somebody names: `deployment/web`, `deploy/web`, `deployments.apps/web`.
    pub fn is_called(&self, target: &Target) -> bool {
        let group = self.api_version().rsplit_once('/').map_or("", |(group, _)| group);
        let kind = self.kind().to_lowercase();
        let is_kind = || match builtin::presumed(&target.kind).filter(|resource| resource.kind != resource.plural) {
            Some(resource) => resource.kind == self.kind() && resource.group == group,
            None => {
                let (word, of) =
                    target.kind.split_once('.').map_or((target.kind.as_str(), None), |(word, of)| (word, Some(of)));
                let is_word = word == kind
                    || word.strip_suffix("es").or(word.strip_suffix('s')).is_some_and(|one| one == kind)
                    || word.strip_suffix('s') == Some(&kind);
                is_word && of.is_none_or(|of| of == group)
            }
        };
        target.name == self.name() && is_kind()
    }

    /// The namespace that it names itself, if it does.
    pub fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str()
    }
}

/// Empty documents vanish; a `List` is what is in it.
fn flatten(value: Value, depth: usize, objects: &mut Vec<Value>) -> Result<(), String> {
    let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && value["items"].is_array();
    match value {
        Value::Null => Ok(()),
        Value::Object(mut fields) if is_list => {
            let depth = depth.checked_sub(1).ok_or("lists are nested too deep")?;
            let Some(Value::Array(items)) = fields.remove("items") else { return Ok(()) };
            items.into_iter().try_for_each(|item| flatten(item, depth, objects))
        }
        Value::Object(_) => {
            objects.push(value);
            Ok(())
        }
        _ => Err("it is no object; a manifest has apiVersion, kind and metadata".into()),
    }
}

fn checked(mut object: Value) -> Result<Value, String> {
    for field in ["apiVersion", "kind"] {
        if object[field].as_str().is_none_or(str::is_empty) {
            return Err(format!("`{field}` is missing"));
        }
    }
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(match object["metadata"]["generateName"].as_str() {
            Some(_) => "it has `generateName`: only objects with a `metadata.name` can be applied".into(),
            None => "`metadata.name` is missing".into(),
        });
    }
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        SERVER_FIELDS.iter().for_each(|field| drop(metadata.remove(*field)));
    }
    Ok(object)
}

/// What others need comes first: kapp's order, which is also that of people who write one file.
pub(crate) fn rank(kind: &str) -> usize {
    const ORDER: [&[&str]; 8] = [
        &["Namespace"],
        &["CustomResourceDefinition", "PriorityClass", "StorageClass", "PersistentVolume"],
        &[
            "ServiceAccount",
            "Role",
            "ClusterRole",
            "RoleBinding",
            "ClusterRoleBinding",
            "LimitRange",
            "ResourceQuota",
            "NetworkPolicy",
        ],
        &["Secret", "ConfigMap", "PersistentVolumeClaim"],
        &["Service"],
        &["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Pod", "Job", "CronJob"],
        &["HorizontalPodAutoscaler", "PodDisruptionBudget", "Ingress"],
        &["APIService", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"],
    ];
    ORDER.iter().position(|kinds| kinds.contains(&kind)).unwrap_or(ORDER.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_in_the_order_of_need() {
        let text = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, creationTimestamp: null}\nstatus: {}\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: web}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: demo}}\n";
        let manifests = Manifest::parse_all("web.yaml", text).unwrap();
        let kinds: Vec<&str> = manifests.iter().map(Manifest::kind).collect();
        assert_eq!(kinds, ["Namespace", "Service", "Deployment"]);
        assert_eq!(
            manifests[2].object,
            serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}})
        );
        assert_eq!(manifests[1].origin, ("web.yaml".to_owned(), 3));
    }

    #[test]
    fn what_is_no_manifest_says_where_and_why() {
        for (text, reason) in [
            ("", "no object"),
            ("just text", "no object; a manifest has"),
            ("- 1", "no object; a manifest has"),
            ("kind: Pod", "`apiVersion` is missing"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {}", "`metadata.name` is missing"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}", "generateName"),
            ("a: [", "did not find expected"),
            ("a: &a [*a, *a]", ""),
        ] {
            let error = Manifest::parse_all("f", text).unwrap_err().to_string();
            assert!(error.starts_with("f, document 1: ") && error.contains(reason), "{text:?}: {error}");
        }
    }
}
