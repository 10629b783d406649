//! How a build is told: a live picture on a terminal, lines in a log, JSON for machines. All on stderr.

mod lines;
mod live;
mod raw;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use builder::event::{Event, StepLabel};

use crate::args::ProgressKind;
use crate::terminal::is_watched;

/// Draws the events of a build.
pub struct Progress {
    drawing: Arc<Mutex<Box<dyn Draw>>>,
    _clock: Option<live::Clock>,
}

/// One way of drawing.
trait Draw: Send {
    /// Draws what happened.
    fn event(&mut self, event: &Event);
    /// Draws that time went by.
    fn tick(&mut self) {}
    /// Draws the end; nothing comes after it.
    fn end(&mut self, failed: bool);
}

impl Progress {
    /// Chooses the way of drawing.
    pub fn new(kind: ProgressKind, quiet: bool) -> Self {
        let kind = match kind {
            ProgressKind::Auto if is_watched() => ProgressKind::Tty,
            ProgressKind::Auto => ProgressKind::Plain,
            kind => kind,
        };
        let (drawing, ticks): (Box<dyn Draw>, bool) = match kind {
            _ if quiet => (Box::new(Nothing), false),
            ProgressKind::Quiet => (Box::new(Nothing), false),
            ProgressKind::Rawjson => (Box::new(raw::Raw::default()), false),
            ProgressKind::Tty => (Box::new(live::Live::new()), true),
            ProgressKind::Plain | ProgressKind::Auto => (Box::new(lines::Lines::default()), false),
        };
        let drawing = Arc::new(Mutex::new(drawing));
        let clock = ticks.then(|| live::Clock::start(drawing.clone()));
        Self { drawing, _clock: clock }
    }

    /// Draws what happened. Any thread may call it.
    pub fn show(&self, event: &Event) {
        self.drawing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).event(event);
    }

    /// Draws the end.
    pub fn end(&self, failed: bool) {
        self.drawing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).end(failed);
    }
}

struct Nothing;

impl Draw for Nothing {
    fn event(&mut self, _: &Event) {}
    fn end(&mut self, _: bool) {}
}

/// Numbers for steps, in the order in which they are met.
#[derive(Default)]
struct Numbers {
    known: HashMap<(String, usize), usize>,
}

impl Numbers {
    fn of(&mut self, step: &StepLabel) -> usize {
        let next = self.known.len() + 1;
        *self.known.entry((step.stage.clone(), step.number)).or_insert(next)
    }
}

/// `[build 2/5] RUN make`, on one line and without control characters.
fn name(step: &StepLabel) -> String {
    let stage = if step.stage.is_empty() { String::new() } else { format!("{} ", step.stage) };
    let title: Vec<&str> = step.title.split_whitespace().collect();
    let title: String = title.join(" ").chars().filter(|char| !char.is_control()).collect();
    format!("[{stage}{}/{}] {title}", step.number, step.total)
}

/// The warning of an event, as one line.
fn warning(rule: Option<&str>, span: Option<builder::dockerfile::Span>, message: &str) -> String {
    let place = span.map_or_else(String::new, |span| format!(" (line {})", span.first));
    let rule = rule.map_or_else(String::new, |rule| format!("{rule}: "));
    format!("warning: {rule}{message}{place}")
}
