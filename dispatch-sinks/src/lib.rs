//! Where dispatch pushes messages to: a room per kind of worker, each behind a cargo feature of the same name.
//!
//! | feature | type | what it does with a message |
//! |---|---|---|
//! | `http` | `http` | sends it to a URL and reads the status |
//! | `command` | `command` | runs a process that gets it on standard input |
//! | `process` | `process` | hands it, a task, to a pool of long-lived worker processes (Unix) |
//! | `queue` | `queue` | puts it into our own durable queue |
//! | `stdout` | `stdout` | prints it |

#[cfg(feature = "command")]
pub mod command;
#[cfg(feature = "http")]
pub mod http;
#[cfg(all(feature = "process", unix))]
pub mod process;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "stdout")]
pub mod stdout;

/// Adds every sink that was compiled in.
pub fn register(registry: &mut dispatch_core::Registry) {
    #[cfg(feature = "command")]
    registry.sink::<command::CommandSinkConfig>();
    #[cfg(feature = "http")]
    registry.sink::<http::HttpSinkConfig>();
    #[cfg(all(feature = "process", unix))]
    registry.sink::<process::ProcessSinkConfig>();
    #[cfg(feature = "queue")]
    registry.sink::<queue::QueueSinkConfig>();
    #[cfg(feature = "stdout")]
    registry.sink::<stdout::StdoutSinkConfig>();
    let _ = registry;
}
