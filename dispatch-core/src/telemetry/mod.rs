//! Every metric name with its unit, and the counters behind them.

mod histogram;
mod left_out;
mod meter;
pub mod names;
mod sizes;
mod stats;
pub(crate) mod till;

pub(crate) use histogram::Tally;
pub use histogram::{BOUNDS, Histogram, HistogramSnapshot};
pub use left_out::LeftOut;
pub use meter::{Counter, Gauge, Measured, Meter, Reading};
pub use sizes::Sizes;
pub use stats::{ClassCounts, Stats};
