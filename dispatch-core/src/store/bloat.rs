use std::time::Duration;

/// What a store's server has yet to clear away of rows that were changed or removed, and what keeps it from that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bloat {
    /// Dead rows in the tables of the queues, about.
    pub dead_rows: u64,
    /// How long the oldest transaction is open that may still see what is dead; zero where there is none.
    pub oldest_transaction: Duration,
    /// How many transactions were begun since the oldest state that somebody may still see: a transaction, a replication slot,
    /// a standby.
    pub held_transactions: u64,
}
