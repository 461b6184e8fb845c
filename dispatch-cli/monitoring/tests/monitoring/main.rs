//! The port as its users see it: over gRPC, by reflection, and as JSON.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected should panic")]

mod generated;
mod served;
