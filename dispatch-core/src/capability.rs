//! What a source can do, so that nothing is faked.

use std::time::Duration;

/// What a source can do natively; the driver does the rest itself or through the Store.
///
/// The default is the poorest source: no delay, no lease, no order, no count.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// How far ahead a nack can ask for redelivery. Longer or unsupported delays are parked in the Store.
    pub nack_delay: NackDelay,
    /// Whether a delivery that is released or nacked comes again; if not, a failed message is parked in the Store.
    pub redelivers: bool,
    /// How long a delivery is ours before the broker gives it to somebody else; none: as long as we are connected.
    pub lease: Option<Duration>,
    /// Whether [`Settler::extend`](crate::Settler::extend) makes a lease longer.
    pub extends: bool,
    /// The most settlements that one call takes.
    pub settle_batch: usize,
    /// How long settlements may wait for company.
    pub settle_linger: Duration,
    /// Whether a delivery whose outcome is known leaves its place in the window to the next one while it waits for its
    /// settlement, as far as settlements of 5 full calls go. For sources whose settlements wait long for company.
    pub settles_apart: bool,
    /// What order deliveries come in.
    pub order: Order,
    /// Whether, under [`Order::Key`], deliveries of one key may come before the last one is settled: the driver then
    /// works on one of a key at a time, and gives those behind a failed one back after it.
    pub needs_lanes: bool,
    /// Whether `Message::attempt` counts earlier deliveries. Where it does not, failures that leave the process are parked in the Store, which counts.
    pub counts_redeliveries: bool,
    /// Whether [`Received::End`](crate::Received::End) will come.
    pub bounded: bool,
    /// Whether the far side waits for the outcome: settled with the reply, told when a message is given up on.
    pub wants_reply: bool,
    /// How many deliveries beyond the concurrency are worth holding while they are worked off quickly, unless the pipeline
    /// says otherwise.
    pub prefetch: usize,
    /// Whether the source keeps its connection itself: it is received from at once, without a [`probe`](crate::Source::probe), since
    /// it may have something to bring meanwhile, and counts as connected once [`Received::Health`](crate::Received::Health) says so.
    pub connects_itself: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            nack_delay: NackDelay::Unsupported,
            redelivers: false,
            lease: None,
            extends: false,
            connects_itself: false,
            settle_batch: 256,
            settle_linger: Duration::from_millis(1),
            settles_apart: false,
            order: Order::None,
            needs_lanes: false,
            counts_redeliveries: false,
            bounded: false,
            wants_reply: false,
            prefetch: 1,
        }
    }
}

/// How far ahead a nack can ask for redelivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NackDelay {
    /// A nack cannot say when.
    Unsupported,
    /// Up to this long.
    UpTo(Duration),
    /// As long as anybody wants.
    Unlimited,
}

impl NackDelay {
    /// Whether a nack can carry this delay.
    #[must_use]
    pub fn allows(self, delay: Duration) -> bool {
        match self {
            Self::Unsupported => false,
            Self::UpTo(limit) => delay <= limit,
            Self::Unlimited => true,
        }
    }
}

/// What order deliveries come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any.
    None,
    /// As they were sent.
    Whole,
    /// As they were sent under the same [`Message::key`](crate::Message::key); a failing head holds its followers back.
    Key,
}
