//! What an object of the cluster is called, and where the API server keeps it. No requests here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One kind of object as the server serves it; found by discovery, never assumed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version that this server serves: `v1`.
    pub version: String,
    /// The kind: `Deployment`.
    pub kind: String,
    /// The name in paths: `deployments`.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Of a custom kind: where its pod spec is, or its image, as a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_path: Option<String>,
}

impl Resource {
    /// A kind of the core group, which has been `v1` since ever.
    pub(crate) fn core(kind: &str, plural: &str) -> Resource {
        Resource::new("", "v1", kind, plural)
    }

    /// A kind whose objects live in namespaces.
    pub(crate) fn new(group: &str, version: &str, kind: &str, plural: &str) -> Resource {
        Resource {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            namespaced: true,
            image_path: None,
        }
    }

    /// Whether it is this kind.
    pub(crate) fn is(&self, group: &str, kinds: &[&str]) -> bool {
        self.group == group && kinds.contains(&self.kind.as_str())
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of all objects of this kind, in one namespace where it has them.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", segment(&self.group)) };
        let version = segment(&self.version);
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/{version}/namespaces/{}/{}", segment(namespace), segment(&self.plural)),
            None => format!("{root}/{version}/{}", segment(&self.plural)),
        }
    }
}

/// The full name of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// What it is.
    pub resource: Resource,
    /// Where it lives; `None` for kinds without namespaces.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// Names an object; the namespace is dropped where the kind has none.
    pub fn new(resource: Resource, namespace: &str, name: &str) -> ObjectName {
        let namespace = resource.namespaced.then(|| namespace.to_owned());
        ObjectName { resource, namespace, name: name.to_owned() }
    }

    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.resource.path(self.namespace.as_deref()), segment(&self.name))
    }

    /// `deployment/web`, as kubectl takes it.
    pub fn short(&self) -> String {
        format!("{}/{}", self.resource.kind.to_lowercase(), self.name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())?;
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// Writes one path segment or query value so that no name, however hostile, can leave its place.
pub(crate) fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => escaped.push(char::from(byte)),
            b'.' if text != "." && text != ".." => escaped.push('.'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_place() {
        let deployments = Resource::new("apps", "v1", "Deployment", "deployments");
        let path = |name: &str| ObjectName::new(deployments.clone(), "demo", name).path();
        assert_eq!(path("web"), "/apis/apps/v1/namespaces/demo/deployments/web");
        assert_eq!(path("../x?y#z"), "/apis/apps/v1/namespaces/demo/deployments/..%2Fx%3Fy%23z");
        assert_eq!(path(".."), "/apis/apps/v1/namespaces/demo/deployments/%2E%2E");
        assert_eq!(ObjectName::new(deployments, "demo", "web").to_string(), "deployment/web in namespace demo");
    }
}
