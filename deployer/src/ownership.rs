//! Who owns which field: reading the server's conflicts, and moving the fields of client-side apply to
//! server-side apply, without which removed fields stay for ever (kubernetes#99003). Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;

/// The name under which we own fields.
pub(crate) const MANAGER: &str = "lighter";
/// Managers whose fields become ours: client-side apply, since what it set came from a file as what we
/// set does, and ourselves, since the server keeps what we patched apart from what we applied
/// (kubernetes#80916).
const ADOPTED: [&str; 3] = ["kubectl-client-side-apply", "before-first-apply", MANAGER];
/// Managers of imperative commands: what they set yields to a file.
const IMPERATIVE: [&str; 5] = ["kubectl-create", "kubectl-set", "kubectl-edit", "kubectl-patch", "kubectl-rollout"];

/// One field that we want to set and somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// `.spec.template.spec.containers[name="web"].image`
    pub field: String,
    /// The owner as the server names it: `kubectl`.
    pub owner: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} belongs to {:?}", self.field, self.owner)
    }
}

/// Which fields of others we may take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Force {
    /// None.
    #[default]
    Nothing,
    /// Any.
    All,
    /// These and what is below them: `spec.replicas`.
    Fields(Vec<String>),
}

impl Force {
    fn covers(&self, field: &str) -> bool {
        let bare = |field: &str| field.trim_start_matches('.').to_owned();
        let is_below = |wanted: &String| match bare(field).strip_prefix(bare(wanted).as_str()) {
            Some(rest) => rest.is_empty() || rest.starts_with(['.', '[']),
            None => false,
        };
        match self {
            Force::Nothing => false,
            Force::All => true,
            Force::Fields(fields) => fields.iter().any(is_below),
        }
    }
}

/// Reads the causes of a 409: `conflict with "kubectl" using apps/v1` on a field.
pub(crate) fn conflicts<'a>(causes: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> Vec<Conflict> {
    causes
        .filter(|(reason, _, _)| *reason == "FieldManagerConflict")
        .map(|(_, field, message)| {
            let owner = message.split('"').nth(1).unwrap_or(message);
            Conflict { field: field.to_owned(), owner: owner.to_owned() }
        })
        .collect()
}

/// Whether those in conflict with us yield.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Yield {
    /// All fields belong to managers whose fields become ours before we write.
    Adopted,
    /// All were set by `kubectl` commands, or may be taken; the fields and who set them.
    Taken(Vec<String>),
    /// These do not.
    No(Vec<Conflict>),
}

/// Judges conflicts: a file may overrule another file applied by kubectl and imperative commands, and
/// nobody else, unless somebody allows it.
pub(crate) fn judge(conflicts: Vec<Conflict>, force: &Force) -> Yield {
    let is_of = |managers: &[&str], conflict: &Conflict| managers.contains(&conflict.owner.as_str());
    let yields = |conflict: &Conflict| is_of(&IMPERATIVE, conflict) || force.covers(&conflict.field);
    let remaining: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !is_of(&ADOPTED, conflict)).collect();
    if remaining.is_empty() {
        Yield::Adopted
    } else if remaining.iter().all(yields) {
        Yield::Taken(remaining.iter().map(|conflict| format!("{} ({})", conflict.field, conflict.owner)).collect())
    } else {
        Yield::No(remaining.into_iter().filter(|conflict| !yields(conflict)).collect())
    }
}

/// Who owns what an autoscaler decides after we let go of it: without an owner, the server would set it
/// back to its default (kubernetes#67135).
const HANDED_OVER: &str = "lighter-autoscaled";

/// Takes `spec.replicas` away from us and gives it to somebody who never writes; `None` if it is not ours.
pub(crate) fn hand_over_replicas(object: &Value, adopted: Option<Value>) -> Option<Value> {
    let fields = adopted.unwrap_or_else(|| object["metadata"]["managedFields"].clone());
    let mut entries = fields.as_array()?.clone();
    let ours = entries.iter_mut().find(|entry| entry["manager"] == MANAGER && entry["operation"] == "Apply")?;
    let version = ours["apiVersion"].clone();
    ours["fieldsV1"]["f:spec"].as_object_mut()?.remove("f:replicas")?;
    entries.retain(|entry| entry["manager"] != HANDED_OVER);
    entries
        .push(json!({"manager": HANDED_OVER, "operation": "Update", "apiVersion": version, "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:replicas": {}}}}));
    Some(Value::Array(entries))
}

/// Computes the owners after client-side apply's fields, and those that we patched, became fields that
/// we applied; `None` if there are none.
///
/// What it owned and the file no longer has is then removed by our apply, exactly as `kubectl apply`
/// would have done. That includes its annotation, which would go stale beside us.
pub(crate) fn adopt(object: &Value) -> Option<Value> {
    let entries = object["metadata"]["managedFields"].as_array()?;
    let theirs = |entry: &Value| {
        entry["operation"] == "Update"
            && ADOPTED.iter().any(|manager| entry["manager"] == *manager)
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    };
    let ours = |entry: &Value| entry["manager"] == MANAGER && entry["operation"] == "Apply";
    if !entries.iter().any(theirs) {
        return None;
    }
    let mut fields = json!({});
    let mut version = Value::Null;
    for entry in entries.iter().filter(|entry| theirs(entry) || ours(entry)) {
        unite(&mut fields, &entry["fieldsV1"]);
        version = entry["apiVersion"].clone();
    }
    let adopted = json!({"manager": MANAGER, "operation": "Apply", "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": fields});
    let others = entries.iter().filter(|entry| !theirs(entry) && !ours(entry)).cloned();
    Some(others.chain([adopted]).collect())
}

/// The union of two field sets; a field set is a tree of objects whose leaves are empty.
fn unite(into: &mut Value, from: &Value) {
    let Some(from) = from.as_object() else { return };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    if let Some(into) = into.as_object_mut() {
        for (key, value) in from {
            unite(into.entry(key.clone()).or_insert_with(|| json!({})), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn client_side_apply_is_folded_and_others_stay() {
        let object = json!({"metadata": {"managedFields": [
            entry("kubectl-client-side-apply", "Update", json!({"f:spec": {"f:replicas": {}, "f:paused": {}}})),
            entry("kube-controller-manager", "Update", json!({"f:status": {}})),
            entry("lighter", "Apply", json!({"f:spec": {"f:replicas": {}, "f:template": {}}})),
        ]}});
        let adopted = adopt(&object).unwrap();
        assert_eq!(adopted.as_array().unwrap().len(), 2);
        assert_eq!(adopted[0]["manager"], "kube-controller-manager");
        assert_eq!(adopted[1]["manager"], "lighter");
        assert_eq!(adopted[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}, "f:paused": {}, "f:template": {}}}));
    }

    #[test]
    fn replicas_keep_an_owner_when_we_let_go() {
        let fields = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let object = json!({"metadata": {"managedFields": [entry("lighter", "Apply", fields)]}});
        let handed = hand_over_replicas(&object, None).unwrap();
        assert_eq!(handed[0]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
        assert_eq!(
            (&handed[1]["manager"], &handed[1]["fieldsV1"]),
            (&json!(HANDED_OVER), &json!({"f:spec": {"f:replicas": {}}}))
        );
        let mut after = object.clone();
        after["metadata"]["managedFields"] = handed;
        assert_eq!(hand_over_replicas(&after, None), None, "once is enough");
    }

    #[test]
    fn nothing_to_fold_is_nothing() {
        assert_eq!(adopt(&json!({"metadata": {"managedFields": [entry("kubectl", "Apply", json!({}))]}})), None);
        assert_eq!(adopt(&json!({"metadata": {}})), None);
    }

    #[test]
    fn conflicts_name_field_and_owner() {
        let field = ".spec.template.spec.containers[name=\"web\"].image";
        let message = "conflict with \"kubectl-set\" using apps/v1 at 2026-11-23T04:00:00Z";
        let conflicts = conflicts([("FieldManagerConflict", field, message), ("Other", "x", "y")].into_iter());
        assert_eq!(conflicts, [Conflict { field: field.into(), owner: "kubectl-set".into() }]);
        assert!(
            matches!(judge(conflicts.clone(), &Force::Nothing), Yield::Taken(fields) if fields[0].ends_with("(kubectl-set)"))
        );
        let with =
            |owner: &str| [conflicts.clone(), vec![Conflict { field: field.into(), owner: owner.into() }]].concat();
        assert_eq!(judge(with("kubectl-client-side-apply")[1..].to_vec(), &Force::Nothing), Yield::Adopted);
        let theirs = Yield::No(vec![Conflict { field: field.into(), owner: "argocd".into() }]);
        let fields = |field: &str| Force::Fields(vec![field.into()]);
        assert_eq!(judge(with("argocd"), &Force::Nothing), theirs);
        assert_eq!(judge(with("argocd"), &fields("spec.temp")), theirs, "half a name is another name");
        for force in [Force::All, fields("spec.template"), fields(".spec.template.spec.containers")] {
            assert!(matches!(judge(with("argocd"), &force), Yield::Taken(fields) if fields.len() == 2), "{force:?}");
        }
    }
}
