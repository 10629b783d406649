//! Looking after workloads that exist: tickets for what is there already, pausing, resuming, restarting, and holding what failed.

use crate::api::Patch;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::object::ObjectName;
use crate::plan::{Action, Change};
use crate::target::Target;
use crate::ticket::Ticket;
use crate::undo::{ATTEMPT_PAUSE, ATTEMPTS};
use crate::workload;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;

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

/// What became of a version that failed and was to be held where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldTarget {
    /// The target.
    pub object: ObjectName,
    /// What became of it.
    pub held: Held,
}

/// Whether a workload stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "held")]
pub enum Held {
    /// It is paused: the pods that run now stay, old ones and new ones.
    Paused,
    /// It goes on with the new version.
    Goes {
        /// Why.
        why: String,
    },
}

impl fmt::Display for HeldTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.held {
            Held::Paused => write!(f, "{}: paused; the pods that run now stay, old ones and new ones", self.object),
            Held::Goes { why } => {
                write!(f, "{}: is not paused, and the new version is left in place: {why}", self.object)
            }
        }
    }
}

impl Cluster {
    /// Pauses what a rollout that failed has changed, so that nothing more is replaced: what of the old version runs
    /// goes on serving. Only while it is still ours; what cannot be done is said, target by target.
    pub async fn hold(&self, tickets: &[Ticket]) -> Vec<HeldTarget> {
        let mut targets = Vec::new();
        for ticket in tickets.iter().filter(|ticket| ticket.changed) {
            let held = self.hold_one(ticket).await.unwrap_or_else(|error| Held::Goes { why: error.to_string() });
            targets.push(HeldTarget { object: ticket.object.clone(), held });
        }
        targets
    }

    async fn hold_one(&self, ticket: &Ticket) -> Result<Held, Error> {
        let mut attempts = 1;
        loop {
            let live =
                self.api.get(&ticket.object).await?.filter(|live| live["metadata"]["uid"] == ticket.uid.as_str());
            let Some(live) = live else { return Ok(Held::Goes { why: "it was deleted".into() }) };
            let there = workload::containers(&ticket.object.resource, &live);
            let is_ours =
                |(name, image): (&String, &String)| there.iter().any(|one| one.name == *name && one.image == *image);
            if !ticket.images.iter().all(is_ours) {
                return Ok(Held::Goes { why: "it is not ours any more".into() });
            }
            let Some(mut body) = body(&ticket.object, &live, Steer::Pause, Timestamp::now())? else {
                return Ok(Held::Paused);
            };
            // Whoever writes between our look and our patch makes the server refuse it.
            body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            match self.api.patch(&ticket.object, Patch::Merge, &body, false).await {
                Err(Error::Changed { .. }) if attempts < ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(ATTEMPT_PAUSE).await;
                }
                answer => return answer.map(|_| Held::Paused),
            }
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
