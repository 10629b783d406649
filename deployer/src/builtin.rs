//! The kinds that every server has had, in the same version, since the oldest that we speak to (1.20): nobody has
//! to be asked for them. Kinds whose version changed meanwhile (CronJob, PodDisruptionBudget) are not among them.

use crate::object::Resource;

/// One kind; the plural is first among the words that people use for it, which are all in lower case.
struct Known {
    group: &'static str,
    kind: &'static str,
    namespaced: bool,
    words: &'static [&'static str],
}

const fn known(group: &'static str, kind: &'static str, words: &'static [&'static str]) -> Known {
    Known { group, kind, namespaced: true, words }
}

const fn global(group: &'static str, kind: &'static str, words: &'static [&'static str]) -> Known {
    Known { group, kind, namespaced: false, words }
}

/// All are `v1` in their group.
const KNOWN: [Known; 27] = [
    known("apps", "Deployment", &["deployments", "deployment", "deploy"]),
    known("apps", "StatefulSet", &["statefulsets", "statefulset", "sts"]),
    known("apps", "DaemonSet", &["daemonsets", "daemonset", "ds"]),
    known("apps", "ReplicaSet", &["replicasets", "replicaset", "rs"]),
    known("batch", "Job", &["jobs", "job"]),
    known("", "Pod", &["pods", "pod", "po"]),
    known("", "ReplicationController", &["replicationcontrollers", "replicationcontroller", "rc"]),
    known("", "ConfigMap", &["configmaps", "configmap", "cm"]),
    known("", "Endpoints", &["endpoints", "ep"]),
    known("", "LimitRange", &["limitranges", "limitrange", "limits"]),
    known("", "PersistentVolumeClaim", &["persistentvolumeclaims", "persistentvolumeclaim", "pvc"]),
    known("", "ResourceQuota", &["resourcequotas", "resourcequota", "quota"]),
    known("", "Secret", &["secrets", "secret"]),
    known("", "Service", &["services", "service", "svc"]),
    known("", "ServiceAccount", &["serviceaccounts", "serviceaccount", "sa"]),
    global("", "Namespace", &["namespaces", "namespace", "ns"]),
    global("", "PersistentVolume", &["persistentvolumes", "persistentvolume", "pv"]),
    known("autoscaling", "HorizontalPodAutoscaler", &["horizontalpodautoscalers", "horizontalpodautoscaler", "hpa"]),
    known("networking.k8s.io", "Ingress", &["ingresses", "ingress", "ing"]),
    known("networking.k8s.io", "NetworkPolicy", &["networkpolicies", "networkpolicy", "netpol"]),
    known("rbac.authorization.k8s.io", "Role", &["roles", "role"]),
    known("rbac.authorization.k8s.io", "RoleBinding", &["rolebindings", "rolebinding"]),
    global("rbac.authorization.k8s.io", "ClusterRole", &["clusterroles", "clusterrole"]),
    global("rbac.authorization.k8s.io", "ClusterRoleBinding", &["clusterrolebindings", "clusterrolebinding"]),
    global("apiextensions.k8s.io", "CustomResourceDefinition", &["customresourcedefinitions", "crd"]),
    global("scheduling.k8s.io", "PriorityClass", &["priorityclasses", "priorityclass", "pc"]),
    global("storage.k8s.io", "StorageClass", &["storageclasses", "storageclass", "sc"]),
];

impl Known {
    fn resource(&self) -> Resource {
        Resource { namespaced: self.namespaced, ..Resource::new(self.group, "v1", self.kind, self.words[0]) }
    }
}

/// A kind by what people call it: `deployment`, `deploy`, `deployments.apps`, `deployments.v1.apps`.
pub(crate) fn called(word: &str) -> Option<Resource> {
    let (name, group) = word.split_once('.').map_or((word, None), |(name, group)| (name, Some(group)));
    let fits = |known: &&Known| {
        let in_group = group.is_none_or(|group| group == known.group || group.strip_prefix("v1.") == Some(known.group));
        known.words.contains(&name) && in_group
    };
    KNOWN.iter().find(fits).map(Known::resource)
}

/// The kind that a manifest names: `apps/v1`, `Deployment`.
pub(crate) fn of(api_version: &str, kind: &str) -> Option<Resource> {
    let group = match api_version.split_once('/') {
        None => (api_version == "v1").then_some("")?,
        Some((group, version)) => (version == "v1" && !group.is_empty()).then_some(group)?,
    };
    of_group(group, kind)
}

/// A kind of a group, in the version that servers prefer or have always.
pub(crate) fn of_group(group: &str, kind: &str) -> Option<Resource> {
    KNOWN.iter().find(|known| known.group == group && known.kind == kind).map(Known::resource)
}

/// The same as [`called`], and kinds that one has to presume: CronJob, and `PLURAL.GROUP` of any other. For what is
/// written about rights without asking a server; the version does not matter there.
pub(crate) fn presumed(word: &str) -> Option<Resource> {
    let (name, group) = word.split_once('.').map_or((word, None), |(name, group)| (name, Some(group)));
    let is_cron_job = ["cronjob", "cronjobs", "cj"].contains(&name) && group.is_none_or(|group| group == "batch");
    let cron_job = || is_cron_job.then(|| Resource::new("batch", "v1", "CronJob", "cronjobs"));
    let other = || group.map(|group| Resource::new(group, "v1", name, name));
    called(word).or_else(cron_job).or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_and_manifests_call_a_kind_is_known() {
        let path = |resource: Option<Resource>| resource.map(|resource| resource.path(Some("demo")));
        let deployments = Some("/apis/apps/v1/namespaces/demo/deployments".to_owned());
        for word in ["deploy", "deployment", "deployments", "deployments.apps", "deployment.v1.apps"] {
            assert_eq!(path(called(word)), deployments, "{word}");
        }
        for word in ["dep", "cronjob", "deployments.extensions", "deployments.v1beta1.apps", "rollouts.argoproj.io"] {
            assert_eq!(path(called(word)), None, "{word}");
        }
        assert_eq!(path(of("apps/v1", "Deployment")), deployments);
        assert_eq!(path(of("v1", "Namespace")).unwrap(), "/api/v1/namespaces");
        for (version, kind) in [
            ("apps/v1beta1", "Deployment"),
            ("v1", "Deployment"),
            ("/v1", "Pod"),
            ("batch/v1", "CronJob"),
            ("v2", "Pod"),
        ] {
            assert_eq!(path(of(version, kind)), None, "{version} {kind}");
        }
        assert_eq!(presumed("cj").unwrap().plural, "cronjobs");
        assert_eq!(presumed("rollouts.argoproj.io").unwrap().group, "argoproj.io");
        assert_eq!(presumed("rollouts"), None);
    }
}
