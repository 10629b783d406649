//! A flag that stops running steps, with a file descriptor that wakes whoever polls. Signals are not handled here: the
//! command line decides what Ctrl-C means and calls [`Cancel::cancel`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};

use super::Error;

/// A cancellation that any number of steps can watch; clones share it. Once cancelled it stays cancelled.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cancelled: AtomicBool,
    wake: OwnedFd,
    /// Flags that are raised with this one.
    children: Mutex<Vec<Weak<Shared>>>,
}

impl Cancel {
    /// Makes a flag that nobody has raised yet.
    ///
    /// # Errors
    /// [`Error::Start`] when the process has no file descriptor left.
    pub fn new() -> Result<Self, Error> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| Error::Start(e.into()))?;
        Ok(Self(Arc::new(Shared { cancelled: AtomicBool::new(false), wake, children: Mutex::default() })))
    }

    /// Makes a flag that is raised with this one, and can be raised alone.
    ///
    /// # Errors
    /// As [`Cancel::new`].
    pub fn child(&self) -> Result<Self, Error> {
        let child = Self::new()?;
        let mut children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(&child.0));
        drop(children);
        if self.is_cancelled() {
            child.cancel(); // whoever cancels now sees the child, and whoever did before is seen here
        }
        Ok(child)
    }

    /// Stops every step that watches this flag, now and later.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        // Nobody ever reads the eventfd, so it stays readable and wakes every poller; a full counter is as readable.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
        let children = std::mem::take(&mut *self.0.children.lock().unwrap_or_else(PoisonError::into_inner));
        for child in children.iter().filter_map(Weak::upgrade) {
            Self(child).cancel();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_raised_with_its_parent_and_alone() {
        let parent = Cancel::new().unwrap();
        let (one, other) = (parent.child().unwrap(), parent.child().unwrap());
        one.cancel();
        assert_eq!([&parent, &one, &other].map(Cancel::is_cancelled), [false, true, false]);
        parent.cancel();
        assert!(other.is_cancelled() && parent.child().unwrap().is_cancelled());
    }
}
