//! The first phase: which stages the target needs, what they start from, and their order.

use std::collections::BTreeSet;

use oci::{Platform, Reference};

use super::scope::{self, Scope};
use super::{Error, Options, Problem};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{self, Dockerfile, Instruction, Node, Source, Span, Stage, nearest};

/// Most stages of a Dockerfile: their names are looked up one by one.
const STAGE_LIMIT: usize = 10_000;

/// A stage, by its place in the Dockerfile, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(pub usize);

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(StageId),
    /// An image.
    Image(Reference),
    /// A named context.
    Context(String),
}

/// Where COPY, ADD and mounts take files from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The build context.
    Context,
    /// A stage.
    Stage(StageId),
    /// An image.
    Image(Reference),
    /// A named context.
    Named(String),
    /// `--from=scratch`: nothing at all.
    Scratch,
}

/// One stage that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageOutline {
    /// Which.
    pub id: StageId,
    /// Its name, or `stage-N`.
    pub name: String,
    /// Where its FROM stands.
    pub span: Span,
    /// What it starts from.
    pub base: Base,
    /// Whether a `--build-context` of the stage's own name stands in its place: then none of its
    /// instructions counts.
    pub replaced: bool,
    /// `FROM --platform`, expanded; the target's otherwise.
    pub platform: Platform,
    /// Where its instructions take files from, as far as that is known without the base image: its
    /// ONBUILD triggers may add to it.
    pub origins: Vec<Origin>,
}

/// The stages that are needed, each after those it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The needed stages in the order of the file.
    pub stages: Vec<StageOutline>,
    /// The stage that becomes the image.
    pub target: StageId,
    /// The arguments before the first FROM.
    pub globals: Scope,
}

impl Outline {
    /// A needed stage.
    pub fn stage(&self, id: StageId) -> Option<&StageOutline> {
        self.stages.iter().find(|stage| stage.id == id)
    }
}

/// Finds the stages that the target needs.
pub fn outline(file: &Dockerfile, options: &Options) -> Result<Outline, Error> {
    let globals = scope::global(file, options)?;
    if file.stages.len() > STAGE_LIMIT {
        let span = file.stages[STAGE_LIMIT].span;
        return Err(file.source.at(span, Problem::Stages(STAGE_LIMIT)));
    }
    let mut late = Vec::new();
    let all = (0..file.stages.len()).map(|index| one(file, options, &globals, StageId(index), &mut late));
    let mut stages = all.collect::<Result<Vec<StageOutline>, Error>>()?;
    let target = target(file, options)?;
    let needed = needed(&stages, target);
    if let Some((_, error)) = late.into_iter().find(|(id, _)| needed.contains(id)) {
        return Err(error);
    }
    stages.retain(|stage| needed.contains(&stage.id));
    Ok(Outline { stages, target, globals })
}

/// Where it reads from a later stage, that goes to `late`: it is no matter if the stage is not needed.
fn one(
    file: &Dockerfile,
    options: &Options,
    globals: &Scope,
    id: StageId,
    late: &mut Vec<(StageId, Error)>,
) -> Result<StageOutline, Error> {
    let stage = &file.stages[id.0];
    let place = |problem| file.source.at(stage.span, problem);
    let style = Style::new(file.escape);
    let base_name = globals.expand(style, &stage.base).map_err(place)?;
    if base_name.is_empty() {
        return Err(place(Problem::BlankBase(stage.base.clone())));
    }
    let platform = match &stage.platform {
        None => options.target_platform.clone(),
        Some(expression) => {
            let text = globals.expand(style, expression).map_err(place)?;
            if text.is_empty() {
                return Err(place(Problem::BlankPlatform(expression.clone())));
            }
            let wrong = |reason| place(Problem::Platform { expression: expression.clone(), reason });
            text.parse().map_err(wrong)?
        }
    };
    let wrong = |problem| suggest_stage(file, place(problem), &base_name);
    if let Some(base) = stage.name.as_deref().and_then(|own| named(options, own)) {
        let (name, span, origins) = (stage_name(stage, id), stage.span, Vec::new());
        return Ok(StageOutline { id, name, span, base, replaced: true, platform, origins });
    }
    let base = base(file, options, id, &base_name).map_err(wrong)?;
    let mut origins = Vec::new();
    let inherited: &[Node<Instruction>] = match base {
        Base::Stage(base) => &file.stages[base.0].instructions,
        _ => &[],
    };
    for node in inherited {
        if let Instruction::Onbuild(trigger) = &node.value {
            let trigger = read_trigger(trigger, &file.source, stage.span)?;
            origins.extend(origins_of(file, options, id, &trigger, late)?);
        }
    }
    for node in &stage.instructions {
        origins.extend(origins_of(file, options, id, node, late)?);
    }
    Ok(StageOutline { id, name: stage_name(stage, id), span: stage.span, base, replaced: false, platform, origins })
}

/// The name people know a stage by.
pub(super) fn stage_name(stage: &Stage, id: StageId) -> String {
    stage.name.clone().unwrap_or_else(|| format!("stage-{}", id.0))
}

/// Reads a trigger of a base, reporting at the FROM that pulls it.
pub(super) fn read_trigger(trigger: &str, source: &Source, span: Span) -> Result<Node<Instruction>, Error> {
    dockerfile::parse_trigger(trigger, source, span).map_err(|error| {
        error.map(|problem| Problem::Trigger { trigger: trigger.to_owned(), problem: Box::new(problem) })
    })
}

fn base(file: &Dockerfile, options: &Options, id: StageId, name: &str) -> Result<Base, Problem> {
    // The names of stages are kept in lower case, and FROM takes its word as it is, as in BuildKit.
    if let Some(earlier) = file.stages[..id.0].iter().rposition(|stage| stage.name.as_deref() == Some(name)) {
        return Ok(Base::Stage(StageId(earlier)));
    }
    if name == "scratch" {
        return Ok(Base::Scratch);
    }
    match named(options, name) {
        Some(base) => Ok(base),
        None => Ok(Base::Image(reference(name)?)),
    }
}

/// The `--build-context` of that name.
fn named(options: &Options, name: &str) -> Option<Base> {
    if ["scratch", "context"].iter().any(|taken| name.eq_ignore_ascii_case(taken)) {
        return None; // these two always mean what they mean
    }
    let name = context_name(name);
    match options.images.get(&name) {
        Some(reference) => Some(Base::Image(reference.clone())),
        None => options.contexts.contains(&name).then_some(Base::Context(name)),
    }
}

/// A name as contexts are known by: images are named in their shortest form, so that `debian`,
/// `debian:latest` and `docker.io/library/debian` are one.
pub fn context_name(name: &str) -> String {
    let Ok(reference) = name.parse::<Reference>() else { return name.to_lowercase() };
    let text = reference.to_string();
    let text = text.strip_suffix(":latest").unwrap_or(&text);
    let text = text.strip_prefix("docker.io/library/").or_else(|| text.strip_prefix("docker.io/")).unwrap_or(text);
    text.to_owned()
}

/// A misspelt stage name looks like an image that cannot be had; a near name is offered.
fn suggest_stage(file: &Dockerfile, error: Error, name: &str) -> Error {
    let names = file.stages.iter().filter_map(|stage| stage.name.as_deref());
    let hint = nearest(name, names).map(|meant| format!("did you mean the stage {meant}?"));
    error.with_hint(hint)
}

fn reference(name: &str) -> Result<Reference, Problem> {
    name.parse().map_err(|reason| Problem::Reference { name: name.to_owned(), reason })
}

/// The last stage of that name.
fn stage_named(stages: &[Stage], name: &str) -> Option<StageId> {
    let name = name.to_lowercase();
    stages.iter().rposition(|stage| stage.name.as_deref() == Some(name.as_str())).map(StageId)
}

fn origins_of(
    file: &Dockerfile,
    options: &Options,
    id: StageId,
    node: &Node<Instruction>,
    late: &mut Vec<(StageId, Error)>,
) -> Result<Vec<Origin>, Error> {
    let names: Vec<&str> = match &node.value {
        Instruction::Copy(copy) => copy.from.as_deref().into_iter().collect(),
        Instruction::Run(run) => run.mount_sources.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    let origin = if matches!(node.value, Instruction::Run(_)) { mount_origin } else { origin };
    let mut origins = Vec::new();
    for name in names {
        match origin(file, options, id, name) {
            Ok(origin) => origins.push(origin),
            Err(problem @ Problem::LaterStage { .. }) if stage_named(&file.stages, name) != Some(id) => {
                late.push((id, file.source.at(node.span, problem)));
            }
            Err(problem) => return Err(file.source.at(node.span, problem)),
        }
    }
    Ok(origins)
}

/// What `--from=name` of a COPY means inside a stage.
pub(super) fn origin(file: &Dockerfile, options: &Options, id: StageId, name: &str) -> Result<Origin, Problem> {
    let index = name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse::<usize>());
    let stage = match index {
        Some(Ok(index)) if index < file.stages.len() => Some(StageId(index)),
        Some(_) if !name.is_empty() => return Err(Problem::StageIndex(name.to_owned())),
        _ => stage_named(&file.stages, name),
    };
    origin_of(file, options, id, name, stage)
}

/// What `from=name` of a mount means inside a stage: there, stages have no numbers.
pub(super) fn mount_origin(file: &Dockerfile, options: &Options, id: StageId, name: &str) -> Result<Origin, Problem> {
    origin_of(file, options, id, name, stage_named(&file.stages, name))
}

fn origin_of(
    file: &Dockerfile,
    options: &Options,
    id: StageId,
    name: &str,
    stage: Option<StageId>,
) -> Result<Origin, Problem> {
    if name.find('$').is_some_and(|at| at + 1 < name.len()) {
        return Err(Problem::FromVariable);
    }
    let replaced = stage.and_then(|stage| file.stages[stage.0].name.as_deref()).and_then(|own| named(options, own));
    match replaced {
        Some(Base::Context(name)) => return Ok(Origin::Named(name)),
        Some(Base::Image(reference)) => return Ok(Origin::Image(reference)),
        _ => {}
    }
    match stage {
        Some(stage) if stage < id => Ok(Origin::Stage(stage)),
        Some(stage) => Err(Problem::LaterStage {
            from: stage_name(&file.stages[stage.0], stage),
            stage: stage_name(&file.stages[id.0], id),
        }),
        None if name == "scratch" => Ok(Origin::Scratch),
        None => match named(options, name) {
            Some(Base::Context(name)) => Ok(Origin::Named(name)),
            Some(Base::Image(reference)) => Ok(Origin::Image(reference)),
            _ => Ok(Origin::Image(reference(name)?)),
        },
    }
}

fn target(file: &Dockerfile, options: &Options) -> Result<StageId, Error> {
    if let Some(stage) = options.stage {
        return Ok(stage);
    }
    let last = StageId(file.stages.len() - 1);
    let Some(name) = &options.target else { return Ok(last) };
    stage_named(&file.stages, name).ok_or_else(|| {
        let names = file.stages.iter().filter_map(|stage| stage.name.as_deref());
        let hint = nearest(name, names.clone()).map(|meant| format!("did you mean {meant}?")).or_else(|| {
            let all: Vec<&str> = names.collect();
            (!all.is_empty()).then(|| format!("the stages are {}", all.join(", ")))
        });
        file.source.at(file.stages[last.0].span, Problem::UnknownTarget(name.clone())).with_hint(hint)
    })
}

/// Stages only use earlier ones, so one pass backwards finds all.
fn needed(stages: &[StageOutline], target: StageId) -> BTreeSet<StageId> {
    let mut needed = BTreeSet::from([target]);
    for stage in stages.iter().rev() {
        if !needed.contains(&stage.id) {
            continue;
        }
        if let Base::Stage(base) = stage.base {
            needed.insert(base);
        }
        needed.extend(stage.origins.iter().filter_map(|origin| match origin {
            Origin::Stage(id) => Some(*id),
            _ => None,
        }));
    }
    needed
}
