//! How many receives run at once, and how long each waits.

use std::time::Duration;

use tokio::time::Instant;

use super::config::IDLE_WAIT;

/// So long without messages, and one receive at a time waits as long as it can.
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// A receive that waits longer may be cut off by a close, and what SQS hands to it then is out of reach until its
/// visibility ends.
const SHORT: Duration = Duration::from_secs(2);

/// How the next receive asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) wait: Duration,
    /// Whether what it brings is ours for a moment only, until that is extended: it waits long, so that a close may
    /// cut it off.
    pub(super) brief: bool,
}

/// More receives while they come back full, half as many when they come back empty.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    /// What was set.
    wait: Option<Duration>,
    pollers: usize,
    empty_since: Option<Instant>,
    /// Whether the last receive brought nothing, or there was none.
    dry: bool,
}

impl Pace {
    pub(super) const fn new(most: usize, wait: Option<Duration>) -> Self {
        Self {
            most,
            wait,
            pollers: 1,
            empty_since: None,
            dry: true,
        }
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.empty_since.is_some_and(|since| now >= since + IDLE_AFTER)
    }

    /// How many may run.
    pub(super) fn pollers(&self, now: Instant) -> usize {
        if self.is_idle(now) { 1 } else { self.pollers }
    }

    /// How the next one asks. Unless a longer wait is set, none waits long while messages come: a close need not cut
    /// one off then, and no batch needs its visibility extended at once.
    pub(super) fn ask(&self, now: Instant) -> Ask {
        let wait = match self.wait {
            _ if self.is_idle(now) => IDLE_WAIT,
            Some(wait) => wait,
            None if self.dry => IDLE_WAIT,
            None => SHORT,
        };
        Ask {
            wait,
            brief: wait > SHORT,
        }
    }

    /// One that began at `began` came back with `count` of the `asked`.
    pub(super) fn received(&mut self, began: Instant, asked: usize, count: usize) {
        self.dry = count == 0;
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
        let (mut pace, now) = (Pace::new(3, Some(WAIT)), Instant::now());
        for expected in [2, 3, 3] {
            pace.received(now, 10, 10);
            assert_eq!(pace.pollers(now), expected);
        }
        pace.received(now, 10, 4);
        assert_eq!(pace.pollers(now), 3, "a part of a batch changes nothing");

        pace.received(now, 10, 0);
        let ask = |wait, brief| Ask { wait, brief };
        assert_eq!((pace.pollers(now), pace.ask(now)), (1, ask(WAIT, false)));
        let later = now + IDLE_AFTER;
        assert_eq!((pace.pollers(later), pace.ask(later)), (1, ask(IDLE_WAIT, true)));

        pace.received(later, 1, 1);
        assert_eq!((pace.pollers(later), pace.ask(later)), (2, ask(WAIT, false)));
        pace.failed();
        assert_eq!(pace.pollers(later), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_receive_waits_long_with_a_long_lease() {
        let (mut pace, now) = (Pace::new(1, None), Instant::now());
        let ask = |wait, brief| Ask { wait, brief };

        assert_eq!(pace.ask(now), ask(IDLE_WAIT, true), "nothing is known of the queue");
        pace.received(now, 10, 3);
        assert_eq!(pace.ask(now), ask(SHORT, false));
        pace.received(now, 10, 0);
        assert_eq!(pace.ask(now), ask(IDLE_WAIT, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_was_set_is_waited_after_messages_too() {
        for (seconds, brief) in [(0, false), (1, false), (2, false), (3, true), (20, true)] {
            let wait = Duration::from_secs(seconds);
            let (mut pace, now) = (Pace::new(1, Some(wait)), Instant::now());
            for count in [0, 10, 3] {
                pace.received(now, 10, count);
                assert_eq!(pace.ask(now), Ask { wait, brief }, "{count} came");
            }
        }
    }
}
