//! Named tasks on the wire, as Ansible's dispatcherd writes them: what sources, worker pools and publishers share.
//!
//! A task is a JSON object that names a callable and its arguments. What a service does not itself need of it is never
//! rewritten: `NaN`, integers of any length and lone surrogates reach the worker as they were sent.
//!
//! ```
//! use dispatch_core::tasks::{BarePayload, Incoming};
//!
//! let text = r#"{"task": "app.tasks.resize", "args": [3], "uuid": "7968", "delay": 10}"#;
//! let Incoming::Task(task) = Incoming::read(text, BarePayload::Task) else { unreachable!() };
//! assert_eq!((&*task.task, task.delay.unwrap().as_secs()), ("app.tasks.resize", 10));
//! ```

pub mod chunks;
mod filter;
#[cfg(feature = "tasks")]
mod heed;
pub mod json;
mod listed;
mod members;
mod message;

pub use filter::Filter;
#[cfg(feature = "tasks")]
pub use heed::{heed, identity};
pub use listed::{Listed, Shown, Space};
pub use members::{add_members, more_members, with_members};
pub use message::{
    ASKS, BarePayload, ControlMessage, Incoming, LONGEST_CHANNEL, OnDuplicate, Rejected, TaskMessage, is_empty,
    likeness,
};
