//! Where dispatch pulls messages from: a room per kind of origin, each behind a cargo feature of the same name.
//!
//! | feature | type | a message is |
//! |---|---|---|
//! | `file` | `file` | a line of a file |
//! | `http` | `http` | a request, or a line of one |
//! | `pg_notify` | `pg_notify` | a notification of a PostgreSQL server: a named task |
//! | `queue` | `queue` | an item of our own durable queue |
//! | `schedule` | `schedule` | a slot of an interval or a cron pattern |
//! | `sqsd_cron` | `sqsd_cron` | a periodic task of a `cron.yaml`, as Elastic Beanstalk has them |
//! | `sqs` | `sqs` | a message of Amazon SQS |
//! | `startup` | `startup` | what is to be done once per start |
//! | `stdin` | `stdin` | a line of standard input |

#[cfg(feature = "dispatcherd")]
pub mod dispatcherd;
#[cfg(feature = "file")]
pub mod file;
#[cfg(any(feature = "file", feature = "http", feature = "stdin"))]
mod framing;
#[cfg(feature = "http")]
pub mod http;
#[cfg(any(feature = "file", feature = "stdin"))]
mod lines;
#[cfg(any(feature = "startup", feature = "stdin"))]
mod loans;
#[cfg(feature = "pg_notify")]
pub mod pg_notify;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "schedule")]
pub mod schedule;
#[cfg(any(feature = "schedule", feature = "sqsd_cron"))]
#[cfg_attr(
    not(feature = "schedule"),
    allow(
        dead_code,
        unreachable_pub,
        reason = "intervals and overlaps are of `schedule` alone"
    )
)]
mod slots;
#[cfg(feature = "sqs")]
pub mod sqs;
#[cfg(feature = "sqsd_cron")]
pub mod sqsd_cron;
#[cfg(feature = "startup")]
pub mod startup;
#[cfg(feature = "stdin")]
pub mod stdin;

/// Adds every source that was compiled in.
pub fn register(registry: &mut dispatch_core::Registry) {
    #[cfg(feature = "file")]
    registry.source::<file::FileSourceConfig>();
    #[cfg(feature = "http")]
    registry.source::<http::HttpSourceConfig>();
    #[cfg(feature = "pg_notify")]
    registry.source::<pg_notify::PgNotifySourceConfig>();
    #[cfg(feature = "queue")]
    registry.source::<queue::QueueSourceConfig>();
    #[cfg(feature = "schedule")]
    registry.source::<schedule::ScheduleSourceConfig>();
    #[cfg(feature = "sqsd_cron")]
    registry.source::<sqsd_cron::SqsdCronSourceConfig>();
    #[cfg(feature = "sqs")]
    registry.source::<sqs::SqsSourceConfig>();
    #[cfg(feature = "startup")]
    registry.source::<startup::StartupSourceConfig>();
    #[cfg(feature = "stdin")]
    registry.source::<stdin::StdinSourceConfig>();
    let _ = registry;
}
