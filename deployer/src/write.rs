//! Writing what a plan says. A write whose answer was lost is looked for, not sent again blindly; one that
//! somebody else was faster than is planned anew from what is there, with its guards checked anew.

use crate::api::Patch;
use crate::body::{annotated, images_body, images_patch};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::ObjectName;
use crate::plan::{Action, Adoption, Change, Live, Plan, Step};
use crate::ticket::{Executed, Ticket};
use crate::workload::{self, Container, text};
use crate::{apply, crd};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::time::Duration;
use tokio::time::Instant;

/// How often one write is tried.
const ATTEMPTS: u32 = 5;
/// How long one write may take, all attempts included.
const WRITE_LIMIT: Duration = Duration::from_secs(60);
/// First pause before a write is tried again; it doubles.
const PAUSE: Duration = Duration::from_millis(50);
/// Most objects that are patched at the same time.
const AT_ONCE: usize = 8;
/// How long an object that is deleted may take to go.
const GOING_LIMIT: Duration = Duration::from_secs(30);

impl Cluster {
    /// Does what a plan says: one write per object, none where nothing changes. Patches of several objects go
    /// out together; manifests are written one after the other, in their order.
    ///
    /// # Errors
    ///
    /// Stops at the first refusal; [`Error::Halfway`] lists what was written before.
    pub async fn execute(&self, plan: &Plan) -> Result<Executed, Error> {
        self.execute_actions(plan, &plan.actions).await
    }

    /// Does a part of a plan.
    ///
    /// # Errors
    ///
    /// Fails as [`Cluster::execute`] does.
    pub async fn execute_actions(&self, plan: &Plan, actions: &[Action]) -> Result<Executed, Error> {
        let is_patch = |action: &Action| matches!(action.step, Step::Patch(_) | Step::Nothing);
        let at_once = if actions.iter().all(is_patch) { AT_ONCE } else { 1 };
        let mut executed = Executed::default();
        for actions in actions.chunks(at_once) {
            // All answers are waited for: a write that is on its way cannot be called back.
            let answers = join_all(actions.iter().map(|action| self.act(plan, action))).await;
            let mut failure = None;
            for (action, answer) in actions.iter().zip(answers) {
                match answer {
                    Ok((action, answer)) => {
                        tracing::debug!(object = %action.object, change = ?action.change, "object settled");
                        let changed = action.change != Change::Nothing;
                        executed.objects.push((action.object.clone(), action.change));
                        executed.tickets.extend(Ticket::of(&action, &answer, changed, Timestamp::now()));
                    }
                    Err(error) => {
                        tracing::debug!(object = %action.object, %error, "object not written");
                        failure = failure.or(Some(error));
                    }
                }
            }
            if let Some(source) = failure {
                return Err(halfway(executed, source));
            }
        }
        Ok(executed)
    }

    /// Brings patches of a plan up to date, if time has passed since it was made: a container that went
    /// meanwhile would be added again.
    ///
    /// # Errors
    ///
    /// Fails if an object or a container is gone, or a guard does not hold any more.
    pub async fn renew(&self, plan: &Plan, actions: &[Action]) -> Result<Vec<Action>, Error> {
        let mut renewed = actions.to_vec();
        for action in renewed.iter_mut().filter(|action| matches!(action.step, Step::Patch(_))) {
            if let Again::Send(new) = self.look_again(plan, action).await? {
                *action = *new;
            }
        }
        Ok(renewed)
    }

    async fn act<'a>(&self, plan: &Plan, action: &'a Action) -> Result<(Cow<'a, Action>, Value), Error> {
        let deadline = Instant::now() + WRITE_LIMIT;
        let mut action = Cow::Borrowed(action);
        let mut attempt = 0;
        loop {
            let failure = match self.send(&action).await {
                Ok(answer) => return Ok((action, answer)),
                Err(error) if error.is_lost_answer() || matches!(error, Error::Changed { .. }) => error,
                Err(error) => return Err(error),
            };
            attempt += 1;
            tokio::time::sleep(pause(attempt)).await;
            match self.look_again(plan, &action).await {
                Ok(Again::Done(live)) => return Ok((action, live)),
                Ok(_) if attempt == ATTEMPTS || Instant::now() >= deadline => return Err(failure),
                Ok(Again::Send(new)) => action = Cow::Owned(*new),
                Err(error) if error.is_lost_answer() && attempt < ATTEMPTS && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn send(&self, action: &Action) -> Result<Value, Error> {
        let object = &action.object;
        match &action.step {
            Step::Nothing => self.api.get(object).await?.ok_or_else(|| Error::Missing(Box::new(object.clone()))),
            Step::Patch(body) => self.api.patch(object, images_patch(&object.resource), body, false).await,
            Step::Delete => {
                self.api.delete(object, action.uid.as_deref(), false).await?;
                Ok(Value::Null)
            }
            Step::Replace(body) => {
                self.api.delete(object, action.uid.as_deref(), false).await?;
                self.wait_until_gone(object, action.uid.as_deref()).await?;
                self.api.create(object, body, false).await
            }
            Step::Apply { body, adopt, force } => {
                let mut body = Cow::Borrowed(body);
                if let Some(adoption) = adopt {
                    let moved = self.api.patch(object, Patch::Json, &adoption_patch(adoption), false).await?;
                    if body["metadata"]["resourceVersion"].is_string() {
                        body.to_mut()["metadata"]["resourceVersion"] = moved["metadata"]["resourceVersion"].clone();
                    }
                }
                let answer = self.api.patch(object, Patch::Apply { force: *force }, &body, false).await?;
                if crd::is_definition(&object.resource) {
                    self.wait_until_served(object, &body).await?;
                }
                Ok(answer)
            }
        }
    }

    /// After an answer that was lost, or a conflict: is it done, and if not, what is right now?
    async fn look_again(&self, plan: &Plan, action: &Action) -> Result<Again, Error> {
        let object = &action.object;
        let live = self.api.get(object).await?;
        let same = |live: &Value| action.uid.as_deref().is_none_or(|uid| live["metadata"]["uid"] == uid);
        let deleted = || Error::Changed { object: object.clone().into(), message: "it was deleted".into() };
        let again = || Ok(Again::Send(Box::new(action.clone())));
        match (&action.step, live) {
            (Step::Nothing, _) => again(),
            (Step::Delete, Some(live)) if same(&live) => again(),
            (Step::Delete, _) => Ok(Again::Done(Value::Null)),
            (Step::Replace(body), Some(live)) if !same(&live) && holds(body, &live) => Ok(Again::Done(live)),
            (Step::Replace(_), Some(live)) if !same(&live) => Err(deleted()),
            (Step::Replace(_), _) => again(),
            (Step::Patch(body), Some(live)) if same(&live) => {
                if holds(body, &live) {
                    return Ok(Again::Done(live));
                }
                plan.guard.check(object, &live, action.generation)?;
                Ok(Again::Send(Box::new(patched_anew(action, body, live, plan.guard.is_set())?)))
            }
            (Step::Apply { .. }, live) if live.as_ref().is_none_or(same) => {
                if let Some(live) = &live {
                    plan.guard.check(object, live, action.generation)?;
                }
                let mut anew = apply::anew(action, live.as_ref(), plan.guard.is_set());
                self.rehearse(&mut anew, live.as_ref(), plan).await?;
                match (anew.step == Step::Nothing, live) {
                    (true, Some(live)) => Ok(Again::Done(live)),
                    _ => Ok(Again::Send(Box::new(anew))),
                }
            }
            (Step::Patch(_) | Step::Apply { .. }, _) => Err(deleted()),
        }
    }

    async fn wait_until_gone(&self, object: &ObjectName, uid: Option<&str>) -> Result<(), Error> {
        let deadline = Instant::now() + GOING_LIMIT;
        while let Some(live) = self.api.get(object).await? {
            if uid.is_some_and(|uid| live["metadata"]["uid"] != uid) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let holders = live["metadata"]["finalizers"].to_string();
                let what = format!("is deleted, and does not go; it is held by {holders}");
                return Err(Error::Unfit { object: object.clone().into(), what });
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Waits until objects of a kind that was just defined can be written.
    async fn wait_until_served(&self, object: &ObjectName, definition: &Value) -> Result<(), Error> {
        let deadline = Instant::now() + GOING_LIMIT;
        loop {
            let live = self.api.get(object).await?.unwrap_or_default();
            let mut served = crd::is_established(&live);
            for resource in crd::resources(definition) {
                served = served && self.api.document(&resource.path(None)).await?.is_some();
            }
            if served {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = "is not established: see its conditions".to_owned();
                return Err(Error::Unfit { object: object.clone().into(), what });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a second look says.
enum Again {
    /// It is done: the object.
    Done(Value),
    /// This is to be sent.
    Send(Box<Action>),
}

/// The same images for an object that changed meanwhile: its containers may stand elsewhere, and one that went
/// is not added again.
fn patched_anew(action: &Action, body: &Value, live: Value, guarded: bool) -> Result<Action, Error> {
    let there = workload::containers(&action.object.resource, &live);
    let find = |name: &String| {
        there.iter().find(|container| container.name == *name).ok_or_else(|| Error::UnknownContainer {
            object: action.object.clone().into(),
            container: name.clone(),
            known: there.iter().map(|container| container.name.clone()).collect(),
        })
    };
    let mut images: Vec<(&Container, &str)> = Vec::new();
    let mut changes = action.images.clone();
    for (image, change) in action.images.iter().zip(&mut changes) {
        let container = find(&image.container)?;
        images.push((container, image.to.as_str()));
        if container.image != image.to {
            change.from = Some(container.image.clone()); // that is what to go back to now
        }
    }
    let annotations = body["metadata"]["annotations"].as_object().into_iter().flatten();
    let annotations = annotations.map(|(key, value)| (key.clone(), text(value).to_owned())).collect();
    let version = live["metadata"]["resourceVersion"].clone();
    let live = Live { name: action.object.clone(), object: live };
    let mut body = annotated(images_body(&live, &images), &annotations);
    if guarded {
        body["metadata"]["resourceVersion"] = version;
    }
    Ok(Action { step: Step::Patch(body), images: changes, ..action.clone() })
}

/// Whether an object has everything that a patch sets; entries of lists are known by their names.
fn holds(patch: &Value, live: &Value) -> bool {
    match (patch, live) {
        (Value::Object(patch), Value::Object(live)) => patch.iter().all(|(key, value)| match live.get(key) {
            _ if key == "resourceVersion" => true,
            Some(there) => holds(value, there),
            None => value.is_null(),
        }),
        (Value::Array(patch), Value::Array(live)) => {
            let named = |wanted: &Value| live.iter().find(|there| there["name"] == wanted["name"]);
            patch.iter().enumerate().all(|(index, wanted)| {
                let there = if wanted["name"].is_string() { named(wanted) } else { live.get(index) };
                there.is_some_and(|there| holds(wanted, there))
            })
        }
        (patch, live) => patch == live,
    }
}

/// The version makes the server refuse it (409) if anybody wrote in between.
fn adoption_patch(adoption: &Adoption) -> Value {
    json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": adoption.managed_fields},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": adoption.resource_version},
    ])
}

/// Doubles, and is never the same for two who started at once: the clock's last digits are the dice.
fn pause(attempt: u32) -> Duration {
    let dice = u64::try_from(Timestamp::now().subsec_nanosecond()).unwrap_or_default() % 50;
    PAUSE * 2u32.pow(attempt - 1) + Duration::from_millis(dice)
}

fn halfway(executed: Executed, source: Error) -> Error {
    if executed.written().next().is_none() {
        source
    } else {
        Error::Halfway { executed: Box::new(executed), source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_found_in_what_became_of_it() {
        let live = json!({"metadata": {"uid": "u", "resourceVersion": "9", "annotations": {"a": "1"}},
            "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}, {"name": "web", "image": "w:2"}]}}}});
        let patch = |image: &str| {
            json!({"metadata": {"uid": "u", "resourceVersion": "3"},
            "spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}})
        };
        assert!(holds(&patch("w:2"), &live));
        assert!(!holds(&patch("w:3"), &live));
        assert!(holds(&json!({"metadata": {"annotations": {"gone": null}}}), &live));
        assert!(!holds(&json!({"metadata": {"annotations": {"a": null}}}), &live));
        assert!(!holds(
            &json!({"spec": {"template": {"spec": {"containers": [{"name": "wbe", "image": "w:2"}]}}}}),
            &live
        ));
    }
}
