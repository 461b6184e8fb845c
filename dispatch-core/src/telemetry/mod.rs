//! Every name of a metric and of what a span carries, with its unit; the counters, and the hooks for spans.

pub mod attributes;
mod histogram;
mod left_out;
mod meter;
pub mod names;
mod sizes;
mod stats;
pub(crate) mod till;
mod tracer;

pub(crate) use histogram::Tally;
pub use histogram::{BOUNDS, Histogram, HistogramSnapshot};
pub use left_out::LeftOut;
pub use meter::{Counter, Gauge, Measured, Meter, Reading};
pub use sizes::Sizes;
pub use stats::{ClassCounts, Stats};
pub(crate) use tracer::{Entered, attempt_failed, coming_from, enter, origin};
pub use tracer::{Origin, TraceSpan, Tracer, batch_span, set_tracer, tracer};
