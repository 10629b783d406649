//! Planning manifests on a cluster: what each of them is there, what autoscalers and sets have to do with it,
//! and what the server says to it. What is written is decided in [`crate::apply`].

use crate::apply::{Autoscaled, Surroundings};
use crate::body::forget_identity;
use crate::cluster::{AT_ONCE, Cluster, Request};
use crate::error::Error;
use crate::object::{ObjectName, Resource};
use crate::ownership::Force;
use crate::plan::{Action, Change, Finding, Plan, Step, is_job};
use crate::set::{self, Contents};
use crate::workload::text;
use crate::{Manifest, apply, crd, plan_apply};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::Value;
use std::collections::BTreeSet;

/// A manifest with its full name and the object that the server has.
type Document = (ObjectName, Manifest, Option<Value>);

impl Cluster {
    pub(crate) async fn plan_manifests(&self, manifests: &[Manifest], request: &Request) -> Result<Plan, Error> {
        if manifests.is_empty() {
            return Err(Error::NoTargets);
        }
        let defined: Vec<Resource> = manifests.iter().flat_map(|manifest| definitions(&manifest.object)).collect();
        let look_up = async |manifest: &Manifest| -> Result<Document, Error> {
            let mut name = self.name_of(manifest, &defined).await?;
            let mut live = self.api.get(&name).await?;
            if live.is_none() && self.kinds.forget_remembered().await {
                name = self.name_of(manifest, &defined).await?;
                live = self.api.get(&name).await?;
            }
            Ok((name, manifest.clone(), live))
        };
        let documents: Vec<Document> =
            stream::iter(manifests.iter().map(look_up)).buffered(AT_ONCE).try_collect().await?;
        let mut notes = Vec::new();
        let around = Surroundings {
            autoscaled: self.autoscaled(&documents, &mut notes).await?,
            set: request.set.as_ref().map(|set| set::membership(&set::parent(&set.name, self.namespace()))),
        };
        let mut plan = plan_apply(&documents, &request.images, &request.options(), &around)?;
        plan.force = request.force.clone();
        plan.findings.extend(notes);
        if request.rehearse {
            self.rehearse_all(&mut plan, &documents, &defined, request.replace_jobs).await?;
        }
        if request.set.is_some() {
            self.complete_set(&mut plan, &documents, request).await?;
        }
        Ok(plan)
    }

    async fn rehearse_all(
        &self,
        plan: &mut Plan,
        documents: &[Document],
        defined: &[Resource],
        replace_jobs: bool,
    ) -> Result<(), Error> {
        let new_namespaces: Vec<String> = plan
            .actions
            .iter()
            .filter(|action| is_new_namespace(action))
            .map(|action| action.object.name.clone())
            .collect();
        let mut actions = std::mem::take(&mut plan.actions);
        for (action, (_, _, live)) in actions.iter_mut().zip(documents) {
            let is_homeless = action.object.namespace.as_ref().is_some_and(|home| new_namespaces.contains(home));
            if is_homeless
                || (live.is_none()
                    && defined.contains(&Resource { image_path: None, ..action.object.resource.clone() }))
            {
                continue; // there is nowhere to try it yet
            }
            match self.rehearse(action, live.as_ref(), plan).await {
                Err(Error::Rejected { message, .. })
                    if replace_jobs && is_job(&action.object.resource) && message.contains("immutable") =>
                {
                    replace(action);
                }
                rehearsed => plan.findings.extend(rehearsed?),
            }
        }
        plan.actions = actions;
        Ok(())
    }

    /// Which of the workloads that say how many pods they want have an autoscaler that decides it.
    async fn autoscaled(&self, documents: &[Document], notes: &mut Vec<Finding>) -> Result<Vec<Autoscaled>, Error> {
        let scaled = documents
            .iter()
            .filter(|(_, manifest, live)| live.is_some() && manifest.object["spec"]["replicas"].is_i64());
        let homes: BTreeSet<&str> = scaled.filter_map(|(name, _, _)| name.namespace.as_deref()).collect();
        // All versions know this one, which says all that we ask.
        let resource = Resource::new("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers");
        let mut found = Vec::new();
        for home in homes {
            match self.api.list(&resource, Some(home)).await {
                Ok(autoscalers) => found.extend(autoscalers.iter().map(|one| target_of(one, home))),
                Err(Error::Forbidden { .. }) => notes.push(Finding::note(
                    "",
                    format!("autoscalers of namespace {home} may not be listed; if there is one, leave `replicas` out of the manifest"),
                )),
                Err(Error::Rejected { .. }) => {} // a server without autoscalers
                Err(error) => return Err(error),
            }
        }
        let ours =
            documents.iter().filter(|(name, _, _)| name.resource.is("autoscaling", &["HorizontalPodAutoscaler"]));
        found.extend(
            ours.map(|(name, manifest, _)| target_of(&manifest.object, name.namespace.as_deref().unwrap_or_default())),
        );
        Ok(found)
    }

    /// Adds the set's own Secret, before and after, and the deletion of members that no manifest speaks of.
    async fn complete_set(&self, plan: &mut Plan, documents: &[Document], request: &Request) -> Result<(), Error> {
        let Some(set) = &request.set else { return Ok(()) };
        let parent = set::parent(&set.name, self.namespace());
        let live = self.api.get(&parent).await?;
        let before = live.as_ref().map(|live| Contents::read(&parent, live)).transpose()?.unwrap_or_default();
        let names: Vec<&ObjectName> = documents.iter().map(|(name, _, _)| name).collect();
        let mut after = Contents::of(&parent, names.iter().copied());
        let during = before.with(&after);
        let mut deletions = Vec::new();
        for (member, object) in self.members(&parent, &before).await? {
            if names.contains(&&member) {
                continue;
            }
            if !set.prune || (set::is_precious(&member) && !set.prune_precious) {
                let why = if set.prune { "its content would go with it" } else { "--prune was not asked for" };
                let text = format!("is of the set, and no manifest speaks of it; kept, since {why}");
                plan.findings.push(Finding::warning(member.to_string(), text));
                after = after.with(&Contents::of(&parent, [&member].into_iter()));
                continue;
            }
            let mut action = Action::written(member, Change::Delete, Vec::new());
            action.uid = object["metadata"]["uid"].as_str().map(str::to_owned);
            action.step = Step::Delete;
            deletions.push(action);
        }
        deletions.sort_by_key(|action| std::cmp::Reverse(crate::manifest::rank(&action.object.resource.kind)));

        let mut first = apply_parent(&parent, &during, live.as_ref());
        self.rehearse(&mut first, live.as_ref(), &Plan { force: Force::All, ..Plan::default() }).await?;
        let waves = || plan.actions.iter().map(|action| action.wave);
        let (first_wave, last_wave) = (waves().min().unwrap_or_default(), waves().max().unwrap_or_default());
        first.wave = first_wave;
        let mut last: Vec<Action> = deletions;
        last.extend((during != after).then(|| apply_parent(&parent, &after, None)));
        last.iter_mut().for_each(|action| action.wave = last_wave);
        plan.actions.insert(0, first);
        plan.actions.extend(last);
        Ok(())
    }

    /// All objects that are of a set, by the label that they carry.
    async fn members(&self, parent: &ObjectName, contents: &Contents) -> Result<Vec<(ObjectName, Value)>, Error> {
        let selector = set::membership(parent).selector();
        let mut members = Vec::new();
        for (group, kind) in &contents.kinds {
            let resource = match self.kinds.of_group(&self.api, group, kind).await {
                Err(Error::UnknownKind(_)) => continue, // with the kind, its objects went
                resource => resource?,
            };
            let homes = parent.namespace.iter().chain(&contents.namespaces).map(String::as_str);
            let homes: Vec<Option<&str>> = if resource.namespaced { homes.map(Some).collect() } else { vec![None] };
            for home in homes {
                for object in self.api.list_labelled(&resource, home, &selector).await? {
                    let name =
                        ObjectName::new(resource.clone(), home.unwrap_or_default(), text(&object["metadata"]["name"]));
                    members.push((name, object));
                }
            }
        }
        Ok(members)
    }
}

fn apply_parent(parent: &ObjectName, contents: &Contents, live: Option<&Value>) -> Action {
    let change = if live.is_some() { Change::Update } else { Change::Create };
    let mut action = Action::written(parent.clone(), change, Vec::new());
    action.step = Step::Apply { body: contents.write(parent), adopt: None, force: true };
    apply::anew(&action, live, false)
}

/// Kinds that a manifest defines.
fn definitions(object: &Value) -> Vec<Resource> {
    let is_it = object["kind"] == "CustomResourceDefinition" && object["apiVersion"] == "apiextensions.k8s.io/v1";
    if is_it { crd::resources(object) } else { Vec::new() }
}

fn replace(action: &mut Action) {
    if let Step::Apply { body, .. } = &action.step {
        let mut body = body.clone();
        forget_identity(&mut body);
        action.step = Step::Replace(body);
        action.change = Change::Replace;
    }
}

fn target_of(autoscaler: &Value, namespace: &str) -> Autoscaled {
    let target = &autoscaler["spec"]["scaleTargetRef"];
    Autoscaled {
        namespace: namespace.to_owned(),
        kind: text(&target["kind"]).to_owned(),
        name: text(&target["name"]).to_owned(),
    }
}

fn is_new_namespace(action: &Action) -> bool {
    action.change == Change::Create && action.object.resource.is("", &["Namespace"])
}
