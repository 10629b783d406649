//! Pull counts: when each manifest was last pulled. Kept in memory and written now and then in one
//! record, never for each pull; a crash loses the last minutes of them, which only matters to
//! retention rules that count in days.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use oci::{Digest, RepoName};

use super::{Store, StoreError};
use crate::state::{Pull, Transaction};

/// Most manifests that are remembered between two writes; pulls of others are not counted until then.
const REMEMBERED: usize = 20_000;
/// Most pulls in one record.
const RECORD: usize = 2_000;

/// Pulls since the last write.
#[derive(Default)]
pub(super) struct Pulls(Mutex<HashMap<(RepoName, Digest), Timestamp>>);

impl Pulls {
    /// Counts a pull.
    pub(super) fn count(&self, repo: &RepoName, digest: Digest) {
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pulls.len() < REMEMBERED {
            pulls.insert((repo.clone(), digest), Timestamp::now());
        }
    }

    fn take(&self) -> HashMap<(RepoName, Digest), Timestamp> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    /// Writes what was counted. If that fails it is lost, and the next pulls count again.
    pub(super) fn flush_pulls(&self) -> Result<(), StoreError> {
        let pulls = self.inner.pulls.take().into_iter();
        let mut pulls: Vec<Pull> = pulls.map(|((repo, digest), at)| Pull { repo, digest, at }).collect();
        while !pulls.is_empty() {
            let rest = pulls.split_off(RECORD.min(pulls.len()));
            self.inner.committer.commit_blocking(Transaction::CountPulls { pulls })?;
            pulls = rest;
        }
        Ok(())
    }
}
