//! build --reproducible-check: the same build again without any cache, and the first thing that is not the same.

use builder::cache::Cache;
use builder::layer::entry::show;
use builder::{Built, Request};
use content::Disk;
use content::remote::Client;
use oci::DiffId;
use tokio::runtime::Runtime;

use super::build::{Prepared, build_request};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::terminal::tell;

/// Builds again and compares.
pub fn check(prepared: &Prepared, runtime: &Runtime, local: &Disk, client: &Client, first: &Built) -> Outcome<()> {
    let request = Request {
        no_cache: true,
        imports: Vec::new(),
        outputs: Vec::new(),
        names: Vec::new(),
        ..prepared.request.clone()
    };
    tell("note: building again, without any cache, to compare");
    let second = build_request(&request, prepared, runtime, local, client)?;
    let Some(difference) = difference(first, &second, prepared.cache()) else {
        tell(&format!("both builds are {}", first.manifest.digest()));
        return Ok(());
    };
    let failure = Failure::new(Exit::Failed, format!("the two builds differ: {difference}"));
    let has_epoch = prepared.request.options.build_args.contains_key("SOURCE_DATE_EPOCH");
    Err(if has_epoch {
        failure
    } else {
        failure.hint("without SOURCE_DATE_EPOCH the times of a build are in its image")
    })
}

/// The first difference; none if the images are one.
fn difference(first: &Built, second: &Built, cache: &Cache) -> Option<String> {
    if first.manifest.digest() == second.manifest.digest() {
        return None;
    }
    let (a, b) = (config(first), config(second));
    let (layers, others) = (diff_ids(&a), diff_ids(&b));
    if layers.len() != others.len() {
        return Some(format!("one image has {} layers, the other {}", layers.len(), others.len()));
    }
    for (number, (one, two)) in layers.iter().zip(&others).enumerate() {
        if one != two {
            let step = step_of(&a, number);
            return Some(format!("layer {} of {step}: {}", number + 1, in_layers(cache, one, two)));
        }
    }
    Some(in_values("config", &a, &b).unwrap_or_else(|| "the manifests, while the configs are equal".to_owned()))
}

fn config(built: &Built) -> serde_json::Value {
    serde_json::from_slice(&built.config).unwrap_or_default() // our own config is always JSON
}

fn diff_ids(config: &serde_json::Value) -> Vec<DiffId> {
    let ids = config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
    ids.filter_map(|id| id.as_str()?.parse().ok()).collect()
}

/// The instruction that made a layer.
fn step_of(config: &serde_json::Value, layer: usize) -> String {
    let history = config["history"].as_array().into_iter().flatten();
    let with_layer = |entry: &&serde_json::Value| entry["empty_layer"] != true;
    let entry = history.filter(with_layer).nth(layer);
    entry.and_then(|entry| entry["created_by"].as_str()).unwrap_or("a base image").to_owned()
}

fn in_layers(cache: &Cache, one: &DiffId, two: &DiffId) -> String {
    let (Some(a), Some(b)) = (cache.index(one), cache.index(two)) else { return format!("{one} and {two}") };
    for (x, y) in a.entries().iter().zip(b.entries()) {
        if x != y {
            let what = match () {
                () if x.path != y.path => return format!("{} in one, {} in the other", show(&x.path), show(&y.path)),
                () if x.kind != y.kind => "type or content",
                () if x.mtime != y.mtime => "time",
                () if x.mode != y.mode => "mode",
                () if (x.uid, x.gid) != (y.uid, y.gid) => "owner",
                () => "attributes",
            };
            return format!("{}: {what}", show(&x.path));
        }
    }
    let longer = if a.entries().len() > b.entries().len() { &a } else { &b };
    let rest = longer.entries().get(a.entries().len().min(b.entries().len()));
    rest.map_or_else(|| "the order of entries".to_owned(), |entry| format!("{} is in one only", show(&entry.path)))
}

/// The first place where two documents differ.
fn in_values(at: &str, a: &serde_json::Value, b: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match (a, b) {
        (a, b) if a == b => None,
        (Value::Object(x), Value::Object(y)) => {
            let names: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            names.into_iter().find_map(|name| in_values(&format!("{at}.{name}"), &a[name], &b[name]))
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            (0..x.len()).find_map(|number| in_values(&format!("{at}[{number}]"), &x[number], &y[number]))
        }
        (a, b) => Some(format!("{at}: {a} and {b}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_difference_is_named() {
        let (a, b) = (json!({"a": 1, "b": [1, {"c": "x"}]}), json!({"a": 1, "b": [1, {"c": "y"}]}));
        assert_eq!(in_values("config", &a, &b).as_deref(), Some("config.b[1].c: \"x\" and \"y\""));
        assert_eq!(in_values("config", &a, &a), None);
        assert_eq!(in_values("c", &json!([1]), &json!([1, 2])).as_deref(), Some("c: [1] and [1,2]"));
    }
}
