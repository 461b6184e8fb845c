//! The bridge between wall time, which is kept, and run time, which can be paused; and one look at the clock for many.

use std::{cell::Cell, time::SystemTime};

use tokio::time::Instant;

/// The run time at which the wall clock will show `time`; now, if it already has.
#[must_use]
pub fn instant_at(time: SystemTime) -> Instant {
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or_default()
}

/// The wall time at `instant`.
#[must_use]
pub fn system_time_at(instant: Instant) -> SystemTime {
    let now = Instant::now();
    if instant >= now {
        SystemTime::now() + (instant - now)
    } else {
        SystemTime::now() - (now - instant)
    }
}

thread_local! {
    /// The last look at the clock in the turn of a driver that this thread is in, if it is in one.
    static LAST_LOOK: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A driver's turn: while it lives, [`recent`] on this thread is the last [`look`]. Looking at the clock is the dearest
/// single thing that a layer does, and a turn starts and ends hundreds of messages.
#[derive(Debug)]
pub(crate) struct Turn(Option<Instant>);

impl Turn {
    pub(crate) fn begin() -> Self {
        Self(LAST_LOOK.replace(Some(Instant::now())))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        LAST_LOOK.set(self.0);
    }
}

/// The time now; from here to the end of the turn it is also the [`recent`] one.
#[inline]
pub(crate) fn look() -> Instant {
    let now = Instant::now();
    if LAST_LOOK.get().is_some() {
        LAST_LOOK.set(Some(now));
    }
    now
}

/// The time of the last look in this turn: each attempt's end is one, so it is as old as what was done since. Outside a
/// turn, the time now.
#[inline]
pub(crate) fn recent() -> Instant {
    LAST_LOOK.get().unwrap_or_else(Instant::now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn within_a_turn_time_stands_between_two_looks() {
        let began = Instant::now();
        let after = |turn: &dyn Fn() -> Instant| (turn() - began).as_secs();
        let second = Duration::from_secs(1);

        let outer = Turn::begin();
        tokio::time::advance(second).await;
        let stale = after(&recent);
        let inner = Turn::begin();
        let fresh = after(&recent);
        drop(inner);
        let back = after(&recent);
        let looked = (after(&look), after(&recent));
        drop(outer);
        tokio::time::advance(second).await;

        assert_eq!((stale, fresh, back, looked, after(&recent)), (0, 1, 0, (1, 1), 2));
    }
}
