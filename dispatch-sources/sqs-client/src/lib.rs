//! One queue of Amazon SQS for dispatch's source and sink: who signs, where it lives, bounds on every wait, and one reading
//! of every error.
//!
//! ```no_run
//! # async fn example() -> Result<(), dispatch_sqs_client::SqsError> {
//! use dispatch_sqs_client::Place;
//!
//! let place = Place {
//!     queue_url: Some("https://sqs.eu-west-1.amazonaws.com/123456789012/orders"),
//!     ..Place::default()
//! };
//! let queue = place.connect(None).await?;
//! queue.ask().await?; // it is there, and the credentials are good
//! # Ok(()) }
//! ```

mod agent;
mod code;
mod error;
mod host;
mod place;
mod queue;

pub use code::is_stale;
pub use error::{SqsError, judge};
pub use host::region_of;
pub use place::{Place, check_url};
pub use queue::Queue;
