//! stdout and stderr: data to the one, words to the other.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use content::Progress;

/// Writes a line of data to stdout. A reader that went away is no mistake of ours.
pub fn out(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}"); // `lighter … | head -1` closes the pipe
}

/// Writes data to stdout as it is. A reader that went away is no mistake of ours.
pub fn out_bytes(bytes: &[u8]) {
    let _ = std::io::stdout().lock().write_all(bytes); // as in `out`
}

/// Writes a line for people to stderr.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}"); // nobody is left to be told
}

/// Whether somebody watches stderr.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// A size for people, in the units of docker: powers of 1000.
pub fn bytes(size: u64) -> String {
    let mut value = size as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{size} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A span of time for people.
#[cfg(feature = "build")]
pub fn seconds(time: std::time::Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// Blobs on their way: on a terminal one line that changes, else a line for each large blob.
pub struct Transfers {
    live: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    moving: usize,
    done: usize,
    bytes: u64,
    drawn: bool,
}

/// Blobs from this size on, in bytes, get a line of their own in a log.
const WORTH_A_LINE: u64 = 1 << 20;

impl Transfers {
    pub fn new() -> Self {
        Self { live: is_watched(), state: Mutex::default() }
    }

    pub fn show(&self, progress: Progress) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match progress {
            Progress::Sending { .. } => state.moving += 1,
            Progress::Sent { size, .. } => {
                state.moving = state.moving.saturating_sub(1);
                state.done += 1;
                state.bytes += size;
            }
            Progress::Present { .. } | Progress::Mounted { .. } => state.done += 1,
        }
        if self.live {
            state.drawn = true;
            let line =
                format!("\r\x1b[K{} blobs done ({} sent), {} moving", state.done, bytes(state.bytes), state.moving);
            let _ = write!(std::io::stderr().lock(), "{line}"); // as in `tell`
        } else {
            Self::log(progress);
        }
    }

    fn log(progress: Progress) {
        match progress {
            Progress::Sent { digest, size } if size >= WORTH_A_LINE => {
                tell(&format!("{} sent ({})", digest.short(), bytes(size)))
            }
            Progress::Mounted { digest, size } => tell(&format!("{} mounted ({})", digest.short(), bytes(size))),
            _ => {}
        }
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        let drawn = self.state.get_mut().is_ok_and(|state| state.drawn);
        if drawn {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K"); // as in `tell`
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_docker_tells_them() {
        for (size, text) in
            [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (200_000_000, "200.0 MB"), (5_000_000_000_000, "5.0 TB")]
        {
            assert_eq!(bytes(size), text);
        }
    }
}
