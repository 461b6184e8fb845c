//! The tower layers, each usable on its own around any `Service<Message>`.
//!
//! The right order, outermost first, is that of [`Stack`]: trace, deadline, retry, breaker, rate limit, concurrency,
//! timeout, catch panic; around them all, where it is wanted, [`DedupeLayer`]. Limits sit *inside* retry, so that each attempt pays the rate and a message in backoff holds
//! no permit. The other way round one failing message starves the healthy ones behind it:
//!
//! ```
//! use dispatch_core::{Message, Reply, BoxError, RetryPolicy, layer::{ConcurrencyLayer, RetryLayer}};
//! use tower::{ServiceBuilder, service_fn};
//!
//! # let work = service_fn(|_: Message| async { Ok::<_, BoxError>(Reply::default()) });
//! // right: the permit is given back while a message waits for its next attempt
//! let right = ServiceBuilder::new()
//!     .layer(RetryLayer::new(RetryPolicy::default()))
//!     .layer(ConcurrencyLayer::new(64))
//!     .service(work.clone());
//!
//! // wrong: the permit is held through every backoff
//! let wrong = ServiceBuilder::new()
//!     .layer(ConcurrencyLayer::new(64))
//!     .layer(RetryLayer::new(RetryPolicy::default()))
//!     .service(work);
//! # let _ = (right, wrong);
//! ```
//!
//! Every layer is ready at once and does its waiting inside the call's future, so that a message waits where a
//! deadline can see it and nothing is reserved for messages that have not come.

mod adaptive;
mod alarms;
mod breaker;
mod catch_panic;
mod concurrency;
mod deadline;
mod dedupe;
mod hold;
mod keyed;
mod measure;
mod rate_limit;
mod retry;
mod retry_policy;
mod stack;
mod step;
mod timeout;
mod trace;
mod witness;

pub use adaptive::{AdaptiveConcurrency, AdaptiveConcurrencyLayer, AdaptiveSettings};
pub use breaker::{Breaker, BreakerHandle, BreakerLayer, BreakerSettings, BreakerState};
pub use catch_panic::{CatchPanic, CatchPanicLayer};
pub(crate) use catch_panic::{PANIC, unless_panicked};
pub use concurrency::{Concurrency, ConcurrencyLayer};
pub(crate) use deadline::expired;
pub use deadline::{Deadline, DeadlineLayer};
pub(crate) use dedupe::IN_PROGRESS;
pub use dedupe::{Dedupe, DedupeLayer};
pub use keyed::KeyFn;
pub use measure::{Measure, MeasureLayer};
pub use rate_limit::{OnStoreError, RateLimit, RateLimitLayer, SharedRate};
pub use retry::{Retry, RetryLayer};
pub use retry_policy::{RetryBudget, RetryPolicy, RetryRule};
pub use stack::{Limit, Stack, StackLayer, StackService};
pub use step::Step;
pub use timeout::{Timeout, TimeoutLayer};
pub(crate) use trace::trace_id;
pub use trace::{Trace, TraceLayer};

use std::sync::Arc;

use tower::util::BoxCloneSyncService;

use crate::{Error, Message, Reply};

/// A service of messages with its type forgotten.
pub type MessageService = BoxCloneSyncService<Message, Reply, Error>;

/// A layer with its type forgotten.
pub type MessageLayer = Arc<dyn Fn(MessageService) -> MessageService + Send + Sync>;
