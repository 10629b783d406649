//! A flag that stops running steps, with a file descriptor that wakes whoever polls. Signals are not handled here: the
//! command line decides what Ctrl-C means and calls [`Cancel::cancel`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

use super::Error;

/// A cancellation that any number of steps can watch; clones share it. Once cancelled it stays cancelled.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cancelled: AtomicBool,
    wake: OwnedFd,
}

impl Cancel {
    /// Makes a flag that nobody has raised yet.
    ///
    /// # Errors
    /// [`Error::Start`] when the process has no file descriptor left.
    pub fn new() -> Result<Self, Error> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| Error::Start(e.into()))?;
        Ok(Self(Arc::new(Shared { cancelled: AtomicBool::new(false), wake })))
    }

    /// Stops every step that watches this flag, now and later.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        // Nobody ever reads the eventfd, so it stays readable and wakes every poller; a full counter is as readable.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }

    /// Tells whether the flag was raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }
}

impl AsFd for Cancel {
    /// Borrows the descriptor that becomes readable when the flag is raised.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}
