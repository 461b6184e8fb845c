//! The bridge between wall time, which is kept, and run time, which can be paused; and one look at the clock for many.

use std::{
    cell::Cell,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

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

/// A point of run time: nanoseconds since a base that lies before all that happens in this process. What is between two of
/// them is one subtraction; between two `Instant`s it is some forty instructions, and each message asks several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn now() -> Self {
        Self::of(Instant::now())
    }

    pub(crate) fn of(instant: Instant) -> Self {
        Self(nanos(instant.saturating_duration_since(base())))
    }

    pub(crate) fn instant(self) -> Instant {
        base() + Duration::from_nanos(self.0)
    }

    /// Nanoseconds since the base.
    pub(crate) const fn nanos(self) -> u64 {
        self.0
    }

    pub(crate) const fn at(nanos: u64) -> Self {
        Self(nanos)
    }

    pub(crate) const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What one look at the clock has shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) instant: Instant,
    pub(crate) moment: Moment,
}

impl Look {
    fn now() -> Self {
        let instant = Instant::now();
        Self {
            instant,
            moment: Moment::of(instant),
        }
    }
}

/// Five hundred years of them fit.
pub(crate) fn nanos(span: Duration) -> u64 {
    span.as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(span.subsec_nanos()))
}

/// A day before it is first asked for: a clock that stands still, as in tests, is never so late.
fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "the paused clock of one test must not be the base of all"
        )]
        let now = std::time::Instant::now();
        Instant::from_std(now.checked_sub(Duration::from_secs(86_400)).unwrap_or(now))
    })
}

thread_local! {
    /// The last look at the clock in the turn of a driver that this thread is in, if it is in one.
    static LAST_LOOK: Cell<Option<Look>> = const { Cell::new(None) };
}

/// A driver's turn: while it lives, [`recent`] on this thread is the last [`look`]. Looking at the clock is the dearest
/// single thing that a layer does, and a turn starts and ends hundreds of messages.
#[derive(Debug)]
pub(crate) struct Turn(Option<Look>);

impl Turn {
    pub(crate) fn begin() -> Self {
        Self(LAST_LOOK.replace(Some(Look::now())))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        LAST_LOOK.set(self.0);
    }
}

/// The time now; from here to the end of the turn it is also the [`recent`] one.
#[inline]
pub(crate) fn look() -> Look {
    let now = Look::now();
    if LAST_LOOK.get().is_some() {
        LAST_LOOK.set(Some(now));
    }
    now
}

/// The time of the last look in this turn: each attempt's end is one, so it is as old as what was done since. Outside a
/// turn, the time now.
#[inline]
pub(crate) fn recent() -> Look {
    LAST_LOOK.get().unwrap_or_else(Look::now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn within_a_turn_time_stands_between_two_looks() {
        let began = Instant::now();
        let after = |turn: &dyn Fn() -> Look| (turn().instant - began).as_secs();
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
