//! The engine of dispatch: pull work from any queue, push it through tower layers into any worker, and never lose one.

mod backoff;
mod capability;
pub mod clock;
mod commands;
#[cfg(feature = "config")]
pub mod config;
mod delivery;
mod error;
mod headers;
mod id;
pub mod layer;
mod lock;
mod message;
mod outline;
mod own;
pub mod pipeline;
#[cfg(feature = "config")]
mod registry;
mod reply;
mod selector;
#[cfg(feature = "signal")]
mod signals;
mod sink;
mod source;
pub mod store;
pub mod tasks;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use backoff::{Backoff, Jitter};
pub use capability::{Capabilities, NackDelay, Order};
pub use commands::Commands;
pub use delivery::{Delivery, Receipt, Token};
pub use error::{Attempt, BoxError, Class, Classify, Error, Later};
pub use headers::{HeaderValue, Headers};
pub use id::{process_id, random_id};
pub use layer::RetryPolicy;
pub use message::{Envelope, Message};
pub use outline::Outline;
pub use pipeline::{HealthCheck, Pipeline};
#[cfg(feature = "config")]
pub use registry::{Component, Factory, Registry};
pub use reply::{Answer, Reply};
pub use selector::{Selector, SelectorError};
#[cfg(feature = "signal")]
pub use signals::asked_to_end;
pub use sink::{Fallback, Fanout, FnSink, Route, ServiceSink, Sink, Then, sink_fn};
pub use source::{Disposition, Progress, Received, SettleError, Settlement, Settler, Source};
pub use store::{MemoryStore, Store};
