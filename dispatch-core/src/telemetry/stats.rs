use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::Histogram;
use crate::Class;

/// A pipeline's counters; shared by its driver, its layers and whoever reads them.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// [`names::RECEIVED`](super::names::RECEIVED)
    pub received: AtomicU64,
    /// [`names::DELIVERED`](super::names::DELIVERED)
    pub delivered: AtomicU64,
    /// [`names::FAILED`](super::names::FAILED)
    pub failed: ClassCounts,
    /// [`names::RETRIED`](super::names::RETRIED)
    pub retried: AtomicU64,
    /// [`names::PARKED`](super::names::PARKED)
    pub parked: AtomicU64,
    /// [`names::NACKED`](super::names::NACKED)
    pub nacked: AtomicU64,
    /// [`names::RELEASED`](super::names::RELEASED)
    pub released: AtomicU64,
    /// [`names::DEAD_LETTERED`](super::names::DEAD_LETTERED)
    pub dead_lettered: AtomicU64,
    /// [`names::DUPLICATES`](super::names::DUPLICATES)
    pub duplicates: AtomicU64,
    /// [`names::SETTLE_FAILED`](super::names::SETTLE_FAILED)
    pub settle_failed: AtomicU64,
    /// [`names::SETTLE_RETRIED`](super::names::SETTLE_RETRIED)
    pub settle_retried: AtomicU64,
    /// [`names::LEASE_EXTENDED`](super::names::LEASE_EXTENDED)
    pub lease_extended: AtomicU64,
    /// [`names::LEASE_LOST`](super::names::LEASE_LOST)
    pub lease_lost: AtomicU64,
    /// [`names::SOURCE_ERRORS`](super::names::SOURCE_ERRORS)
    pub source_errors: AtomicU64,
    /// [`names::IN_FLIGHT`](super::names::IN_FLIGHT)
    pub in_flight: AtomicI64,
    /// [`names::BREAKER_STATE`](super::names::BREAKER_STATE)
    pub breaker_state: AtomicU64,
    /// [`names::STUCK`](super::names::STUCK)
    pub stuck: AtomicU64,
    /// [`names::QUEUE_LAG`](super::names::QUEUE_LAG), in milliseconds.
    pub queue_lag_millis: AtomicU64,
    /// [`names::RATE_LIMITED_WAIT`](super::names::RATE_LIMITED_WAIT)
    pub rate_limited_wait: Histogram,
    /// [`names::STAGE`](super::names::STAGE), `queue`
    pub queue: Histogram,
    /// [`names::STAGE`](super::names::STAGE), `sink`
    pub sink: Histogram,
    /// [`names::STAGE`](super::names::STAGE), `total`
    pub total: Histogram,
    /// [`names::STAGE`](super::names::STAGE), `ack`
    pub ack: Histogram,
}

/// One counter a class.
#[derive(Debug, Default)]
pub struct ClassCounts {
    retry: AtomicU64,
    throttled: AtomicU64,
    unavailable: AtomicU64,
    permanent: AtomicU64,
}

impl ClassCounts {
    /// Counts one failure.
    pub fn count(&self, class: Class) {
        let counter = match class {
            Class::Retry => &self.retry,
            Class::Throttled(_) => &self.throttled,
            Class::Unavailable => &self.unavailable,
            Class::Permanent => &self.permanent,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Each class's name and count.
    #[must_use]
    pub fn get(&self) -> [(&'static str, u64); 4] {
        [
            ("retry", self.retry.load(Relaxed)),
            ("throttled", self.throttled.load(Relaxed)),
            ("unavailable", self.unavailable.load(Relaxed)),
            ("permanent", self.permanent.load(Relaxed)),
        ]
    }
}
