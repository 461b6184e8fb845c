//! How the engine behaves, seen from outside: one binary, one module a subject.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected should panic")]

mod config;
mod conformance;
mod engine;
