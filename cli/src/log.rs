//! Log lines on their way to stderr. A server writes one for each request, so a thread gathers them and
//! writes many with one call; a warning or an error goes out at once, with all that came before it.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait for others.
const WAIT: Duration = Duration::from_millis(20);
/// Lines beyond this many bytes are written by whoever logs: a stderr that is slow slows the server
/// down, and does not fill its memory.
const LIMIT: usize = 256 << 10;

static GATHERED: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static CAME: Condvar = Condvar::new();
/// Held while lines are written, so that they stay in order.
static WRITING: Mutex<()> = Mutex::new(());

/// Where log lines go.
pub struct Gathered;

impl Gathered {
    /// Starts the thread that writes.
    pub fn start() -> io::Result<Self> {
        std::thread::Builder::new().name("log".to_owned()).spawn(write_now_and_then)?;
        Ok(Self)
    }
}

/// Writes what was gathered. To be called before the process ends.
pub fn flush() {
    let _order = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = std::mem::take(&mut *gathered());
    // Nobody is left to be told when stderr is gone.
    let _ = io::stderr().write_all(&lines);
}

fn gathered() -> MutexGuard<'static, Vec<u8>> {
    GATHERED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_now_and_then() {
    loop {
        drop(CAME.wait_while(gathered(), |lines| lines.is_empty()));
        std::thread::sleep(WAIT);
        flush();
    }
}

impl<'a> MakeWriter<'a> for Gathered {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { at_once: false }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        Line { at_once: *event.level() <= Level::WARN }
    }
}

/// One line.
pub struct Line {
    at_once: bool,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = gathered();
        let first = lines.is_empty();
        lines.extend_from_slice(line);
        let many = lines.len() > LIMIT;
        drop(lines);
        if self.at_once || many {
            flush();
        } else if first {
            CAME.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
