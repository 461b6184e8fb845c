//! E20, E40: a pause stops receiving and nothing else.

use dispatch_core::{
    Received, Source as _,
    store::{Claim, Item, QueueSource},
};

use super::{slow_claims::SlowClaims, *};

#[tokio::test(start_paused = true)]
async fn nothing_is_received_while_paused_and_what_is_started_goes_on() {
    let source = MemorySource::new();
    let queue = source.queue();
    numbered(4).into_iter().for_each(|message| queue.push(message));
    let sink = MemorySink::slow(Duration::from_secs(5), |_| Ok(()));
    let pipeline = pipeline(source, &sink).concurrency(4).prefetch(0).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(4).await;

    handle.pause();
    (4..10).for_each(|n| queue.push(Message::with_id(format!("m{n}"), n.to_string())));
    sink.took(4).await;
    tokio::time::sleep(Duration::from_secs(600)).await;

    assert_eq!((queue.received(), queue.waiting(), queue.out()), (4, 6, 0));
    assert!(queue.holds() > 0, "the source is told, and may do its own");
    assert!(handle.status().paused);

    handle.resume();
    sink.took(10).await;
    handle.drain();
    let summary = run.await.unwrap().unwrap();
    assert_eq!((summary.received, summary.delivered, summary.released), (10, 10, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_from_a_queue_while_paused() {
    let store = Arc::new(MemoryStore::new());
    let sink = MemorySink::new();
    let add = async |range: std::ops::Range<usize>| {
        let items = range.map(|n| Item::of(&Message::with_id(format!("m{n}"), n.to_string())));
        store.queue().enqueue("q", items.collect()).await.unwrap();
    };
    let pipeline = Pipeline::builder("test")
        .source(QueueSource::new(store.clone(), "q"))
        .sink(sink.clone())
        .store(store.clone())
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    add(0..3).await;
    sink.took(3).await;

    handle.pause();
    // The source is told in the driver's next turn.
    tokio::time::sleep(Duration::from_secs(1)).await;
    add(3..6).await;
    // A replayed or parked message waits, too.
    let parked = Item::of(&Message::with_id("parked", "parked"));
    store.queue().enqueue("parked:test", vec![parked]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;

    let depth = store.queue().depth("q").await.unwrap();
    assert_eq!((depth.ready, depth.leased, sink.count()), (3, 0, 3));
    assert_eq!(store.queue().depth("parked:test").await.unwrap().leased, 0);
    let claim = Claim {
        max: 1,
        lease: Duration::from_secs(30),
        ordered: false,
        below: None,
    };
    let claimed = store.queue().claim("q", claim).await.unwrap();
    assert_eq!(claimed.len(), 1, "others may have them meanwhile");

    handle.resume();
    sink.took(6).await;
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_claim_brings_after_a_hold_goes_back_at_once() {
    let store = Arc::new(SlowClaims::new(0));
    let items = numbered(3).iter().map(Item::of).collect();
    store.queue().enqueue("q", items).await.unwrap();
    let mut source = QueueSource::new(store.clone(), "q").lease(Duration::from_secs(600));
    // Both give up before the Store answers: the driver waits for neither for ever.
    let second = Duration::from_secs(1);
    assert!(tokio::time::timeout(second, source.receive(10)).await.is_err());
    assert!(tokio::time::timeout(second, source.hold()).await.is_err());

    store.permits.add_permits(1);
    while store.permits.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(second).await;

    let depth = store.queue().depth("q").await.unwrap();
    assert_eq!((depth.ready, depth.leased), (3, 0));
    store.permits.add_permits(1);
    let Received::Batch(again) = source.receive(10).await.unwrap() else {
        panic!("a batch comes after the hold");
    };
    assert_eq!(again.len(), 3);
}
