//! Which stages are built at the same time. Every stage is built by the first thread that wants it; a thread that needs
//! what another one builds waits, and lets somebody else work in the meantime. Stages only need earlier ones, so
//! nobody waits in a circle.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::error::Error;
use super::layers::lock;
use super::steps::Finished;
use crate::plan::StageId;

/// The stages of a build, and who may work.
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How many more threads may work.
    free: usize,
    /// Those that wait to be one of them; the earliest stage goes first.
    queue: BTreeSet<StageId>,
    /// `None` while it is being built.
    stages: HashMap<StageId, Option<Arc<Finished>>>,
    /// What ended the build.
    failure: Option<Error>,
}

/// What becomes of a wish for a stage.
pub(super) enum Turn<'t> {
    /// It is there.
    Finished(Arc<Finished>),
    /// Whoever wished builds it.
    Ours(Claim<'t>),
}

/// A stage that is being built. If it is dropped before it is finished, the stage is as if nobody had begun it.
pub(super) struct Claim<'t> {
    turns: &'t Turns,
    id: StageId,
}

impl Turns {
    /// Lets `jobs` threads work at a time.
    pub fn new(jobs: usize) -> Self {
        let state = State { free: jobs, queue: BTreeSet::new(), stages: HashMap::new(), failure: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until one more thread may work, and is that one until it leaves.
    pub fn enter(&self, place: StageId) {
        let mut state = lock(&self.state);
        state.queue.insert(place);
        while state.free == 0 || state.queue.first() != Some(&place) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.queue.remove(&place);
        state.free -= 1;
        self.changed.notify_all(); // there may be room for the next in the queue
    }

    /// Lets another one work.
    pub fn leave(&self) {
        lock(&self.state).free += 1;
        self.changed.notify_all();
    }

    /// A stage: when it is finished, or to be built. `place` is where the thread works.
    pub fn stage(&self, id: StageId, place: StageId) -> Turn<'_> {
        if let Some(turn) = self.try_stage(&mut lock(&self.state), id) {
            return turn;
        }
        self.leave();
        let mut state = lock(&self.state);
        let turn = loop {
            match self.try_stage(&mut state, id) {
                Some(turn) => break turn,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        self.enter(place);
        turn
    }

    fn try_stage(&self, state: &mut State, id: StageId) -> Option<Turn<'_>> {
        match state.stages.get(&id) {
            Some(Some(finished)) => Some(Turn::Finished(finished.clone())),
            Some(None) => None,
            None => {
                state.stages.insert(id, None);
                Some(Turn::Ours(Claim { turns: self, id }))
            }
        }
    }

    /// Keeps the first failure; those that come after it are its consequences.
    pub fn fail(&self, error: Error) {
        lock(&self.state).failure.get_or_insert(error);
    }

    /// What ended the build.
    pub fn failure(&self) -> Option<Error> {
        lock(&self.state).failure.take()
    }

    /// The stages that were built.
    pub fn finished(&self) -> Vec<Arc<Finished>> {
        lock(&self.state).stages.values().flatten().cloned().collect()
    }
}

impl Claim<'_> {
    /// Shows the stage to everybody.
    pub fn finish(self, finished: Arc<Finished>) {
        lock(&self.turns.state).stages.insert(self.id, Some(finished)); // dropping the claim wakes who waits
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.turns.state);
        if let Some(None) = state.stages.get(&self.id) {
            state.stages.remove(&self.id);
        }
        drop(state);
        self.turns.changed.notify_all();
    }
}
