//! Leases: what clients were told is there, and therefore will not send. A table of fixed size keeps
//! when each digest was last asked for; digests that share a slot share their leases, which only ever
//! keeps garbage longer. After a start everything is leased once, since nobody knows any more what
//! the process before has promised.
//!
//! A promise and its opposite may meet: a review looks at the lease, a client asks and is told "here",
//! the review takes the thing away. So a review first says that it is about to take ([`Leases::take`])
//! and looks then, and whoever asks renews first and looks then whether somebody is about to take.
//! Whichever comes second sees the other. Everything is sequentially consistent for that.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use oci::Digest;

/// Slots of the table: half a megabyte.
const SLOTS: usize = 1 << 17;
/// The clock of the table ticks this often; its 32 bits last for 13 years.
const TICK: Duration = Duration::from_millis(100);

/// What was promised lately, and what is about to be taken.
pub(super) struct Leases {
    start: Instant,
    /// How long a promise holds; `None` where nobody can have been promised anything.
    length: Option<Duration>,
    slots: Vec<AtomicU32>,
    taking: RwLock<HashSet<Digest>>,
}

impl Leases {
    pub(super) fn new(length: Option<Duration>) -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
        Self { start: Instant::now(), length, slots, taking: RwLock::default() }
    }

    fn slot(&self, digest: &Digest) -> &AtomicU32 {
        let spread = digest.as_bytes().iter().take(8).fold(0usize, |all, byte| all << 8 | *byte as usize);
        &self.slots[spread % SLOTS]
    }

    fn now(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
    }

    /// Promises that this is there. False if somebody is about to take it: then it counts as gone, unless
    /// something came to need it.
    pub(super) fn renew(&self, digest: &Digest) -> bool {
        let now = self.now();
        let slot = self.slot(digest);
        if slot.load(Ordering::SeqCst) != now {
            slot.store(now, Ordering::SeqCst);
        }
        let taking = self.taking.read().unwrap_or_else(PoisonError::into_inner);
        taking.is_empty() || !taking.contains(digest)
    }

    /// Whether everything is leased, since the store was opened a short time ago.
    pub(super) fn hold_everything(&self) -> bool {
        self.start.elapsed() <= self.length()
    }

    /// How long a promise holds.
    pub(super) fn length(&self) -> Duration {
        self.length.unwrap_or_default()
    }

    /// Says that this may be taken now, if it is not leased, until the guard is dropped.
    pub(super) fn take(&self, digest: Digest) -> Taking<'_> {
        self.taking.write().unwrap_or_else(PoisonError::into_inner).insert(digest);
        Taking { leases: self, digest, leased: self.is_leased(&digest) }
    }

    fn is_leased(&self, digest: &Digest) -> bool {
        let Some(length) = self.length else { return false };
        let ticks = u32::try_from(length.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX);
        // A promise was made at some time within its tick, so it ends with the tick after.
        let until = self.slot(digest).load(Ordering::SeqCst).saturating_add(ticks).saturating_add(1);
        self.now() < until
    }
}

/// That something is about to be taken.
pub(super) struct Taking<'a> {
    leases: &'a Leases,
    digest: Digest,
    /// Whether it is leased, and so must not be taken.
    pub(super) leased: bool,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.leases.taking.write().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_leased_after_a_start_and_nothing_where_nobody_asks() {
        let (digest, hour) = (Digest::of(b"x"), Duration::from_secs(3600));
        assert!(Leases::new(Some(hour)).take(digest).leased);
        assert!(!Leases::new(None).take(digest).leased);
    }

    #[test]
    fn a_promise_is_not_made_for_what_is_about_to_be_taken() {
        let leases = Leases::new(None);
        let (taken, other) = (Digest::of(b"taken"), Digest::of(b"other"));
        let taking = leases.take(taken);
        assert!(!leases.renew(&taken) && leases.renew(&other));
        drop(taking);
        assert!(leases.renew(&taken));
    }

    /// Both sides race many times: never does one promise what the other takes.
    #[test]
    fn no_promise_is_broken_by_a_race() {
        let digest = Digest::of(b"x");
        for _ in 0..2_000 {
            let mut leases = Leases::new(Some(Duration::from_secs(30))); // longer than any pause of this thread
            // As if the store had been open for a while, and nobody had asked.
            leases.start = Instant::now().checked_sub(Duration::from_secs(60)).expect("the machine runs for a minute");
            let here = std::sync::atomic::AtomicBool::new(true);
            let barrier = std::sync::Barrier::new(2);
            let promised = std::thread::scope(|scope| {
                let asks = scope.spawn(|| {
                    barrier.wait();
                    leases.renew(&digest) && here.load(Ordering::SeqCst)
                });
                barrier.wait();
                let taking = leases.take(digest);
                if !taking.leased {
                    here.store(false, Ordering::SeqCst);
                }
                drop(taking);
                asks.join().expect("asking does not panic")
            });
            assert!(!promised || here.load(Ordering::SeqCst));
        }
    }
}
