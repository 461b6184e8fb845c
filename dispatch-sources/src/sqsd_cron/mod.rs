//! Makes a message for each periodic task of a `cron.yaml`, as the worker tier of Elastic Beanstalk does.
//!
//! ```yaml
//! version: 1
//! cron:
//!   - name: "backup-job"        # unique
//!     url: "/backup"            # the path that is posted to
//!     schedule: "0 */12 * * *"  # minute, hour, day of month, month, day of week
//!     timezone: "Europe/Berlin" # ours; the source's `timezone` by default
//! ```
//!
//! The message's id is `<pipeline>:<source>:<task>@<slot>`, its payload the words `elasticbeanstalk scheduled job`. The headers
//! `beanstalk.sqsd.path`, `beanstalk.sqsd.task_name` and `beanstalk.sqsd.scheduled_time` (`2026-11-22 07:00:00 UTC`) say what is
//! to be done; the sink `http` with `sqsd` posts to that path with an empty body.
//!
//! # Guarantees
//! Each slot of each task fires once, however many processes have the file and share the Store; no process is the leader.
//! From the Store's queue `schedule:<pipeline>:<source>` the message is delivered at least once, over restarts.
//!
//! The file is read again when it changes. A file that has become wrong changes nothing, and is told of in the log; a
//! task that was changed or added has missed nothing. A file that is not there, or empty, has no tasks.
//!
//! `misfire` says what becomes of slots that nobody could fire within 30 s: the latest fires (`once`, the default), none (`skip`),
//! or all in order (`all`).
//!
//! # Capabilities
//! As those of the source `schedule`.
//!
//! # Configuration
//! ```toml
//! [source]
//! type = "sqsd_cron"
//! file = "cron.yaml"
//! # timezone = "UTC"
//! # misfire = "once"
//! # reload = "5s"        # how often the file is looked at
//! ```
//!
//! From Rust:
//! ```
//! use dispatch_sources::sqsd_cron::SqsdCronSourceConfig;
//!
//! let mut config = SqsdCronSourceConfig::new("cron.yaml");
//! config.timezone = "Asia/Tokyo".into();
//! ```

mod config;
mod file;
mod source;
mod tasks;

pub use crate::slots::Misfire;
pub use config::SqsdCronSourceConfig;
pub use source::SqsdCronSource;
