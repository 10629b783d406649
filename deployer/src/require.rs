//! How many of the pods must run for a rollout to count. Pure.

use serde_json::Value;
use std::str::FromStr;

/// How many of the pods must run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Require {
    /// All of them, and no old one any more.
    #[default]
    Full,
    /// So many of a hundred, rounded up.
    Percent(u8),
    /// All but those that the workload itself lets be unavailable during a rollout.
    MaxUnavailable,
}

impl FromStr for Require {
    type Err = String;

    fn from_str(text: &str) -> Result<Require, String> {
        let percent = || text.strip_suffix('%')?.parse().ok().filter(|percent| (1..=100).contains(percent));
        match text {
            "full" => Ok(Require::Full),
            "maxUnavailable" => Ok(Require::MaxUnavailable),
            _ => percent()
                .map(Require::Percent)
                .ok_or_else(|| format!("{text:?} is none of full, maxUnavailable, and 1% to 100%")),
        }
    }
}

impl Require {
    /// How many of `want` pods are needed, and at least one if any is wanted at all.
    pub(crate) fn of(self, want: i64, workload: &Value) -> i64 {
        let need = match self {
            Require::Full => want,
            Require::Percent(percent) => (want * i64::from(percent) + 99) / 100,
            Require::MaxUnavailable => want - max_unavailable(want, &workload["spec"]),
        };
        need.max(want.min(1))
    }
}

/// As the deployment controller reads it: a percentage is rounded down; 25 % if nothing is said.
fn max_unavailable(want: i64, spec: &Value) -> i64 {
    let rolling = if spec["strategy"].is_object() {
        &spec["strategy"]["rollingUpdate"]
    } else {
        &spec["updateStrategy"]["rollingUpdate"]
    };
    let default = if spec["strategy"].is_object() { "25%" } else { "1" };
    let value = &rolling["maxUnavailable"];
    let text = value
        .as_str()
        .map_or_else(|| value.as_i64().map_or(default.to_owned(), |number| number.to_string()), str::to_owned);
    match text.strip_suffix('%') {
        Some(percent) => want * percent.parse::<i64>().unwrap_or(0).clamp(0, 100) / 100,
        None => text.parse().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_counted_as_kubernetes_counts_them() {
        let spec = |value: Value| json!({"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": value}}}});
        for (require, want, workload, need) in [
            ("full", 7, json!({}), 7),
            ("90%", 10, json!({}), 9),
            ("50%", 3, json!({}), 2),
            ("1%", 0, json!({}), 0),
            ("maxUnavailable", 10, spec(json!(3)), 7),
            ("maxUnavailable", 10, spec(json!("25%")), 8),
            ("maxUnavailable", 10, spec(Value::Null), 8),
            ("maxUnavailable", 1, spec(json!("100%")), 1),
            ("maxUnavailable", 3, json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}}), 2),
        ] {
            assert_eq!(require.parse::<Require>().unwrap().of(want, &workload), need, "{require} of {want}");
        }
        for bad in ["", "0%", "101%", "half", "90", "%"] {
            assert!(bad.parse::<Require>().is_err(), "{bad}");
        }
    }
}
