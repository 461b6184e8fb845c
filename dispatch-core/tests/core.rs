//! How the engine behaves, seen from outside: one binary, one module a subject.

mod config;
mod conformance;
mod engine;
