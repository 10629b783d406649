//! Sets of objects that belong together, so that one whose manifest is gone is found and deleted: the
//! ApplySet of Kubernetes (KEP-3659), as kubectl knows it too. Pure; what is listed comes from outside.
//!
//! ```text
//! Secret NAME           label applyset.kubernetes.io/id = ID, and as annotations:
//!                       who looks after the set, which kinds are in it, which further namespaces
//! every member          label applyset.kubernetes.io/part-of = ID
//! ```

use crate::error::Error;
use crate::object::{ObjectName, Resource};
use crate::workload::text;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oci::Digest;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const ID: &str = "applyset.kubernetes.io/id";
const PART_OF: &str = "applyset.kubernetes.io/part-of";
const TOOLING: &str = "applyset.kubernetes.io/tooling";
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
/// Who we are, as a set says it: only the tool that made a set may change it.
const US: &str = "lighter/";
/// Kinds whose objects take others, or data, with them.
const PRECIOUS: [&str; 4] = ["Namespace", "PersistentVolumeClaim", "PersistentVolume", "CustomResourceDefinition"];

/// A set that the manifests are the whole of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name, which is that of a Secret in the namespace of the deploy.
    pub name: String,
    /// Whether to delete what is of it and in no manifest any more.
    pub prune: bool,
    /// Whether namespaces, volume claims, volumes and definitions of kinds may be deleted, too.
    pub prune_precious: bool,
}

/// Being of a set: a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    id: String,
}

impl Membership {
    /// Puts the label on an object.
    pub(crate) fn label(&self, body: &mut Value) {
        if !body["metadata"]["labels"].is_object() {
            body["metadata"]["labels"] = json!({});
        }
        body["metadata"]["labels"][PART_OF] = json!(self.id);
    }

    /// The label selector of all members.
    pub(crate) fn selector(&self) -> String {
        format!("{PART_OF}={}", self.id)
    }
}

/// What is in a set: kinds, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// `(group, kind)`
    pub(crate) kinds: BTreeSet<(String, String)>,
    /// Beside the one that the set itself is in.
    pub(crate) namespaces: BTreeSet<String>,
}

impl Contents {
    /// What a set's Secret says is in it.
    ///
    /// # Errors
    ///
    /// Fails if the Secret is none of a set, or of one that another tool looks after.
    pub(crate) fn read(parent: &ObjectName, secret: &Value) -> Result<Contents, Error> {
        let unfit = |what: String| Err(Error::Unfit { object: parent.clone().into(), what });
        let annotations = &secret["metadata"]["annotations"];
        let tooling = text(&annotations[TOOLING]);
        if secret["metadata"]["labels"][ID] != id(parent) {
            return unfit(format!("is no set of objects: it has not the label {ID}; choose another name for the set"));
        }
        if !tooling.starts_with(US) {
            return unfit(format!("is a set that {tooling:?} looks after"));
        }
        let words = |key: &str| text(&annotations[key]).split(',').filter(|word| !word.is_empty());
        let kind = |word: &str| {
            let (kind, group) = word.split_once('.').unwrap_or((word, ""));
            (group.to_owned(), kind.to_owned())
        };
        Ok(Contents {
            kinds: words(KINDS).map(kind).collect(),
            namespaces: words(NAMESPACES).map(str::to_owned).collect(),
        })
    }

    /// What these objects are.
    pub(crate) fn of<'a>(parent: &ObjectName, objects: impl Iterator<Item = &'a ObjectName>) -> Contents {
        let mut contents = Contents::default();
        for object in objects {
            contents.kinds.insert((object.resource.group.clone(), object.resource.kind.clone()));
            contents.namespaces.extend(object.namespace.clone().filter(|_| object.namespace != parent.namespace));
        }
        contents
    }

    pub(crate) fn with(&self, other: &Contents) -> Contents {
        let mut all = self.clone();
        all.kinds.extend(other.kinds.iter().cloned());
        all.namespaces.extend(other.namespaces.iter().cloned());
        all
    }

    /// The set's Secret that says so.
    pub(crate) fn write(&self, parent: &ObjectName) -> Value {
        let name =
            |(group, kind): &(String, String)| if group.is_empty() { kind.clone() } else { format!("{kind}.{group}") };
        let kinds: BTreeSet<String> = self.kinds.iter().map(name).collect();
        let joined = |words: &BTreeSet<String>| words.iter().cloned().collect::<Vec<_>>().join(",");
        let annotations =
            json!({TOOLING: format!("{US}v1"), KINDS: joined(&kinds), NAMESPACES: joined(&self.namespaces)});
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": parent.name, "namespace": parent.namespace,
            "labels": {ID: id(parent)}, "annotations": annotations}})
    }
}

/// The Secret of a set.
pub(crate) fn parent(name: &str, namespace: &str) -> ObjectName {
    ObjectName::new(Resource::core("Secret", "secrets"), namespace, name)
}

pub(crate) fn membership(parent: &ObjectName) -> Membership {
    Membership { id: id(parent) }
}

/// The hash of the name, so that nobody can make members of a set that is not theirs by accident.
fn id(parent: &ObjectName) -> String {
    let namespace = parent.namespace.as_deref().unwrap_or_default();
    let name = format!("{}.{namespace}.{}.{}", parent.name, parent.resource.kind, parent.resource.group);
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(Digest::of(name.as_bytes()).as_bytes()))
}

/// Whether it is deleted only if somebody says so.
pub(crate) fn is_precious(object: &ObjectName) -> bool {
    PRECIOUS.contains(&object.resource.kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::resource;

    #[test]
    fn a_set_is_written_as_kubectl_reads_it() {
        let parent = parent("shop", "demo");
        let objects = [
            ObjectName::new(resource("apps", "Deployment"), "demo", "web"),
            ObjectName::new(Resource::core("Service", "services"), "other", "web"),
        ];
        let contents = Contents::of(&parent, objects.iter());
        let secret = contents.write(&parent);
        let metadata = &secret["metadata"];
        // sha256("shop.demo.Secret.") as base64url.
        assert_eq!(metadata["labels"][ID], "applyset-HExlOfNdfcFQiu4Wt7znmAXtMS3i1Pw_9p5-efVUBWA-v1");
        assert_eq!(metadata["annotations"][KINDS], "Deployment.apps,Service");
        assert_eq!(metadata["annotations"][NAMESPACES], "other");
        assert_eq!(Contents::read(&parent, &secret).unwrap(), contents);
        let mut theirs = secret.clone();
        theirs["metadata"]["annotations"][TOOLING] = json!("kubectl/v1.30");
        assert!(Contents::read(&parent, &theirs).unwrap_err().to_string().contains("kubectl/v1.30"));
        assert!(Contents::read(&parent, &json!({})).unwrap_err().to_string().contains("is no set"));
    }
}
