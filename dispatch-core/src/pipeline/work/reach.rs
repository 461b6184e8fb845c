//! How far beyond the concurrency a driver reaches.

use std::time::Duration;

use tokio::time::Instant;

/// Where it begins.
const FIRST: usize = 16;
/// A step, up or down.
const STEP: usize = 4;
/// A window that is worked off faster than this is worth more of them.
const QUICK: Duration = Duration::from_millis(100);
/// One that takes longer is held for nothing: somebody else could work on it.
const SLOW: Duration = Duration::from_secs(1);

/// What a source advises to hold is the most; how much of it is held follows from how quickly it is worked off, so that a
/// slow worker does not hoard what others could take.
#[derive(Debug)]
pub(super) struct Reach {
    now: usize,
    most: usize,
    fixed: bool,
    /// Settled since.
    settled: usize,
    since: Option<Instant>,
}

impl Reach {
    /// As far as `most` at most, or always just so far.
    pub(super) fn new(most: usize, fixed: bool) -> Self {
        Self {
            now: if fixed { most } else { most.min(FIRST) },
            most,
            fixed: fixed || most <= FIRST,
            settled: 0,
            since: None,
        }
    }

    /// So many places beyond the concurrency, of which those that rest between attempts take none from the others.
    pub(super) fn places(&self, resting: usize) -> usize {
        self.now.saturating_add(resting).min(self.most)
    }

    /// One has been settled.
    pub(super) const fn settled(&mut self) {
        self.settled += 1;
    }

    /// Looks at how long the last `window` took.
    pub(super) fn look(&mut self, now: Instant, window: usize) {
        let since = *self.since.get_or_insert(now);
        if self.fixed || self.settled < window {
            return;
        }
        let took = now.duration_since(since);
        if took < QUICK {
            self.now = self.now.saturating_mul(STEP).min(self.most);
        } else if took > SLOW {
            self.now = (self.now / STEP).max(1);
        }
        (self.settled, self.since) = (0, Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worked_off(reach: &mut Reach, now: &mut Instant, took: Duration) -> usize {
        *now += took;
        (0..100).for_each(|_| reach.settled());
        reach.look(*now, 100);
        reach.places(0)
    }

    #[test]
    fn it_follows_how_quickly_a_window_is_worked_off() {
        let (mut reach, mut now) = (Reach::new(400, false), Instant::now());
        reach.look(now, 100);
        let mut after = |millis| worked_off(&mut reach, &mut now, Duration::from_millis(millis));

        let places = [1, 1, 1, 500, 2_000, 2_000, 2_000, 2_000, 2_000, 1].map(&mut after);

        assert_eq!(places, [64, 256, 400, 400, 100, 25, 6, 1, 1, 4]);
    }

    #[test]
    fn what_rests_takes_no_place_until_there_are_none() {
        let reach = Reach::new(400, false);

        assert_eq!([0, 100, 1_000].map(|resting| reach.places(resting)), [16, 116, 400]);
    }

    #[test]
    fn one_that_was_given_stays() {
        let (mut reach, mut now) = (Reach::new(400, true), Instant::now());
        reach.look(now, 100);

        assert_eq!(worked_off(&mut reach, &mut now, Duration::from_secs(9)), 400);
    }
}
