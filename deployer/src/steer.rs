//! Looking after workloads that exist: tickets for what is there already, pausing, resuming, restarting.

use crate::api::Patch;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::ObjectName;
use crate::plan::{Action, Change};
use crate::target::Target;
use crate::ticket::Ticket;
use jiff::Timestamp;
use serde_json::{Value, json};

/// What to do with a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// Record changes from now on, and replace no pod.
    Pause,
    /// Act on changes again.
    Resume,
    /// Replace all pods by new ones of the same version.
    Restart,
}

impl Cluster {
    /// Looks a workload up.
    pub(crate) async fn live(&self, target: &Target) -> Result<(ObjectName, Value), Error> {
        let mut live = self.look_up(std::slice::from_ref(target)).await?;
        let (_, live) = live.pop().ok_or(Error::NoTargets)?;
        Ok((live.name, live.object))
    }

    /// A ticket for what a workload is to be now, whoever asked for it.
    ///
    /// # Errors
    ///
    /// Fails if it does not exist, or is of a kind without pods.
    pub async fn ticket(&self, target: &Target) -> Result<Ticket, Error> {
        let (object, live) = self.live(target).await?;
        ticket(object, &live, false)
    }

    /// Pauses, resumes or restarts a workload; nothing is written where that changes nothing.
    ///
    /// # Errors
    ///
    /// Fails if the kind cannot be paused, or a restart of something paused would have no effect.
    pub async fn steer(&self, target: &Target, steer: Steer) -> Result<Ticket, Error> {
        let (object, live) = self.live(target).await?;
        match body(&object, &live, steer, Timestamp::now())? {
            Some(body) => {
                let answer = self.api.patch(&object, Patch::Merge, &body, false).await?;
                ticket(object, &answer, true)
            }
            None => ticket(object, &live, false),
        }
    }
}

fn ticket(object: ObjectName, live: &Value, changed: bool) -> Result<Ticket, Error> {
    let change = if changed { Change::Update } else { Change::Nothing };
    let action = Action::written(object, change, Vec::new());
    let ticket = Ticket::of(&action, live, changed, Timestamp::now());
    ticket.ok_or_else(|| Error::Unfit { object: action.object.into(), what: "has no pods".into() })
}

/// The patch that does it; `None` where it is so already.
fn body(object: &ObjectName, live: &Value, steer: Steer, now: Timestamp) -> Result<Option<Value>, Error> {
    let unfit = |what: &str| Error::Unfit { object: object.clone().into(), what: what.into() };
    let is_of = |kinds: &[&str]| object.resource.group == "apps" && kinds.contains(&object.resource.kind.as_str());
    let is_paused = live["spec"]["paused"] == true;
    let spec = match steer {
        Steer::Pause | Steer::Resume if !is_of(&["Deployment"]) => {
            return Err(unfit("cannot be paused; only deployments can"));
        }
        Steer::Pause if is_paused => return Ok(None),
        Steer::Resume if !is_paused => return Ok(None),
        Steer::Pause => json!({"paused": true}),
        Steer::Resume => json!({"paused": null}),
        Steer::Restart if !is_of(&["Deployment", "StatefulSet", "DaemonSet"]) => {
            return Err(unfit("cannot be restarted; deployments, statefulsets and daemonsets can"));
        }
        Steer::Restart if is_paused => return Err(unfit("is paused, so no pod would be replaced; resume it first")),
        // The name that kubectl uses: people and tools know it.
        Steer::Restart => {
            json!({"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now.to_string()}}}})
        }
    };
    Ok(Some(json!({"metadata": {"uid": live["metadata"]["uid"]}, "spec": spec})))
}
