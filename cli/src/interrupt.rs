//! Ctrl-C and SIGTERM: the command ends, nothing half done stays.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};

/// The signals that ask us to end, heard from the moment it is made.
pub struct Signals(Option<(Signal, Signal)>);

impl Signals {
    /// Begins to listen. One that comes before [`Signals::next`] is asked for is not lost.
    pub fn listen() -> Self {
        // Without handlers the signals keep their default effect, which ends us all the same.
        Self(signal(SignalKind::interrupt()).ok().zip(signal(SignalKind::terminate()).ok()))
    }

    /// Waits for the first signal.
    pub async fn next(&mut self) -> Exit {
        match &mut self.0 {
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => Exit::Interrupted,
                _ = terminate.recv() => Exit::Terminated,
            },
            None => std::future::pending().await,
        }
    }
}

/// Waits for work that leaves nothing half done when it is dropped; a signal ends the waiting.
pub async fn until_signal<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let mut signals = Signals::listen(); // before the work begins, which others may see
    tokio::select! {
        outcome = work => outcome,
        exit = signals.next() => Err(failure(exit)),
    }
}

/// What is told when a signal ended the command.
pub fn failure(exit: Exit) -> Failure {
    Failure::new(exit, "interrupted; nothing half done was left behind")
}
