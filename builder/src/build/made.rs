//! What steps made, in this build or an earlier one: looked up by their keys, made once, and remembered.

use std::sync::Arc;

use oci::Digest;

use super::error::StepProblem;
use super::import::Import;
use super::key::Key;
use super::layers::{Chain, Link, lock};
use super::steps::Builder;
use crate::cache::Record;

/// What a step made, or an earlier build's.
#[derive(Clone)]
pub(super) struct Made {
    pub link: Link,
    pub created: String,
    pub cached: bool,
}

impl Made {
    /// The layer alone.
    pub fn into_link(self) -> Link {
        self.link
    }

    /// Where the layer can be had, if it is not in the store.
    pub fn origin(&self) -> Option<&content::Origin> {
        self.link.origin()
    }

    /// What caches keep of it.
    pub fn record(&self) -> Record {
        let Link { diff_id, blob, likeness, residue, .. } = &self.link;
        Record {
            diff_id: *diff_id,
            blob: blob.clone(),
            created: self.created.clone(),
            likeness: *likeness,
            residue: residue.clone(),
        }
    }
}

impl Builder<'_> {
    /// The start of a key: the layers below. What a layer holds decides, not how it came about, nor when.
    pub fn key(&self, kind: &str, chain: &Chain) -> Key {
        Key::new(kind, chain.iter().map(|link| link.name()), &self.layers.options)
    }

    /// The same, by the names of what is below.
    pub fn key_upon(&self, kind: &str, below: &[&[u8]]) -> Key {
        Key::new(kind, below.iter().copied(), &self.layers.options)
    }

    /// The result under that key if it is still there, else made and remembered. Stages that share a step share its
    /// result: it is done once in a build, also where nothing is taken from a cache.
    pub fn remembered(
        &mut self,
        key: Digest,
        make: impl FnOnce(&mut Self) -> Result<Link, StepProblem>,
    ) -> Result<Made, StepProblem> {
        let shared = self.shared.clone();
        let _turn = shared.making.turn(key);
        if let Some(made) = self.found(&key)? {
            self.keep(key, &made);
            return Ok(made);
        }
        self.layers.check_cancelled()?; // whoever made it was stopped
        if self.dry {
            return Err(StepProblem::NotDone);
        }
        let link = make(self)?;
        let created = self.timestamp().to_string();
        let made = Made { link, created, cached: false };
        self.workshop.cache.remember_step(&key, &made.record())?;
        lock(&shared.made).insert(key, made.clone());
        Ok(made)
    }

    /// Keeps for the end of the build what was found or made.
    pub fn keep(&self, key: Digest, made: &Made) {
        lock(&self.shared.made).entry(key).or_insert_with(|| made.clone());
    }

    /// Whether what earlier builds left counts.
    pub fn may_find(&self) -> bool {
        !self.request.no_cache && !self.fresh
    }

    /// What an earlier build has left: here, or in a cache of others, whose layers are fetched when somebody needs
    /// them.
    pub fn found(&self, key: &Digest) -> Result<Option<Made>, StepProblem> {
        let is_anew = !self.may_find();
        let of_this_build = lock(&self.shared.made).get(key).filter(|made| !is_anew || !made.cached).cloned();
        if is_anew || of_this_build.is_some() {
            return Ok(of_this_build.map(|made| Made { cached: true, ..made }));
        }
        let made = |record: Record, import: Option<Arc<Import>>| {
            let Record { diff_id, blob, created, likeness, residue } = record;
            Made { link: Link { diff_id, blob, base: None, import, likeness, residue }, created, cached: true }
        };
        if let Some(record) = self.workshop.cache.step(key)
            && self.workshop.store.blob_size(&record.blob.digest)? == Some(record.blob.size)
        {
            return Ok(Some(made(record, None)));
        }
        for import in &self.request.imports {
            if let Some(step) = import.document.steps.get(key) {
                return Ok(Some(made(step.record.clone(), Some(import.clone()))));
            }
        }
        Ok(None)
    }
}
