//! One stage after the other: what it starts from, its plan, its steps, and what they made.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oci::{Descriptor, DiffId, Digest, Platform, Reference};

use super::alone::Alone;
use super::base::{Resolved, Unusable};
use super::error::{Error, StepProblem};
use super::foresight::Foresight;
use super::layers::{Chain, Layers, Link, lock};
use super::made::Made;
use super::turns::{Turn, Turns};
use super::{Files, LayerOrigin, Request, Workshop, command, survey, transfer, workdir};
use crate::cache::mounts::Used;
use crate::config::ImageConfig;
use crate::copy::Known;
use crate::dockerfile::Span;
use crate::event::{Event, StepLabel};
use crate::layer::pipeline::Options;
use crate::plan::{self, Action, Base, BaseState, Origin, Outline, StageId, StageOutline, StagePlan, Step};

/// How many threads wait for stages of others, beside those that work: as many stages can be begun and not finished.
const WAITING_LIMIT: usize = 128;

/// A build on its way, as one of its threads has it.
#[derive(Clone)]
pub(super) struct Builder<'a> {
    pub request: &'a Request,
    pub options: plan::Options,
    pub outline: Outline,
    pub workshop: &'a Workshop<'a>,
    pub layers: Arc<Layers<'a>>,
    pub known: Arc<Known>,
    pub shared: Arc<Shared>,
    /// What was known before the first step.
    pub foresight: Arc<Foresight>,
    /// The stage at which this thread works.
    place: StageId,
    /// Whether the steps of the stage at hand are done anew.
    pub fresh: bool,
    /// Whether nothing is done, only looked up.
    pub dry: bool,
    /// Bytes of the files that the step at hand copies.
    pub reads: u64,
}

/// What the threads of a build have together.
pub(super) struct Shared {
    turns: Turns,
    bases: Mutex<BTreeMap<(Reference, String), Arc<BaseImage>>>,
    resolving: Alone<Digest>,
    pub done: AtomicUsize,
    pub cached: AtomicUsize,
    /// What every step made, by its key.
    pub made: Mutex<BTreeMap<Digest, Made>>,
    pub making: Alone<Digest>,
    /// The digests of files of contexts as they were before the first step, by what asks for them.
    pub contents: Mutex<HashMap<Digest, Digest>>,
    /// Whether one of them is not what it was.
    pub unsteady: AtomicBool,
    /// The cache mounts that steps have used.
    pub mounts: Mutex<BTreeMap<Digest, Used>>,
}

/// A base image, read as far as a build needs it.
pub(super) struct BaseImage {
    pub resolved: Arc<Resolved>,
    pub config: ImageConfig,
    pub layers: Vec<Descriptor>,
}

/// A stage with all its layers.
pub(super) struct Finished {
    pub plan: StagePlan,
    pub chain: Chain,
    /// The times of the layers above the base image's.
    pub times: Vec<String>,
    /// What BuildKit calls the steps of these layers.
    pub titles: Vec<String>,
    /// Where each layer of the chain came from.
    pub origins: Vec<LayerOrigin>,
}

/// Where COPY takes files from.
pub(super) enum From<'r> {
    Files(&'r Files),
    Chain(Chain),
    Nothing,
}

impl<'a> Builder<'a> {
    pub fn new(
        request: &'a Request,
        options: plan::Options,
        outline: Outline,
        workshop: &'a Workshop<'a>,
        layers: Options,
    ) -> Self {
        let layers = Arc::new(Layers {
            store: workshop.store,
            cache: workshop.cache,
            images: workshop.images,
            sandbox: workshop.sandbox,
            events: workshop.events,
            cancel: workshop.cancel,
            imports: &request.imports,
            options: layers,
            indexes: Mutex::new(HashMap::new()),
            views: Mutex::new(VecDeque::new()),
            opened: Mutex::new(HashMap::new()),
            blocks: OnceLock::new(),
            trees: Mutex::new(VecDeque::new()),
            trees_kept: request.jobs.get().saturating_add(1),
            busy: Alone::default(),
        });
        let known = Arc::new(workshop.cache.known());
        let shared = Arc::new(Shared {
            turns: Turns::new(request.jobs.get()),
            bases: Mutex::default(),
            resolving: Alone::default(),
            done: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            made: Mutex::default(),
            making: Alone::default(),
            contents: Mutex::default(),
            unsteady: AtomicBool::new(false),
            mounts: Mutex::default(),
        });
        let place = outline.target;
        let foresight = Arc::default();
        let (fresh, dry, reads) = (false, false, 0);
        Self { request, options, outline, workshop, layers, known, shared, foresight, place, fresh, dry, reads }
    }

    /// The same, but nothing is done: what is not cached stays so.
    pub fn dry(self) -> Self {
        Self { dry: true, ..self }
    }

    /// The plan of a stage.
    pub fn plan(&self, id: StageId, base: BaseState<'_>) -> Result<StagePlan, Error> {
        Ok(plan::stage(&self.request.dockerfile, &self.outline, &self.options, id, base)?)
    }

    /// Keeps what was learned of the context's files and of layers, also when the build failed.
    pub fn keep_known(&self) -> Result<(), Error> {
        self.layers.keep_blocks()?;
        if !self.known.has_news() {
            return Ok(());
        }
        Ok(self.workshop.cache.keep_known(&self.known)?)
    }

    pub fn event(&self, event: Event) {
        (self.workshop.events)(event);
    }

    /// Places a problem at its lines; what stopped another stage is told in its own words.
    pub fn at(&self, span: Span, problem: StepProblem) -> Error {
        match problem {
            StepProblem::Stage(error) => *error,
            StepProblem::Cancelled | StepProblem::Sandbox(crate::sandbox::Error::Cancelled) => Error::Cancelled,
            problem => {
                let hint = transfer::hint(self.request, &problem);
                Error::Step(Box::new(self.request.dockerfile.source.at(span, problem).with_hint(hint)))
            }
        }
    }

    /// All needed stages, in their order; gives the target.
    pub fn target(&mut self) -> Result<Arc<Finished>, Error> {
        self.look_ahead()?;
        let order = self.outline.stages.iter().map(|stage| stage.id);
        let order: Vec<StageId> = order.filter(|id| !self.is_spared(*id)).collect();
        let jobs = self.request.jobs.get().min(order.len());
        let built = if jobs > 1 { self.all(&order, jobs) } else { order.iter().try_for_each(|id| self.one(*id)) };
        let target = built.and_then(|()| self.stage(self.outline.target));
        target.map_err(|error| self.shared.turns.failure().unwrap_or(error))
    }

    fn one(&mut self, id: StageId) -> Result<(), Error> {
        self.stage(id).map(drop)
    }

    /// Stages at the same time, in their order as far as there is one.
    fn all(&self, order: &[StageId], jobs: usize) -> Result<(), Error> {
        let next = AtomicUsize::new(0);
        let work = |mut builder: Self| -> Result<(), Error> {
            while let Some(id) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                builder.place = *id;
                builder.shared.turns.enter(*id);
                let built = builder.stage(*id);
                builder.shared.turns.leave();
                built?;
            }
            Ok(())
        };
        let threads = order.len().min(jobs.saturating_add(WAITING_LIMIT)).min(2 * WAITING_LIMIT);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(self.clone()))).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(built) => built,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// A stage, built once. The first failure stops all others.
    pub fn stage(&mut self, id: StageId) -> Result<Arc<Finished>, Error> {
        let shared = self.shared.clone();
        let claim = match shared.turns.stage(id, self.place) {
            Turn::Finished(finished) => return Ok(finished),
            Turn::Ours(claim) => claim,
        };
        let is_new = self.outline.stage(id).is_none();
        let included = if is_new { self.include(id) } else { Ok(()) };
        let finished = match included.and_then(|()| self.build_stage(id)) {
            Ok(finished) => Arc::new(finished),
            Err(error) if self.dry => return Err(error),
            Err(error) => {
                // Before the claim goes: whoever waits for the stage must not build it again.
                if !matches!(error, Error::Cancelled) {
                    shared.turns.fail(error);
                }
                self.workshop.cancel.cancel();
                return Err(Error::Cancelled);
            }
        };
        claim.finish(finished.clone());
        Ok(finished)
    }

    /// A trigger of a base image may need a stage that nobody needed before.
    fn include(&mut self, id: StageId) -> Result<(), Error> {
        let options = plan::Options { stage: Some(id), ..self.options.clone() };
        let more = plan::outline(&self.request.dockerfile, &options)?;
        for stage in more.stages {
            if self.outline.stage(stage.id).is_none() {
                self.outline.stages.push(stage.clone());
            }
            if stage.id != id {
                self.stage(stage.id)?;
            }
        }
        Ok(())
    }

    fn build_stage(&mut self, id: StageId) -> Result<Finished, Error> {
        let span = self.request.dockerfile.stages[id.0].span;
        // A stage that failed is asked for again by those that need it, and must not be told of twice.
        self.layers.check_cancelled().map_err(|problem| self.at(span, problem))?;
        let outlined = self.outline.stage(id).cloned();
        let Some(outlined) = outlined else { return Err(self.at(span, StepProblem::Unsupported("this stage".into()))) };
        let mut stage = match &outlined.base {
            Base::Scratch => self.start(id, BaseState::Scratch, Vec::new(), Vec::new(), Vec::new(), Vec::new())?,
            Base::Stage(base) => {
                let base = self.stage(*base)?;
                let (chain, times, origins) = (base.chain.clone(), base.times.clone(), base.origins.clone());
                self.start(id, BaseState::Stage(&base.plan), chain, times, base.titles.clone(), origins)?
            }
            Base::Image(reference) => {
                let base = self.base(reference, &outlined.platform).map_err(|problem| self.at(span, problem))?;
                let origins = vec![LayerOrigin::Base; base.layers.len()];
                self.start(id, BaseState::Image(&base.config), base.chain(), Vec::new(), Vec::new(), origins)?
            }
            // Its files are the first step of the plan.
            Base::Context(_) => self.start(id, BaseState::Scratch, Vec::new(), Vec::new(), Vec::new(), Vec::new())?,
        };
        if let Base::Image(reference) = &outlined.base {
            let digest = self.base(reference, &outlined.platform).map_err(|problem| self.at(span, problem))?;
            let digest = digest.resolved.manifest.digest();
            let step = self.numbered(&outlined, &stage.plan, 1, format!("FROM {reference}"), span);
            self.event(Event::Base { step, digest });
        }
        for (index, step) in stage.plan.steps.clone().iter().enumerate() {
            let label = self.label(&outlined, &stage.plan, index, step);
            // For each step: one that reads from another stage may have built that in between.
            self.begin(&outlined.name);
            let (sight, known) = self.glance(&stage.chain, step);
            let made = match known {
                Some(made) => {
                    self.event(Event::Started(label.clone()));
                    self.told(&label, &made, Duration::ZERO);
                    made
                }
                None => {
                    // Before it begins: waiting is no part of a step.
                    for source in survey::sources(&step.action) {
                        self.stage(source)?;
                    }
                    self.begin(&outlined.name);
                    let made = self.step(&stage.chain, step, &label).map_err(|problem| self.at(step.span, problem))?;
                    self.foresee(sight, &made).map_err(|problem| self.at(step.span, problem))?;
                    made
                }
            };
            stage.origins.push(if made.cached { LayerOrigin::Cache } else { LayerOrigin::Built });
            stage.chain.push(Arc::new(made.link));
            stage.times.push(made.created);
            stage.titles.push(title(&outlined, &label));
        }
        Ok(stage)
    }

    fn start(
        &self,
        id: StageId,
        base: BaseState<'_>,
        chain: Chain,
        times: Vec<String>,
        titles: Vec<String>,
        origins: Vec<LayerOrigin>,
    ) -> Result<Finished, Error> {
        Ok(Finished { plan: self.plan(id, base)?, chain, times, titles, origins })
    }

    /// A base image, resolved once.
    pub fn base(&mut self, reference: &Reference, platform: &Platform) -> Result<Arc<BaseImage>, StepProblem> {
        let name = (reference.clone(), platform.to_string());
        let shared = self.shared.clone();
        let _turn = shared.resolving.turn(Digest::of(format!("{reference} {platform}").as_bytes()));
        if let Some(base) = lock(&shared.bases).get(&name) {
            return Ok(base.clone());
        }
        self.layers.check_cancelled()?;
        let missing = |source| Unusable::Missing { reference: Box::new(reference.clone()), source };
        let resolved = self.workshop.images.resolve(reference, platform).map_err(missing)?;
        let (config, layers) = resolved.parts()?;
        let base = Arc::new(BaseImage { resolved: Arc::new(resolved), config, layers });
        lock(&shared.bases).insert(name, base.clone());
        Ok(base)
    }

    /// What `--from` means.
    pub fn from(&mut self, origin: &Origin) -> Result<From<'a>, StepProblem> {
        Ok(match origin {
            Origin::Context => From::Files(&self.request.context),
            Origin::Named(name) => match self.request.contexts.get(name) {
                Some(files) => From::Files(files),
                None => From::Nothing, // the planner takes the names from this very map
            },
            Origin::Stage(id) => {
                let stage = self.stage(*id).map_err(|error| StepProblem::Stage(Box::new(error)))?;
                From::Chain(stage.chain.clone())
            }
            Origin::Image(reference) => {
                let platform = self.options.target_platform.clone();
                From::Chain(self.base(reference, &platform)?.chain())
            }
            Origin::Scratch => From::Nothing,
        })
    }

    pub fn step(&mut self, chain: &Chain, step: &Step, label: &Arc<StepLabel>) -> Result<Made, StepProblem> {
        self.layers.check_cancelled()?;
        self.event(Event::Started(label.clone()));
        let begun = Instant::now();
        let made = match &step.action {
            Action::Run(run) => command::run(self, chain, run, label),
            Action::Copy(copy) => transfer::copy(self, chain, copy),
            Action::Workdir { path, user } => self.workdir(chain, path, user),
        };
        let made = made.inspect_err(|problem| {
            if !problem.is_consequence() && !self.workshop.cancel.is_cancelled() {
                self.event(Event::Failed(label.clone()));
            }
        })?;
        self.told(label, &made, begun.elapsed());
        Ok(made)
    }

    /// Tells what became of a step, and counts it.
    pub fn told(&self, label: &Arc<StepLabel>, made: &Made, took: Duration) {
        if made.cached {
            self.shared.cached.fetch_add(1, Ordering::Relaxed);
            self.event(Event::Cached(label.clone()));
            return;
        }
        self.shared.done.fetch_add(1, Ordering::Relaxed);
        let size = made.link.blob.size;
        tracing::debug!(step = %label.title, size, took_ms = took.as_millis() as u64, "step done");
        self.event(Event::Done { step: label.clone(), took, size });
    }

    /// What people know a step by.
    pub fn label(&self, stage: &StageOutline, plan: &StagePlan, index: usize, step: &Step) -> Arc<StepLabel> {
        let number = index + 1 + usize::from(matches!(stage.base, Base::Image(_)));
        self.numbered(stage, plan, number, step.title.clone(), step.span)
    }

    fn numbered(
        &self,
        stage: &StageOutline,
        plan: &StagePlan,
        number: usize,
        title: String,
        span: Span,
    ) -> Arc<StepLabel> {
        let is_only = self.request.dockerfile.stages.len() == 1;
        let stage_name = if is_only { String::new() } else { stage.name.clone() };
        let total = plan.steps.len() + usize::from(matches!(stage.base, Base::Image(_)));
        Arc::new(StepLabel { stage: stage_name, number, total, title, span })
    }

    /// Goes to the steps of a stage, which may have to be done anew.
    pub fn begin(&mut self, stage: &str) {
        self.fresh = self.is_anew(stage);
    }

    /// Whether a stage is to be done anew: `--no-cache-filter`.
    pub fn is_anew(&self, stage: &str) -> bool {
        self.request.no_cache_stages.iter().any(|name| name.eq_ignore_ascii_case(stage))
    }

    fn workdir(&mut self, chain: &Chain, path: &str, user: &str) -> Result<Made, StepProblem> {
        let mut key = self.key("workdir", chain);
        key.text(path);
        key.text(user);
        self.remembered(key.finish(), |builder| {
            let view = builder.layers.view(chain)?;
            let owner = match user {
                "" => None,
                user => Some(transfer::owner(builder, chain, &view, "USER ", user)?),
            };
            let entries = workdir::entries(&view, path, owner, builder.now())?;
            builder.layers.make(|layer| Ok(entries.into_iter().try_for_each(|entry| layer.add_plain(entry))?))
        })
    }

    /// The layers of all stages that were built.
    pub fn seen(&self) -> BTreeSet<DiffId> {
        let stages = self.shared.turns.finished();
        stages.iter().flat_map(|stage| stage.chain.iter().map(|link| link.diff_id)).collect()
    }

    /// The time that goes into the image: now, or SOURCE_DATE_EPOCH.
    pub fn timestamp(&self) -> Timestamp {
        let now = Timestamp::now();
        match self.layers.options.newest.map(Timestamp::from_second) {
            Some(Ok(epoch)) => epoch,
            _ => now,
        }
    }

    /// The time of files that a step makes, in seconds since 1970.
    pub fn now(&self) -> i64 {
        self.timestamp().as_second()
    }
}

impl BaseImage {
    pub fn chain(&self) -> Chain {
        let pairs = self.config.diff_ids.iter().zip(&self.layers);
        let link = |(diff_id, blob): (&oci::DiffId, &Descriptor)| {
            let base = Some(self.resolved.clone());
            Arc::new(Link { diff_id: *diff_id, blob: blob.clone(), base, import: None, likeness: None, residue: None })
        };
        pairs.map(link).collect()
    }
}

/// What BuildKit calls a step, in the history of an image with a layer that no instruction tells of. The files of a
/// named context, where a stage starts from them, are counted and have no number.
fn title(stage: &StageOutline, label: &StepLabel) -> String {
    let (number, name) = match (&stage.base, label.number) {
        (Base::Context(name), 1) => return format!("local source for {name}"),
        (Base::Context(_), number) => (number - 1, &label.stage),
        (_, number) => (number, &label.stage),
    };
    let gap = if name.is_empty() { "" } else { " " };
    format!("[{name}{gap}{number}/{}] {}", label.total, label.title)
}
