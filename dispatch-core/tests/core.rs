//! How the engine behaves, seen from outside: one binary, one module a subject.

mod conformance;
mod engine;
