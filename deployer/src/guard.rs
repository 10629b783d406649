//! Guards: what must be true of an object for a write to be right, at the moment of the write. Pure; the
//! compare-and-swap that makes it the same moment is in [`crate::write`].

use crate::error::Error;
use crate::image::PIPELINE_IID;
use crate::object::ObjectName;
use crate::workload::text;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What must be true of every object that is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Nobody has changed what it is to be since it was looked at. A controller that reports how it is may write.
    pub if_unchanged: bool,
    /// No pipeline with a higher number than this one has deployed it (`lighter.dev/pipeline-iid`).
    pub newer_than_live: Option<u64>,
}

impl Guard {
    pub(crate) fn is_set(&self) -> bool {
        *self != Guard::default()
    }

    /// Checks an object; `seen` is its generation when it was looked at first.
    pub(crate) fn check(&self, name: &ObjectName, live: &Value, seen: Option<i64>) -> Result<(), Error> {
        let overtaken = |why: String| Err(Error::Overtaken { object: name.clone().into(), why });
        let generation = live["metadata"]["generation"].as_i64();
        if let (true, Some(seen), Some(now)) = (self.if_unchanged, seen, generation)
            && seen != now
        {
            return overtaken("somebody changed it since it was looked at".into());
        }
        let theirs = text(&live["metadata"]["annotations"][PIPELINE_IID]).parse::<u64>().ok();
        match (self.newer_than_live, theirs) {
            (Some(ours), Some(theirs)) if theirs > ours => {
                overtaken(format!("pipeline {theirs} deployed it, and this is the older pipeline {ours}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;
    use crate::plan::tests::resource;
    use serde_json::json;

    #[test]
    fn an_older_pipeline_and_an_unseen_change_are_refused() {
        let name = ObjectName::new(resource("apps", "Deployment"), "demo", "web");
        let live = |iid: &str| json!({"metadata": {"generation": 3, "annotations": {PIPELINE_IID: iid}}});
        let newer = |ours| Guard { newer_than_live: Some(ours), ..Guard::default() };
        for (guard, iid, seen, holds) in [
            (newer(8), "7", None, true),
            (newer(7), "7", None, true), // the same pipeline again
            (newer(6), "7", None, false),
            (newer(6), "", None, true),
            (newer(6), "seven", None, true),
            (Guard { if_unchanged: true, ..Guard::default() }, "7", Some(3), true),
            (Guard { if_unchanged: true, ..Guard::default() }, "7", Some(2), false),
            (Guard::default(), "7", Some(2), true),
        ] {
            let checked = guard.check(&name, &live(iid), seen);
            assert_eq!(checked.is_ok(), holds, "{guard:?} {iid}");
            assert!(checked.err().is_none_or(|error| error.class() == Class::Superseded));
        }
    }
}
