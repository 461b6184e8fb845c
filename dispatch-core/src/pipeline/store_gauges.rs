//! Looks now and then what the store's server has yet to clear away, and who claims from its queues.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    Error, Store,
    telemetry::{
        Meter,
        names::{STORE_DEAD_ROWS, STORE_HELD_TRANSACTIONS, STORE_NODES, STORE_OLDEST_TRANSACTION},
    },
};

/// Between two looks: vacuum itself comes once a minute at most.
const EVERY: Duration = Duration::from_secs(30);

/// Sets the gauges for as long as the store has something to say; one that never has gets none.
pub(super) async fn watch(store: Arc<dyn Store>, meter: Meter) {
    let set = |name, help, value| meter.gauge(name, help).set(i64::try_from(value).unwrap_or(i64::MAX));
    let (mut clears, mut tells) = (true, true);
    while clears || tells {
        if clears && let Some(found) = answered(store.bloat().await, &mut clears) {
            set(
                STORE_DEAD_ROWS,
                "dead rows in the tables of the store's queues",
                found.dead_rows,
            );
            set(
                STORE_OLDEST_TRANSACTION,
                "how long the oldest transaction is open that keeps dead rows from being cleared away",
                found.oldest_transaction.as_secs(),
            );
            set(
                STORE_HELD_TRANSACTIONS,
                "transactions begun since the oldest state that somebody holds in the store's server",
                found.held_transactions,
            );
        }
        if tells && let Some(nodes) = answered(store.nodes().await, &mut tells) {
            let alive = nodes.iter().filter(|node| node.alive).count();
            set(
                STORE_NODES,
                "nodes that claim from the store's queues and are alive",
                alive as u64,
            );
        }
        sleep(EVERY).await;
    }
}

/// What the store says; where it has no such thing, nobody asks `again`.
fn answered<T>(answer: Result<Option<T>, Error>, again: &mut bool) -> Option<T> {
    match answer {
        Ok(found) => {
            *again = found.is_some();
            found
        }
        Err(error) => {
            tracing::debug!(error = error.report(), "the store does not say how it is");
            None
        }
    }
}
