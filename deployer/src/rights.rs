//! Rights: which rules a deploy needs, in what role they are, and which of them this user lacks. Deciding is
//! pure; what the server says of this user comes from outside.

use crate::api::Api;
use crate::error::Error;
use crate::object::{ObjectName, Resource};
use crate::plan::{Plan, Step, is_job};
use crate::workload::{self, text};
use crate::{Target, builtin, once};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// One thing that somebody may do: a rule of a Role, with one verb.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RoleRule {
    /// Where; `None` asks for a ClusterRole.
    pub namespace: Option<String>,
    /// The API group; empty for the core group.
    pub group: String,
    /// `deployments`, `pods/log`
    pub resource: String,
    /// The one object; `None` for all of them.
    pub name: Option<String>,
    /// `patch`
    pub verb: String,
}

/// Prints rules as manifests of Roles, one per namespace, and a ClusterRole for what lives in none.
pub fn role(name: &str, rules: &[RoleRule]) -> String {
    let places: BTreeSet<Option<&str>> = rules.iter().map(|rule| rule.namespace.as_deref()).collect();
    let roles: Vec<String> = places
        .into_iter()
        .map(|place| {
            let here = rules.iter().filter(|rule| rule.namespace.as_deref() == place);
            let (kind, metadata) = match place {
                Some(namespace) => ("Role", format!("{{name: {name}, namespace: {namespace}}}")),
                None => ("ClusterRole", format!("{{name: {name}}}")),
            };
            let mut text =
                format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {metadata}\nrules:\n");
            merged(here).iter().for_each(|line| text += line);
            text
        })
        .collect();
    roles.join("---\n")
}

/// One line for all resources of a group with the same names and verbs.
fn merged<'a>(rules: impl Iterator<Item = &'a RoleRule>) -> Vec<String> {
    let mut verbs: BTreeMap<(&str, Option<&str>, &str), BTreeSet<&str>> = BTreeMap::new();
    for rule in rules {
        verbs.entry((&rule.group, rule.name.as_deref(), &rule.resource)).or_default().insert(&rule.verb);
    }
    let mut lines: Vec<Line<'_>> = Vec::new();
    for ((group, name, resource), verbs) in verbs {
        let verbs: Vec<&str> = verbs.into_iter().collect();
        match lines.iter_mut().find(|line| line.group == group && line.name == name && line.verbs == verbs) {
            Some(line) => line.resources.push(resource),
            None => lines.push(Line { group, name, verbs, resources: vec![resource] }),
        }
    }
    lines.iter().map(Line::print).collect()
}

/// One line of a role.
struct Line<'a> {
    group: &'a str,
    name: Option<&'a str>,
    verbs: Vec<&'a str>,
    resources: Vec<&'a str>,
}

impl Line<'_> {
    fn print(&self) -> String {
        let list = |words: &[&str]| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let name = self.name.map(|name| format!("resourceNames: [{name:?}], ")).unwrap_or_default();
        let (group, resources, verbs) = (self.group, list(&self.resources), list(&self.verbs));
        format!("- {{apiGroups: [{group:?}], resources: [{resources}], {name}verbs: [{verbs}]}}\n")
    }
}

/// Which rules are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Also those that only make checks before a deploy and explanations of failures better.
    pub optional: bool,
    /// Also those for running CronJobs once.
    pub run_once: bool,
}

/// The rules that deploying to targets needs, going back included.
///
/// # Errors
///
/// Fails if a kind is none that everybody has, and is not written as `PLURAL.GROUP`.
pub fn rules(targets: &[Target], namespace: &str, extent: Extent) -> Result<Vec<RoleRule>, Error> {
    let mut rules = BTreeSet::new();
    let mut has_custom = false;
    for target in targets {
        let resource = builtin::presumed(&target.kind).ok_or_else(|| Error::UnknownKind(target.kind.clone()))?;
        let object = ObjectName::new(resource, namespace, &target.name);
        rules.extend(of_workload(&object, For::All));
        has_custom |= workload::is_custom(&object.resource);
        if extent.run_once && once::is_cron_job(&object.resource) {
            rules.extend(of_run_once(&object));
        }
        if is_job(&object.resource) {
            rules.extend([
                rule(&object, &object.resource, Some(&object.name), "delete"),
                rule(&object, &object.resource, None, "create"),
            ]);
        }
    }
    if extent.optional {
        rules.extend(helpful(Some(namespace)));
        if has_custom {
            rules.extend(pods_of_custom(namespace));
        }
    }
    Ok(widened(rules))
}

/// Several objects of a kind are listed and watched together, for which rules by name do not suffice.
fn widened(rules: BTreeSet<RoleRule>) -> Vec<RoleRule> {
    let is_look = |rule: &RoleRule| rule.name.is_some() && matches!(rule.verb.as_str(), "list" | "watch");
    let is_shared = |rule: &RoleRule| {
        let same =
            |other: &&RoleRule| RoleRule { name: None, ..(*other).clone() } == RoleRule { name: None, ..rule.clone() };
        rules.iter().filter(same).count() > 1
    };
    let wide = |rule: &RoleRule| {
        if is_look(rule) && is_shared(rule) { RoleRule { name: None, ..rule.clone() } } else { rule.clone() }
    };
    rules.iter().map(wide).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Which parts of a deploy rules are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Looking at objects before anything is planned, too.
    All,
    /// Writing and watching: looking was done.
    Rest,
}

/// What changing and watching one workload needs; `going back` needs no more.
pub(crate) fn of_workload(object: &ObjectName, what: For) -> Vec<RoleRule> {
    let resource = &object.resource;
    let one = |verb: &str| rule(object, resource, Some(&object.name), verb);
    let all = |group: &str, plural: &str, verb: &str| rule(object, &Resource::new(group, "v1", "", plural), None, verb);
    let mut rules = vec![one("patch")];
    if what == For::All {
        rules.push(one("get"));
    }
    // Without a server, nobody knows yet where a custom kind has its image; a deploy to it is told, and watches it.
    if workload::is_watched(resource) || (what == For::All && workload::is_custom(resource)) {
        // The list of one name (fieldSelector) is allowed by a rule for that name.
        rules.extend(["list", "watch"].map(one));
        if !workload::is_custom(resource) {
            rules.extend(["list", "watch"].map(|verb| all("", "pods", verb)));
        }
        if resource.is("apps", &["Deployment"]) {
            rules.extend(["list", "watch"].map(|verb| all(&resource.group, "replicasets", verb)));
        }
    }
    rules
}

/// What running a CronJob once, as a Job of its own, needs.
pub(crate) fn of_run_once(cron_job: &ObjectName) -> Vec<RoleRule> {
    let all =
        |group: &str, plural: &str, verb: &str| rule(cron_job, &Resource::new(group, "v1", "", plural), None, verb);
    let mut rules =
        vec![rule(cron_job, &cron_job.resource, Some(&cron_job.name), "get"), all("batch", "jobs", "create")];
    for verb in ["list", "watch"] {
        rules.extend([all("batch", "jobs", verb), all("", "pods", verb)]);
    }
    rules
}

/// What makes failures better explained, and is no must: events, logs, and what the checks before a deploy read.
pub(crate) fn helpful(namespace: Option<&str>) -> Vec<RoleRule> {
    let rule = |resource: &str, verb: &str| RoleRule {
        namespace: namespace.map(str::to_owned),
        resource: resource.into(),
        verb: verb.into(),
        ..RoleRule::default()
    };
    let mut rules = vec![rule("events", "list"), rule("events", "watch"), rule("pods/log", "get")];
    rules.extend([rule("secrets", "get"), rule("serviceaccounts", "get")]);
    rules.push(RoleRule { resource: "nodes".into(), verb: "list".into(), ..RoleRule::default() });
    rules
}

/// The pods of custom kinds, which their controllers may have through ReplicaSets.
fn pods_of_custom(namespace: &str) -> Vec<RoleRule> {
    let rule = |group: &str, resource: &str, verb: &str| RoleRule {
        namespace: Some(namespace.to_owned()),
        group: group.into(),
        resource: resource.into(),
        verb: verb.into(),
        name: None,
    };
    let both = |(group, resource)| ["list", "watch"].map(|verb| rule(group, resource, verb));
    [("", "pods"), ("apps", "replicasets")].into_iter().flat_map(both).collect()
}

fn rule(object: &ObjectName, resource: &Resource, name: Option<&str>, verb: &str) -> RoleRule {
    RoleRule {
        namespace: object.namespace.clone(),
        group: resource.group.clone(),
        resource: resource.plural.clone(),
        name: name.map(str::to_owned),
        verb: verb.to_owned(),
    }
}

/// What the writes and watches of a plan need.
pub(crate) fn of_plan(plan: &Plan, run_once: bool) -> Vec<RoleRule> {
    let mut rules = BTreeSet::new();
    for action in &plan.actions {
        let object = &action.object;
        let one = |verb: &str| rule(object, &object.resource, Some(&object.name), verb);
        // A name that does not exist yet cannot be in a rule for creation.
        let create = rule(object, &object.resource, None, "create");
        let is_new = action.change == crate::Change::Create;
        match &action.step {
            Step::Nothing => {}
            Step::Delete => rules.extend([one("delete")]),
            Step::Replace(_) => rules.extend([one("delete"), one("get"), create]),
            Step::Patch(_) => rules.extend([one("patch")]),
            Step::Apply { .. } => {
                rules.insert(one("patch"));
                if is_new {
                    rules.insert(create);
                }
            }
        }
        if run_once && once::is_cron_job(&object.resource) && action.step != Step::Delete {
            rules.extend(of_run_once(object));
        }
        if workload::is_watched(&object.resource) && action.step != Step::Delete {
            let watched = of_workload(object, For::Rest);
            let is_write = |rule: &RoleRule| rule.verb == "patch";
            rules.extend(watched.into_iter().filter(|rule| !is_write(rule)));
        }
    }
    widened(rules)
}

/// Which of the rules the server's own list of this user's rights does not have (`SelfSubjectRulesReview`).
fn lacking(rules: &[RoleRule], review: &Value) -> Vec<RoleRule> {
    let has = |list: &Value, word: &str| list.as_array().into_iter().flatten().any(|one| one == "*" || one == word);
    let allows = |allowed: &Value, rule: &RoleRule| {
        let resource_fits = has(&allowed["resources"], &rule.resource)
            || rule.resource.split_once('/').is_some_and(|(_, sub)| has(&allowed["resources"], &format!("*/{sub}")));
        let names = allowed["resourceNames"].as_array().filter(|names| !names.is_empty());
        let name_fits =
            names.is_none_or(|names| rule.name.as_ref().is_some_and(|name| names.iter().any(|one| one == name)));
        resource_fits && name_fits && has(&allowed["apiGroups"], &rule.group) && has(&allowed["verbs"], &rule.verb)
    };
    let allowed = || review["status"]["resourceRules"].as_array().into_iter().flatten();
    rules.iter().filter(|rule| !allowed().any(|one| allows(one, rule))).cloned().collect()
}

/// Asks the server which of the rules this user lacks: one question per namespace, and one more for each
/// rule that seems to be missing, since the list may be incomplete.
pub(crate) async fn missing(api: &Api, rules: &[RoleRule]) -> Result<Vec<RoleRule>, Error> {
    let places: BTreeSet<Option<&str>> = rules.iter().map(|rule| rule.namespace.as_deref()).collect();
    let mut doubtful = Vec::new();
    for place in places {
        let here: Vec<RoleRule> = rules.iter().filter(|rule| rule.namespace.as_deref() == place).cloned().collect();
        let Some(namespace) = place else {
            doubtful.extend(here); // the list is of a namespace
            continue;
        };
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}});
        let review = api.review("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &body).await?;
        doubtful.extend(lacking(&here, &review));
    }
    let answers = join_all(doubtful.iter().map(|rule| is_allowed(api, rule))).await;
    let mut missing = Vec::new();
    for (rule, answer) in doubtful.iter().zip(answers) {
        if !answer? {
            missing.push(rule.clone());
        }
    }
    Ok(missing)
}

async fn is_allowed(api: &Api, rule: &RoleRule) -> Result<bool, Error> {
    let (resource, subresource) = rule.resource.split_once('/').unwrap_or((&rule.resource, ""));
    let attributes = json!({"namespace": rule.namespace, "verb": rule.verb, "group": rule.group,
        "resource": resource, "subresource": subresource, "name": rule.name});
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes}});
    let review = api.review("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &body).await?;
    tracing::debug!(?rule, reason = text(&review["status"]["reason"]), "asked for a right");
    Ok(review["status"]["allowed"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::resource;

    fn web() -> ObjectName {
        ObjectName::new(resource("apps", "Deployment"), "demo", "web")
    }

    #[test]
    fn rules_are_printed_as_a_role() {
        let mut rules = of_workload(&web(), For::All);
        rules.push(RoleRule { resource: "nodes".into(), verb: "list".into(), ..RoleRule::default() });
        let expected = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: deployer}
rules:
- {apiGroups: [\"\"], resources: [\"nodes\"], verbs: [\"list\"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: deployer, namespace: demo}
rules:
- {apiGroups: [\"\"], resources: [\"pods\"], verbs: [\"list\", \"watch\"]}
- {apiGroups: [\"apps\"], resources: [\"replicasets\"], verbs: [\"list\", \"watch\"]}
- {apiGroups: [\"apps\"], resources: [\"deployments\"], resourceNames: [\"web\"], verbs: [\"get\", \"list\", \"patch\", \"watch\"]}
";
        assert_eq!(role("deployer", &rules), expected);
    }

    #[test]
    fn rules_come_from_targets_alone() {
        let targets = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect::<Vec<Target>>();
        let text = role(
            "x",
            &rules(&targets(&["deploy/a", "deployments.apps/b", "job/c"]), "demo", Extent::default()).unwrap(),
        );
        for line in [
            "resources: [\"deployments\", \"replicasets\"], verbs: [\"list\", \"watch\"]",
            "resources: [\"deployments\"], resourceNames: [\"a\"], verbs: [\"get\", \"patch\"]",
            "resources: [\"jobs\"], resourceNames: [\"c\"], verbs: [\"delete\", \"get\", \"list\", \"patch\", \"watch\"]",
            "resources: [\"jobs\"], verbs: [\"create\"]",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let custom =
            rules(&targets(&["rollouts.argoproj.io/web"]), "demo", Extent { optional: true, ..Extent::default() })
                .unwrap();
        for verb in ["get", "list", "patch", "watch"] {
            let is_it =
                |rule: &&RoleRule| rule.group == "argoproj.io" && rule.resource == "rollouts" && rule.verb == verb;
            assert!(custom.iter().any(|rule| is_it(&rule)), "{verb}");
        }
        let pods = |rules: &[RoleRule]| {
            rules.iter().filter(|rule| ["pods", "replicasets"].contains(&rule.resource.as_str())).count()
        };
        assert_eq!(pods(&custom), 4);
        assert_eq!(
            pods(&rules(&targets(&["rollouts.argoproj.io/web"]), "demo", Extent::default()).unwrap()),
            0,
            "no must"
        );
        assert!(custom.iter().any(|rule| rule.resource == "nodes" && rule.namespace.is_none()));
        assert!(rules(&targets(&["rollout/web"]), "demo", Extent { optional: true, ..Extent::default() }).is_err());
    }

    #[test]
    fn a_review_is_read_as_the_authorizer_reads_rules() {
        let review = |rule: Value| json!({"status": {"resourceRules": [rule]}});
        let patch = vec![rule(&web(), &web().resource, Some("web"), "patch")];
        let log = vec![RoleRule { resource: "pods/log".into(), verb: "get".into(), ..RoleRule::default() }];
        for (rules, allowed, enough) in [
            (&patch, json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}), true),
            (
                &patch,
                json!({"verbs": ["patch"], "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["web"]}),
                true,
            ),
            (
                &patch,
                json!({"verbs": ["patch"], "apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["api"]}),
                false,
            ),
            (&patch, json!({"verbs": ["patch"], "apiGroups": [""], "resources": ["deployments"]}), false),
            (&patch, json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"]}), false),
            (&log, json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), false),
            (&log, json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*/log"]}), true),
        ] {
            assert_eq!(lacking(rules, &review(allowed.clone())).is_empty(), enough, "{allowed}");
        }
    }
}
