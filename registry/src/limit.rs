//! How often somebody may do something: a token bucket for each, in a table of bounded size. Pure but
//! for the clock, which is handed in below.
//!
//! Some clients try again at once when they are refused, so a short wait is better than a refusal:
//! requests that would fit within a moment are let in after that moment.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many buckets there are at most. When there are more, full ones go first; then all.
const BUCKETS_LIMIT: usize = 1 << 16;

/// How much is let through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// So many in a second, in the long run.
    pub per_second: f64,
    /// So many at once.
    pub burst: f64,
    /// The longest that somebody is made to wait rather than refused.
    pub patience: Duration,
}

/// Whether somebody may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    /// At once.
    Free,
    /// After this time; it is counted already.
    After(Duration),
    /// Not before this time; it is not counted.
    Refused(Duration),
}

/// One bucket: how much is left, as of when. Below zero, somebody waits.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn refilled(self, rate: Rate, now: Instant) -> Self {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        Self { left: (self.left + since * rate.per_second).min(rate.burst), at: now }
    }

    fn look(self, rate: Rate) -> Passage {
        if self.left >= 1.0 {
            return Passage::Free;
        }
        // A rate of nearly nothing must not overflow a Duration.
        let wait = Duration::from_secs_f64(((1.0 - self.left) / rate.per_second).min(86_400.0));
        if wait <= rate.patience { Passage::After(wait) } else { Passage::Refused(wait) }
    }
}

/// Buckets of many.
pub(crate) struct Limiter<K> {
    rate: Rate,
    buckets: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash + Clone> Limiter<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        let floor = 1.0 / 86_400.0; // once a day
        let rate = Rate { per_second: rate.per_second.max(floor), burst: rate.burst.max(1.0), ..rate };
        Self { rate, buckets: Mutex::default() }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&self, who: &K) -> Passage {
        self.at(who, Instant::now(), true)
    }

    /// Says what taking one would say.
    pub(crate) fn look(&self, who: &K) -> Passage {
        self.at(who, Instant::now(), false)
    }

    fn at(&self, who: &K, now: Instant, take: bool) -> Passage {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket { left: self.rate.burst, at: now };
        let mut bucket = buckets.get(who).map_or(full, |bucket| bucket.refilled(self.rate, now));
        let passage = bucket.look(self.rate);
        if take && !matches!(passage, Passage::Refused(_)) {
            bucket.left -= 1.0;
            if buckets.len() >= BUCKETS_LIMIT && !buckets.contains_key(who) {
                self.make_room(&mut buckets, now);
            }
            buckets.insert(who.clone(), bucket);
        }
        passage
    }

    fn make_room(&self, buckets: &mut HashMap<K, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| bucket.refilled(self.rate, now).left < self.rate.burst);
        if buckets.len() >= BUCKETS_LIMIT {
            // Somebody has very many addresses. Whoever was refused gets another burst, which is the
            // lesser evil beside a table that grows.
            buckets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: f64, burst: f64, patience: f64) -> Limiter<u32> {
        Limiter::new(Rate { per_second, burst, patience: Duration::from_secs_f64(patience) })
    }

    #[test]
    fn a_burst_then_waits_then_refusals_then_again() {
        let limiter = limiter(2.0, 3.0, 1.0);
        let start = Instant::now();
        let take = |after: f64| limiter.at(&1, start + Duration::from_secs_f64(after), true);
        let half = Duration::from_millis(500);
        for (after, passage) in [
            (0.0, Passage::Free),
            (0.0, Passage::Free),
            (0.0, Passage::Free),
            (0.0, Passage::After(half)),
            (0.0, Passage::After(2 * half)),
            (0.0, Passage::Refused(3 * half)),
            (0.0, Passage::Refused(3 * half)), // being refused costs nothing
            (0.5, Passage::After(2 * half)),
            (100.0, Passage::Free),
        ] {
            assert_eq!(take(after), passage, "{after}");
        }
        assert_eq!(limiter.at(&2, start, true), Passage::Free, "others have buckets of their own");
    }

    #[test]
    fn looking_takes_nothing() {
        let limiter = limiter(0.0, 1.0, 0.0);
        let now = Instant::now();
        assert_eq!(limiter.at(&1, now, false), Passage::Free);
        assert_eq!(limiter.at(&1, now, false), Passage::Free);
        assert_eq!(limiter.at(&1, now, true), Passage::Free);
        assert_eq!(limiter.at(&1, now, false), Passage::Refused(Duration::from_secs(86_400)));
    }

    #[test]
    fn the_table_is_bounded() {
        let limiter = limiter(1.0, 1.0, 0.0);
        let now = Instant::now();
        for who in 0..(BUCKETS_LIMIT as u32 + 10) {
            limiter.at(&who, now, true);
        }
        assert!(limiter.buckets.lock().unwrap().len() <= BUCKETS_LIMIT);
    }
}
