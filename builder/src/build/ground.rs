//! What the command of a RUN stands on: an overlay over unpacked layers, or, where there is no overlayfs, a plain tree.
//!
//! A tree is the work of unpacking a whole chain, so it goes on from step to step as long as it shows what the layers
//! show, and grows when COPY puts a layer on top. It lives in a [`Room`] and vanishes with the build.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci::DiffId;

use super::error::StepProblem;
use super::layers::{Chain, Layers, Link, LinkId, lock};
use super::room::Room;
use crate::layer::diff::{self, Grown, LinkOwners};
use crate::layer::tree::{self, Before};
use crate::layer::{Residue, View};
use crate::sandbox::{self, Entered};

/// The place of one step.
pub(super) enum Ground {
    /// Unpacked layers, bottom first; the changes come to lie in the room of the step.
    Overlay(Vec<PathBuf>),
    /// A tree, and what it held before the step.
    Tree(Planted, Before),
}

/// A tree that shows a chain.
pub(super) struct Planted {
    room: Room,
}

impl Planted {
    fn new(steps: &Path) -> Result<Self, StepProblem> {
        let planted = Self { room: Room::new(steps)? };
        let made = fs::create_dir(planted.root())
            .and_then(|()| fs::set_permissions(planted.root(), std::os::unix::fs::PermissionsExt::from_mode(0o755)));
        made.map_err(|source| planted.disk("making", source))?;
        Ok(planted)
    }

    pub fn root(&self) -> PathBuf {
        self.room.path().join("tree")
    }

    fn disk(&self, doing: &str, source: io::Error) -> StepProblem {
        StepProblem::Disk { doing: format!("{doing} {}", self.root().display()), source }
    }

    fn before(&self) -> io::Result<Before> {
        let clock = self.room.path().join("clock");
        let _ = fs::remove_file(&clock); // it is there from the step before, or not
        fs::write(&clock, b"")?;
        Before::of(&self.root(), &rustix::fs::stat(&clock)?)
    }

    /// Removes what the step has left beside the tree.
    fn tidy(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.room.path())? {
            let path = entry?.path();
            if path != self.root() {
                sandbox::remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        if let Err(error) = self.room.remove() {
            tracing::debug!(%error, "a tree stays until the next build sweeps it");
        }
    }
}

impl Ground {
    /// Makes it ready for a step over a chain.
    pub fn prepare(layers: &Layers<'_>, chain: &Chain, sandbox: &Entered) -> Result<Self, StepProblem> {
        if !sandbox.rung.is_tree() {
            return Ok(Self::Overlay(layers.unpacked(chain, sandbox)?));
        }
        let planted = plant(layers, chain, sandbox)?;
        let before = planted.before().map_err(|source| planted.disk("looking through", source))?;
        Ok(Self::Tree(planted, before))
    }

    /// The directory that a new file of the step must be put into.
    pub fn place(&self, room: &Room) -> PathBuf {
        match self {
            Self::Overlay(_) => room.upper(),
            Self::Tree(planted, _) => planted.root(),
        }
    }

    /// Lets the step stand on it.
    pub fn give(&self, task: &mut sandbox::Step) {
        match self {
            Self::Overlay(roots) => task.layers.clone_from(roots),
            Self::Tree(planted, _) => task.tree = Some(planted.root()),
        }
    }

    /// What the step has changed, as a layer with what that does not tell.
    pub fn layer(
        self,
        layers: &Layers<'_>,
        chain: &Chain,
        view: &View,
        room: &Room,
        links: &LinkOwners,
        options: &diff::Options,
    ) -> Result<Link, StepProblem> {
        let mut untold = Vec::new();
        let mut is_exact = false;
        let mut link = layers.make(|layer| {
            match &self {
                Self::Overlay(_) => untold = diff::diff_recorded(&room.upper(), view, options, links, layer)?,
                Self::Tree(planted, before) => {
                    let grown = Grown { root: &planted.root(), before };
                    (untold, is_exact) = diff::diff_tree(grown, view, options, links, layer)?;
                }
            }
            Ok(())
        })?;
        link.residue = Residue::of(untold, layers.options.newest);
        // A link of another owner has no mark of it, so its tree cannot be told from one without.
        if let Self::Tree(planted, _) = self
            && is_exact
            && links.is_empty()
        {
            planted.tidy().map_err(|source| planted.disk("tidying", source))?;
            keep(layers, names(chain).chain([link.id()]).collect(), planted);
        }
        Ok(link)
    }
}

fn names(chain: &Chain) -> impl Iterator<Item = LinkId> {
    chain.iter().map(|link| link.id())
}

fn keep(layers: &Layers<'_>, chain: Vec<LinkId>, planted: Planted) {
    let mut trees = lock(&layers.trees);
    trees.push_back((chain, planted));
    while trees.len() > layers.trees_kept {
        trees.pop_front();
    }
}

/// The tree of the longest beginning of the chain, made to show all of it.
fn plant(layers: &Layers<'_>, chain: &Chain, sandbox: &Entered) -> Result<Planted, StepProblem> {
    let wanted: Vec<LinkId> = names(chain).collect();
    let found = {
        let mut trees = lock(&layers.trees);
        let fitting = trees.iter().enumerate().filter(|(_, (shown, _))| wanted.starts_with(shown));
        let best = fitting.max_by_key(|(_, (shown, _))| shown.len()).map(|(at, _)| at);
        best.and_then(|at| trees.remove(at))
    };
    let (shown, planted) = match found {
        Some(found) => found,
        None => (Vec::new(), Planted::new(&sandbox.steps)?),
    };
    let (from, to) = (layers.view(&chain[..shown.len()].to_vec())?, layers.view(chain)?);
    let mut open = |at: usize| -> io::Result<(DiffId, Box<dyn io::Read>)> {
        let blob = layers.blob(&chain[at]).map_err(io::Error::other)?;
        Ok((chain[at].diff_id, Box::new(layers.watched(blob))))
    };
    let grown = tree::grow(&planted.root(), &from, &to, &layers.unpacking(sandbox), &mut open);
    layers.check_cancelled()?; // a cancelled read looks like a failed one
    grown?;
    Ok(planted)
}
