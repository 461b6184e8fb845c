//! The queue of a store on disk as a source: by the battery, and under the driver. By the machine's own clock, since the
//! database's cannot be paused.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use dispatch_core::{
    Backoff, BoxError, Class, Error, Jitter, Message, Pipeline, RetryPolicy, Store,
    pipeline::{LanePolicy, Lanes, PipelineBuilder},
    random_id, sink_fn,
    store::{Completion, DeadLetterFilter, Item, Outcome, QueueSource},
    testing::{
        Faults, FaultyStore, MemorySink, MemorySource,
        source::{Bench, source_battery},
    },
};
use tokio::{sync::Semaphore, time::timeout};

use crate::next;

/// How long anything may take before a test gives up.
const LONG: Duration = Duration::from_secs(60);

fn pipeline(store: &Arc<dyn Store>, source: QueueSource) -> PipelineBuilder {
    Pipeline::builder("test")
        .source(source)
        .store(store.clone())
        .stack(|stack| stack.breaker = None)
}

async fn fill(store: &Arc<dyn Store>, queue: &str, messages: impl IntoIterator<Item = Message>) {
    let items = messages.into_iter().map(|message| Item::of(&message)).collect();
    store.queue().enqueue(queue, items).await.unwrap();
}

fn number(message: &Message) -> usize {
    std::str::from_utf8(&message.payload).unwrap().parse().unwrap()
}

async fn the_queue_passes_the_battery_of_sources(store: Arc<dyn Store>) {
    source_battery(async || {
        let (store, queue) = (store.clone(), random_id());
        let source = QueueSource::new(store.clone(), queue.as_str());
        Bench::new(source, move |payloads| {
            let (store, queue) = (store.clone(), queue.clone());
            Box::pin(async move { fill(&store, &queue, payloads.into_iter().map(Message::new)).await })
        })
    })
    .await;
}

async fn an_ordered_queue_keeps_the_order_of_each_key_while_one_in_ten_fails(store: Arc<dyn Store>) {
    const COUNT: usize = 300;
    let messages = (0..COUNT).map(|n| Message::with_id(format!("m{n}"), n.to_string()).with_key(format!("k{}", n % 7)));
    fill(&store, "ordered", messages).await;
    let sink = MemorySink::answering(|message| {
        if number(message).is_multiple_of(10) && message.attempt < 3 {
            Err(dispatch_core::Error::retry("tenth"))
        } else {
            Ok(())
        }
    });
    // Every wait is the Store's.
    let policy = RetryPolicy {
        backoff: Backoff::constant(Duration::from_millis(20)).jitter(Jitter::None),
        stay: Duration::ZERO,
        ..RetryPolicy::default()
    };
    let source = QueueSource::new(store.clone(), "ordered").ordered(true);
    let pipeline = pipeline(&store, source)
        .sink(sink.clone())
        .retry(policy)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    timeout(LONG, sink.took(COUNT)).await.expect("all are taken");
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    let mut last = HashMap::new();
    for message in sink.messages() {
        let n = number(&message);
        let before = last.insert(message.key().cloned(), n);
        assert!(before.is_none_or(|before| before < n), "{n} after {before:?}");
    }
    assert_eq!(
        (summary.delivered, summary.nacked),
        (COUNT as u64, COUNT as u64 / 10 * 2)
    );
}

async fn parked_keys_come_back_in_order_after_a_restart(store: Arc<dyn Store>) {
    const COUNT: usize = 210;
    let up = Arc::new(AtomicBool::new(false));
    let sink = MemorySink::answering({
        let up = Arc::clone(&up);
        move |message| {
            // Once it is up, one in ten still fails for a while.
            if up.load(Relaxed) && (!number(message).is_multiple_of(10) || message.attempt > 3) {
                Ok(())
            } else {
                Err(dispatch_core::Error::retry("down"))
            }
        }
    });
    let start = |numbers: std::ops::Range<usize>| {
        let messages =
            numbers.map(|n| Message::with_id(format!("m{n}"), n.to_string()).header("k", format!("k{}", n % 7)));
        let pipeline = Pipeline::builder("parked_keys")
            .source(MemorySource::ending(messages))
            .store(store.clone())
            .sink(sink.clone())
            .concurrency(64)
            .lanes(Lanes {
                key: Arc::new(|message| message.headers().get("k").map(Into::into)),
                order: true,
                policy: LanePolicy::ParkKey,
            })
            .retry(RetryPolicy {
                backoff: Backoff::constant(Duration::from_millis(50)).jitter(Jitter::None),
                stay: Duration::ZERO,
                max_attempts: 0,
                ..RetryPolicy::default()
            })
            .stack(|stack| stack.breaker = None)
            .build()
            .unwrap();
        (pipeline.handle(), tokio::spawn(pipeline.run()))
    };

    let (handle, run) = start(0..COUNT / 2);
    let all_parked = async {
        while handle.status().parked < COUNT as u64 / 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, all_parked).await.expect("all are parked");
    handle.drain();
    let first = run.await.unwrap().unwrap();
    up.store(true, Relaxed);
    let (_, run) = start(COUNT / 2..COUNT);
    let second = timeout(LONG, run).await.expect("all are done").unwrap().unwrap();

    assert_eq!((first.delivered, second.delivered), (0, COUNT as u64));
    let mut last = HashMap::new();
    for message in sink.messages() {
        let (key, n) = (message.headers().get("k").map(str::to_owned), number(&message));
        let before = last.insert(key, n);
        assert!(before.is_none_or(|before| before < n), "{n} after {before:?}");
        assert_eq!(message.key(), None, "its own key");
    }
    let left = store.queue().keys("parked:parked_keys").await.unwrap();
    assert_eq!((last.len(), left.len()), (7, 0));
}

async fn a_handler_ten_times_slower_than_its_lease_keeps_its_message(store: Arc<dyn Store>) {
    const COUNT: usize = 30;
    let (lease, work) = (Duration::from_secs(2), Duration::from_secs(20));
    fill(
        &store,
        "slow",
        (0..COUNT).map(|n| Message::with_id(format!("m{n}"), n.to_string())),
    )
    .await;
    let faults = Faults::default();
    let counted: Arc<dyn Store> = Arc::new(FaultyStore::new(store, faults.clone()));
    let sink = MemorySink::slow(work, |_| Ok(()));
    let source = QueueSource::new(counted.clone(), "slow").lease(lease);
    let pipeline = pipeline(&counted, source).sink(sink.clone()).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    timeout(LONG, sink.took(COUNT)).await.expect("all are taken");
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert_eq!((summary.received, summary.delivered), (COUNT as u64, COUNT as u64));
    assert!(sink.calls().values().all(|calls| *calls == 1), "{:?}", sink.calls());
    let stats = handle.stats();
    assert_eq!(stats.lease_lost.load(Relaxed), 0);
    // At each half of a lease, looked for at each quarter: some twenty times, whatever the number of messages.
    let (extended, calls) = (stats.lease_extended.load(Relaxed), faults.calls("queue_extend"));
    assert!(extended >= COUNT as u64 * 10, "{extended} extended in {calls} calls");
    assert!((10..=60).contains(&calls), "{extended} extended in {calls} calls");
}

async fn a_lost_lease_is_counted_and_its_ack_changes_nothing(store: Arc<dyn Store>) {
    lose_a_lease(store, || Ok(())).await;
}

async fn a_lost_lease_leaves_no_letter(store: Arc<dyn Store>) {
    lose_a_lease(store, || Err(Error::permanent("no such account").into())).await;
}

async fn lose_a_lease(store: Arc<dyn Store>, answer: fn() -> Result<(), BoxError>) {
    fill(&store, "lost", [Message::with_id("m", "payload").with_key("k")]).await;
    let faults = Faults::default();
    faults.fail("queue_extend", 1_000, Class::Unavailable);
    let faulty: Arc<dyn Store> = Arc::new(FaultyStore::new(store.clone(), faults));
    let (called, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let sink = {
        let (called, go) = (called.clone(), go.clone());
        sink_fn(move |_: Message| {
            let (called, go) = (called.clone(), go.clone());
            async move {
                called.add_permits(1);
                go.acquire().await?.forget();
                answer()
            }
        })
    };
    let source = QueueSource::new(faulty.clone(), "lost").lease(Duration::from_secs(1));
    let pipeline = pipeline(&faulty, source).sink(sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    called.acquire().await.unwrap().forget();

    // Somebody else finds it once the lease has run out, which nothing made longer.
    handle.pause();
    let thief = next(&store, "lost").await;
    go.add_permits(1);
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert_eq!((handle.stats().lease_lost.load(Relaxed), summary.dead_lettered), (1, 0));
    let letters = store.dead_letters().count(&DeadLetterFilter::default()).await;
    assert_eq!(letters.unwrap(), 0, "no letter beside a message that is at work");
    assert_eq!(summary.received, summary.delivered + summary.released);
    let depth = store.queue().depth("lost").await.unwrap();
    assert_eq!(
        (depth.ready, depth.delayed, depth.leased),
        (0, 0, 1),
        "still the other's"
    );
    let item = &thief[0].item;
    assert_eq!(
        (&item.payload[..], item.attempts, item.history.len()),
        (&b"payload"[..], 0, 0)
    );
    let done = Completion {
        lease: thief[0].lease,
        outcome: Outcome::Done,
    };
    assert_eq!(store.queue().settle("lost", vec![done]).await.unwrap(), [Ok(())]);
}

/// Each statement, on SQLite and on PostgreSQL.
macro_rules! on_each_store {
    ($($statement:ident),+ $(,)?) => {
        #[cfg(feature = "sqlite")]
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $statement() {
                    let directory = tempfile::tempdir().unwrap();
                    let store = crate::sqlite::open(&directory);
                    super::$statement(store.clone()).await;
                    store.close().await.unwrap();
                }
            )+
        }

        #[cfg(feature = "postgres")]
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $statement() {
                    let Some(server) = crate::postgres::Server::find(stringify!($statement)).await else {
                        return;
                    };
                    let store = server.open();
                    super::$statement(store.clone()).await;
                    server.end(store).await;
                }
            )+
        }
    };
}

on_each_store!(
    the_queue_passes_the_battery_of_sources,
    an_ordered_queue_keeps_the_order_of_each_key_while_one_in_ten_fails,
    parked_keys_come_back_in_order_after_a_restart,
    a_handler_ten_times_slower_than_its_lease_keeps_its_message,
    a_lost_lease_is_counted_and_its_ack_changes_nothing,
    a_lost_lease_leaves_no_letter,
);
