//! How it ended, for people and for machines. What became of an undo is in [`crate::undo`].

use crate::diagnose::Trouble;
use crate::error::Class;
use crate::ticket::Ticket;
use crate::verdict::{Evidence, Waiting};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How all targets ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// One per ticket, in their order.
    pub targets: Vec<TargetOutcome>,
}

/// How one target ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetOutcome {
    /// What was asked.
    pub ticket: Ticket,
    /// How it ended.
    pub end: End,
}

/// The end of waiting for one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "end")]
pub enum End {
    /// It came true.
    Done {
        /// How we know.
        evidence: Evidence,
    },
    /// It will not come true.
    Failed {
        /// Why, the worst first.
        troubles: Vec<Trouble>,
        /// The last words of containers that ended.
        logs: Vec<LogTail>,
    },
    /// Somebody else changed the same thing meanwhile.
    Superseded {
        /// What is there now.
        by: String,
    },
    /// It is paused.
    Paused,
    /// A DaemonSet that no node fits, where that was not allowed.
    NoNodes,
    /// It was deleted.
    Gone,
    /// The time was over first, or another target failed.
    Undecided {
        /// Why nothing more was waited for.
        why: String,
        /// What it was waiting for.
        waiting: Option<Waiting>,
        /// What was wrong at that moment.
        troubles: Vec<Trouble>,
    },
}

/// The end of a container's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTail {
    /// The pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Whether it is of the instance before the present one.
    pub previous: bool,
    /// The last lines, without secrets.
    pub lines: Vec<String>,
}

impl Outcome {
    /// What it means for who ran us: the worst of all targets.
    pub fn class(&self) -> Class {
        let rank = |class: &Class| match class {
            Class::Success => 0,
            Class::Undecided => 1,
            Class::Superseded => 2,
            _ => 3,
        };
        self.targets.iter().map(|target| target.end.class()).max_by_key(rank).unwrap_or(Class::Success)
    }

    /// Whether something was written that did not come true, so that going back is worth a thought. What is
    /// paused or overtaken waits for somebody's decision.
    pub fn is_undoable(&self) -> bool {
        let has_failed = |end: &End| matches!(end, End::Failed { .. } | End::Undecided { .. } | End::Gone);
        self.changed() && self.targets.iter().any(|target| has_failed(&target.end))
    }

    /// Whether anything was written.
    pub fn changed(&self) -> bool {
        self.targets.iter().any(|target| target.ticket.changed)
    }
}

impl End {
    /// What it means for who ran us.
    pub fn class(&self) -> Class {
        match self {
            End::Done { .. } => Class::Success,
            End::Failed { .. } | End::Gone => Class::Failed,
            End::Superseded { .. } => Class::Superseded,
            End::Paused | End::NoNodes | End::Undecided { .. } => Class::Undecided,
        }
    }
}

impl TargetOutcome {
    /// What can be done about it now; `None` if it came true.
    pub fn advice(&self) -> Option<String> {
        let left = match (self.ticket.created, self.ticket.changed) {
            (true, _) => "The new object is left in place; there is no version before it.".to_owned(),
            (false, true) => format!("The new version is left in place. To go back: {}", self.ticket.command("undo")),
            (false, false) => "Nothing was written: it was in this state before.".to_owned(),
        };
        match &self.end {
            End::Done { .. } => None,
            End::Failed { .. } | End::Undecided { .. } => Some(left),
            End::NoNodes => Some("If that is meant, --allow-zero takes it as done.".to_owned()),
            End::Superseded { .. } => Some("Whoever changed it decides now; nothing is put back.".to_owned()),
            End::Paused => Some(format!("To go on: {}", self.ticket.command("resume"))),
            End::Gone => Some("Somebody deleted it; deploy its manifest again.".to_owned()),
        }
    }
}

impl fmt::Display for TargetOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.ticket.object, self.end)?;
        match self.advice() {
            Some(advice) => write!(f, "\n{advice}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Done { evidence } => write!(f, "{evidence}"),
            End::Failed { troubles, logs } => {
                f.write_str("the rollout failed")?;
                troubles.iter().try_for_each(|trouble| write!(f, "\n  {trouble}"))?;
                logs.iter().try_for_each(|log| write!(f, "\n{log}"))
            }
            End::Superseded { by } => write!(f, "overtaken by another change: {by}"),
            End::Paused => f.write_str("written down, but it is paused: no pod is replaced until it is resumed"),
            End::NoNodes => write!(f, "{}", Evidence::NoNodes),
            End::Gone => f.write_str("it does not exist any more"),
            End::Undecided { why, waiting, troubles } => {
                f.write_str(why)?;
                if let Some(waiting) = waiting {
                    write!(f, "; {waiting}")?;
                }
                troubles.iter().try_for_each(|trouble| write!(f, "\n  {trouble}"))
            }
        }
    }
}

impl fmt::Display for LogTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = if self.previous { "its previous instance" } else { "its log" };
        write!(f, "  pod/{}, container {}, last lines of {instance}:", self.pod, self.container)?;
        self.lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}
