//! One bucket, and the queue before it.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::clock::{self, Moment, nanos};

/// A rate as GCRA wants it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) interval: Duration,
    pub(super) tolerance: Duration,
}

impl Pace {
    pub(super) fn new(count: u32, per: Duration, burst: Option<u32>) -> Self {
        let interval = (per / count.max(1)).max(Duration::from_nanos(1));
        let burst = burst.unwrap_or_else(|| default_burst(interval)).max(1);
        Self {
            interval,
            tolerance: interval.saturating_mul(burst - 1),
        }
    }
}

/// Ten milliseconds' worth, at least 2: with a burst of 1, each tick of lateness would be lost for good.
fn default_burst(interval: Duration) -> u32 {
    let worth = Duration::from_millis(10).as_nanos() / interval.as_nanos().max(1);
    u32::try_from(worth).unwrap_or(u32::MAX).max(2)
}

/// One bucket and its queue.
#[derive(Debug)]
pub(super) struct Limiter {
    pace: Pace,
    /// The moment when the bucket will be empty again (GCRA's theoretical arrival time).
    empty_at: AtomicU64,
    /// Whoever holds it is next; the lock is fair, so only the head of the queue sets a timer.
    turn: tokio::sync::Mutex<()>,
    /// How many want the turn or have it.
    queued: AtomicUsize,
}

impl Limiter {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            empty_at: AtomicU64::new(0),
            turn: tokio::sync::Mutex::new(()),
            queued: AtomicUsize::new(0),
        }
    }

    /// Takes one out now, or says when to ask again.
    pub(super) fn check(&self, now: Moment) -> Result<(), Instant> {
        let (interval, tolerance, now) = (nanos(self.pace.interval), nanos(self.pace.tolerance), now.nanos());
        let taken = self.empty_at.fetch_update(Relaxed, Relaxed, |empty_at| {
            let from = empty_at.max(now);
            (from <= now.saturating_add(tolerance)).then(|| from.saturating_add(interval))
        });
        match taken {
            Ok(_) => Ok(()),
            Err(empty_at) => Err(Moment::at(empty_at - tolerance).instant()),
        }
    }

    /// Takes one out now, unless others wait already.
    pub(super) fn try_take(&self) -> bool {
        self.queued.load(Relaxed) == 0 && self.check(clock::recent().moment).is_ok()
    }

    pub(super) async fn take(&self) {
        let _queued = Queued::new(&self.queued);
        let _turn = self.turn.lock().await;
        while let Err(again) = self.check(Moment::now()) {
            sleep_until(again).await;
        }
    }

    /// Nothing passes before `until`.
    pub(super) fn hold(&self, until: Instant) {
        let until = Moment::of(until + self.pace.tolerance).nanos();
        self.empty_at.fetch_max(until, Relaxed);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.empty_at.load(Relaxed) <= Moment::now().nanos()
    }
}

/// Counts one as waiting for as long as it lives.
pub(super) struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
