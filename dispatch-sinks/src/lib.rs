//! Where dispatch pushes messages to: a room per kind of worker, each behind a cargo feature of the same name.
//!
//! | feature | type | what it does with a message |
//! |---|---|---|
//! | `http` | `http` | sends it to a URL and reads the status |
//! | `command` | `command` | runs a process that gets it on standard input |
//! | `pg_notify` | `pg_notify` | publishes it as a PostgreSQL notification |
//! | `process` | `process` | hands it, a task, to a pool of long-lived worker processes (Unix) |
//! | `queue` | `queue` | puts it into our own durable queue |
//! | `sqs` | `sqs` | sends it to Amazon SQS |
//! | `stdout` | `stdout` | prints it |
//! | `tasks` | in code | calls the Rust handler of the task it names |

#[cfg(feature = "command")]
pub mod command;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "pg_notify")]
pub mod pg_notify;
#[cfg(all(feature = "process", unix))]
pub mod process;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "sqs")]
pub mod sqs;
#[cfg(feature = "stdout")]
pub mod stdout;
#[cfg(feature = "tasks")]
pub mod tasks;

/// Adds every sink that was compiled in.
pub fn register(registry: &mut dispatch_core::Registry) {
    #[cfg(feature = "command")]
    registry.sink::<command::CommandSinkConfig>();
    #[cfg(feature = "http")]
    registry.sink::<http::HttpSinkConfig>();
    #[cfg(feature = "pg_notify")]
    registry.sink::<pg_notify::PgNotifySinkConfig>();
    #[cfg(all(feature = "process", unix))]
    registry.sink::<process::ProcessSinkConfig>();
    #[cfg(feature = "queue")]
    registry.sink::<queue::QueueSinkConfig>();
    #[cfg(feature = "sqs")]
    registry.sink::<sqs::SqsSinkConfig>();
    #[cfg(feature = "stdout")]
    registry.sink::<stdout::StdoutSinkConfig>();
    let _ = registry;
}
