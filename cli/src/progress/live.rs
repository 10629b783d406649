//! The live picture: finished steps stand, the running ones change, their last lines of output below them.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use builder::event::{Event, StepLabel};

use super::{Draw, name, warning};
use crate::terminal::bytes;

/// How many lines of output are shown below a running step.
const TAIL: usize = 6;
/// How many lines of output are told when a step fails.
const LAST_WORDS: usize = 40;
/// Longest line of output that is kept, in characters.
const LINE_LIMIT: usize = 1000;
/// How often the clock moves.
const TICK: Duration = Duration::from_millis(100);

pub struct Live {
    /// In the order in which they began.
    running: Vec<Running>,
    /// How many lines of the picture may change.
    drawn: usize,
}

struct Running {
    step: Arc<StepLabel>,
    since: Instant,
    lines: std::collections::VecDeque<String>,
    rest: Vec<u8>,
}

impl Running {
    fn take(&mut self, new: &[u8]) {
        self.rest.extend_from_slice(new);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.keep(&line);
        }
        if self.rest.len() > LINE_LIMIT {
            let line = std::mem::take(&mut self.rest);
            self.keep(&line);
        }
    }

    fn keep(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
        self.lines.push_back(printable(text).chars().take(LINE_LIMIT).collect());
        if self.lines.len() > LAST_WORDS {
            self.lines.pop_front();
        }
    }
}

/// Without control characters: what a step prints must not move the cursor of the picture.
fn printable(text: &str) -> String {
    text.replace('\t', "    ").chars().filter(|char| !char.is_control()).collect()
}

impl Live {
    pub fn new() -> Self {
        Self { running: Vec::new(), drawn: 0 }
    }

    /// Prints lines that stay, above the picture.
    fn stay(&mut self, lines: &[String]) {
        let mut text = self.erase();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = 0;
        write(&text);
        self.draw();
    }

    fn erase(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\x1b[J", self.drawn) }
    }

    fn draw(&mut self) {
        let mut text = self.erase();
        let mut drawn = 0;
        let (width, height) = size();
        // As many steps as there is room for, and the lines of output shared among them.
        let shown = self.running.len().min(height.saturating_sub(1).max(1));
        let tail = TAIL.min(height.saturating_sub(1 + shown) / shown.max(1));
        for running in &self.running[..shown] {
            let time = format!("{:>6.1}s", running.since.elapsed().as_secs_f64());
            text.push_str(&format!("\x1b[36m{}\x1b[0m\n", fit(&format!(" => {}", name(&running.step)), &time, width)));
            drawn += 1;
            for line in running.lines.iter().skip(running.lines.len().saturating_sub(tail)) {
                let line: String = format!(" => => {line}").chars().take(width).collect();
                text.push_str(&format!("\x1b[2m{line}\x1b[0m\n"));
                drawn += 1;
            }
        }
        self.drawn = drawn;
        write(&text);
    }

    fn remove(&mut self, step: &StepLabel) -> Option<Running> {
        let at = self.running.iter().position(|running| *running.step == *step)?;
        Some(self.running.remove(at))
    }

    /// The last words of a step that failed.
    fn fail(&mut self, step: &StepLabel) {
        let Some(mut running) = self.remove(step) else { return };
        let rest = std::mem::take(&mut running.rest);
        if !rest.is_empty() {
            running.keep(&rest);
        }
        let mut lines = vec![format!(" => ERROR {}", name(&running.step))];
        lines.extend(running.lines.iter().map(|line| format!("    {line}")));
        self.stay(&lines);
    }

    fn finish(&mut self, step: &StepLabel, end: &str) {
        let (width, _) = size();
        self.remove(step);
        self.stay(&[fit(&format!(" => {}", name(step)), end, width)]);
    }
}

impl Draw for Live {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Base { step, digest } => self.finish(step, &digest.short()),
            Event::Fetch { digest, size } => {
                self.stay(&[format!(" => fetching base layer {} ({})", digest.short(), bytes(*size))])
            }
            Event::Started(step) => {
                self.running.push(Running {
                    step: step.clone(),
                    since: Instant::now(),
                    lines: Default::default(),
                    rest: Vec::new(),
                });
                self.draw();
            }
            Event::Cached(step) => self.finish(step, "CACHED"),
            Event::Output { step, bytes, .. } => {
                if let Some(running) = self.running.iter_mut().find(|running| running.step == *step) {
                    running.take(bytes);
                }
                self.draw();
            }
            Event::Done { step, took, .. } => self.finish(step, &format!("{:>6.1}s", took.as_secs_f64())),
            Event::Failed(step) => self.fail(step),
            Event::Warning { rule, span, message } => self.stay(&[warning(*rule, *span, message)]),
        }
    }

    fn tick(&mut self) {
        if !self.running.is_empty() {
            self.draw();
        }
    }

    fn end(&mut self, failed: bool) {
        let stopped = std::mem::take(&mut self.running);
        if failed {
            let lines: Vec<String> =
                stopped.iter().map(|running| format!(" => CANCELED {}", name(&running.step))).collect();
            self.stay(&lines);
        } else {
            write(&self.erase());
            self.drawn = 0;
        }
    }
}

/// Text on the left, time on the right, as wide as the terminal.
fn fit(left: &str, right: &str, width: usize) -> String {
    let room = width.saturating_sub(right.chars().count() + 1);
    let left: String = left.chars().take(room).collect();
    let gap = width.saturating_sub(left.chars().count() + right.chars().count());
    format!("{left}{}{right}", " ".repeat(gap))
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    let known = rustix::termios::tcgetwinsize(std::io::stderr()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()); // nobody is left to be told
}

/// A thread that lets time go by in the picture, until it is dropped.
pub struct Clock {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    pub fn start(drawing: Arc<Mutex<Box<dyn Draw>>>) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                drawing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).tick();
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a picture that panicked has nothing more to say
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_cannot_move_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\tc\x07"), "a[2Jb    c");
    }

    #[test]
    fn lines_are_as_wide_as_the_terminal() {
        assert_eq!(fit(" => x", "0.1s", 12), " => x   0.1s");
        assert_eq!(fit(" => a long title", "0.1s", 12), " => a l 0.1s");
        assert_eq!(fit("x", "0.1s", 3), "0.1s");
    }
}
