//! The memory store against the battery.

use std::sync::Arc;

use dispatch_core::{MemoryStore, testing::store::store_battery};

#[tokio::test(start_paused = true)]
async fn the_memory_store_passes_the_battery() {
    store_battery(Arc::new(MemoryStore::new())).await;
}
