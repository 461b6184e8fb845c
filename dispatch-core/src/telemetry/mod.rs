//! Every metric name with its unit, and the counters behind them.

mod histogram;
pub mod names;
mod stats;

pub use histogram::{BOUNDS, Histogram, HistogramSnapshot};
pub use stats::{ClassCounts, Stats};
