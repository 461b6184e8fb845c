//! The memory doubles against the batteries that every connector passes.

mod memory_store;
mod queue_source;
