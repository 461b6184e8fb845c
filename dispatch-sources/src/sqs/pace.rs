//! How many receives run at once, and how long each waits.

use std::time::Duration;

use tokio::time::Instant;

use super::config::IDLE_WAIT;

/// So long without messages, and one receive at a time waits as long as it can.
const IDLE_AFTER: Duration = Duration::from_secs(30);

/// More receives while they come back full, half as many when they come back empty.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    wait: Duration,
    pollers: usize,
    empty_since: Option<Instant>,
}

impl Pace {
    pub(super) const fn new(most: usize, wait: Duration) -> Self {
        Self {
            most,
            wait,
            pollers: 1,
            empty_since: None,
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.empty_since.is_some_and(|since| now >= since + IDLE_AFTER)
    }

    /// How many may run.
    pub(super) fn pollers(&self, now: Instant) -> usize {
        if self.is_idle(now) { 1 } else { self.pollers }
    }

    /// How long the next one waits.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        if self.is_idle(now) { IDLE_WAIT } else { self.wait }
    }

    /// One that began at `began` came back with `count` of the `asked`.
    pub(super) fn received(&mut self, began: Instant, asked: usize, count: usize) {
        if count == 0 {
            self.empty_since.get_or_insert(began);
            self.pollers = (self.pollers / 2).max(1);
            return;
        }
        self.empty_since = None;
        if count == asked {
            self.pollers = (self.pollers + 1).min(self.most);
        }
    }

    /// One failed.
    pub(super) const fn failed(&mut self) {
        self.pollers = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_grows_with_full_receives_and_rests_after_empty_ones() {
        let (mut pace, now) = (Pace::new(3, WAIT), Instant::now());
        for expected in [2, 3, 3] {
            pace.received(now, 10, 10);
            assert_eq!(pace.pollers(now), expected);
        }
        pace.received(now, 10, 4);
        assert_eq!(pace.pollers(now), 3, "a part of a batch changes nothing");

        pace.received(now, 10, 0);
        assert_eq!((pace.pollers(now), pace.wait(now)), (1, WAIT));
        let later = now + IDLE_AFTER;
        assert_eq!((pace.pollers(later), pace.wait(later)), (1, IDLE_WAIT));

        pace.received(later, 1, 1);
        assert_eq!((pace.pollers(later), pace.wait(later)), (2, WAIT));
        pace.failed();
        assert_eq!(pace.pollers(later), 1);
    }
}
