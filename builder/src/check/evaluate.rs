//! Planning without building: the errors that a build would end with before its first step.

use std::collections::HashMap;

use super::Bases;
use crate::dockerfile::Dockerfile;
use crate::plan::{self, Base, BaseState, Options, StageId, StagePlan};

/// Plans every needed stage whose base is known.
///
/// # Errors
/// What makes the Dockerfile impossible to build.
pub fn evaluate(file: &Dockerfile, options: &Options, base: Bases<'_>) -> Result<(), plan::Error> {
    let outline = plan::outline(file, options)?;
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
        if let Some(state) = state {
            let plan = plan::stage(file, &outline, options, stage.id, state)?;
            plans.insert(stage.id, plan);
        }
    }
    Ok(())
}
