//! The real binary: its exit codes, its signals, what it prints, and that it loses nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod admin;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod bridge;
mod broken_pipe;
mod dead_letters;
mod debug;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_checklist;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_demo;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_durable;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_faults;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_outage;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_rust;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_rust_durable;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_socket;
#[cfg(feature = "full")]
#[cfg(feature = "dispatcherd")]
mod dispatcherd_start;

#[cfg(feature = "dispatcherd")]
mod dispatcherd_waiting;
mod docs;
mod examples;
mod exits;
mod files;
mod formats;
mod input;
mod kill;
mod mutants;
mod nodes;
#[cfg(feature = "full")]
mod notify;
#[cfg(feature = "otel")]
mod otel;
#[cfg(feature = "postgres")]
mod postgres;
mod rolling;
mod secrets;
mod signals;
mod slots;
#[cfg(feature = "sqs")]
mod sqs;
mod sqsd;
#[cfg(all(feature = "postgres", feature = "sqs", feature = "sqsd"))]
mod sqsd_cron;
#[cfg(all(feature = "sqs", feature = "sqsd", feature = "sqlite"))]
mod sqsd_example;
#[cfg(all(feature = "sqs", feature = "sqsd"))]
mod sqsd_faults;
#[cfg(all(feature = "sqs", feature = "sqsd"))]
mod sqsd_fifo;
#[cfg(all(feature = "sqs", feature = "sqsd"))]
mod sqsd_health;
#[cfg(all(feature = "sqs", feature = "sqsd"))]
mod sqsd_readme;
#[cfg(all(feature = "sqs", feature = "sqsd"))]
mod sqsd_server;
#[cfg(all(feature = "sqs", feature = "sqsd"))]
mod sqsd_worker;
mod steering;
mod support;
mod terminal;
mod traces;
mod verbs;
#[cfg(all(feature = "process", target_os = "linux"))]
mod workers;
