//! The queue's source claims more than it is asked for where that is worked off at once, and only there.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use dispatch_core::{
    Delivery, Error, MemoryStore, Message, Pipeline, Received, Source, Store, sink_fn,
    store::{Item, QueueSource},
};
use tokio::time::sleep;

use super::slow_claims::SlowClaims;

const ASKED: usize = 100;

async fn filled() -> (Arc<MemoryStore>, QueueSource) {
    let store = Arc::new(MemoryStore::new());
    let items = (0..5_000).map(|_| Item::of(&Message::new("x"))).collect();
    store.queue().enqueue("q", items).await.unwrap();
    let source = QueueSource::new(store.clone(), "q");
    (store, source)
}

async fn take(source: &mut QueueSource, held: &mut Vec<Delivery>) {
    match source.receive(ASKED).await.unwrap() {
        Received::Batch(batch) => held.extend(batch),
        other => panic!("{other:?}"),
    }
}

async fn leased(store: &dyn Store) -> usize {
    // Claims go on in tasks of their own.
    sleep(Duration::from_millis(1)).await;
    usize::try_from(store.queue().depth("q").await.unwrap().leased).unwrap()
}

#[tokio::test(start_paused = true)]
async fn claims_grow_while_they_are_worked_off_at_once() {
    let (store, mut source) = filled().await;
    let mut held = Vec::new();

    for _ in 0..20 {
        take(&mut source, &mut held).await;
    }

    let ahead = leased(&*store).await - held.len();
    assert!((250..=1_000).contains(&ahead), "{ahead} ahead of {}", held.len());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_ahead_where_lower_priorities_have_turns() {
    let (store, source) = filled().await;
    let mut source = source.serve_lower_every(NonZeroU32::new(40).unwrap());
    let mut held = Vec::new();

    for _ in 0..20 {
        take(&mut source, &mut held).await;
    }

    assert_eq!((held.len(), leased(&*store).await), (20 * 40, 20 * 40));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_ahead_where_a_prefetch_is_set() {
    let (store, mut source) = filled().await;
    source.hold_at_most(2 * ASKED);
    let mut held = Vec::new();

    for _ in 0..20 {
        take(&mut source, &mut held).await;
        assert_eq!(leased(&*store).await, held.len());
    }
}

#[tokio::test]
async fn a_pipeline_leases_no_more_than_its_prefetch_says() {
    let store = Arc::new(MemoryStore::new());
    let items = (0..5_000).map(|_| Item::of(&Message::new("x"))).collect();
    store.queue().enqueue("q", items).await.unwrap();
    let most = Arc::new(AtomicU64::new(0));
    let sink = {
        let (store, most) = (store.clone(), most.clone());
        sink_fn(move |_: Message| {
            let (store, most) = (store.clone(), most.clone());
            async move {
                most.fetch_max(store.queue().depth("q").await?.leased, Relaxed);
                Ok::<_, Error>(())
            }
        })
    };
    let pipeline = Pipeline::builder("p")
        .source(QueueSource::new(store.clone(), "q"))
        .sink(sink)
        .store(store)
        .concurrency(64)
        .prefetch(0)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    let delivered = async {
        while handle.stats().delivered.load(Relaxed) < 5_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), delivered).await.unwrap();
    handle.drain();
    run.await.unwrap().unwrap();

    assert!((1..=64).contains(&most.load(Relaxed)), "{most:?} leased at once");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_ahead_of_a_slow_sink() {
    let (store, mut source) = filled().await;
    let mut held = Vec::new();

    for _ in 0..5 {
        take(&mut source, &mut held).await;
        assert_eq!(leased(&*store).await, held.len());
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_claimed_ahead_goes_back_when_the_gate_closes() {
    let (store, mut source) = filled().await;
    let mut held = Vec::new();
    for _ in 0..20 {
        take(&mut source, &mut held).await;
    }

    source.hold().await.unwrap();

    assert_eq!(leased(&*store).await, held.len());
}

#[tokio::test]
async fn what_comes_while_nobody_asks_is_left_to_others() {
    let store = Arc::new(MemoryStore::new());
    let mut source = QueueSource::new(store.clone(), "q");
    let moment = Duration::from_millis(20);
    assert!(tokio::time::timeout(moment, source.receive(10)).await.is_err());

    let item = Item::of(&Message::new("x"));
    store.queue().enqueue("q", vec![item]).await.unwrap();
    // Whoever waited for it by itself would have it by then.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }

    assert_eq!(store.queue().depth("q").await.unwrap().leased, 0);
    let Received::Batch(batch) = source.receive(10).await.unwrap() else {
        panic!("it comes once it is asked for");
    };
    assert_eq!(batch.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_claims_are_under_way_before_a_quick_sink_and_both_go_back_at_the_end() {
    let store = Arc::new(SlowClaims::new(12));
    let items = (0..20_000).map(|_| Item::of(&Message::new("x"))).collect();
    store.queue().enqueue("q", items).await.unwrap();
    let mut source = QueueSource::new(store.clone(), "q");
    let mut held = Vec::new();
    // Until the last claim that is let through has come in, and more are wanted.
    while tokio::time::timeout(Duration::from_millis(5), take(&mut source, &mut held))
        .await
        .is_ok()
    {}
    assert_eq!(store.waiting.load(Relaxed), 2);

    store.permits.add_permits(2);
    source.close().await.unwrap();

    assert_eq!(leased(&*store).await, held.len());
}
