//! Doubles and conformance batteries, for us and for connectors of your own.

pub mod store;
