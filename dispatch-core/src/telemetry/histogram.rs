use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::clock::nanos;

/// The upper bounds of the buckets, in seconds; a last bucket holds what is longer.
pub const BOUNDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0,
];

/// The same bounds in nanoseconds, so that recording compares integers.
const BOUNDS_NANOS: [u64; 18] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    15_000_000_000,
    60_000_000_000,
    300_000_000_000,
];

/// How long something took, counted in fixed buckets; recording takes two atomic additions and no lock. Threads count in
/// stripes of their own, so that they do not wait for each other.
#[derive(Debug, Default)]
pub struct Histogram([Stripe; STRIPES]);

/// More threads than this share stripes.
const STRIPES: usize = 4;

/// Two cache lines apart from the next: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    buckets: [AtomicU64; 19],
    sum_nanos: AtomicU64,
}

thread_local! {
    static STRIPE: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Relaxed) % STRIPES
    };
}

/// The bucket of so many nanoseconds.
fn place(nanos: u64) -> usize {
    // Most work that is worth counting fast ends in the first bucket.
    if nanos <= BOUNDS_NANOS[0] {
        0
    } else {
        BOUNDS_NANOS.partition_point(|bound| *bound < nanos)
    }
}

/// Counts of one writer, added to a [`Histogram`] now and then: counting takes no atomic operation.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    buckets: [u64; 19],
    sum_nanos: u64,
    any: bool,
}

impl Tally {
    pub(crate) const fn new() -> Self {
        Self {
            buckets: [0; 19],
            sum_nanos: 0,
            any: false,
        }
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        self.buckets[place(nanos)] += 1;
        self.sum_nanos = self.sum_nanos.saturating_add(nanos);
        self.any = true;
    }

    pub(crate) fn flush(&mut self, into: &Histogram) {
        if !std::mem::take(&mut self.any) {
            return;
        }
        let into = into.stripe();
        for (count, bucket) in self
            .buckets
            .iter_mut()
            .zip(&into.buckets)
            .filter(|(count, _)| **count > 0)
        {
            bucket.fetch_add(std::mem::take(count), Relaxed);
        }
        into.sum_nanos.fetch_add(std::mem::take(&mut self.sum_nanos), Relaxed);
    }
}

impl Histogram {
    /// This thread's stripe; the first one once the thread is ending.
    fn stripe(&self) -> &Stripe {
        &self.0[STRIPE.try_with(|stripe| *stripe).unwrap_or_default()]
    }

    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        self.record_nanos(nanos(duration));
    }

    pub(crate) fn record_nanos(&self, nanos: u64) {
        let stripe = self.stripe();
        stripe.buckets[place(nanos)].fetch_add(1, Relaxed);
        stripe.sum_nanos.fetch_add(nanos, Relaxed);
    }

    /// The counts so far.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: std::array::from_fn(|place| self.0.iter().map(|stripe| stripe.buckets[place].load(Relaxed)).sum()),
            sum: Duration::from_nanos(self.0.iter().map(|stripe| stripe.sum_nanos.load(Relaxed)).sum()),
        }
    }
}

/// A histogram's counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// How many fell into each bucket (not added up): one for each of [`BOUNDS`], and one for what is longer.
    pub buckets: [u64; 19],
    /// All durations together.
    pub sum: Duration,
}

impl HistogramSnapshot {
    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_of_bounds_agree() {
        for (seconds, nanos) in BOUNDS.into_iter().zip(BOUNDS_NANOS) {
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(nanos));
        }
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();

        histogram.record(Duration::from_millis(1));
        histogram.record(Duration::from_secs(1_000));

        let counts = histogram.snapshot();
        assert_eq!((counts.buckets[3], counts.buckets[18], counts.count()), (1, 1, 2));
    }
}
