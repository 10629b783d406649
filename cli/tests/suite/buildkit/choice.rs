//! Choices that a seed makes.

use fixtures::seed::Seed;

pub struct Choice(Seed);

impl Choice {
    pub fn new(seed: u64) -> Self {
        Self(Seed::new(seed))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of some that are there.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// One of some, or nothing's value if there is none.
    pub fn of<T: Clone + Default>(&mut self, of: &[T]) -> T {
        if of.is_empty() { T::default() } else { of[self.below(of.len() as u64) as usize].clone() }
    }
}
