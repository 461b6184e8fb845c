//! What the maker of spans and their sender tell each other.

use std::sync::atomic::{AtomicBool, AtomicU64};

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Finished, to be sent.
    pub(super) finished: AtomicU64,
    /// Taken to be sent, whether that worked or not.
    pub(super) taken: AtomicU64,
    /// Whether the collector did not take the latest batch; said when it begins and when it ends.
    pub(super) failing: AtomicBool,
}
