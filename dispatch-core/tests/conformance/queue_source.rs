use std::sync::Arc;

use dispatch_core::{
    MemoryStore, Message, random_id,
    store::{Item, QueueSource, Store},
    testing::source::{Bench, source_battery},
};

#[tokio::test(start_paused = true)]
async fn the_stores_queue_passes_the_battery_of_sources() {
    source_battery(async || {
        let store = Arc::new(MemoryStore::new());
        let queue = random_id();
        let source = QueueSource::new(store.clone(), queue.as_str());
        Bench::new(source, move |payloads| {
            let (store, queue) = (Arc::clone(&store), queue.clone());
            Box::pin(async move {
                let items = payloads
                    .into_iter()
                    .map(|payload| Item::of(&Message::new(payload)))
                    .collect();
                store.queue().enqueue(&queue, items).await.unwrap();
            })
        })
    })
    .await;
}
