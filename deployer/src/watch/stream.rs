//! The lists and watches themselves: which are needed for some tickets, and one stream of changes from
//! all of them. They resume by themselves after 410 Gone, an end of the stream or a lost connection.

use super::pods;
use crate::api::Api;
use crate::object::{ObjectName, Resource};
use crate::workload;
use crate::world::Kind;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, future};
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use kube::core::ApiResource;
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// First and longest pause before a broken watch is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// One list-and-watch; its place in the list of sources is its number in the [`World`](crate::World).
pub(super) struct Source {
    pub(super) kind: Kind,
    pub(super) resource: Resource,
    pub(super) namespace: String,
    /// Whether a verdict is possible without it.
    optional: bool,
    /// `metadata.name=web`: rights may be for one object only.
    fields: Option<String>,
}

impl Source {
    /// Whether a verdict is possible without it.
    pub(super) fn is_optional(&self) -> bool {
        self.optional
    }

    /// Whether it shows everything that another one would.
    pub(super) fn covers(&self, other: &Source) -> bool {
        self.kind == other.kind
            && self.resource == other.resource
            && self.namespace == other.namespace
            && (self.fields.is_none() || self.fields == other.fields)
    }

    /// Whether a workload is among what it shows.
    pub(super) fn shows(&self, workload: &ObjectName) -> bool {
        let is_its_kind = matches!(&self.kind, Kind::Workload(resource) if *resource == workload.resource);
        is_its_kind
            && workload.namespace.as_deref().unwrap_or_default() == self.namespace
            && self.fields.as_ref().is_none_or(|fields| *fields == only(&workload.name))
    }
}

/// The field selector of one object.
fn only(name: &str) -> String {
    format!("metadata.name={name}")
}

/// What happened in a source.
pub(super) enum Change {
    Replace(Vec<Value>),
    Put(Value),
    Remove(String),
    Broken(kube::Error),
}

/// The sources that tickets of objects need: at most one per kind and namespace.
pub(super) fn sources(objects: &[&ObjectName]) -> Vec<Source> {
    let watched: Vec<&ObjectName> =
        objects.iter().copied().filter(|object| workload::is_watched(&object.resource)).collect();
    let namespace_of = |object: &ObjectName| object.namespace.clone().unwrap_or_default();
    let namespaces: BTreeSet<String> = watched.iter().map(|object| namespace_of(object)).collect();
    let mut sources = Vec::new();
    for namespace in namespaces {
        let here: Vec<&&ObjectName> = watched.iter().filter(|object| namespace_of(object) == namespace).collect();
        let kinds: BTreeSet<&Resource> = here.iter().map(|object| &object.resource).collect();
        let mut add = |kind: Kind, resource: Resource, fields: Option<String>, optional: bool| {
            sources.push(Source { kind, resource, namespace: namespace.clone(), optional, fields });
        };
        // A custom kind has a status of its own; its pods only say more.
        let all_custom = kinds.iter().all(|resource| workload::is_custom(resource));
        for resource in &kinds {
            let names: Vec<&str> =
                here.iter().filter(|object| object.resource == **resource).map(|object| object.name.as_str()).collect();
            let one = names.iter().all(|name| *name == names[0]).then(|| only(names[0]));
            add(Kind::Workload((*resource).clone()), (*resource).clone(), one, false);
        }
        if let Some(deployments) = kinds.iter().find(|resource| resource.is("apps", &["Deployment"])) {
            // The controller makes them in the group and version of the Deployments themselves.
            let replica_sets =
                Resource { kind: "ReplicaSet".into(), plural: "replicasets".into(), ..(**deployments).clone() };
            add(Kind::ReplicaSet, replica_sets, None, false);
        } else if kinds.iter().any(|resource| workload::is_custom(resource)) {
            add(Kind::ReplicaSet, Resource::new("apps", "v1", "ReplicaSet", "replicasets"), None, true);
        }
        add(Kind::Pod, pods(), None, all_custom);
        add(Kind::Event, events(), Some("type=Warning".to_owned()), true);
    }
    sources
}

/// Opens a source; each change comes with its number.
pub(super) fn open(api: &Api, source: &Source, number: usize) -> BoxStream<'static, (usize, Change)> {
    one(api, source).map(move |change| (number, change)).boxed()
}

/// The states of one object after a version of it; `None` when it was deleted.
pub(super) async fn since(
    api: &Api,
    object: &ObjectName,
    version: &str,
) -> kube::Result<BoxStream<'static, kube::Result<Option<Value>>>> {
    let objects = objects(api, &object.resource, object.namespace.as_deref().unwrap_or_default());
    let one = WatchParams::default().fields(&only(&object.name));
    let events = objects.watch(&one, version).await?;
    let state = |event| match event {
        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => plain(&object).map(|state| Ok(Some(state))),
        Ok(WatchEvent::Deleted(_)) => Some(Ok(None)),
        Ok(WatchEvent::Bookmark(_)) => None,
        Ok(WatchEvent::Error(status)) => Some(Err(kube::Error::Api(status))),
        Err(error) => Some(Err(error)),
    };
    Ok(events.filter_map(move |event| future::ready(state(event))).boxed())
}

fn objects(api: &Api, resource: &Resource, namespace: &str) -> kube::Api<DynamicObject> {
    let kind = ApiResource {
        group: resource.group.clone(),
        version: resource.version.clone(),
        api_version: resource.api_version(),
        kind: resource.kind.clone(),
        plural: resource.plural.clone(),
    };
    kube::Api::namespaced_with(api.client(), namespace, &kind)
}

/// Lists are read as they are at that moment, in pages, and watched from there on. Servers from 1.32 on can send the
/// list through the watch (`sendInitialEvents`), which would spare a request. kube's watcher asks for that with
/// `resourceVersion=0`, though: for whatever the server's cache has, which may be older than what we wrote just now, and
/// then a new object is missing, and an old rollout is well.
fn one(api: &Api, source: &Source) -> BoxStream<'static, Change> {
    let objects = objects(api, &source.resource, &source.namespace);
    let config = watcher::Config { field_selector: source.fields.clone(), ..watcher::Config::default() };
    let mut listed = Vec::new();
    watcher(objects, config)
        .backoff(Pause(PAUSES.0))
        .filter_map(move |event| future::ready(change(event, &mut listed)))
        .boxed()
}

/// Collects a list until it is complete, so that nobody judges half of it.
fn change(event: Result<watcher::Event<DynamicObject>, watcher::Error>, listed: &mut Vec<Value>) -> Option<Change> {
    match event {
        Ok(watcher::Event::Init) => {
            listed.clear();
            None
        }
        Ok(watcher::Event::InitApply(object)) => {
            listed.extend(plain(&object));
            None
        }
        Ok(watcher::Event::InitDone) => Some(Change::Replace(std::mem::take(listed))),
        Ok(watcher::Event::Apply(object)) => plain(&object).map(Change::Put),
        Ok(watcher::Event::Delete(object)) => object.metadata.uid.map(Change::Remove),
        Err(
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error),
        ) => Some(Change::Broken(error)),
        // 410 Gone and its like: the watcher lists again by itself.
        Err(watcher::Error::WatchError(status)) => {
            tracing::debug!(%status, "watch starts anew");
            None
        }
        Err(watcher::Error::NoResourceVersion) => None,
    }
}

fn plain(object: &DynamicObject) -> Option<Value> {
    serde_json::to_value(object).inspect_err(|error| tracing::warn!(%error, "an object that is no JSON")).ok()
}

fn events() -> Resource {
    Resource::core("Event", "events")
}

/// Doubles from attempt to attempt; kube's own starts at 0.8 s, and we promise to tell within a second.
struct Pause(Duration);

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (self.0 * 2).min(PAUSES.1);
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = PAUSES.0;
    }
}
