//! E18: lanes whose policy is `park_key`.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use dispatch_core::{
    Class, Disposition, Order,
    layer::{BreakerLayer, BreakerSettings, KeyFn},
    pipeline::{LanePolicy, Lanes, parked_queue},
    testing::{Faults, FaultyStore},
};

use super::*;

/// By the header `k`, so that a message's own key is something else.
fn parked_by_header() -> Lanes {
    let key: KeyFn = Arc::new(|message| message.headers().get("k").map(Into::into));
    Lanes {
        key,
        order: true,
        policy: LanePolicy::ParkKey,
    }
}

fn of_key(key: &str, n: usize) -> Message {
    Message::with_id(format!("{key}-{n}"), format!("{key}-{n}"))
        .header("k", key)
        .with_key("own")
}

fn key_of(text: &str) -> (&str, usize) {
    let (key, n) = text.split_once('-').unwrap();
    (key, n.parse().unwrap())
}

/// The sink saw each key's messages in their order.
fn assert_in_order(texts: &[String]) {
    let mut last = HashMap::new();
    for (key, n) in texts.iter().map(|text| key_of(text)) {
        let before = last.insert(key, n);
        assert!(before.is_none_or(|before| before < n), "{key}-{n} after {before:?}");
    }
}

async fn parked(store: &Arc<MemoryStore>) -> u64 {
    let depth = store.queue().depth(&parked_queue("test")).await.unwrap();
    depth.ready + depth.delayed + depth.leased
}

#[tokio::test(start_paused = true)]
async fn the_order_of_each_key_is_kept_through_retries_in_the_store() {
    for poor in [false, true] {
        // Keys that fail now and then, among 64 at once.
        let messages = (0..1_000).map(|n| of_key(&format!("k{}", n % 41), n));
        let source = MemorySource::ending(messages);
        let source = if poor { source.poor() } else { source };
        let sink = MemorySink::slow(Duration::from_millis(3), |message| {
            let (_, n) = key_of(std::str::from_utf8(&message.payload).unwrap());
            if n.is_multiple_of(10) && message.attempt < 3 {
                no("tenth")
            } else {
                Ok(())
            }
        });

        let summary = pipeline(source, &sink)
            .concurrency(64)
            .lanes(parked_by_header())
            .retry(every(Duration::from_secs(5)))
            .stack(|stack| stack.breaker = None)
            .run()
            .await
            .unwrap();

        assert_in_order(&sink.texts());
        assert_eq!((summary.delivered, summary.dead_lettered), (1_000, 0), "poor: {poor}");
        assert!(summary.parked > 100, "heads and those behind them: {summary:?}");
        assert_balanced(&summary);
        let own = sink.messages().iter().all(|message| {
            message.key().is_some_and(|key| key == "own") && message.metadata().get("dispatch_key").is_none()
        });
        assert!(own, "each has its own key again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_leaves_the_window_to_the_others() {
    // More than the window holds of one key whose sink is down for an hour, before and among those of 500 others.
    let bad = |range: std::ops::Range<usize>| range.map(|n| of_key("bad", n));
    let good = (0..4_000).map(|n| of_key(&format!("good{}", n % 500), n));
    let source = MemorySource::ending(bad(0..300).chain(good).chain(bad(300..400)));
    let began = tokio::time::Instant::now();
    let sink = MemorySink::slow(Duration::from_millis(1), move |message| {
        if message.payload.starts_with(b"bad") && began.elapsed() < Duration::from_secs(3_600) {
            no("down")
        } else {
            Ok(())
        }
    });
    let pipeline = pipeline(source, &sink)
        .concurrency(64)
        .lanes(parked_by_header())
        .retry(RetryPolicy {
            max_attempts: 0,
            ..every(Duration::from_secs(60))
        })
        .stack(|stack| stack.breaker = None)
        .build()
        .unwrap();
    let run = tokio::spawn(pipeline.run());

    sink.took(4_000).await;
    let (others, calls) = (began.elapsed(), sink.calls());
    let summary = run.await.unwrap().unwrap();

    assert!(others < Duration::from_secs(10), "the others took {others:?}");
    let tried: Vec<_> = calls.keys().filter(|id| id.starts_with("bad")).collect();
    assert_eq!(tried, ["bad-0"], "nobody goes before the head");
    assert_in_order(&sink.texts());
    assert_eq!(summary.delivered, 4_400);
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_goes_behind_those_in_the_store_also_after_a_restart() {
    let store = Arc::new(MemoryStore::new());
    let source = MemorySource::new();
    let queue = source.queue();
    (0..3).for_each(|n| queue.push(of_key("a", n)));
    let up = Arc::new(AtomicBool::new(false));
    let sink = {
        let up = Arc::clone(&up);
        MemorySink::answering(move |message| {
            if up.load(SeqCst) || message.payload.starts_with(b"b") {
                Ok(())
            } else {
                no("down")
            }
        })
    };
    let start = |source: MemorySource| {
        let pipeline = pipeline(source, &sink)
            .store(store.clone())
            .lanes(parked_by_header())
            .retry(every(Duration::from_secs(300)))
            .build()
            .unwrap();
        (pipeline.handle(), tokio::spawn(pipeline.run()))
    };

    let (handle, run) = start(source);
    sink.called(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(parked(&store).await, 3, "the head and those behind it");
    handle.drain();
    run.await.unwrap().unwrap();

    up.store(true, SeqCst);
    let source = MemorySource::new();
    let queue = source.queue();
    for message in [of_key("a", 3), of_key("b", 0), of_key("a", 4)] {
        queue.push(message);
    }
    let (handle, run) = start(source);
    sink.took(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((sink.texts(), parked(&store).await), (vec!["b-0".to_owned()], 5));
    sink.took(6).await;
    // The key is free again: what comes now takes no way through the Store.
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.push(of_key("a", 5));
    sink.took(7).await;
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert_in_order(&sink.texts());
    assert_eq!((summary.parked, summary.delivered, parked(&store).await), (2, 7, 0));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_fails_during_a_drain_is_parked_before_those_that_were_given_back() {
    let store = Arc::new(MemoryStore::new());
    let source = MemorySource::ending((0..3).map(|n| of_key("a", n)));
    let queue = source.queue();
    let sink = MemorySink::slow(Duration::from_secs(2), |message| {
        if message.attempt == 1 && message.payload == "a-0" {
            no("first")
        } else {
            Ok(())
        }
    });
    let start = |source: MemorySource| {
        let pipeline = pipeline(source, &sink)
            .store(store.clone())
            .lanes(parked_by_header())
            .retry(every(Duration::from_secs(300)))
            .build()
            .unwrap();
        (pipeline.handle(), tokio::spawn(pipeline.run()))
    };
    let (handle, run) = start(source);
    sink.called(1).await;

    handle.drain();
    let summary = run.await.unwrap().unwrap();
    let given_back: Vec<_> = (queue.settled().into_iter())
        .filter(|(_, disposition)| *disposition == Disposition::Release)
        .map(|(id, _)| id.to_string())
        .collect();
    let (_, run) = start(MemorySource::ending((1..3).map(|n| of_key("a", n))));
    run.await.unwrap().unwrap();

    assert_eq!(
        (summary.parked, given_back),
        (1, vec!["a-1".to_owned(), "a-2".to_owned()])
    );
    assert_eq!(sink.texts(), ["a-0", "a-1", "a-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_keeps_the_order_and_loses_nothing() {
    let faults = Faults::default();
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(FaultyStore::new(memory.clone(), faults.clone()));
    faults.fail("keys", 2, Class::Unavailable);
    faults.fail("enqueue", 3, Class::Unavailable);
    let source = MemorySource::ending((0..50).map(|n| of_key("a", n)));
    let queue = source.queue();
    let sink = MemorySink::answering(|message| {
        let (_, n) = key_of(std::str::from_utf8(&message.payload).unwrap());
        if n.is_multiple_of(7) && message.attempt == 1 {
            no("seventh")
        } else {
            Ok(())
        }
    });

    let summary = pipeline(source, &sink)
        .store(store)
        .prefetch(4)
        .lanes(parked_by_header())
        .retry(every(Duration::from_secs(60)))
        .run()
        .await
        .unwrap();

    assert!(faults.are_spent());
    assert_in_order(&sink.texts());
    assert!(queue.settled().iter().all(|(_, disposition)| disposition.is_final()));
    assert_eq!(summary.delivered, 50);
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_somebody_else_emptied_is_free_again() {
    let store = Arc::new(MemoryStore::new());
    let source = MemorySource::new();
    let queue = source.queue();
    queue.push(of_key("a", 0));
    let sink = MemorySink::answering(|message| if message.payload == "a-0" { no("never") } else { Ok(()) });
    let pipeline = pipeline(source, &sink)
        .store(store.clone())
        .lanes(parked_by_header())
        .retry(every(Duration::from_secs(3_600)))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let purged = store.queue().purge(&parked_queue("test")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    queue.push(of_key("a", 1));
    sink.took(1).await;
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert_eq!((purged, summary.parked, sink.texts()), (1, 1, vec!["a-1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn only_the_head_comes_to_an_open_breaker_of_its_key() {
    let messages = (0..300).map(|n| of_key(if n < 200 { "down" } else { "up" }, n));
    let began = tokio::time::Instant::now();
    let sink = MemorySink::answering(move |message| {
        if message.payload.starts_with(b"down") && began.elapsed() < Duration::from_secs(600) {
            Err(Error::unavailable("refused"))
        } else {
            Ok(())
        }
    });

    let summary = pipeline(MemorySource::ending(messages), &sink)
        .concurrency(64)
        .lanes(parked_by_header())
        .stack(|stack| stack.breaker = Some(BreakerLayer::keyed(BreakerSettings::default(), parked_by_header().key)))
        .run()
        .await
        .unwrap();

    assert_in_order(&sink.texts());
    assert_eq!((summary.delivered, summary.parked), (300, 200));
    assert!(summary.nacked < 40, "the head alone, each time: {summary:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_answer_is_told_at_once() {
    let source = MemorySource::ending((0..2).map(|n| of_key("a", n))).with(|capabilities| {
        capabilities.redelivers = false;
        capabilities.wants_reply = true;
    });
    let queue = source.queue();
    let sink = MemorySink::answering(|message| if message.payload == "a-0" { no("first") } else { Ok(()) });
    let began = tokio::time::Instant::now();

    let summary = pipeline(source, &sink)
        .lanes(parked_by_header())
        .retry(every(Duration::from_secs(60)))
        .run()
        .await
        .unwrap();

    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((summary.nacked, summary.parked, summary.delivered), (1, 0, 1));
    assert!(matches!(&queue.settled()[0], (id, Disposition::Nack { .. }) if id == "a-0"));
}

#[tokio::test(start_paused = true)]
async fn what_was_parked_in_lanes_comes_back_whole_without_them() {
    let store = Arc::new(MemoryStore::new());
    let sink = MemorySink::answering(|message| if message.attempt == 1 { no("first") } else { Ok(()) });
    let first = pipeline(MemorySource::ending([of_key("a", 0)]), &sink)
        .store(store.clone())
        .lanes(parked_by_header())
        .retry(every(Duration::from_secs(60)))
        .build()
        .unwrap();
    let handle = first.handle();
    let run = tokio::spawn(first.run());
    sink.called(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    handle.drain();
    run.await.unwrap().unwrap();

    let summary = pipeline(MemorySource::ending([]), &sink)
        .store(store)
        .run()
        .await
        .unwrap();

    let message = &sink.messages()[0];
    assert_eq!((summary.delivered, message.key().map(|key| &**key)), (1, Some("own")));
    assert!(message.metadata().get("dispatch_key").is_none());
}

#[tokio::test(start_paused = true)]
async fn what_a_source_keeps_in_order_goes_back_to_it() {
    let source = MemorySource::ending((0..3).map(|n| of_key("a", n))).with(|capabilities| {
        capabilities.order = Order::Key;
        capabilities.settle_batch = 1;
    });
    let queue = source.queue();
    let sink = MemorySink::slow(Duration::from_secs(1), |message| {
        if message.attempt == 1 && message.payload == "a-0" {
            no("first")
        } else {
            Ok(())
        }
    });

    let summary = pipeline(source, &sink)
        .prefetch(2)
        .lanes(parked_by_header())
        .retry(every(Duration::from_secs(60)))
        .run()
        .await
        .unwrap();

    let back: Vec<_> = (queue.settled().into_iter())
        .filter(|(_, disposition)| !disposition.is_final())
        .map(|(id, _)| id.to_string())
        .collect();
    assert_eq!(
        (summary.parked, back),
        (0, ["a-0", "a-1", "a-2"].map(String::from).to_vec())
    );
}

#[test]
fn a_policy_needs_order() {
    let lanes = Lanes {
        order: false,
        ..parked_by_header()
    };

    let error = pipeline(MemorySource::new(), &MemorySink::new())
        .lanes(lanes)
        .build()
        .unwrap_err();

    assert!(error.to_string().contains("without order"), "{error}");
}
