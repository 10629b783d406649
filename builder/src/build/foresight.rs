//! What is known of a build before its first step, without looking into any layer.
//!
//! The key of `COPY --from=builder` is made of the files that are copied, so to know it the stage has to be there. A
//! stage is *foreseen* by what it is made from: the layers of its base image, the keys of its steps one upon the other,
//! the contents of what they take from contexts. A step that reads from a stage or an image has a second key, with the
//! foreseen name in the place of the files. Under it lies the same record as under the first one, in every cache, so a
//! stage of which only copies are wanted need not be in a cache, and none of its layers is looked into.
//!
//! A foreseen key that is not there says nothing: the stage is built, and asked by its files as ever. One that is there
//! is trusted as every key is. It is written only if the contexts were, while the steps ran, what they were here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oci::Digest;

use super::error::{Error, StepProblem};
use super::key::Key;
use super::layers::{Chain, lock};
use super::made::Made;
use super::steps::Builder;
use super::{mounts, remote, survey, transfer};
use crate::event::Event;
use crate::plan::{
    Action, Base, BaseState, CopySource, CopyStep, Origin, RunStep, StageId, StageOutline, StagePlan, Step,
};

/// What was found before the first step. Nothing where files come from contexts only.
#[derive(Default)]
pub(super) struct Foresight {
    is_there: bool,
    names: HashMap<StageId, Name>,
    /// Stages of which everything that is wanted was made before.
    spared: HashSet<StageId>,
}

/// A stage by what it is made from.
#[derive(Clone, Copy)]
struct Name {
    digest: Digest,
    /// Whether steps of it are to be done anew: what was made of it before does not count.
    anew: bool,
}

/// The key of a step, as far as it is known without the files of a stage.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    name: Name,
    /// Whether there is a key by content, too.
    is_foreseen: bool,
}

/// A stage as far as it was found.
struct Found {
    plan: StagePlan,
    /// All layers, if every step was found.
    chain: Option<Chain>,
    made: Vec<Made>,
    /// Stages that steps which were not found read from.
    wanted: Vec<StageId>,
}

impl Builder<'_> {
    /// Looks which stages are needed at all; what is found in those that are not is told.
    ///
    /// A mistake in an instruction is told at once. Whatever else goes wrong is left to the build itself, which says
    /// what and where.
    pub fn look_ahead(&mut self) -> Result<(), Error> {
        let order = self.outline.stages.clone();
        let mut found: HashMap<StageId, Found> = HashMap::new();
        for stage in &order {
            let Some(plan) = self.foreseen_plan(stage, &found)? else { return Ok(()) };
            found.insert(stage.id, Found { plan, chain: None, made: Vec::new(), wanted: Vec::new() });
        }
        if !found.values().flat_map(|stage| &stage.plan.steps).any(|step| is_foreseen(&step.action)) {
            return Ok(());
        }
        let read = read(&order, &found);
        let mut foresight = Foresight { is_there: true, ..Foresight::default() };
        for stage in &order {
            self.layers.check_cancelled().map_err(|problem| self.at(stage.span, problem))?;
            if read.contains(&stage.id)
                && let Some(name) = self.foreseen_name(stage, &found[&stage.id].plan.steps, &foresight)
            {
                foresight.names.insert(stage.id, name);
            }
            self.glance_at(stage, &mut found, &foresight);
        }
        foresight.spared = spared(&order, &found, self.outline.target);
        self.foresight = Arc::new(foresight);
        for stage in order.iter().filter(|stage| self.is_spared(stage.id) && !self.dry) {
            self.tell(stage, &found[&stage.id]);
        }
        Ok(())
    }

    /// Whether nothing of a stage is needed but what was made of it before.
    pub fn is_spared(&self, id: StageId) -> bool {
        self.foresight.spared.contains(&id)
    }

    /// What an earlier build has made of a step, as far as that can be known without the files of a stage.
    pub fn glance(&mut self, chain: &Chain, step: &Step) -> (Option<Sight>, Option<Made>) {
        let foresight = self.foresight.clone();
        self.glance_by(chain, step, &foresight)
    }

    fn glance_by(&mut self, chain: &Chain, step: &Step, foresight: &Foresight) -> (Option<Sight>, Option<Made>) {
        if !foresight.is_there {
            return (None, None); // it is looked up when its turn comes
        }
        let below: Vec<&[u8]> = chain.iter().map(|link| link.name()).collect();
        let Ok(Some(sight)) = self.sight(&below, step, foresight) else { return (None, None) };
        if sight.is_foreseen && (sight.name.anew || !self.may_find()) {
            return (Some(sight), None);
        }
        let made = self.found(&sight.name.digest).ok().flatten();
        if let Some(made) = made.as_ref().filter(|_| !self.dry) {
            self.keep(sight.name.digest, made);
        }
        (Some(sight), made)
    }

    /// Remembers under its foreseen key what a step has made.
    pub fn foresee(&self, sight: Option<Sight>, made: &Made) -> Result<(), StepProblem> {
        let Some(sight) = sight.filter(|sight| sight.is_foreseen) else { return Ok(()) };
        if self.shared.unsteady.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.workshop.cache.remember_step(&sight.name.digest, &made.record())?;
        self.keep(sight.name.digest, made);
        Ok(())
    }

    /// Compares what a step copies with what was expected: if a context changes during the build, nothing that was
    /// foreseen of it is true.
    pub fn confirm(&self, step: &CopyStep, content: &Digest) {
        self.confirm_asked(&asked(step), content);
    }

    /// The same for a mount.
    pub fn confirm_asked(&self, asked: &Digest, content: &Digest) {
        if lock(&self.shared.contents).get(asked).is_some_and(|expected| expected != content) {
            self.shared.unsteady.store(true, Ordering::Relaxed);
        }
    }

    /// What a stage does, if that can be told; a stage that can do nothing is found before others have done much.
    fn foreseen_plan(
        &mut self,
        stage: &StageOutline,
        found: &HashMap<StageId, Found>,
    ) -> Result<Option<StagePlan>, Error> {
        let plan = match &stage.base {
            Base::Scratch | Base::Context(_) => self.plan(stage.id, BaseState::Scratch),
            Base::Stage(base) => match found.get(base) {
                Some(base) => self.plan(stage.id, BaseState::Stage(&base.plan)),
                None => return Ok(None),
            },
            Base::Image(reference) => match self.base(reference, &stage.platform) {
                Ok(image) => self.plan(stage.id, BaseState::Image(&image.config)),
                Err(_) => return Ok(None),
            },
        };
        plan.map(Some)
    }

    fn foreseen_name(&mut self, stage: &StageOutline, steps: &[Step], foresight: &Foresight) -> Option<Name> {
        let mut name = match &stage.base {
            Base::Scratch | Base::Context(_) => self.name_of(&Origin::Scratch, foresight)?,
            Base::Stage(base) => *foresight.names.get(base)?,
            Base::Image(reference) => {
                let chain = self.base(reference, &stage.platform).ok()?.chain();
                Name { digest: self.name_of_chain(&chain), anew: false }
            }
        };
        name.anew |= self.is_anew(&stage.name);
        for step in steps {
            let sight = self.sight(&[name.digest.as_bytes()], step, foresight).ok()??;
            name = Name { digest: sight.name.digest, anew: name.anew || sight.name.anew };
        }
        Some(name)
    }

    /// Finds the steps of a stage one after the other, until one is not there.
    fn glance_at(&mut self, stage: &StageOutline, all: &mut HashMap<StageId, Found>, foresight: &Foresight) {
        let mut chain = match &stage.base {
            Base::Scratch | Base::Context(_) => Some(Chain::new()),
            Base::Stage(base) => all.get(base).and_then(|base| base.chain.clone()),
            Base::Image(reference) => self.base(reference, &stage.platform).ok().map(|image| image.chain()),
        };
        self.begin(&stage.name);
        let Some(found) = all.get_mut(&stage.id) else { return };
        for step in &found.plan.steps {
            let made = chain.as_ref().and_then(|chain| self.glance_by(chain, step, foresight).1);
            match (made, &mut chain) {
                (Some(made), Some(chain)) => {
                    found.made.push(made.clone());
                    chain.push(Arc::new(made.into_link()));
                }
                _ => {
                    // Also the sources of later steps, which may be there: they are built beside this stage.
                    found.wanted.extend(survey::sources(&step.action));
                    chain = None;
                }
            }
        }
        found.chain = chain;
    }

    /// Tells what was found of a stage that is not needed.
    fn tell(&self, stage: &StageOutline, found: &Found) {
        for ((index, step), made) in found.plan.steps.iter().enumerate().zip(&found.made) {
            let label = self.label(stage, &found.plan, index, step);
            self.event(Event::Started(label.clone()));
            self.told(&label, made, Duration::ZERO);
        }
    }

    /// The key of a step upon what has these names. None if only its sources can tell.
    fn sight(&mut self, below: &[&[u8]], step: &Step, names: &Foresight) -> Result<Option<Sight>, StepProblem> {
        match &step.action {
            Action::Workdir { path, user } => {
                let mut key = self.key_upon("workdir", below);
                key.text(path);
                key.text(user);
                Ok(Some(Sight::plain(key)))
            }
            Action::Run(run) => self.sight_of_run(below, run, names),
            Action::Copy(copy) => self.sight_of_copy(below, copy, names),
        }
    }

    fn sight_of_run(
        &mut self,
        below: &[&[u8]],
        run: &RunStep,
        names: &Foresight,
    ) -> Result<Option<Sight>, StepProblem> {
        let is_foreseen = is_foreseen_run(run);
        let mut key = self.key_upon(if is_foreseen { "foreseen run" } else { "run" }, below);
        key.run(run, &self.request.run);
        let mut anew = false;
        for (mount, origin) in run.mounts.iter().filter(|(mount, _)| mounts::reads(mount)) {
            let origin = origin.as_ref().unwrap_or(&Origin::Context);
            if is_of_layers(origin) {
                let Some(name) = self.name_of(origin, names) else { return Ok(None) };
                anew |= name.anew;
                key.bytes(name.digest.as_bytes());
            } else {
                let asked = mounts::asked(mount, origin);
                let content = self.expected(asked, |builder| mounts::content(builder, mount, Some(origin)))?;
                key.bytes(content.as_bytes());
            }
        }
        Ok(Some(Sight { name: Name { digest: key.finish(), anew }, is_foreseen }))
    }

    fn sight_of_copy(
        &mut self,
        below: &[&[u8]],
        copy: &CopyStep,
        names: &Foresight,
    ) -> Result<Option<Sight>, StepProblem> {
        if let Some(key) = remote::pinned_key(self, below, copy) {
            return Ok(Some(Sight { name: Name { digest: key, anew: false }, is_foreseen: false }));
        }
        if copy.sources.iter().any(|source| !matches!(source, CopySource::Path(_))) {
            return Ok(None);
        }
        if !is_of_layers(&copy.from) {
            let content = self.expected(asked(copy), |builder| transfer::content(builder, copy))?;
            let mut key = self.key_upon("copy", below);
            key.copy(copy, &content);
            return Ok(Some(Sight::plain(key)));
        }
        let Some(name) = self.name_of(&copy.from, names) else { return Ok(None) };
        let mut key = self.key_upon("foreseen copy", below);
        key.copy(copy, &name.digest);
        key.text(&format!("{:?} {:?} {:?}", copy.sources, copy.inline, copy.excludes));
        Ok(Some(Sight { name: Name { digest: key.finish(), ..name }, is_foreseen: true }))
    }

    /// The digest of files of a context, found once in a build.
    fn expected(
        &mut self,
        asked: Digest,
        find: impl FnOnce(&mut Self) -> Result<Digest, StepProblem>,
    ) -> Result<Digest, StepProblem> {
        if let Some(content) = lock(&self.shared.contents).get(&asked) {
            return Ok(*content);
        }
        let content = find(self)?;
        lock(&self.shared.contents).insert(asked, content);
        Ok(content)
    }

    fn name_of(&mut self, origin: &Origin, names: &Foresight) -> Option<Name> {
        match origin {
            Origin::Stage(id) => names.names.get(id).copied(),
            Origin::Image(reference) => {
                let platform = self.options.target_platform.clone();
                let chain = self.base(reference, &platform).ok()?.chain();
                Some(Name { digest: self.name_of_chain(&chain), anew: false })
            }
            _ => Some(Name { digest: self.name_of_chain(&Chain::new()), anew: false }),
        }
    }

    fn name_of_chain(&self, chain: &Chain) -> Digest {
        self.key("foreseen base", chain).finish()
    }
}

impl Sight {
    fn plain(key: Key) -> Self {
        Self { name: Name { digest: key.finish(), anew: false }, is_foreseen: false }
    }
}

/// What a COPY of a context asks for, apart from where it goes.
fn asked(step: &CopyStep) -> Digest {
    let CopyStep { from, sources, inline, excludes, parents, .. } = step;
    Digest::of(format!("copy {from:?} {sources:?} {inline:?} {excludes:?} {parents}").as_bytes())
}

/// Whether files come from layers, so that looking at them costs.
fn is_of_layers(origin: &Origin) -> bool {
    matches!(origin, Origin::Stage(_) | Origin::Image(_))
}

fn is_foreseen_run(run: &RunStep) -> bool {
    let mut origins = run.mounts.iter().filter(|(mount, _)| mounts::reads(mount)).filter_map(|(_, from)| from.as_ref());
    origins.any(is_of_layers)
}

fn is_foreseen(action: &Action) -> bool {
    match action {
        Action::Copy(copy) => is_of_layers(&copy.from),
        Action::Run(run) => is_foreseen_run(run),
        Action::Workdir { .. } => false,
    }
}

/// The stages that others read from, and those that these are made from.
fn read(order: &[StageOutline], found: &HashMap<StageId, Found>) -> BTreeSet<StageId> {
    let sources = |id: &StageId| found.get(id).into_iter().flat_map(|stage| &stage.plan.steps);
    let mut read: BTreeSet<StageId> =
        order.iter().flat_map(|stage| sources(&stage.id)).flat_map(|step| survey::sources(&step.action)).collect();
    for stage in order.iter().rev().filter(|stage| matches!(stage.base, Base::Stage(_))) {
        if let Base::Stage(base) = stage.base
            && read.contains(&stage.id)
        {
            read.insert(base);
        }
    }
    read
}

/// The stages that nobody has to build for the target.
fn spared(order: &[StageOutline], found: &HashMap<StageId, Found>, target: StageId) -> HashSet<StageId> {
    let mut needed = BTreeSet::from([target]);
    for stage in order.iter().rev() {
        if needed.contains(&stage.id) {
            needed.extend(found.get(&stage.id).into_iter().flat_map(|found| &found.wanted));
            if let Base::Stage(base) = stage.base {
                needed.insert(base);
            }
        }
    }
    order.iter().map(|stage| stage.id).filter(|id| !needed.contains(id)).collect()
}
