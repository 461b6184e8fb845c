//! The bridge between wall time, which is kept, and run time, which can be paused.

use std::time::SystemTime;

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
