//! Named tasks from PostgreSQL notifications, type `pg_notify`: what Ansible's dispatcherd listens to, wire for wire.
//!
//! ```toml
//! [source]
//! type = "pg_notify"
//! dsn = "postgres://dispatch@127.0.0.1/app"
//! channels = ["tasks"]
//!
//! [sink]
//! type = "stdout"
//! ```
//!
//! A publisher says `SELECT pg_notify('tasks', '{"task": "app.resize", "args": [3], "uuid": "…"}')`; every service that
//! listens to the channel gets the task. The message's payload is that text, its id the `uuid`.
//!
//! * `delay`, `on_duplicate` and `timeout` are heeded; a task waits here, in the *hall*, for its time, for its like and
//!   for a free worker. The hall is bounded; what finds no room goes into the store.
//! * Commands (`running`, `cancel`, `workers`, …) are answered at once, on a connection of their own.
//! * One message that cannot be is refused alone. A lost connection is made anew at once; the gap is logged and counted,
//!   for what was sent meanwhile is lost: PostgreSQL keeps no notification for those who do not listen. The source `queue` over a
//!   PostgreSQL store does.
//!
//! ```
//! use dispatch_core::config::Secret;
//! use dispatch_sources::pg_notify::PgNotifySourceConfig;
//!
//! let config = PgNotifySourceConfig::new(Secret::new("host=127.0.0.1 dbname=app"), ["tasks"]);
//! assert_eq!(config.max_waiting, 100_000);
//! ```

mod config;
mod control;
mod hall;
mod heard;
mod listener;
mod listing;
mod parts;
mod producers;
mod replies;
mod service;
mod socket;
mod source;

pub use config::{Bound, Control, Members, OnStart, PgNotifySourceConfig, Reconnect, Scheduled};
pub use control::COMMANDS;
pub use dispatch_pg_client::PgError;
pub use hall::Overflow;
pub use socket::pieces;
pub use source::PgNotifySource;
