//! Runs one process per message.
//!
//! The payload is on its standard input, what is known about the message in its environment; what it prints is the
//! reply, and its exit code decides, by the meanings of `sysexits.h`:
//!
//! | exit | class |
//! |---|---|
//! | 0 | success |
//! | 64 usage, 65 data, 66 no input, 67 no user, 68 no host, 77 no permission, 78 configuration | `permanent` |
//! | 69 unavailable; 126, 127 (a shell did not find its command); the program cannot be started | `unavailable` |
//! | 75 temporary failure, every other code, ended by a signal | `retry` |
//! | a message that fits no argument list (too long, or a NUL byte where a field goes) | `permanent` |
//!
//! `exit_codes` overrides this: `{ "3" = "permanent", "4" = "success" }`.
//!
//! # Environment
//! `DISPATCH_ID`, `DISPATCH_ATTEMPT`, `DISPATCH_KEY`, `DISPATCH_HEADER_<NAME>` and `DISPATCH_META_<NAME>` (upper case,
//! everything but letters and digits as `_`, the first of several values), `TRACEPARENT` and `TRACESTATE`. A value with
//! a NUL byte cannot be in an environment and is left out.
//!
//! # Guarantees
//! The process leads a group of its own. Whatever is left of the group is killed when the process exits, and all of it
//! when the send is dropped (timeout, deadline, end of a drain); nothing stays behind, not even a zombie. A process
//! that does not read its input is fine.
//!
//! # Configuration
//! ```toml
//! [sink]
//! type = "command"
//! command = ["./resize", "--id", "{{ id }}"]     # never goes through a shell; say ["sh", "-c", "…"] for one
//! # env = { TENANT = "{{ header:tenant | default \"none\" }}" }
//! # env_clear = false
//! # cwd = "work"
//! # max_output = "1MiB"
//! # exit_codes = { "3" = "permanent" }
//! ```
//!
//! From Rust:
//! ```
//! use dispatch_sinks::command::{CommandSink, CommandSinkConfig};
//!
//! let sink = CommandSink::new(&CommandSinkConfig::new(["cat".parse()?]), ".".as_ref())?;
//! # let _ = sink;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod config;
mod error;
mod output;
mod process;
mod sink;
mod wire;

pub use config::CommandSinkConfig;
pub use dispatch_core::config::Verdict;
pub use error::CommandSinkError;
pub use sink::CommandSink;
