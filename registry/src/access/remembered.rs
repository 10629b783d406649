//! A bounded memory of what was costly to find out.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Remembers about so many pairs, those that were used lately: when the young generation is full, it
/// becomes the old one, and the old one is forgotten.
pub(crate) struct Remembered<K, V> {
    limit: usize,
    generations: Mutex<Generations<K, V>>,
}

struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    /// Remembers at most twice `limit` pairs.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, generations: Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = generations.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = generations.old.remove_entry(key)?;
        self.keep(&mut generations, key, value.clone());
        Some(value)
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        self.keep(&mut generations, key, value);
    }

    fn keep(&self, generations: &mut Generations<K, V>, key: K, value: V) {
        if generations.young.len() >= self.limit {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let remembered = Remembered::new(10);
        remembered.insert(0, 0);
        for number in 1..1000 {
            remembered.insert(number, number);
            assert_eq!(remembered.get(&0), Some(0), "{number}");
        }
        assert_eq!(remembered.get(&500), None);
        assert_eq!(remembered.get(&999), Some(999));
        let generations = remembered.generations.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 20);
    }
}
