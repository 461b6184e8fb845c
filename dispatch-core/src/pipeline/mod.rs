//! A pipeline: sources, the layers, a sink, a store, and the driver that moves messages between them.
//!
//! ```
//! use dispatch_core::{BoxError, Message, Pipeline, sink_fn, testing::MemorySource};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), dispatch_core::Error> {
//! let summary = Pipeline::builder("hello")
//!     .source(MemorySource::ending(["a", "b"].map(Message::new)))
//!     .sink(sink_fn(|message: Message| async move {
//!         println!("{}", String::from_utf8_lossy(&message.payload));
//!         Ok::<_, BoxError>(())
//!     }))
//!     .concurrency(8)
//!     .run()
//!     .await?;
//! assert_eq!(summary.delivered, 2);
//! # Ok(())
//! # }
//! ```
//!
//! A message takes one straight line: [`Source::receive`](crate::Source::receive) → the window → its lane → the
//! [`Stack`](crate::layer::Stack) → [`Sink::send`](crate::Sink::send) → the verdict → the desk →
//! [`Settler::settle`](crate::Settler::settle). What must outlive the process goes through the Store before the source
//! may forget it.

mod builder;
mod commands;
mod control;
mod desk;
mod driver;
mod gate;
mod health;
mod intake;
mod keep;
mod lanes;
mod parking;
mod roll;
mod run;
mod slots;
mod store_gauges;
mod stuck;
mod verdict;
mod visit;
mod work;

pub use builder::{Pipeline, PipelineBuilder, Summary, parked_queue};
pub use control::{ComponentStatus, Handle, Phase, Status};
pub use health::HealthCheck;
pub use lanes::{LanePolicy, Lanes};
pub use roll::InProgress;
