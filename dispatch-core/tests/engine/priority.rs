//! E24: priorities of the Store's queue, strict and with turns for the lower ones, through the driver.

use std::num::NonZeroU32;

use dispatch_core::store::{Item, QueueSource};

use super::*;

/// What a pipeline of one worker is given, in its order, while the two lower priorities have `few` messages each and the
/// highest has plenty.
async fn order(few: usize, every: Option<u32>) -> Vec<String> {
    let store = Arc::new(MemoryStore::new());
    let items = [("low", -3, few), ("middle", 0, few), ("high", 7, 1_000)];
    let items = items.iter().flat_map(|(name, priority, count)| {
        let mut item = Item::of(&Message::new(*name));
        item.priority = *priority;
        std::iter::repeat_n(item, *count)
    });
    store.queue().enqueue("q", items.collect()).await.unwrap();
    let source = QueueSource::new(store.clone(), "q");
    let source = match every.and_then(NonZeroU32::new) {
        Some(every) => source.serve_lower_every(every),
        None => source,
    };
    let sink = MemorySink::new();
    let pipeline = Pipeline::builder("test")
        .source(source)
        .sink(sink.clone())
        .store(store)
        .concurrency(1)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.took(1_000 + 2 * few).await;
    handle.drain();
    run.await.unwrap().unwrap();
    let text = |message: &Message| String::from_utf8(message.payload.to_vec()).unwrap();
    sink.messages().iter().map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn the_lower_priorities_are_served_within_the_bound() {
    for every in [2, 10, 25] {
        let few = 15;

        let order = order(few, Some(every)).await;

        // All three wait until the last of the lowest is given out.
        let last = order.iter().rposition(|name| name == "low").unwrap();
        let (every, lower) = (every as usize, 2);
        for (window, name) in [(every * lower, "low"), (every * lower, "middle"), (2, "high")] {
            for at in 0..=last.saturating_sub(window) {
                let served = order[at..at + window].iter().any(|other| other == name);
                assert!(
                    served,
                    "no {name} among the {window} from {at}, every {every}: {order:?}"
                );
            }
        }
        let given = order[..=last].iter().filter(|name| *name != "high").count();
        assert_eq!(given, (last + 1) / every, "one in {every} and no more: {order:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn by_default_the_lower_priorities_wait() {
    let order = order(5, None).await;

    let first = order.iter().position(|name| name != "high").unwrap();
    assert_eq!((first, order[first].as_str()), (1_000, "middle"));
}
