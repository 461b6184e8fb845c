//! Every metric name with its unit, and the counters behind them.

mod histogram;
mod meter;
pub mod names;
mod stats;

pub(crate) use histogram::Tally;
pub use histogram::{BOUNDS, Histogram, HistogramSnapshot};
pub use meter::{Counter, Gauge, Meter, Reading};
pub use stats::{ClassCounts, Stats};
