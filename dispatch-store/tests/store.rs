//! The stores against the battery, against each other's processes and against broken places.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected should panic")]

#[cfg(feature = "postgres")]
#[path = "store/buried.rs"]
mod buried;
#[path = "store/config.rs"]
mod config;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[path = "store/driven.rs"]
mod driven;
#[cfg(feature = "postgres")]
#[path = "store/enqueue.rs"]
mod enqueue;
#[cfg(feature = "postgres")]
#[path = "store/failover.rs"]
mod failover;
#[cfg(feature = "postgres")]
#[path = "store/looks.rs"]
mod looks;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[path = "store/nodes.rs"]
mod nodes;
#[cfg(feature = "postgres")]
#[path = "store/nodes_served.rs"]
mod nodes_served;
#[cfg(feature = "postgres")]
#[path = "store/order.rs"]
mod order;
#[cfg(feature = "postgres")]
#[path = "store/postgres.rs"]
mod postgres;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "redis"))]
#[path = "store/rates.rs"]
mod rates;
#[cfg(feature = "redis")]
#[path = "store/redis.rs"]
mod redis;
#[cfg(feature = "sqlite")]
#[path = "store/sqlite.rs"]
mod sqlite;

use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Message, Store,
    store::{Claim, Claimed, Item},
};

fn item(payload: &str) -> Item {
    Item::of(&Message::new(payload.to_owned()))
}

fn claim(max: usize) -> Claim {
    Claim {
        max,
        lease: Duration::from_secs(60),
        ordered: false,
        below: None,
    }
}

/// Waits as a source does: claim, and if there is nothing, wait for a change.
async fn next(store: &Arc<dyn Store>, queue: &str) -> Vec<Claimed> {
    let look = async {
        loop {
            let claimed = store.queue().claim(queue, claim(100)).await.unwrap();
            if !claimed.is_empty() {
                return claimed;
            }
            store.queue().changed(queue).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), look)
        .await
        .expect("an item comes within 20 s")
}
