//! E18: the Store's queue with `ordered`, through the driver.

use std::collections::HashMap;

use dispatch_core::store::{Item, QueueSource};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_ordered_queue_keeps_the_order_of_each_key_while_one_in_ten_fails() {
    const COUNT: usize = 500;
    let store = Arc::new(MemoryStore::new());
    let items = (0..COUNT).map(|n| {
        let message = Message::with_id(format!("m{n}"), n.to_string()).with_key(format!("k{}", n % 7));
        Item::of(&message)
    });
    store.queue().enqueue("q", items.collect()).await.unwrap();
    let sink = MemorySink::slow(Duration::from_millis(3), |message| {
        let n: usize = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        if n.is_multiple_of(10) && message.attempt < 3 {
            no("tenth")
        } else {
            Ok(())
        }
    });
    let pipeline = Pipeline::builder("test")
        .source(QueueSource::new(store.clone(), "q").ordered(true))
        .sink(sink.clone())
        .store(store.clone())
        .retry(every(Duration::from_secs(5)))
        .stack(|stack| stack.breaker = None)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    tokio::time::timeout(Duration::from_secs(24 * 3_600), sink.took(COUNT))
        .await
        .expect("all are taken");
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    let mut last = HashMap::new();
    for message in sink.messages() {
        let n: usize = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        let before = last.insert(message.key().cloned(), n);
        assert!(before.is_none_or(|before| before < n), "{n} after {before:?}");
    }
    assert_eq!(
        (summary.delivered, summary.failed),
        (COUNT as u64, COUNT as u64 / 10 * 2)
    );
    assert!(sink.most_at_once() > 1, "other keys go on beside a failing one");
}
