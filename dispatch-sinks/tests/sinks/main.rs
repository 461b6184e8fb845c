//! How each sink behaves against the real thing.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected should panic")]

#[cfg(unix)]
mod command;
mod documentation;
mod http;
mod pg_notify;
#[cfg(unix)]
mod process;
mod sqs;
mod sqsd;
mod tasks;
