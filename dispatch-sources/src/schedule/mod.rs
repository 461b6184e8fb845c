//! Makes a message at each slot of an interval or a cron pattern.
//!
//! The message's id is `<pipeline>:<source>@<slot>`, the slot in RFC 3339 and UTC; `schedule_slot` in its metadata is
//! the same time, and the time it was handed in. Payload and headers are fixed.
//!
//! # Guarantees
//! However many processes run the schedule over one Store, each slot fires once: a process reserves it, puts its
//! message into the Store's queue `schedule:<pipeline>:<source>`, then marks it as fired. A process that dies between
//! the last two leaves a slot that another fires again; none is left out. From the queue the message is delivered at
//! least once, over restarts.
//!
//! Intervals are counted from the Unix epoch, so every process has the same slots and a restart shifts nothing:
//! `every = "15m"` is :00, :15, :30 and :45. Cron patterns follow the clock of `timezone`: a time that the clock skips
//! fires right after the gap, one that it repeats fires once.
//!
//! A slot is in time for 30 s, and fires until then.
//!
//! | `misfire` | slots that are later than that: nobody ran, or nobody could act |
//! |---|---|
//! | `once` (default) | the latest one fires, unless one that is in time does |
//! | `skip` | none fires, but for the latest if it is at most 60 s late and none is in time |
//! | `all` | all fire in order, the latest 1000 at most |
//!
//! | `overlap` | a slot comes while an earlier one's message is not done (waiting, at work or to be tried again) |
//! |---|---|
//! | `skip` (default) | it does not fire |
//! | `queue` | it waits for its turn |
//! | `allow` | both are worked on at once |
//! | `cancel` | it takes the earlier one's place |
//!
//! With `cancel` an attempt at work, in this process or another, is dropped within 3 s and its message is done with; only
//! then the new one goes, so that never two are at work.
//!
//! With `queue` the messages go into that queue of the Store instead, as named tasks whose own `delay` and `on_duplicate`
//! are heeded, for a source `queue` to take out; `overlap` has no meaning then.
//!
//! # Capabilities
//! Redelivery, any delay, leases of 30 s that are extended, attempts counted; `overlap = "queue"` keeps the order and,
//! like `"cancel"`, works on one message at a time.
//!
//! # Configuration
//! ```toml
//! [source]
//! type = "schedule"
//! cron = "30 2 * * MON-FRI"          # five fields, or six with seconds first; or every = "15m"
//! timezone = "Europe/Berlin"         # "UTC" by default
//! payload = '{"task":"app.tasks.nightly"}'
//! headers = { "content-type" = "application/json" }
//! # jitter = "30s"
//! # misfire = "once"
//! # overlap = "skip"
//! # queue = "app_tasks"
//! ```
//! Several schedules of one pipeline are several sources: `[source.nightly]`, `[source.hourly]`.
//!
//! From Rust:
//! ```
//! use dispatch_sources::schedule::ScheduleSourceConfig;
//!
//! let mut config = ScheduleSourceConfig::cron("0 12 * * *");
//! config.timezone = "Asia/Tokyo".into();
//! ```

mod config;
mod latest;
mod source;

pub use crate::slots::{Misfire, Overlap};
pub use config::ScheduleSourceConfig;
pub use source::ScheduleSource;
