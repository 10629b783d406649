//! Waiting for tickets: a few lists and watches per namespace, shared by all of them, until each ticket
//! is decided or the one deadline is over. What is seen goes into a [`World`]; what it means is decided
//! by [`classify`].

mod note;
mod stream;

pub(crate) use note::until_observed;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::diagnose::{Cause, Trouble, diagnose};
use crate::error::{Class, Error};
use crate::object::{ObjectName, Resource};
use crate::outcome::{End, LogTail, Outcome, TargetOutcome};
use crate::redact::redact;
use crate::require::Require;
use crate::soak::Soak;
use crate::ticket::Ticket;
use crate::verdict::{self, Evidence, Verdict, Waiting, classify};
use crate::workload;
use crate::world::{World, uid_of};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, ReadyChunks, SelectAll};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use stream::{Change, Source};
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// How often the passing of time alone may change a verdict.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Most changes that are taken in before the next look.
const CHANGES_AT_ONCE: usize = 256;
/// Most containers whose logs are shown.
const LOGS_AT_MOST: usize = 3;
/// Longest wait for one log.
const LOG_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The one deadline of all tickets.
    pub timeout: Duration,
    /// A container that ended so often and ended again has failed.
    pub restarts: u32,
    /// How long an image may be impossible to pull for a reason that may pass, or a container fail to start.
    pub pull_patience: Duration,
    /// How long a missing Secret or ConfigMap may be on its way.
    pub config_patience: Duration,
    /// How long the server may refuse to make pods.
    pub refusal_patience: Duration,
    /// How many lines of a failed container's log to show.
    pub log_lines: usize,
    /// How many of the pods must run.
    pub require: Require,
    /// How long they must run on, without a restart, before it counts.
    pub soak: Duration,
    /// Whether a DaemonSet that no node fits counts as done.
    pub allow_zero: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            timeout: Duration::from_secs(600), // Kubernetes' own progressDeadlineSeconds
            restarts: 2,
            pull_patience: Duration::from_secs(20), // two attempts: the kubelet waits 10 s after the first
            config_patience: Duration::from_secs(30),
            refusal_patience: Duration::from_secs(10),
            log_lines: 20,
            require: Require::Full,
            soak: Duration::ZERO,
            allow_zero: true,
        }
    }
}

/// Something to tell the person who waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A target waits for something else than before.
    Progress {
        /// The target.
        object: ObjectName,
        /// What for.
        waiting: Waiting,
    },
    /// Something is wrong that was not before.
    Trouble {
        /// The target.
        object: ObjectName,
        /// What.
        trouble: Trouble,
    },
    /// A target is decided.
    Ended {
        /// The target.
        object: ObjectName,
        /// How.
        end: End,
    },
    /// The images that a target ran before are put back.
    Undoing {
        /// The target.
        object: ObjectName,
        /// By container: the images.
        images: BTreeMap<String, String>,
    },
    /// Something about the waiting itself: a connection that broke and is tried again.
    Note {
        /// The sentence.
        text: String,
    },
}

impl Cluster {
    /// Waits until every ticket is decided, one has failed, or the time is over.
    ///
    /// # Errors
    ///
    /// Fails if this user may not watch, or the server could not be reached until the end. That a
    /// rollout fails is no error but an [`Outcome`].
    pub async fn watch(
        &self,
        tickets: &[Ticket],
        policy: &Policy,
        on_event: impl FnMut(Event),
    ) -> Result<Outcome, Error> {
        let objects = tickets.iter().map(|ticket| &ticket.object);
        self.watching(objects, policy, on_event).all(tickets).await
    }

    /// Looks once at how tickets are doing: what is not decided now is said to be under way.
    ///
    /// # Errors
    ///
    /// Fails as [`Cluster::watch`] does.
    pub async fn look(&self, tickets: &[Ticket], policy: &Policy) -> Result<Outcome, Error> {
        let objects = tickets.iter().map(|ticket| &ticket.object);
        let watch = Watch { once: true, ..self.watching(objects, policy, |_| {}) };
        watch.all(tickets).await
    }

    /// Begins to watch objects, tickets of which are taken in as they are written ([`Watch::admit`]). The time that
    /// the policy gives them all runs from now on.
    pub fn watching<'a, F: FnMut(Event)>(
        &'a self,
        objects: impl IntoIterator<Item = &'a ObjectName>,
        policy: &Policy,
        on_event: F,
    ) -> Watch<'a, F> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch {
            api: &self.api,
            policy: policy.clone(),
            on_event,
            deadline: Instant::now() + policy.timeout,
            look,
            sources: Vec::new(),
            changes: SelectAll::new().ready_chunks(CHANGES_AT_ONCE),
            world: World::default(),
            tickets: Vec::new(),
            ends: BTreeMap::new(),
            behind: BTreeSet::new(),
            soaks: BTreeMap::new(),
            told: Vec::new(),
            broken: HashMap::new(),
            once: false,
        };
        watch.open(&objects.into_iter().collect::<Vec<_>>());
        watch
    }
}

/// What a person was told about one ticket.
#[derive(Clone, Default)]
struct Told {
    waiting: Option<Waiting>,
    troubles: BTreeSet<(Cause, String, Option<String>)>,
}

/// Tickets that are waited for with one deadline, by the same lists and watches. More may come while others are on
/// their way.
pub struct Watch<'a, F> {
    api: &'a Api,
    policy: Policy,
    on_event: F,
    deadline: Instant,
    look: Interval,
    sources: Vec<Source>,
    changes: ReadyChunks<SelectAll<BoxStream<'static, (usize, Change)>>>,
    world: World,
    tickets: Vec<Arc<Ticket>>,
    ends: BTreeMap<usize, End>,
    /// Tickets of objects whose watch is older than our write: what it says is not judged yet.
    behind: BTreeSet<usize>,
    soaks: BTreeMap<usize, Soak>,
    told: Vec<Told>,
    /// Why a stream has no connection now.
    broken: HashMap<usize, String>,
    /// Whether the first look is the last.
    once: bool,
}

impl<F> std::fmt::Debug for Watch<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("tickets", &self.tickets).field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl<F: FnMut(Event)> Watch<'_, F> {
    /// Takes tickets in of what was written just now. What a watch showed of it until then is the version before.
    pub fn admit(&mut self, tickets: &[Ticket]) {
        let begun = self.tickets.len();
        let is_watched = |ticket: &Ticket| self.sources.iter().any(|open| open.shows(&ticket.object));
        let is_watched: Vec<bool> = tickets.iter().map(is_watched).collect();
        self.take_up(tickets);
        for (index, (ticket, is_watched)) in (begun..).zip(tickets.iter().zip(is_watched)) {
            if is_watched && self.world.is_behind(ticket) {
                self.behind.insert(index);
            }
        }
    }

    /// Takes tickets in of what was written before anything that will be judged was asked for.
    fn take_up(&mut self, tickets: &[Ticket]) {
        self.open(&tickets.iter().map(|ticket| &ticket.object).collect::<Vec<_>>());
        for ticket in tickets {
            let index = self.tickets.len();
            self.tickets.push(Arc::new(ticket.clone()));
            self.told.push(Told::default());
            if !workload::is_watched(&ticket.object.resource) {
                self.end(index, End::Done { evidence: verdict::without_rollout(&ticket.object.resource) });
                continue;
            }
            self.world.begin(ticket);
        }
    }

    /// How many workloads that were changed or made are not decided yet.
    pub fn under_way(&self) -> usize {
        self.open_tickets().iter().filter(|(_, ticket)| ticket.changed || ticket.created).count()
    }

    /// Whether every ticket that was taken in is decided.
    pub fn is_decided(&self) -> bool {
        self.ends.len() == self.tickets.len()
    }

    /// Whether a ticket did not come true, so that nothing more should begin.
    pub fn has_failed(&self) -> bool {
        self.ends.values().any(|end| end.class() != Class::Success)
    }

    /// Waits until one more ticket is decided; ends at once if all are.
    ///
    /// # Errors
    ///
    /// Fails as [`Cluster::watch`] does.
    pub async fn next(&mut self) -> Result<(), Error> {
        let decided = self.ends.len();
        while self.ends.len() == decided && !self.is_decided() {
            let has_sources = !self.sources.is_empty(); // an empty stream is at its end, and stays so
            tokio::select! {
                Some(batch) = self.changes.next(), if has_sources => {
                    for (source, change) in batch {
                        self.take_in(source, change)?;
                    }
                }
                _ = self.look.tick() => {}
                () = tokio::time::sleep_until(self.deadline) => {
                    self.give_up(&format!("not decided within {} s", self.policy.timeout.as_secs()))?;
                }
            }
            if self.world.is_complete() {
                self.look().await;
                if self.once {
                    self.leave_undecided("still under way");
                }
            }
        }
        Ok(())
    }

    /// How all of them ended, in the order in which they were taken in; without those that have not.
    pub fn outcome(mut self) -> Outcome {
        let targets = self.tickets.iter().enumerate().filter_map(|(index, ticket)| {
            Some(TargetOutcome { ticket: Ticket::clone(ticket), end: self.ends.remove(&index)? })
        });
        Outcome { targets: targets.collect() }
    }

    async fn all(mut self, tickets: &[Ticket]) -> Result<Outcome, Error> {
        self.take_up(tickets);
        while !self.is_decided() {
            self.next().await?;
        }
        Ok(self.outcome())
    }

    /// Opens what these objects need and is not open yet.
    fn open(&mut self, objects: &[&ObjectName]) {
        for source in stream::sources(objects) {
            if !self.sources.iter().any(|open| open.covers(&source)) {
                let number = self.world.add_stream(source.kind.clone(), &source.namespace);
                self.changes.get_mut().push(stream::open(self.api, &source, number));
                self.sources.push(source);
            }
        }
    }

    fn take_in(&mut self, number: usize, change: Change) -> Result<(), Error> {
        let now = Timestamp::now();
        match change {
            Change::Replace(objects) => {
                self.world.replace(number, objects, now);
                self.behind.retain(|index| self.world.is_behind(&self.tickets[*index]));
            }
            Change::Put(object) => {
                let uid = uid_of(&object).to_owned();
                self.world.put(number, object, now);
                self.catch_up(&uid);
            }
            Change::Remove(uid) => {
                self.world.remove(number, &uid);
                self.catch_up(&uid);
            }
            Change::Broken(error) => return self.broken(number, error),
        }
        self.broken.remove(&number);
        Ok(())
    }

    /// The watch has come to an object again: after our write, unless it says itself that it has not got there.
    fn catch_up(&mut self, uid: &str) {
        let is_elsewhere = |ticket: &Ticket| ticket.uid != uid || self.world.is_surely_behind(ticket);
        self.behind.retain(|index| is_elsewhere(&self.tickets[*index]));
    }

    fn broken(&mut self, number: usize, error: kube::Error) -> Result<(), Error> {
        let source = &self.sources[number];
        match self.api.watch_error(&source.resource, Some(&source.namespace), error) {
            Ok(text) => {
                if self.broken.insert(number, text.clone()).is_none() {
                    (self.on_event)(Event::Note {
                        text: format!("watching {} is interrupted: {text}", source.resource.plural),
                    });
                }
            }
            Err(Error::Forbidden { .. }) if source.is_optional() => {
                self.world.replace(number, Vec::new(), Timestamp::now());
                let text = match source.resource.plural.as_str() {
                    "events" => "events may not be watched: refusals of the cluster to make pods may stay unknown",
                    "pods" => "pods may not be watched: only what its controller says of a custom kind is known",
                    _ => "ReplicaSets may not be watched: pods that a custom kind has through them stay unknown",
                };
                let text = text.to_owned();
                (self.on_event)(Event::Note { text });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Judges every ticket that is not decided.
    async fn look(&mut self) {
        let now = Timestamp::now();
        for (index, ticket) in self.open_tickets() {
            if self.behind.contains(&index) {
                self.tell(index, Waiting::Observed, Vec::new());
                continue;
            }
            let ticket = &*ticket;
            let snapshot = self.world.snapshot(ticket);
            let troubles = diagnose(&snapshot, ticket, &self.policy, now);
            let verdict = classify(&snapshot, ticket, &self.policy, now);
            let verdict = self.soaks.entry(index).or_default().judge(verdict, &snapshot, self.policy.soak, now);
            match verdict {
                Verdict::Waiting(waiting) => {
                    // Before our generation was observed, pods are those of the version before.
                    let troubles = if waiting == Waiting::Observed { Vec::new() } else { troubles };
                    self.tell(index, waiting, troubles);
                }
                Verdict::Done(Evidence::NoNodes) if !self.policy.allow_zero => self.end(index, End::NoNodes),
                Verdict::Done(evidence) => self.end(index, End::Done { evidence }),
                Verdict::Superseded(by) => self.end(index, End::Superseded { by }),
                Verdict::Paused => self.end(index, End::Paused),
                Verdict::Gone => self.end(index, End::Gone),
                Verdict::Failed(troubles) => {
                    let logs = logs(self.api, ticket, &troubles, self.policy.log_lines).await;
                    self.end(index, End::Failed { troubles, logs });
                }
            }
        }
        if self.ends.values().any(|end| matches!(end, End::Failed { .. } | End::Gone)) {
            self.leave_undecided("not waited for any longer, because another target failed");
        }
    }

    /// Those that are not decided.
    fn open_tickets(&self) -> Vec<(usize, Arc<Ticket>)> {
        let is_open = |(index, _): &(usize, Arc<Ticket>)| !self.ends.contains_key(index);
        self.tickets.iter().cloned().enumerate().filter(is_open).collect()
    }

    fn tell(&mut self, index: usize, waiting: Waiting, troubles: Vec<Trouble>) {
        let (told, object) = (&mut self.told[index], &self.tickets[index].object);
        if told.waiting.replace(waiting) != Some(waiting) {
            (self.on_event)(Event::Progress { object: object.clone(), waiting });
        }
        for trouble in troubles {
            if told.troubles.insert((trouble.cause, trouble.object.clone(), trouble.container.clone())) {
                (self.on_event)(Event::Trouble { object: object.clone(), trouble });
            }
        }
    }

    fn end(&mut self, index: usize, end: End) {
        (self.on_event)(Event::Ended { object: self.tickets[index].object.clone(), end: end.clone() });
        self.ends.insert(index, end);
    }

    /// The time is over. A server that is away now leaves nothing to be said about the rollout.
    fn give_up(&mut self, why: &str) -> Result<(), Error> {
        if let Some(reason) = self.broken.values().next() {
            return Err(Error::Unreachable { server: self.api.server().to_owned(), reason: reason.clone() });
        }
        if !self.world.is_complete() {
            return Err(Error::Timeout { server: self.api.server().to_owned(), limit: self.policy.timeout });
        }
        self.leave_undecided(why);
        Ok(())
    }

    fn leave_undecided(&mut self, why: &str) {
        let now = Timestamp::now();
        for (index, ticket) in self.open_tickets() {
            let waiting = self.told[index].waiting;
            let is_ours = waiting.is_some_and(|waiting| waiting != Waiting::Observed);
            let troubles =
                if is_ours { diagnose(&self.world.snapshot(&ticket), &ticket, &self.policy, now) } else { Vec::new() };
            self.end(index, End::Undecided { why: why.to_owned(), waiting, troubles });
        }
    }
}

/// Fetches the last words of containers that ended; one pod stands for all replicas.
async fn logs(api: &Api, ticket: &Ticket, troubles: &[Trouble], lines: usize) -> Vec<LogTail> {
    let ended = troubles.iter().filter(|trouble| matches!(trouble.cause, Cause::Crash | Cause::Memory | Cause::Start));
    let mut seen = BTreeSet::new();
    let mut logs = Vec::new();
    for trouble in ended {
        let (Some(container), Some(pod)) = (&trouble.container, trouble.object.strip_prefix("pod/")) else { continue };
        if logs.len() < LOGS_AT_MOST && seen.insert(container.clone()) {
            logs.extend(log(api, ticket, pod, container, lines).await);
        }
    }
    logs
}

/// Of a container that waits for its next start, the present log is that of the instance that ended.
async fn log(api: &Api, ticket: &Ticket, pod: &str, container: &str, lines: usize) -> Option<LogTail> {
    let name = ObjectName::new(pods(), ticket.object.namespace.as_deref().unwrap_or_default(), pod);
    for previous in [false, true] {
        let answer = tokio::time::timeout(LOG_PATIENCE, api.log(&name, container, previous, lines)).await;
        match answer {
            Ok(Ok(text)) if !text.trim().is_empty() => {
                let lines = redact(&text).lines().map(str::to_owned).collect();
                return Some(LogTail { pod: pod.to_owned(), container: container.to_owned(), previous, lines });
            }
            // A log is a help and no duty: a node that is away, or rights that are missing, change no verdict.
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, pod, container, previous, "no log"),
            Err(_) => tracing::debug!(pod, container, previous, "no log in time"),
        }
    }
    None
}

/// Pods are a core kind, `v1` since ever.
pub(crate) fn pods() -> Resource {
    Resource::core("Pod", "pods")
}
