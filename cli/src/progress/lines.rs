//! Lines in order, for logs: numbered by step, as `docker build --progress=plain` prints them.

use std::collections::HashMap;
use std::time::Instant;

use builder::event::{Event, StepLabel};

use super::{Draw, Numbers, name, warning};
use crate::terminal::{bytes, seconds, tell};

/// Longest piece of output that is kept waiting for its end of line, in bytes.
const LINE_LIMIT: usize = 8 << 10;

#[derive(Default)]
pub struct Lines {
    numbers: Numbers,
    running: HashMap<usize, Running>,
}

struct Running {
    since: Instant,
    /// What has been printed after the last end of line.
    rest: Vec<u8>,
}

impl Lines {
    fn output(&mut self, step: &StepLabel, new: &[u8]) {
        let number = self.numbers.of(step);
        let running = self.running.entry(number).or_insert_with(|| Running { since: Instant::now(), rest: Vec::new() });
        running.rest.extend_from_slice(new);
        while let Some(end) = running.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = running.rest.drain(..=end).collect();
            print(number, running.since, &line);
        }
        if running.rest.len() > LINE_LIMIT {
            print(number, running.since, &std::mem::take(&mut running.rest));
        }
    }

    fn flush(&mut self, number: usize) {
        if let Some(running) = self.running.remove(&number).filter(|running| !running.rest.is_empty()) {
            print(number, running.since, &running.rest);
        }
    }

    fn close(&mut self, number: usize, end: &str) {
        self.flush(number);
        tell(&format!("#{number} {end}"));
    }
}

/// One line of a command: without its own end, and of several states of a line only the last.
fn print(number: usize, since: Instant, line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text.rsplit('\r').next().unwrap_or(text);
    tell(&format!("#{number} {:.3} {text}", since.elapsed().as_secs_f64()));
}

impl Draw for Lines {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Base { step, digest } => tell(&format!("#{} {} is {digest}", self.numbers.of(step), name(step))),
            Event::Fetch { digest, size } => {
                tell(&format!("fetching base layer {} ({})", digest.short(), bytes(*size)))
            }
            Event::Started(step) => {
                let number = self.numbers.of(step);
                tell(&format!("#{number} {}", name(step)));
                self.running.insert(number, Running { since: Instant::now(), rest: Vec::new() });
            }
            Event::Cached(step) => {
                let number = self.numbers.of(step);
                if self.running.remove(&number).is_none() {
                    tell(&format!("#{number} {}", name(step)));
                }
                tell(&format!("#{number} CACHED"));
            }
            Event::Output { step, bytes, .. } => self.output(step, bytes),
            Event::Done { step, took, size } => {
                let number = self.numbers.of(step);
                self.flush(number);
                let layer = if *size > 0 { format!(", {}", bytes(*size)) } else { String::new() };
                tell(&format!("#{number} DONE {}{layer}", seconds(*took)));
            }
            Event::Failed(step) => {
                let number = self.numbers.of(step);
                self.close(number, "ERROR");
            }
            Event::Warning { rule, span, message } => tell(&warning(*rule, *span, message)),
        }
    }

    fn end(&mut self, failed: bool) {
        let mut numbers: Vec<usize> = self.running.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            if failed {
                self.close(number, "CANCELED");
            } else {
                self.flush(number);
            }
        }
    }
}
