//! A while in which nothing is tried, because the far side asked for time.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::clock::{self, Moment, nanos};

/// What a throttled attempt lets all others wait for where no rate is set. Not held, it is one load.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// A moment; 0 before the first.
    until: AtomicU64,
}

impl Hold {
    /// Whether nothing may pass now.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && clock::recent().moment.nanos() < until
    }

    /// Nothing passes for so long.
    pub(super) fn extend(&self, by: Duration) {
        let now = Moment::now().nanos();
        let until = now.saturating_add(nanos(by));
        if self.until.fetch_max(until, Relaxed) <= now {
            tracing::warn!(wait = ?by, "the sink asks for time: nothing is sent until then");
        }
    }

    pub(super) async fn over(&self) {
        loop {
            let until = Moment::at(self.until.load(Relaxed)).instant();
            if Instant::now() >= until {
                return;
            }
            sleep_until(until).await;
        }
    }
}
