//! Tasks in Rust: a handler for each named task, as a sink; and publishers that start them, over any other sink.
//!
//! A [`Task`] is a type that can be serialised and has a name. Its handler is an `async fn` that takes it, and whatever
//! else it needs of the state, the attempt or the cancellation. On the wire it is what Ansible's dispatcherd writes, so
//! Python publishers start Rust tasks and Rust publishers Python ones: the task's fields are its `kwargs`, or, from
//! Python, its `args` in their order.
//!
//! ```
//! use dispatch_core::{Error, Pipeline, testing::MemorySource};
//! use dispatch_sinks::tasks::{Attempt, State, Task, Tasks};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Resize { image: u64, width: u32 }
//!
//! impl Task for Resize {
//!     const NAME: &'static str = "app.tasks.resize";
//! }
//!
//! async fn resize(task: Resize, State(scale): State<u32>, Attempt(attempt): Attempt) -> Result<(), Error> {
//!     println!("image {} to {} (attempt {attempt})", task.image, task.width * scale);
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error> {
//! let tasks = Tasks::new().state(2_u32).handle(resize);
//! # let message = dispatch_core::Message::new(r#"{"task": "app.tasks.resize", "args": [7, 100]}"#);
//! # let source = MemorySource::ending([message]);
//! let summary = Pipeline::builder("resizing").source(source).sink(tasks).run().await?;
//! # assert_eq!(summary.delivered, 1);
//! # Ok(()) }
//! ```
//!
//! What a handler returns decides what becomes of the task: `Ok`, or an [`Error`](dispatch_core::Error) of one of the four
//! classes. A message that names no task, an unknown one, or arguments that do not fit, is `Permanent`.

mod control;
mod extract;
mod handler;
mod publisher;
mod sink;
mod wire;

pub use extract::{Attempt, Cancellation, Context, FromContext, State, TaskId};
pub use handler::Handler;
pub use publisher::{Options, Publisher};
use serde::{Serialize, de::DeserializeOwned};
pub use sink::{Tasks, TasksError};

/// A named piece of work: what it needs to know, and how it is published.
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// The name on the wire: `module.function`.
    const NAME: &'static str;
    /// The queue or channel that it is published to; none means the publisher's own.
    const QUEUE: Option<&'static str> = None;

    /// How it is published unless a call says otherwise.
    #[must_use]
    fn options() -> Options {
        Options::default()
    }
}
