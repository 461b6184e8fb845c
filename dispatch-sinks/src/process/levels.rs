//! How many workers are needed, and how long ago more were.

use std::time::Duration;

use tokio::time::Instant;

/// When so many tasks were last there at once, for each number of them.
#[derive(Debug)]
pub(super) struct Levels(Vec<Instant>);

impl Levels {
    /// Up to `most`; what was never reached counts from now.
    pub(super) fn new(most: usize, now: Instant) -> Self {
        Self(vec![now; most])
    }

    /// There were `level` tasks until now.
    pub(super) fn leave(&mut self, level: usize, now: Instant) {
        if let Some(last) = level.checked_sub(1).and_then(|index| self.0.get_mut(index)) {
            *last = now;
        }
    }

    /// There are `demand` tasks now.
    pub(super) fn see(&mut self, demand: usize, now: Instant) {
        let demand = demand.min(self.0.len());
        self.0[..demand].fill(now);
    }

    /// How long `level` tasks have not been there at once.
    pub(super) fn age(&self, level: usize, now: Instant) -> Duration {
        let last = level.checked_sub(1).and_then(|index| self.0.get(index));
        last.map_or(Duration::MAX, |last| now.saturating_duration_since(*last))
    }

    /// The levels that were reached, highest first, with their ages in seconds.
    pub(super) fn ages(&self, now: Instant) -> impl Iterator<Item = (usize, f64)> {
        let ages = self.0.iter().enumerate().rev();
        ages.map(move |(index, last)| (index + 1, now.saturating_duration_since(*last).as_secs_f64()))
    }
}

/// The bounds of a pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) reserve: usize,
    pub(super) wait: Duration,
}

impl Bounds {
    /// How many workers to start where `capacity` are there or coming, and `active` tasks want one.
    pub(super) fn grow(&self, capacity: usize, active: usize) -> usize {
        let wanted = (active + self.reserve).clamp(self.min, self.max.max(self.min));
        wanted.saturating_sub(capacity)
    }

    /// Whether one of `capacity` workers may go.
    pub(super) fn may_shrink(&self, capacity: usize, active: usize, levels: &Levels, now: Instant) -> bool {
        let needed = self.min.max(active + self.reserve);
        // The last of them was needed when there were so many tasks.
        let level = capacity.saturating_sub(self.reserve).max(1);
        capacity > needed && levels.age(level, now) > self.wait
    }

    /// When that may become so, if nothing else happens.
    pub(super) fn shrink_at(&self, capacity: usize, active: usize, levels: &Levels, now: Instant) -> Option<Instant> {
        let level = capacity.saturating_sub(self.reserve).max(1);
        let rest = self.wait.saturating_sub(levels.age(level, now));
        (capacity > self.min.max(active + self.reserve)).then(|| now + rest)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        min: 1,
        max: 4,
        reserve: 0,
        wait: Duration::from_secs(15),
    };

    #[test]
    fn a_pool_grows_at_once_to_what_is_needed() {
        for (capacity, active, expected) in [
            (0, 0, 1),
            (1, 0, 0),
            (1, 1, 0),
            (1, 2, 1),
            (1, 9, 3),
            (4, 9, 0),
            (3, 4, 1),
        ] {
            assert_eq!(BOUNDS.grow(capacity, active), expected, "{capacity} {active}");
        }
        let reserve = Bounds { reserve: 2, ..BOUNDS };
        assert_eq!((reserve.grow(1, 0), reserve.grow(2, 1), reserve.grow(4, 4)), (1, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_goes_when_its_level_was_not_needed_for_a_while() {
        let mut levels = Levels::new(4, Instant::now());
        let shrinks = |levels: &Levels, capacity, active| BOUNDS.may_shrink(capacity, active, levels, Instant::now());
        advance(Duration::from_secs(10)).await;
        levels.see(3, Instant::now());
        advance(Duration::from_secs(10)).await;
        levels.leave(3, Instant::now());

        assert!(shrinks(&levels, 4, 2) && !shrinks(&levels, 3, 2));
        assert!(!shrinks(&levels, 4, 4), "all of them are at work");
        let at = BOUNDS.shrink_at(3, 2, &levels, Instant::now()).unwrap();
        assert_eq!(at - Instant::now(), BOUNDS.wait);
        advance(Duration::from_millis(15_001)).await;
        assert!(shrinks(&levels, 3, 2));
        assert!(!shrinks(&levels, 1, 0), "never below the minimum");
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserve_is_kept_above_what_is_needed() {
        let levels = Levels::new(4, Instant::now());
        let bounds = Bounds { reserve: 1, ..BOUNDS };
        advance(Duration::from_secs(16)).await;

        assert!(!bounds.may_shrink(3, 2, &levels, Instant::now()));
        assert!(bounds.may_shrink(3, 1, &levels, Instant::now()));
    }
}
