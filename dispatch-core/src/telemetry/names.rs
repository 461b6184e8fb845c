//! Names of metrics. All carry the label `pipeline`.

/// Deliveries taken from sources; counter.
pub const RECEIVED: &str = "dispatch_received_total";
/// Deliveries taken from one source, by the label `component`; counter.
pub const SOURCE_RECEIVED: &str = "dispatch_source_received_total";
/// Messages that a sink took; counter.
pub const DELIVERED: &str = "dispatch_delivered_total";
/// Attempts that failed, by the label `class`; counter.
pub const FAILED: &str = "dispatch_failed_total";
/// Attempts made again within the stack; counter.
pub const RETRIED: &str = "dispatch_retried_total";
/// Messages put into the Store for a later attempt; counter.
pub const PARKED: &str = "dispatch_parked_total";
/// Messages given back to their source with a delay; counter.
pub const NACKED: &str = "dispatch_nacked_total";
/// Messages given back to their source untried; counter.
pub const RELEASED: &str = "dispatch_released_total";
/// Messages given up on and kept; counter.
pub const DEAD_LETTERED: &str = "dispatch_dead_lettered_total";
/// Deliveries of messages whose work was done already, acked without any; counted as delivered too; counter.
pub const DUPLICATES: &str = "dispatch_duplicates_total";
/// Settlements that did not reach the source; the message may come again; counter.
pub const SETTLE_FAILED: &str = "dispatch_settle_failed_total";
/// Settlements that were told to the source again; counter.
pub const SETTLE_RETRIED: &str = "dispatch_settle_retried_total";
/// Leases made longer; counter.
pub const LEASE_EXTENDED: &str = "dispatch_lease_extended_total";
/// Leases lost before the settlement; counter.
pub const LEASE_LOST: &str = "dispatch_lease_lost_total";
/// Calls to sources that failed; counter.
pub const SOURCE_ERRORS: &str = "dispatch_source_errors_total";
/// Deliveries received and not yet settled; gauge.
pub const IN_FLIGHT: &str = "dispatch_in_flight";
/// Messages that were started `stuck_after` ago or earlier and are not done; gauge.
pub const STUCK: &str = "dispatch_stuck";
/// The breaker: 0 closed, 1 half open, 2 open; gauge.
pub const BREAKER_STATE: &str = "dispatch_breaker_state";
/// From a message's creation to its receipt, for the latest receipt; gauge, seconds.
pub const QUEUE_LAG: &str = "dispatch_queue_lag_seconds";
/// Waits for a rate limit; histogram, seconds.
pub const RATE_LIMITED_WAIT: &str = "dispatch_rate_limited_wait_seconds";
/// Time by the label `stage`: `queue` (creation to receipt), `sink` (one attempt), `total` (receipt to outcome), `ack` (one settling call); histogram, seconds.
pub const STAGE: &str = "dispatch_stage_seconds";
/// Nodes that claim from the store's queues and are alive, as of the last look; gauge.
pub const STORE_NODES: &str = "dispatch_store_nodes";
/// Dead rows in the tables of the store's queues, where a server clears them away by itself, as of the last look; gauge.
pub const STORE_DEAD_ROWS: &str = "dispatch_store_dead_rows";
/// How long the oldest transaction is open that keeps the store's server from clearing dead rows away; gauge, seconds.
pub const STORE_OLDEST_TRANSACTION: &str = "dispatch_store_oldest_transaction_seconds";
/// How many transactions were begun since the oldest state that somebody holds in the store's server; gauge.
pub const STORE_HELD_TRANSACTIONS: &str = "dispatch_store_held_transactions";
