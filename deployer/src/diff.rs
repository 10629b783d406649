//! What a plan would change, field by field, as the server would make it: defaults filled in, and without what
//! only bookkeeping is. Secrets are never shown.

use crate::api::Patch;
use crate::body::images_patch;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::ObjectName;
use crate::plan::{Action, Change, Plan, Step};
use crate::redact::redact;
use crate::workload::text;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// Longest value that is printed, in characters.
const VALUE_LIMIT: usize = 500;
/// What only the server writes.
const BOOKKEEPING: [&str; 5] = ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"];
/// Where client-side apply keeps a copy of the whole object.
const COPY: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What would become of one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectDiff {
    /// The object.
    pub object: ObjectName,
    /// What would be done with it.
    pub change: Change,
    /// The fields that would be others.
    pub differences: Vec<Difference>,
}

/// One field that would be another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// `spec.template.spec.containers[web].image`
    pub field: String,
    /// What it is; `None` if it is not there.
    pub from: Option<Value>,
    /// What it would be; `None` if it would not be there.
    pub to: Option<Value>,
}

impl fmt::Display for ObjectDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = Action::written(self.object.clone(), self.change, Vec::new());
        write!(f, "{action}")?;
        self.differences.iter().try_for_each(|difference| write!(f, "\n{difference}"))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "  ~ {}: {} -> {}", self.field, shown(from), shown(to)),
            (None, Some(to)) => write!(f, "  + {}: {}", self.field, shown(to)),
            (Some(from), None) => write!(f, "  - {}: {}", self.field, shown(from)),
            (None, None) => Ok(()),
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), |text| text.replace('\n', "\\n"));
    let text = redact(&text);
    match text.char_indices().nth(VALUE_LIMIT) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// Compares two versions of an object.
fn differences(from: &Value, to: &Value) -> Vec<Difference> {
    let is_secret = text(&to["kind"]) == "Secret" || text(&from["kind"]) == "Secret";
    let mut found = Vec::new();
    compare("", &content(from), &content(to), &mut found);
    if is_secret {
        found.iter_mut().filter(|one| is_hidden(&one.field)).for_each(mask);
    }
    found
}

fn content(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        ["status", "apiVersion", "kind"].iter().for_each(|field| drop(fields.remove(*field)));
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        BOOKKEEPING.iter().for_each(|field| drop(metadata.remove(*field)));
    }
    object
}

fn is_hidden(field: &str) -> bool {
    field.starts_with("data") || field.starts_with("stringData") || field.contains(COPY)
}

/// Says that it changes, and how long it is, and nothing else.
fn mask(difference: &mut Difference) {
    let mask = |value: &Value| Value::from(format!("*** ({} characters)", value.as_str().map_or(0, str::len)));
    difference.from = difference.from.as_ref().map(mask);
    difference.to = difference.to.as_ref().map(mask);
}

fn compare(field: &str, from: &Value, to: &Value, found: &mut Vec<Difference>) {
    match (fields(from), fields(to)) {
        _ if from == to => {}
        (Some(from), Some(to)) => {
            let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
            for key in keys {
                let name = if key.starts_with('[') || field.is_empty() {
                    format!("{field}{key}")
                } else {
                    format!("{field}.{key}")
                };
                compare(&name, from.get(key).unwrap_or(&Value::Null), to.get(key).unwrap_or(&Value::Null), found);
            }
        }
        // A whole tree that comes or goes is told leaf by leaf.
        (None, Some(to)) if from.is_null() && !to.is_empty() => {
            compare(field, &Value::Object(Map::new()), &Value::Object(to), found)
        }
        (Some(from), None) if to.is_null() && !from.is_empty() => {
            compare(field, &Value::Object(from), &Value::Object(Map::new()), found)
        }
        _ => {
            let there = |value: &Value| Some(value.clone()).filter(|value| !value.is_null());
            found.push(Difference { field: field.to_owned(), from: there(from), to: there(to) });
        }
    }
}

/// The parts of a value: of a list, by the names of its entries where they have any, else by number.
fn fields(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(fields) => Some(fields.clone()),
        Value::Array(entries) => {
            let names: BTreeSet<&str> = entries.iter().filter_map(|entry| entry["name"].as_str()).collect();
            let named = names.len() == entries.len();
            let key = |(index, entry): (usize, &Value)| match entry["name"].as_str() {
                Some(name) if named => (format!("[{name}]"), entry.clone()),
                _ => (format!("[{index}]"), entry.clone()),
            };
            Some(entries.iter().enumerate().map(key).collect())
        }
        _ => None,
    }
}

impl Cluster {
    /// Asks the server what a plan would make of each object, and says what would be different. Writes nothing.
    ///
    /// # Errors
    ///
    /// Fails as [`Cluster::dry_run`] does.
    pub async fn diff(&self, plan: &Plan) -> Result<Vec<ObjectDiff>, Error> {
        let mut diffs = Vec::new();
        for action in plan.actions.iter().filter(|action| action.change != Change::Nothing) {
            let live = self.api.get(&action.object).await?.unwrap_or(Value::Null);
            let after = match &action.step {
                Step::Nothing => live.clone(),
                Step::Delete => Value::Null,
                Step::Replace(body) => body.clone(),
                Step::Patch(body) => {
                    self.api.patch(&action.object, images_patch(&action.object.resource), body, true).await?
                }
                Step::Apply { body, adopt, force } => {
                    let force = *force || adopt.is_some();
                    match self.api.patch(&action.object, Patch::Apply { force }, body, true).await {
                        // Its namespace or its kind comes with the same manifests.
                        Err(Error::Rejected { .. }) if action.change == Change::Create => body.clone(),
                        answer => answer?,
                    }
                }
            };
            diffs.push(ObjectDiff {
                object: action.object.clone(),
                change: action.change,
                differences: differences(&live, &after),
            });
        }
        Ok(diffs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(from: Value, to: Value) -> Vec<String> {
        differences(&from, &to).iter().map(|one| one.to_string().trim().to_owned()).collect()
    }

    #[test]
    fn fields_are_told_by_name() {
        let object = |image: &str, more: Value| {
            json!({"kind": "Deployment", "metadata": {"resourceVersion": image, "annotations": more},
            "spec": {"containers": [{"name": "side", "image": "s"}, {"name": "web", "image": image, "args": ["a", "b"]}]}, "status": {"x": image}})
        };
        let mut to = object("w:2", json!({"b": "2"}));
        to["spec"]["containers"][1]["args"] = json!(["a", "c", {"d": 1}]);
        let told = told(object("w:1", json!({"a": "1"})), to);
        let expected = [
            "- metadata.annotations.a: 1",
            "+ metadata.annotations.b: 2",
            "~ spec.containers[web].args[1]: b -> c",
            "+ spec.containers[web].args[2].d: 1",
            "~ spec.containers[web].image: w:1 -> w:2",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = |value: &str| {
            json!({"kind": "Secret", "data": {"password": value, "same": "x"},
            "metadata": {"annotations": {COPY: format!("data: {value}"), "note": value}}})
        };
        let told = told(secret("aHVudGVyMg=="), secret("czNjcmV0LTE="));
        assert!(!told[0].contains("aHVu") && !told[1].contains("aHVu"), "{told:?}");
        assert_eq!(told[0], "~ data.password: *** (12 characters) -> *** (12 characters)");
        assert_eq!(told.len(), 3);
        let made = super::tests::told(Value::Null, json!({"kind": "Secret", "stringData": {"a": "hunter2"}}));
        assert_eq!(made, ["+ stringData.a: *** (7 characters)"]);
    }

    #[test]
    fn tokens_in_any_field_are_not_shown_either() {
        let told = told(json!({}), json!({"kind": "ConfigMap", "x": {"url": "https://bob:hunter2@r.test/"}}));
        assert_eq!(told, ["+ x.url: https://[redacted]@r.test/"]);
    }
}
