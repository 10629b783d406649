//! Which kinds the server serves. Those that every server has are [known](crate::builtin); the others are found by
//! discovery: Kubernetes 1.20 knows CronJob only as `batch/v1beta1`, and a later one no longer does. Answers are
//! remembered for the life of a [`Kinds`], and between runs where there is a [place](crate::discovery) for them.

use crate::api::Api;
use crate::builtin;
use crate::discovery::Memory;
use crate::error::Error;
use crate::object::{Resource, segment};
use crate::workload::text;
use serde_json::Value;
use std::collections::BTreeMap;
use std::str::FromStr;
use tokio::sync::Mutex;

/// Groups that are asked first, because the words of most targets are theirs.
const ASKED_FIRST: [&str; 3] = ["apps", "batch", ""];

/// Where a custom kind keeps its pod spec or its image: `argoproj.io/Rollout=.spec.template.spec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePath {
    group: String,
    kind: String,
    pointer: String,
}

impl FromStr for ImagePath {
    type Err = String;

    fn from_str(text: &str) -> Result<ImagePath, String> {
        let wrong = || {
            format!(
                "{text:?} is no place of an image; write GROUP/KIND=.spec.template.spec, the place of the pod spec or of the image"
            )
        };
        let (name, path) = text.split_once('=').ok_or_else(wrong)?;
        let (group, kind) = name.split_once('/').ok_or_else(wrong)?;
        let parts: Vec<&str> = path.strip_prefix('.').ok_or_else(wrong)?.split('.').collect();
        let is_word =
            |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if group.is_empty() || kind.is_empty() || !parts.iter().all(is_word) {
            return Err(wrong());
        }
        Ok(ImagePath { group: group.into(), kind: kind.into(), pointer: format!("/{}", parts.join("/")) })
    }
}

/// The kinds of one server.
#[derive(Default)]
pub(crate) struct Kinds {
    /// Where images are in kinds that nobody knows.
    image_paths: Vec<ImagePath>,
    memory: Option<Memory>,
    discovered: Mutex<Discovered>,
}

/// What the server said about its kinds, now or in an earlier run.
#[derive(Default)]
struct Discovered {
    /// By path; `None` for what the server does not serve, which is not remembered between runs.
    answers: BTreeMap<String, Option<Value>>,
    is_loaded: bool,
    /// Whether some of it is from an earlier run, and may be true no more.
    is_remembered: bool,
}

impl Kinds {
    pub(crate) fn new(image_paths: Vec<ImagePath>, memory: Option<Memory>) -> Kinds {
        Kinds { image_paths, memory, ..Kinds::default() }
    }

    /// Finds a kind by what people call it: `deployment`, `deploy`, `deployments.apps`, `cronjobs.v1beta1.batch`.
    ///
    /// What is not found is asked for once more: a kind may have come since.
    pub(crate) async fn find(&self, api: &Api, word: &str) -> Result<Resource, Error> {
        if let Some(known) = builtin::called(word) {
            return Ok(self.with_path(known));
        }
        match self.find_known(api, word).await {
            Err(Error::UnknownKind(_)) => {
                self.forget().await;
                self.find_known(api, word).await
            }
            found => found,
        }
    }

    async fn forget(&self) {
        let mut discovered = self.discovered.lock().await;
        *discovered = Discovered { is_loaded: true, ..Discovered::default() };
    }

    /// Forgets what is from an earlier run, and says whether there was any of it: an object that is not there may
    /// have its kind in another version by now.
    pub(crate) async fn forget_remembered(&self) -> bool {
        let is_remembered = self.discovered.lock().await.is_remembered;
        if is_remembered {
            self.forget().await;
        }
        is_remembered
    }

    async fn find_known(&self, api: &Api, word: &str) -> Result<Resource, Error> {
        let (name, wanted) = word.split_once('.').map_or((word, None), |(name, group)| (name, Some(group)));
        for (group, versions) in self.groups(api).await? {
            for version in versions {
                let fits = wanted.is_none_or(|wanted| wanted == group || wanted == format!("{version}.{group}"));
                if !fits {
                    continue;
                }
                let list = match self.list(api, &group, &version).await {
                    // One aggregated API that is down (often metrics) hides no other kind.
                    Err(Error::Server { .. }) => None,
                    list => list?,
                };
                let found = list.and_then(|list| named(&list, &group, &version, |entry| is_called(entry, name)));
                if let Some(resource) = found {
                    return Ok(self.with_path(resource));
                }
            }
        }
        Err(Error::UnknownKind(word.to_owned()))
    }

    /// Finds the kind that a manifest names.
    pub(crate) async fn of(&self, api: &Api, api_version: &str, kind: &str) -> Result<Resource, Error> {
        if let Some(known) = builtin::of(api_version, kind) {
            return Ok(self.with_path(known));
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let find = async || -> Result<Option<Resource>, Error> {
            let list = self.list(api, group, version).await?;
            Ok(list.and_then(|list| named(&list, group, version, |entry| entry["kind"] == kind)))
        };
        let mut found = find().await?;
        if found.is_none() {
            self.forget().await;
            found = find().await?;
        }
        let found = found.map(|resource| self.with_path(resource));
        found.ok_or_else(|| Error::UnknownKind(format!("{kind} of {api_version}")))
    }

    /// Finds a kind in whatever version the server prefers.
    pub(crate) async fn of_group(&self, api: &Api, group: &str, kind: &str) -> Result<Resource, Error> {
        if let Some(known) = builtin::of_group(group, kind) {
            return Ok(self.with_path(known));
        }
        let groups = self.groups(api).await?;
        for version in groups.iter().filter(|(name, _)| name == group).flat_map(|(_, versions)| versions) {
            let list = self.list(api, group, version).await?;
            if let Some(found) = list.and_then(|list| named(&list, group, version, |entry| entry["kind"] == kind)) {
                return Ok(self.with_path(found));
            }
        }
        Err(Error::UnknownKind(format!("{kind} of {group}")))
    }

    /// The same kind, told where its image is.
    pub(crate) fn with_path(&self, resource: Resource) -> Resource {
        let is_it = |path: &&ImagePath| path.group == resource.group && path.kind == resource.kind;
        let image_path = self.image_paths.iter().find(is_it).map(|path| path.pointer.clone());
        Resource { image_path, ..resource }
    }

    /// All groups, each with its versions, the preferred one first.
    async fn groups(&self, api: &Api) -> Result<Vec<(String, Vec<String>)>, Error> {
        let groups = self.answer(api, "/apis").await?.unwrap_or_default();
        let listed = groups["groups"].as_array().into_iter().flatten();
        let mut all = vec![(String::new(), vec!["v1".to_owned()])];
        all.extend(listed.map(|group| {
            let preferred = text(&group["preferredVersion"]["version"]).to_owned();
            let others =
                group["versions"].as_array().into_iter().flatten().map(|version| text(&version["version"]).to_owned());
            let others = others.filter(|version| *version != preferred).collect::<Vec<_>>();
            (text(&group["name"]).to_owned(), [vec![preferred], others].concat())
        }));
        all.sort_by_key(|(group, _)| ASKED_FIRST.iter().position(|first| first == group).unwrap_or(ASKED_FIRST.len()));
        Ok(all)
    }

    async fn list(&self, api: &Api, group: &str, version: &str) -> Result<Option<Value>, Error> {
        let path = match group {
            "" => format!("/api/{}", segment(version)),
            group => format!("/apis/{}/{}", segment(group), segment(version)),
        };
        self.answer(api, &path).await
    }

    async fn answer(&self, api: &Api, path: &str) -> Result<Option<Value>, Error> {
        let mut discovered = self.discovered.lock().await;
        if let (Some(memory), false) = (&self.memory, discovered.is_loaded) {
            let remembered = memory.load();
            discovered.is_remembered = !remembered.is_empty();
            discovered.answers.extend(remembered.into_iter().map(|(path, answer)| (path, Some(answer))));
        }
        discovered.is_loaded = true;
        if let Some(answer) = discovered.answers.get(path) {
            return Ok(answer.clone());
        }
        let answer = api.document(path).await?;
        discovered.answers.insert(path.to_owned(), answer.clone());
        // What was remembered keeps its age: it is not written again together with what is new.
        if let (Some(memory), false) = (&self.memory, discovered.is_remembered) {
            let known = discovered.answers.iter();
            memory.save(&known.filter_map(|(path, answer)| Some((path.clone(), answer.clone()?))).collect());
        }
        Ok(answer)
    }
}

fn named(list: &Value, group: &str, version: &str, is_it: impl Fn(&Value) -> bool) -> Option<Resource> {
    let entries = list["resources"].as_array().into_iter().flatten();
    let mut whole = entries.filter(|entry| !text(&entry["name"]).contains('/')); // no subresources
    let entry = whole.find(|entry| is_it(entry))?;
    Some(Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: text(&entry["kind"]).to_owned(),
        plural: text(&entry["name"]).to_owned(),
        namespaced: entry["namespaced"] == true,
        image_path: None,
    })
}

/// Older servers leave `singularName` empty; there the kind in lower case stands in.
fn is_called(entry: &Value, word: &str) -> bool {
    let short = entry["shortNames"].as_array().into_iter().flatten().any(|short| short == word);
    short || entry["name"] == word || entry["singularName"] == word || text(&entry["kind"]).to_lowercase() == word
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_place_of_an_image_is_a_path() {
        let path: ImagePath = "argoproj.io/Rollout=.spec.template.spec".parse().unwrap();
        assert_eq!(path.pointer, "/spec/template/spec");
        for bad in ["", "Rollout=.spec", "a/B", "a/B=spec", "a/B=.", "a/B=.spec..x", "/B=.spec", "a/B=.spec[0]"] {
            assert!(bad.parse::<ImagePath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kind_has_many_names_and_subresources_have_none() {
        let list = json!({"resources": [
            {"name": "deployments/status", "singularName": "", "kind": "Deployment", "namespaced": true},
            {"name": "deployments", "singularName": "", "kind": "Deployment", "namespaced": true, "shortNames": ["deploy"]},
        ]});
        for word in ["deployments", "deployment", "deploy"] {
            let resource = named(&list, "apps", "v1", |entry| is_called(entry, word)).unwrap();
            assert_eq!((resource.plural.as_str(), resource.api_version().as_str()), ("deployments", "apps/v1"));
        }
        assert_eq!(named(&list, "apps", "v1", |entry| is_called(entry, "dep")), None);
    }
}
