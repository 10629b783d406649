//! What a build tells the person who waits for it, as values. How that looks is the command line's
//! business; nothing here decides anything.

use std::sync::Arc;
use std::time::Duration;

use oci::Digest;

use crate::dockerfile::Span;
pub use crate::sandbox::Stream;

/// One step, the way people count: `[build 2/5] RUN make`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepLabel {
    /// The name of its stage; empty if there is only one.
    pub stage: String,
    /// Its number in the stage, from 1; the base image, if there is one to be had, is the first.
    pub number: usize,
    /// How many there are.
    pub total: usize,
    /// The instruction.
    pub title: String,
    /// The lines of the Dockerfile.
    pub span: Span,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The manifest and config of a base image are known; its layers are not fetched yet.
    Base {
        /// The step that is its FROM.
        step: Arc<StepLabel>,
        /// What it is pinned to now.
        digest: Digest,
    },
    /// A layer of a base image is fetched, because a step needs to know what is in it.
    Fetch {
        /// The layer's blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A step begins.
    Started(Arc<StepLabel>),
    /// A step need not be done: its layer is there from an earlier build.
    Cached(Arc<StepLabel>),
    /// A running command printed something.
    Output {
        /// The step.
        step: Arc<StepLabel>,
        /// Which of its outputs.
        stream: Stream,
        /// What; not necessarily whole lines.
        bytes: Vec<u8>,
    },
    /// A step is done.
    Done {
        /// The step.
        step: Arc<StepLabel>,
        /// How long it took.
        took: Duration,
        /// The size of its layer's blob in bytes.
        size: u64,
    },
    /// A step failed. Those that run beside it are stopped, and nothing more is heard of them.
    Failed(Arc<StepLabel>),
    /// Something is legal and probably not meant.
    Warning {
        /// The name of the rule, where there is one.
        rule: Option<&'static str>,
        /// The lines.
        span: Option<Span>,
        /// What.
        message: String,
    },
}

/// Takes events, from any thread.
pub type Events<'a> = &'a (dyn Fn(Event) + Sync);
