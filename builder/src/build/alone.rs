//! Things that one thread does while the others that want the same wait for it: a step that two stages share, a layer
//! that two steps need.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

use super::layers::lock;

/// What is being done by somebody, by name.
pub(super) struct Alone<K> {
    busy: Mutex<HashSet<K>>,
    freed: Condvar,
}

impl<K> Default for Alone<K> {
    fn default() -> Self {
        Self { busy: Mutex::default(), freed: Condvar::new() }
    }
}

impl<K: Eq + Hash + Copy> Alone<K> {
    /// Waits until nobody does this, and keeps the others away for as long as the turn lives.
    ///
    /// Whoever holds a turn comes to an end when the build is cancelled, so nobody waits for ever.
    pub fn turn(&self, name: K) -> Turn<'_, K> {
        let mut busy = lock(&self.busy);
        while !busy.insert(name) {
            busy = self.freed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { alone: self, name }
    }
}

/// The right to do it.
pub(super) struct Turn<'a, K: Eq + Hash + Copy> {
    alone: &'a Alone<K>,
    name: K,
}

impl<K: Eq + Hash + Copy> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        lock(&self.alone.busy).remove(&self.name);
        self.alone.freed.notify_all();
    }
}
