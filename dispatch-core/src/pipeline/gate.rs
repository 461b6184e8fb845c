//! Whether anything is fetched, and how much.

use tokio::time::Instant;

use super::control::{Stop, Wanted};
use crate::layer::{BreakerHandle, BreakerState};

/// What may be fetched now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// What the window has free.
    Open,
    /// So many in flight at most: a breaker asks with real messages.
    Probing(usize),
    /// Nothing, and if it opens by itself, then at this time.
    Closed(Option<Instant>),
}

impl Gate {
    pub(super) fn of(wanted: Wanted, breaker: Option<&BreakerHandle>) -> Self {
        if wanted.paused || wanted.ill > 0 || wanted.stop != Stop::No {
            return Self::Closed(None);
        }
        match breaker.map(BreakerHandle::state) {
            None | Some(BreakerState::Closed) => Self::Open,
            Some(BreakerState::Open(until)) => Self::Closed(Some(until)),
            Some(BreakerState::HalfOpen(left)) => Self::Probing(left as usize),
        }
    }

    /// How much to ask for, with `in_flight` of a window of `window` taken.
    pub(super) const fn demand(self, window: usize, in_flight: usize) -> usize {
        let free = window.saturating_sub(in_flight);
        match self {
            Self::Open => free,
            // Probes already under way are not counted in what is left; what was fetched for one and waits is.
            Self::Probing(left) if left < free => left,
            Self::Probing(_) => free,
            Self::Closed(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::BreakerSettings;

    #[test]
    fn operators_and_drains_close_it() {
        let paused = Wanted {
            paused: true,
            ..Wanted::default()
        };
        let ill = Wanted {
            ill: 1,
            ..Wanted::default()
        };
        let draining = Wanted {
            stop: Stop::Drain,
            ..Wanted::default()
        };

        assert_eq!(Gate::of(paused, None), Gate::Closed(None));
        assert_eq!(Gate::of(ill, None), Gate::Closed(None));
        assert_eq!(Gate::of(draining, None), Gate::Closed(None));
    }

    #[test]
    fn demand_is_what_the_window_has_free() {
        let table = [
            (Gate::Open, 10, 4, 6),
            (Gate::Open, 10, 12, 0),
            (Gate::Probing(3), 10, 0, 3),
            (Gate::Probing(3), 10, 9, 1),
            (Gate::Closed(None), 10, 0, 0),
        ];
        for (gate, window, in_flight, expected) in table {
            assert_eq!(gate.demand(window, in_flight), expected, "{gate:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_breaker_leaves_it_open() {
        let breaker = BreakerHandle::new(BreakerSettings::default());

        assert_eq!(Gate::of(Wanted::default(), Some(&breaker)), Gate::Open);
    }
}
