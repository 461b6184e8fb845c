//! A while in which nothing is tried, because the far side asked for time.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::clock;

/// What a throttled attempt lets all others wait for where no rate is set. Not held, it is one load.
#[derive(Debug)]
pub(crate) struct Hold {
    /// What times are counted from.
    epoch: Instant,
    /// In nanoseconds; 0 before the first.
    until: AtomicU64,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            until: AtomicU64::new(0),
        }
    }
}

impl Hold {
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether nothing may pass now.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && self.nanos(clock::recent()) < until
    }

    /// Nothing passes for so long.
    pub(super) fn extend(&self, by: Duration) {
        let now = self.nanos(Instant::now());
        let until = now.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
        if self.until.fetch_max(until, Relaxed) <= now {
            tracing::warn!(wait = ?by, "the sink asks for time: nothing is sent until then");
        }
    }

    pub(super) async fn over(&self) {
        loop {
            let until = self.epoch + Duration::from_nanos(self.until.load(Relaxed));
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }
}
