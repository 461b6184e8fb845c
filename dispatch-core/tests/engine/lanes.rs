use std::collections::HashMap;

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use dispatch_core::{
    Class, Disposition, Order,
    layer::KeyFn,
    pipeline::{LanePolicy, Lanes},
    testing::{Faults, FaultyStore},
};

use super::*;

pub(super) fn by_key(order: bool) -> Lanes {
    let key: KeyFn = Arc::new(|message| message.key().cloned());
    Lanes {
        key,
        order,
        policy: LanePolicy::Block,
    }
}

#[tokio::test(start_paused = true)]
async fn the_order_of_each_key_is_kept_through_retries() {
    for poor in [false, true] {
        let messages =
            (0..600).map(|n| Message::with_id(format!("m{n}"), n.to_string()).with_key(format!("k{}", n % 7)));
        let source = MemorySource::ending(messages);
        let source = if poor { source.poor() } else { source };
        let sink = MemorySink::slow(Duration::from_millis(3), |message| {
            let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            if n.is_multiple_of(10) && message.attempt < 3 {
                no("tenth")
            } else {
                Ok(())
            }
        });

        let summary = pipeline(source, &sink)
            .concurrency(64)
            .lanes(by_key(true))
            .retry(every(Duration::from_secs(5)))
            .stack(|stack| stack.breaker = None)
            .run()
            .await
            .unwrap();

        let mut last = HashMap::new();
        for message in sink.messages() {
            let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
            let before = last.insert(message.key().cloned(), n);
            assert!(
                before.is_none_or(|before| before < n),
                "{n} after {before:?}, poor: {poor}"
            );
        }
        assert_eq!(summary.delivered, 600);
        assert_balanced(&summary);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_head_blocks_only_its_own_key() {
    let messages = ["a-1", "a-2", "b-1", "b-2"].map(|text| Message::with_id(text, text).with_key(&text[..1]));
    let sink = MemorySink::answering(|message| {
        if message.payload == "a-1" && message.attempt == 1 {
            no("head")
        } else {
            Ok(())
        }
    });

    pipeline(MemorySource::ending(messages), &sink)
        .lanes(by_key(true))
        .retry(every(Duration::from_secs(60)))
        .run()
        .await
        .unwrap();

    assert_eq!(sink.texts(), ["b-1", "b-2", "a-1", "a-2"]);
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_does_not_hold_up_the_cold_ones() {
    // 900 of one key ahead of 100 others, one place at the sink: the others wait for their turns, not for the 900.
    let hot = (0..900).map(|n| Message::new(format!("hot-{n}")).with_key("hot"));
    let cold = (0..100).map(|n| Message::new(format!("cold-{n}")).with_key(format!("cold{n}")));
    let sink = MemorySink::slow(Duration::from_millis(1), |_| Ok(()));

    pipeline(MemorySource::ending(hot.chain(cold)), &sink)
        .concurrency(1)
        .prefetch(1_000)
        .lanes(by_key(false))
        .run()
        .await
        .unwrap();

    let last_cold = sink.texts().iter().rposition(|text| text.starts_with("cold")).unwrap();
    assert!(last_cold <= 202, "the last cold message was number {last_cold}");
}

/// E17: nine in ten messages are of one key, the others of 999; how long these wait, with the hot key and without it.
#[tokio::test(start_paused = true)]
async fn cold_keys_wait_at_most_twice_as_long_beside_a_hot_one() {
    const COLD: usize = 1_998;
    async fn slow_ones_wait(hot: usize) -> usize {
        // In the order of a draw from a seed: a hot key is everywhere among the others.
        let mut kinds: Vec<_> = (0..hot + COLD).map(|n| n.checked_sub(hot)).collect();
        kinds.shuffle(&mut StdRng::seed_from_u64(17));
        let message = |cold: Option<usize>| match cold {
            Some(n) => Message::new("cold").with_key(format!("cold{}", n % 999)),
            None => Message::new("hot").with_key("hot"),
        };
        let sink = MemorySink::slow(Duration::from_millis(1), |_| Ok(()));
        pipeline(MemorySource::ending(kinds.into_iter().map(message)), &sink)
            .concurrency(10)
            .prefetch(hot + COLD)
            .lanes(by_key(false))
            .run()
            .await
            .unwrap();
        let texts = sink.texts();
        let cold: Vec<_> = (0..texts.len()).filter(|at| texts[*at] == "cold").collect();
        assert_eq!(cold.len(), COLD);
        cold[COLD * 99 / 100]
    }

    let (alone, beside) = (slow_ones_wait(0).await, slow_ones_wait(9 * COLD).await);

    assert!(beside <= 2 * alone, "{beside} places after {alone}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_does_not_let_a_follower_past_its_head() {
    let messages = ["a-1", "a-2", "a-3"].map(|text| Message::with_id(text, text).with_key("a"));
    let source = MemorySource::ending(messages);
    let sink = MemorySink::slow(Duration::from_secs(10), |_| Ok(()));
    let pipeline = pipeline(source, &sink).lanes(by_key(true)).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;

    handle.pause();
    tokio::time::sleep(Duration::from_secs(1)).await;
    handle.resume();
    run.await.unwrap().unwrap();

    assert_eq!(
        (sink.texts(), sink.most_at_once()),
        (["a-1", "a-2", "a-3"].map(String::from).to_vec(), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_resting_head_and_forgets_no_attempt() {
    let store = Arc::new(MemoryStore::new());
    let source = MemorySource::ending([Message::with_id("a", "a").with_key("a")]).poor();
    let sink = MemorySink::answering(|_| no("never"));
    let pipeline = pipeline(source, &sink)
        .store(store.clone())
        .lanes(by_key(true))
        .retry(every(Duration::from_secs(300)))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let started = tokio::time::Instant::now();

    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert!(
        summary.finished && started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    let depth = store.queue().depth("parked:test").await.unwrap();
    assert_eq!((depth.delayed, summary.parked), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_fails_during_a_drain_does_not_rest() {
    let store = Arc::new(MemoryStore::new());
    let source = MemorySource::ending([Message::with_id("a", "a").with_key("a")]).poor();
    let sink = MemorySink::slow(Duration::from_secs(2), |_| no("never"));
    let pipeline = pipeline(source, &sink)
        .store(store.clone())
        .lanes(by_key(true))
        .retry(every(Duration::from_secs(300)))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;

    handle.drain();
    let summary = run.await.unwrap().unwrap();

    let depth = store.queue().depth("parked:test").await.unwrap();
    assert_eq!((summary.finished, depth.delayed, summary.parked), (true, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rest_that_a_drain_ended_starts_nothing_while_the_store_is_slow() {
    let faults = Faults::default();
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(FaultyStore::new(memory.clone(), faults.clone()));
    let source = MemorySource::ending([Message::with_id("a", "a").with_key("a")]).poor();
    let sink = MemorySink::answering(|_| no("never"));
    let pipeline = pipeline(source, &sink)
        .store(store)
        .lanes(by_key(true))
        .retry(every(Duration::from_secs(4)))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    // The rest would have ended while the Store still refuses what it was turned into.
    faults.fail("enqueue", 6, Class::Unavailable);
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert!(summary.finished && faults.are_spent());
    assert_eq!((sink.calls()["a"], summary.parked), (1, 1));
    assert_eq!(memory.queue().depth("parked:test").await.unwrap().delayed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_needs_lanes_has_them_without_being_asked() {
    let messages = ["a-1", "a-2", "a-3", "b-1"].map(|text| Message::with_id(text, text).with_key(&text[..1]));
    let source = MemorySource::ending(messages).with(|capabilities| {
        capabilities.order = Order::Key;
        capabilities.needs_lanes = true;
        capabilities.settle_batch = 1;
    });
    let queue = source.queue();
    let sink = MemorySink::slow(Duration::from_secs(1), |message| {
        if message.payload == "a-1" && message.attempt == 1 {
            no("head")
        } else {
            Ok(())
        }
    });

    pipeline(source, &sink)
        .retry(every(Duration::from_secs(60)))
        .run()
        .await
        .unwrap();

    let given_back: Vec<_> = queue
        .settled()
        .into_iter()
        .filter(|(_, disposition)| !disposition.is_final())
        .map(|(id, disposition)| (id.to_string(), matches!(disposition, Disposition::Nack { .. })))
        .collect();
    let expected = [("a-1", true), ("a-2", false), ("a-3", false)].map(|(id, nacked)| (id.to_owned(), nacked));
    assert_eq!(given_back, expected, "the head first, then those behind it");
}

#[test]
fn a_source_that_needs_lanes_has_one_shard() {
    let source = MemorySource::new().with(|capabilities| capabilities.needs_lanes = true);

    let error = pipeline(source, &MemorySink::new()).shards(2).build().unwrap_err();

    assert!(error.to_string().contains("one shard"), "{error}");
}
