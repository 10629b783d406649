//! Planning without building: the errors that a build would end with before its first step.

use std::collections::HashMap;

use super::Bases;
use crate::dockerfile::Dockerfile;
use crate::plan::{self, Base, BaseState, Options, Outline, StageId, StagePlan};

/// Plans every needed stage whose base is known.
///
/// # Errors
/// What makes the Dockerfile impossible to build.
pub fn evaluate(file: &Dockerfile, options: &Options, base: Bases<'_>) -> Result<(), plan::Error> {
    let outline = plan::outline(file, options)?;
    plans(file, options, &outline, base, false).map(drop)
}

/// The plans of the needed stages. A base that is not known is taken for an empty one, or its stages are left out.
pub(crate) fn plans(
    file: &Dockerfile,
    options: &Options,
    outline: &Outline,
    base: Bases<'_>,
    with_unknown: bool,
) -> Result<HashMap<StageId, StagePlan>, plan::Error> {
    let mut plans: HashMap<StageId, StagePlan> = HashMap::new();
    for stage in &outline.stages {
        let config = match &stage.base {
            Base::Image(reference) => base(reference, &stage.platform),
            _ => None,
        };
        let state = match &stage.base {
            Base::Scratch => Some(BaseState::Scratch),
            Base::Stage(id) => plans.get(id).map(BaseState::Stage),
            Base::Image(_) => config.as_ref().map(BaseState::Image),
            Base::Context(_) => None,
        };
        if let Some(state) = state.or(with_unknown.then_some(BaseState::Scratch)) {
            let plan = plan::stage(file, outline, options, stage.id, state)?;
            plans.insert(stage.id, plan);
        }
    }
    Ok(plans)
}
