//! Doubles and conformance batteries, for us and for connectors of your own.

mod faults;
mod logs;
mod memory_sink;
mod memory_source;
pub mod sink;
pub mod source;
pub mod store;

pub use faults::{Faults, FaultySource, FaultyStore};
pub use logs::Logs;
pub use memory_sink::MemorySink;
pub use memory_source::{MemoryQueue, MemorySource};
