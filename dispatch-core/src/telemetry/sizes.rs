use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// How large things were, such as batches, counted in buckets. Recording takes two atomic additions.
#[derive(Debug, Clone)]
pub struct Sizes(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// The largest size of each bucket but the last, rising.
    bounds: &'static [u64],
    buckets: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Sizes {
    pub(super) fn new(bounds: &'static [u64]) -> Self {
        Self(Arc::new(Counts {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }))
    }

    /// Counts one of this size.
    pub fn record(&self, size: u64) {
        let place = self.0.bounds.partition_point(|bound| *bound < size);
        self.0.buckets[place].fetch_add(1, Relaxed);
        self.0.sum.fetch_add(size, Relaxed);
    }

    /// How many there were in each bucket, with the largest size of each; the last one has none.
    #[must_use]
    pub fn buckets(&self) -> Vec<(Option<u64>, u64)> {
        let bounds = self.0.bounds.iter().copied().map(Some).chain([None]);
        let counts = self.0.buckets.iter().map(|count| count.load(Relaxed));
        bounds.zip(counts).collect()
    }

    /// All sizes together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.sum.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_counted_in_the_first_bucket_that_holds_it() {
        let sizes = Sizes::new(&[1, 5]);

        let all = [0, 1, 2, 5, 6, u64::MAX / 2];
        all.into_iter().for_each(|size| sizes.record(size));

        assert_eq!(sizes.buckets(), [(Some(1), 2), (Some(5), 2), (None, 2)]);
        assert_eq!(sizes.sum(), 14 + u64::MAX / 2);
    }
}
