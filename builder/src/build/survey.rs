//! What a build would do, without doing any of it: which steps are cached, which are not, and what would
//! have to be fetched for those. Manifests of base images are asked for, and sources are hashed, as both
//! decide what is cached; shared caches are asked what is in their layers. No layer is fetched or made, and no command
//! runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use oci::{Digest, Reference};

use super::error::{Error, StepProblem};
use super::layers::{Chain, Link};
use super::steps::Builder;
use super::{Request, Workshop};
use crate::event::StepLabel;
use crate::layer::pipeline::Options;
use crate::plan::{self, Action, Base, BaseState, Origin, StageId, StagePlan};

/// What a build would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The steps, stage by stage, in the order of the file.
    pub steps: Vec<Surveyed>,
    /// The base images that are needed, and what each is now.
    pub bases: Vec<(Reference, Digest)>,
    /// Layers that would be fetched: blob and size in bytes.
    pub fetch: BTreeMap<Digest, u64>,
    /// Stages that the target does not need.
    pub skipped: Vec<String>,
}

/// A step, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// The step.
    pub label: StepLabel,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// An earlier build made its layer, of this many bytes.
    Cached(u64),
    /// Nothing like it was done before.
    New {
        /// Bytes of the files that it copies, where it copies.
        reads: u64,
    },
    /// A step that it builds on, or copies from, is to be done first: then it will be known.
    Waits,
    /// Nothing like it is known, and all that is wanted of its stage is.
    Spared,
}

/// A stage as far as it is known.
struct Known {
    plan: StagePlan,
    /// The layers that it starts from.
    base: Chain,
    /// All its layers, if every step is cached.
    chain: Option<Chain>,
}

/// Finds out what a build would do.
///
/// # Errors
/// What would stop the build before a step is done: a Dockerfile that makes no sense, a base image that
/// cannot be had, a source that is not there.
pub fn survey(request: &Request, workshop: &Workshop<'_>) -> Result<Survey, Error> {
    let options = request.plan_options();
    let outline = plan::outline(&request.dockerfile, &options)?;
    let layers = Options {
        compression: request.compression,
        newest: super::epoch(request, &options, &outline)?,
        ..Options::default()
    };
    let names = |id: usize| plan::StageId(id);
    let all = request.dockerfile.stages.iter().enumerate();
    let unneeded = all.filter(|(id, _)| outline.stage(names(*id)).is_none());
    let skipped = unneeded.map(|(id, stage)| stage.name.clone().unwrap_or_else(|| format!("stage-{id}"))).collect();
    let order: Vec<StageId> = outline.stages.iter().map(|stage| stage.id).collect();
    let mut builder = Builder::new(request, options, outline, workshop, layers).dry();
    builder.look_ahead()?;
    let mut survey = Survey { steps: Vec::new(), bases: Vec::new(), fetch: BTreeMap::new(), skipped };
    let mut known: HashMap<StageId, Known> = HashMap::new();
    for id in order {
        let stage = stage(&mut builder, id, &known, &mut survey)?;
        known.insert(id, stage);
    }
    builder.keep_known()?;
    Ok(survey)
}

fn stage(
    builder: &mut Builder<'_>,
    id: StageId,
    known: &HashMap<StageId, Known>,
    survey: &mut Survey,
) -> Result<Known, Error> {
    let span = builder.request.dockerfile.stages[id.0].span;
    let lost = || StepProblem::Unsupported("this stage".to_owned());
    let outlined = builder.outline.stage(id).cloned().ok_or_else(|| builder.at(span, lost()))?;
    let (base, start, chain) = match &outlined.base {
        Base::Scratch | Base::Context(_) => (BaseState::Scratch, Chain::new(), Some(Chain::new())),
        Base::Stage(earlier) => {
            let earlier = known.get(earlier).ok_or_else(|| builder.at(span, lost()))?;
            (BaseState::Stage(&earlier.plan), earlier.base.clone(), earlier.chain.clone())
        }
        Base::Image(reference) => {
            let image = builder.base(reference, &outlined.platform).map_err(|problem| builder.at(span, problem))?;
            survey.bases.push((reference.clone(), image.resolved.manifest.digest()));
            let chain = image.chain();
            let plan = builder.plan(id, BaseState::Image(&image.config))?;
            return steps(builder, id, plan, chain.clone(), Some(chain), known, survey);
        }
    };
    let plan = builder.plan(id, base)?;
    steps(builder, id, plan, start, chain, known, survey)
}

#[allow(clippy::too_many_arguments)] // the parts of a stage, known one after the other
fn steps(
    builder: &mut Builder<'_>,
    id: StageId,
    plan: StagePlan,
    base: Chain,
    mut chain: Option<Chain>,
    known: &HashMap<StageId, Known>,
    survey: &mut Survey,
) -> Result<Known, Error> {
    let span = builder.request.dockerfile.stages[id.0].span;
    let outlined = builder.outline.stage(id).cloned();
    let lost = || StepProblem::Unsupported("this stage".to_owned());
    let outlined = outlined.ok_or_else(|| builder.at(span, lost()))?;
    builder.begin(&outlined.name);
    for (index, step) in plan.steps.iter().enumerate() {
        let label = StepLabel::clone(&builder.label(&outlined, &plan, index, step));
        if let Some(made) = chain.as_ref().and_then(|chain| builder.glance(chain, step).1) {
            let link = made.into_link();
            survey.steps.push(Surveyed { label, fate: Fate::Cached(link.blob.size) });
            chain.get_or_insert_default().push(Arc::new(link));
            continue;
        }
        if builder.is_spared(id) {
            survey.steps.push(Surveyed { label, fate: Fate::Spared });
            chain = None;
            continue;
        }
        let waits = chain.is_none()
            || sources(&step.action).iter().any(|id| known.get(id).is_none_or(|stage| stage.chain.is_none()));
        let fate = if waits {
            Fate::Waits
        } else if !is_readable(builder, &step.action, known)? {
            Fate::New { reads: 0 }
        } else {
            let below = chain.clone().unwrap_or_default();
            builder.reads = 0;
            match builder.step(&below, step, &Arc::new(label.clone())) {
                Ok(made) => {
                    let link = made.into_link();
                    let size = link.blob.size;
                    chain.get_or_insert_default().push(Arc::new(link));
                    Fate::Cached(size)
                }
                Err(StepProblem::NotDone) => Fate::New { reads: builder.reads },
                Err(problem) => return Err(builder.at(step.span, problem)),
            }
        };
        if !matches!(fate, Fate::Cached(_)) {
            chain = None;
            needed(builder, &step.action, &base, known, survey)?;
        }
        survey.steps.push(Surveyed { label, fate });
    }
    Ok(Known { plan, base, chain })
}

/// The stages that a step reads from.
pub(super) fn sources(action: &Action) -> Vec<StageId> {
    let origins: Vec<&Origin> = match action {
        Action::Copy(copy) => vec![&copy.from],
        Action::Run(run) => run.mounts.iter().filter_map(|(_, origin)| origin.as_ref()).collect(),
        Action::Workdir { .. } => Vec::new(),
    };
    let stage = |origin: &Origin| match origin {
        Origin::Stage(id) => Some(*id),
        _ => None,
    };
    origins.into_iter().filter_map(stage).collect()
}

/// The layers of stages and images that a step reads from.
fn read_chains(builder: &mut Builder<'_>, action: &Action, known: &HashMap<StageId, Known>) -> Vec<Chain> {
    let origins: Vec<Origin> = match action {
        Action::Copy(copy) => vec![copy.from.clone()],
        Action::Run(run) => run.mounts.iter().filter_map(|(_, origin)| origin.clone()).collect(),
        Action::Workdir { .. } => Vec::new(),
    };
    let platform = builder.options.target_platform.clone();
    let mut chain = |origin: Origin| match origin {
        Origin::Stage(id) => known.get(&id).and_then(|stage| stage.chain.clone().or(Some(stage.base.clone()))),
        // One that cannot be had is told by the step itself.
        Origin::Image(reference) => builder.base(&reference, &platform).ok().map(|image| image.chain()),
        _ => None,
    };
    origins.into_iter().filter_map(&mut chain).collect()
}

/// Whether what a step reads from can be looked into without fetching anything.
fn is_readable(builder: &mut Builder<'_>, action: &Action, known: &HashMap<StageId, Known>) -> Result<bool, Error> {
    for link in read_chains(builder, action, known).into_iter().flatten() {
        let is_here = builder.workshop.store.blob_size(&link.blob.digest)?.is_some();
        if !is_here && !is_listed(builder, &link) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether it is known what is in a layer, or a shared cache tells.
fn is_listed(builder: &Builder<'_>, link: &Link) -> bool {
    let mut told = builder.request.imports.iter().map(|import| &import.document.indexes);
    builder.workshop.cache.index(&link.diff_id).is_some() || told.any(|indexes| indexes.contains_key(&link.diff_id))
}

/// Adds the layers that a step needs and that are not here: a command all of them, everything else only to
/// know what is in them.
fn needed(
    builder: &mut Builder<'_>,
    action: &Action,
    base: &Chain,
    known: &HashMap<StageId, Known>,
    survey: &mut Survey,
) -> Result<(), Error> {
    let mut wanted: Vec<(Chain, bool)> = vec![(base.clone(), matches!(action, Action::Run(_)))];
    wanted.extend(read_chains(builder, action, known).into_iter().map(|chain| (chain, true)));
    for (chain, whole) in wanted {
        for link in chain {
            let is_here = builder.workshop.store.blob_size(&link.blob.digest)?.is_some();
            if !is_here && (whole || !is_listed(builder, &link)) {
                survey.fetch.insert(link.blob.digest, link.blob.size);
            }
        }
    }
    Ok(())
}
