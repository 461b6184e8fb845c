//! What a breaker remembers: the calls and failures of its last window.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock;

/// The first wait after an `Unavailable`.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Calls and failures of the last window, in ten slots.
#[derive(Debug)]
pub(super) struct Window {
    epoch: Instant,
    slot: Duration,
    now: AtomicU64,
    calls: [AtomicU32; 10],
    failures: [AtomicU32; 10],
    unavailable_in_a_row: AtomicU32,
}

impl Window {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            epoch: Instant::now(),
            slot: (window / 10).max(Duration::from_millis(1)),
            now: AtomicU64::new(0),
            calls: Default::default(),
            failures: Default::default(),
            unavailable_in_a_row: AtomicU32::new(0),
        }
    }

    const fn place(slot: u64) -> usize {
        (slot % 10) as usize
    }

    /// A success alone looks at the clock only now and then: what is old must be gone when a failure counts, not before.
    pub(super) fn succeeded(&self, calls: u32) {
        let mut slot = self.now.load(Relaxed);
        if calls > 1 || self.calls[Self::place(slot)].load(Relaxed).is_multiple_of(8) {
            slot = self.advance(clock::recent().instant);
            self.unavailable_in_a_row.store(0, Relaxed);
        }
        self.calls[Self::place(slot)].fetch_add(calls, Relaxed);
    }

    pub(super) fn failed(&self, now: Instant) -> (u32, u32) {
        let place = Self::place(self.advance(now));
        self.calls[place].fetch_add(1, Relaxed);
        self.failures[place].fetch_add(1, Relaxed);
        let sum = |counts: &[AtomicU32; 10]| counts.iter().map(|count| count.load(Relaxed)).sum();
        (sum(&self.calls), sum(&self.failures))
    }

    /// Moves to the slot of `now` and empties those passed over.
    pub(super) fn advance(&self, now: Instant) -> u64 {
        let slot = u64::try_from((now - self.epoch).as_nanos() / self.slot.as_nanos()).unwrap_or(u64::MAX);
        let before = self.now.fetch_max(slot, Relaxed);
        for passed in (before + 1..=slot).rev().take(10) {
            self.calls[Self::place(passed)].store(0, Relaxed);
            self.failures[Self::place(passed)].store(0, Relaxed);
        }
        slot.max(before)
    }

    /// Whether no call counts any more.
    pub(super) fn is_empty(&self, now: Instant) -> bool {
        self.advance(now);
        self.calls.iter().all(|calls| calls.load(Relaxed) == 0)
    }

    pub(super) fn clear(&self) {
        for count in self.calls.iter().chain(&self.failures) {
            count.store(0, Relaxed);
        }
        self.unavailable_in_a_row.store(0, Relaxed);
    }

    pub(super) fn next_wait(&self, longest: Duration) -> Duration {
        let times = self.unavailable_in_a_row.fetch_add(1, Relaxed);
        FIRST_WAIT.saturating_mul(1 << times.min(20)).min(longest)
    }
}
