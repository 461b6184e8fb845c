//! E22: reserve, work, commit. Nothing is lost at any step, and what is committed is not worked on again.

use std::sync::atomic::Ordering::Relaxed;

use dispatch_core::{
    Class,
    layer::DedupeLayer,
    store::Reservation,
    testing::{Faults, FaultyStore},
};
use tokio::time::Instant;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn twice(id: &str) -> [Message; 2] {
    [Message::with_id(id, "x"), Message::with_id(id, "x")]
}

fn deduped(source: MemorySource, sink: &MemorySink, store: Arc<dyn Store>) -> PipelineBuilder {
    pipeline(source, sink).dedupe(DedupeLayer::new(store, "queue"))
}

#[tokio::test(start_paused = true)]
async fn a_second_delivery_of_finished_work_is_acked_without_any() {
    let sink = MemorySink::new();
    let pipeline = deduped(MemorySource::ending(twice("m")), &sink, Arc::new(MemoryStore::new()))
        .concurrency(1)
        .build()
        .unwrap();
    let handle = pipeline.handle();

    let summary = pipeline.run().await.unwrap();

    assert_eq!((sink.count(), summary.delivered), (1, 2));
    assert_eq!(handle.stats().duplicates.load(Relaxed), 1);
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn two_deliveries_at_once_are_worked_on_once() {
    let sink = MemorySink::slow(5 * SECOND, |_| Ok(()));

    let summary = deduped(MemorySource::ending(twice("m")), &sink, Arc::new(MemoryStore::new()))
        .run()
        .await
        .unwrap();

    // The second went back until the first one's lease would have ended, and was then found done.
    assert_eq!((sink.count(), summary.nacked, summary.delivered), (1, 1, 2));
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn work_of_ten_leases_keeps_its_key() {
    let sink = MemorySink::slow(100 * SECOND, |_| Ok(()));
    let store = Arc::new(MemoryStore::new());
    let layer = DedupeLayer::new(store.clone(), "queue").lease(10 * SECOND);

    let summary = pipeline(MemorySource::ending(twice("m")), &sink)
        .timeout(200 * SECOND)
        .dedupe(layer)
        .run()
        .await
        .unwrap();

    assert_eq!((sink.count(), summary.delivered), (1, 2));
    assert!(summary.nacked >= 9, "{summary:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_message_is_not_locked_out() {
    let sink = MemorySink::answering(|message| if message.attempt < 4 { no("not yet") } else { Ok(()) });
    let began = Instant::now();

    // Waits of a minute leave the process: each attempt is a delivery of its own.
    let summary = deduped(
        MemorySource::ending([Message::with_id("m", "x")]),
        &sink,
        Arc::new(MemoryStore::new()),
    )
    .retry(every(60 * SECOND))
    .run()
    .await
    .unwrap();

    assert_eq!((sink.count(), summary.nacked, summary.delivered), (1, 3, 1));
    assert_eq!(began.elapsed().as_secs(), 180, "no wait for a lease among them");
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_process_held_is_taken_over_when_its_lease_ends() {
    let store = Arc::new(MemoryStore::new());
    let reserved = store.reservations().reserve("queue:m", "killed", 30 * SECOND).await;
    assert_eq!(reserved.unwrap(), Reservation::Reserved);
    let sink = MemorySink::new();
    let began = Instant::now();

    let summary = deduped(MemorySource::ending([Message::with_id("m", "x")]), &sink, store)
        .run()
        .await
        .unwrap();

    assert_eq!((sink.count(), summary.delivered, summary.failed), (1, 1, 0));
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_back_the_key_of_what_it_cancels() {
    let store = Arc::new(MemoryStore::new());
    let sink = MemorySink::slow(1_000 * SECOND, |_| Ok(()));
    let source = MemorySource::new();
    source.queue().push(Message::with_id("m", "x"));
    let pipeline = deduped(source, &sink, store.clone())
        .drain_timeout(SECOND)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;

    handle.drain();
    run.await.unwrap().unwrap();

    let next = store.reservations().reserve("queue:m", "successor", SECOND).await;
    assert_eq!(next.unwrap(), Reservation::Reserved);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_loses_nothing_and_repeats_nothing() {
    for (call, class) in [
        ("reserve", Class::Unavailable),
        ("commit", Class::Retry),
        ("cancel", Class::Unavailable),
    ] {
        let faults = Faults::default();
        faults.fail(call, 1, class);
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), faults.clone()));
        let sink = MemorySink::answering(move |message| {
            if call == "cancel" && message.attempt == 1 {
                no("once")
            } else {
                Ok(())
            }
        });

        let summary = deduped(MemorySource::ending([Message::with_id("m", "x")]), &sink, store)
            .retry(every(60 * SECOND))
            .run()
            .await
            .unwrap();

        assert_eq!((sink.count(), summary.delivered), (1, 1), "{call}");
        assert!(faults.are_spent(), "{call}");
        assert_balanced(&summary);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_told_apart_by_the_key_that_is_asked_for() {
    let sink = MemorySink::new();
    let messages = [("a", Some("1")), ("b", Some("1")), ("c", None), ("d", None)].map(|(id, order)| {
        let message = Message::with_id(id, "x");
        match order {
            Some(order) => message.header("order", order),
            None => message,
        }
    });
    let layer = DedupeLayer::new(Arc::new(MemoryStore::new()), "queue")
        .key(Arc::new(|message| message.headers().get("order").map(Into::into)));

    let summary = pipeline(MemorySource::ending(messages), &sink)
        .concurrency(1)
        .dedupe(layer)
        .run()
        .await
        .unwrap();

    assert_eq!(
        (sink.count(), summary.delivered),
        (3, 4),
        "what has no key is not told apart"
    );
}
