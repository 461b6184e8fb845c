//! What pipelines are working on, on one port: the gRPC scoreboard of sqsd, wire-compatible and with reflection, and the
//! JSON endpoints of its first version.
//!
//! | endpoint | answers |
//! |---|---|
//! | gRPC `sqsd.MonitoringService/CurrentWorkings` | id, receipt and beginning of each message that the sink has now |
//! | `GET /worker/current/jobs` | the same as JSON |
//! | `GET /worker/stats` | how many were handled, and how many workers are busy |
//! | `GET /stats` | the process, and how each pipeline is |
//! | `POST /worker/pause`, `POST /worker/resume` | receives nothing, and again |
//!
//! gRPC is HTTP/2 without TLS, the rest HTTP/1 or 2. Nobody is asked for a password, and a receipt is a key to its message: bind
//! a loopback address unless the network is yours.
//!
//! The pipelines do nothing for it until somebody asks.
//!
//! ```no_run
//! # async fn example(pipeline: dispatch_core::Pipeline) -> Result<(), Box<dyn std::error::Error>> {
//! use dispatch_monitoring::Server;
//!
//! let server = Server::start("127.0.0.1:6969".parse()?, [pipeline.handle()])?;
//! pipeline.run().await?;
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

mod json;
mod scoreboard;
mod server;

pub use server::Server;

/// The messages of `sqsd.proto`, and its client, for those who ask from Rust.
#[allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    rust_2018_idioms,
    reason = "generated code"
)]
pub mod proto {
    include!("generated/sqsd.rs");

    /// The descriptor set of `sqsd.proto`, as reflection tells it.
    pub const DESCRIPTOR: &[u8] = include_bytes!("generated/sqsd.bin");
}
