//! Looks now and then what the store's server has yet to clear away.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    Store,
    telemetry::{
        Meter,
        names::{STORE_DEAD_ROWS, STORE_HELD_TRANSACTIONS, STORE_OLDEST_TRANSACTION},
    },
};

/// Between two looks: vacuum itself comes once a minute at most.
const EVERY: Duration = Duration::from_secs(30);

/// Sets the gauges for as long as the store has something to say; one that never has gets none.
pub(super) async fn watch(store: Arc<dyn Store>, meter: Meter) {
    loop {
        match store.bloat().await {
            Ok(None) => return,
            Ok(Some(bloat)) => {
                let set = |name, help, value| meter.gauge(name, help).set(i64::try_from(value).unwrap_or(i64::MAX));
                set(
                    STORE_DEAD_ROWS,
                    "dead rows in the tables of the store's queues",
                    bloat.dead_rows,
                );
                set(
                    STORE_OLDEST_TRANSACTION,
                    "how long the oldest transaction is open that keeps dead rows from being cleared away",
                    bloat.oldest_transaction.as_secs(),
                );
                set(
                    STORE_HELD_TRANSACTIONS,
                    "transactions begun since the oldest state that somebody holds in the store's server",
                    bloat.held_transactions,
                );
            }
            Err(error) => tracing::debug!(error = error.report(), "the store does not say what is dead"),
        }
        sleep(EVERY).await;
    }
}
