use std::time::SystemTime;

use dispatch_core::{
    Attempt, Class, Disposition,
    store::{Item, QueueSource},
    testing::{Faults, FaultyStore},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_becomes_a_dead_letter_and_is_then_acked() {
    let message = Message::with_id("m", &b"\xff\x00raw"[..])
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .meta("file_line", "7");
    let source = MemorySource::ending([message]);
    let queue = source.queue();
    let sink = MemorySink::answering(|_| Err(Error::permanent("no such account").with_code("404")));
    let store = Arc::new(MemoryStore::new());

    let summary = pipeline(source, &sink)
        .store(store.clone())
        .config_hash("abc")
        .run()
        .await
        .unwrap();

    let letters = letters(&store).await;
    let letter = &letters[0];
    assert_eq!(
        (&letter.payload[..], letter.reason.as_str(), letter.pipeline.as_str()),
        (&b"\xff\x00raw"[..], "permanent", "test")
    );
    assert_eq!(
        (letter.attempts[0].code.as_deref(), letter.attempts[0].text.as_str()),
        (Some("404"), "no such account")
    );
    assert_eq!(letter.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(
        (letter.metadata.get("file_line"), letter.config_hash.as_str()),
        (Some("7"), "abc")
    );
    assert!(matches!(queue.settled()[0].1, Disposition::DeadLetter(_)));
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_message_keeps_every_attempt_over_all_its_deliveries() {
    for poor in [false, true] {
        let source = MemorySource::ending(numbered(1));
        let source = if poor { source.poor() } else { source };
        let sink = MemorySink::answering(|_| no("always"));
        let store = Arc::new(MemoryStore::new());
        let policy = RetryPolicy {
            max_attempts: 5,
            ..every(Duration::from_secs(60))
        };

        let summary = pipeline(source, &sink)
            .store(store.clone())
            .retry(policy)
            .run()
            .await
            .unwrap();

        let letters = letters(&store).await;
        assert_eq!(
            (letters.len(), letters[0].reason.as_str(), summary.failed),
            (1, "exhausted", 5),
            "poor: {poor}"
        );
        if poor {
            // What the Store parks carries its history; a broker's redelivery only counts.
            let numbers: Vec<_> = letters[0].attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, [1, 2, 3, 4, 5]);
        }
        assert_balanced(&summary);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_goes_to_the_source_that_can_wait_else_to_the_store() {
    for (poor, parked, nacked) in [(false, 0, 1), (true, 1, 0)] {
        let source = MemorySource::ending(numbered(1));
        let source = if poor { source.poor() } else { source };
        let sink = MemorySink::answering(|message| if message.attempt == 1 { no("first") } else { Ok(()) });
        let started = tokio::time::Instant::now();

        let summary = pipeline(source, &sink)
            .retry(every(Duration::from_secs(60)))
            .run()
            .await
            .unwrap();

        assert_eq!(
            (summary.delivered, summary.parked, summary.nacked),
            (1, parked, nacked),
            "poor: {poor}"
        );
        assert!(started.elapsed() >= Duration::from_secs(60));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_does_not_take_is_never_acked() {
    for poor in [false, true] {
        let source = MemorySource::ending(numbered(3));
        let source = if poor { source.poor() } else { source };
        let queue = source.queue();
        let sink = MemorySink::answering(|_| Err(Error::permanent("bad")));
        let faults = Faults::default();
        faults.fail("bury", 3, Class::Unavailable);
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(FaultyStore::new(memory.clone(), faults.clone()));

        let summary = pipeline(source, &sink).store(store).run().await.unwrap();

        assert!(faults.are_spent());
        assert_eq!(
            (letters(&memory).await.len(), summary.dead_lettered),
            (3, 3),
            "poor: {poor}"
        );
        let early = queue
            .settled()
            .iter()
            .position(|(_, disposition)| disposition.is_final());
        let nacks = queue
            .settled()
            .iter()
            .filter(|(_, disposition)| !disposition.is_final())
            .count();
        assert_eq!(
            (early.is_some(), nacks > 0),
            (true, !poor),
            "a source that takes messages back gets them back"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_shows_in_the_status() {
    let source = MemorySource::new().poor();
    source.queue().push(Message::new("x"));
    let sink = MemorySink::answering(|_| Err(Error::permanent("bad")));
    let faults = Faults::default();
    faults.fail("bury", 3, Class::Unavailable);
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), faults.clone()));
    let pipeline = pipeline(source, &sink).store(store).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    sink.called(1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!handle.status().ready);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(handle.status().ready, "{:?}", handle.status());

    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_passed_deadline_is_a_dead_letter_with_its_history() {
    let source = MemorySource::ending(numbered(1)).poor();
    let sink = MemorySink::answering(|_| no("never"));
    let store = Arc::new(MemoryStore::new());

    let summary = pipeline(source, &sink)
        .store(store.clone())
        .retry(RetryPolicy {
            stay: Duration::from_secs(60),
            ..every(Duration::from_secs(2))
        })
        .deadline(Duration::from_secs(7))
        .run()
        .await
        .unwrap();

    let letters = letters(&store).await;
    assert_eq!((letters[0].reason.as_str(), letters[0].attempts.len()), ("deadline", 4));
    assert_balanced(&summary);
}

/// By the machine's own clock: a message says at which time of day it was made.
#[tokio::test]
async fn what_is_too_old_is_a_dead_letter_untried() {
    let store = Arc::new(MemoryStore::new());
    let made =
        |id: &str, ago: u64| Message::with_id_at(id, "x", std::time::SystemTime::now() - Duration::from_secs(ago));
    let sink = MemorySink::new();

    let summary = pipeline(MemorySource::ending([made("old", 61), made("young", 30)]), &sink)
        .store(store.clone())
        .max_age(Duration::from_secs(60))
        .run()
        .await
        .unwrap();

    let letters = letters(&store).await;
    let letters: Vec<_> = letters
        .iter()
        .map(|letter| (letter.id.as_str(), letter.reason.as_str()))
        .collect();
    assert_eq!(letters, [("old", "deadline")]);
    assert_eq!(
        sink.messages()
            .iter()
            .map(|message| message.id().as_str())
            .collect::<Vec<_>>(),
        ["young"]
    );
    assert_balanced(&summary);
}

/// By the machine's own clock: attempts are written down with the time of day.
#[tokio::test]
async fn a_deadline_counts_from_the_first_of_all_deliveries() {
    let store = Arc::new(MemoryStore::new());
    let item = Item::of(&numbered(1)[0]);
    store.queue().enqueue("q", vec![item]).await.unwrap();
    let sink = MemorySink::answering(|_| no("never"));
    let pipeline = Pipeline::builder("test")
        .source(QueueSource::new(store.clone(), "q"))
        .sink(sink.clone())
        .store(store.clone())
        // Nothing is waited here: each attempt is a delivery of its own.
        .retry(RetryPolicy {
            stay: Duration::ZERO,
            max_attempts: 1_000,
            ..every(Duration::from_millis(100))
        })
        .deadline(Duration::from_millis(350))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    let letter = async {
        loop {
            match letters(&store).await.pop() {
                Some(letter) => return letter,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let letter = tokio::time::timeout(Duration::from_secs(20), letter).await.unwrap();

    assert_eq!(letter.reason, "deadline");
    assert!(sink.count() < 20, "{}", sink.count());
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn throttled_and_unavailable_attempts_are_not_counted() {
    let source = MemorySource::ending(numbered(1)).poor();
    let calls = std::sync::atomic::AtomicU32::new(0);
    let sink = MemorySink::answering(move |_| match calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0..3 => Err(Error::throttled(Some(Duration::from_secs(60)), "slow down")),
        3..6 => Err(Error::unavailable("down")),
        _ => Ok(()),
    });
    let policy = RetryPolicy {
        max_attempts: 1,
        ..every(Duration::from_secs(1))
    };

    let summary = pipeline(source, &sink).retry(policy).run().await.unwrap();

    assert_eq!((summary.delivered, summary.dead_lettered), (1, 0));
    assert_eq!(sink.messages()[0].attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn without_retries_the_source_decides() {
    let source = MemorySource::ending(numbered(1));
    let queue = source.queue();
    let sink = MemorySink::answering(|message| if message.attempt < 4 { no("not yet") } else { Ok(()) });

    let summary = pipeline(source, &sink)
        .stack(|stack| stack.retry = None)
        .run()
        .await
        .unwrap();

    let nacks = queue
        .settled()
        .into_iter()
        .filter(|(_, how)| matches!(how, Disposition::Nack { delay: None, .. }));
    assert_eq!((summary.delivered, nacks.count()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn another_message_with_the_same_id_is_another_letter() {
    let store = Arc::new(MemoryStore::new());
    for (payload, created) in [("first", 1), ("second", 2)] {
        let created = std::time::UNIX_EPOCH + Duration::from_secs(created);
        let source = MemorySource::ending([Message::with_id_at("same", payload, created)]);
        let sink = MemorySink::answering(|_| Err(Error::permanent("bad")));

        pipeline(source, &sink).store(store.clone()).run().await.unwrap();
    }

    let payloads: Vec<_> = letters(&store).await.into_iter().map(|letter| letter.payload).collect();
    assert_eq!(payloads, ["first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_letter_of_a_parked_message_names_the_source_it_came_from() {
    let store = Arc::new(MemoryStore::new());
    let sink = MemorySink::answering(|_| no("never"));
    let policy = RetryPolicy {
        max_attempts: 2,
        ..every(Duration::from_secs(60))
    };

    pipeline(MemorySource::ending(numbered(1)).poor(), &sink)
        .store(store.clone())
        .retry(policy)
        .run()
        .await
        .unwrap();

    assert_eq!(letters(&store).await[0].source, "source");
}

#[tokio::test(start_paused = true)]
async fn a_failed_burial_does_not_double_the_history() {
    // A queue elsewhere is told after the letter; one of the store that keeps the letters, with it.
    for (elsewhere, call, class) in [
        (true, "bury", Class::Unavailable),
        (false, "queue_settle", Class::Permanent),
    ] {
        let memory = Arc::new(MemoryStore::new());
        let faults = Faults::default();
        let store = Arc::new(FaultyStore::new(memory.clone(), faults.clone()));
        let queue: Arc<dyn Store> = if elsewhere {
            Arc::new(MemoryStore::new())
        } else {
            store.clone()
        };
        let mut item = Item::of(&numbered(1)[0]);
        item.remember(vec![
            Attempt::failed(1, SystemTime::now(), Duration::ZERO, &Error::retry("before")),
            Attempt::failed(2, SystemTime::now(), Duration::ZERO, &Error::retry("before")),
        ]);
        queue.queue().enqueue("q", vec![item]).await.unwrap();
        faults.fail(call, 2, class);
        let sink = MemorySink::answering(|_| no("never"));
        let policy = RetryPolicy {
            max_attempts: 3,
            ..every(Duration::from_secs(60))
        };
        let pipeline = Pipeline::builder("test")
            .source(QueueSource::new(queue, "q"))
            .sink(sink.clone())
            .store(store)
            .retry(policy)
            .build()
            .unwrap();
        let handle = pipeline.handle();
        let run = tokio::spawn(pipeline.run());
        while letters(&memory).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        handle.drain();
        run.await.unwrap().unwrap();

        assert!(faults.are_spent(), "{call}");
        let letters = letters(&memory).await;
        let mut numbers: Vec<_> = letters[0].attempts.iter().map(|attempt| attempt.number).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), letters[0].attempts.len(), "{call}: {numbers:?}");
        assert!(numbers.starts_with(&[1, 2, 3]), "{call}: {numbers:?}");
    }
}
