//! What the layers promise of each other, through the whole stack.

use std::time::SystemTime;

use dispatch_core::layer::RateLimitLayer;
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn each_attempt_pays_the_rate() {
    let sink = MemorySink::answering(|message| if message.attempt < 5 { no("not yet") } else { Ok(()) });
    let started = Instant::now();

    let summary = pipeline(MemorySource::ending(numbered(1)), &sink)
        .stack(|stack| stack.rate_limit = RateLimitLayer::new(1, Duration::from_secs(1), Some(1)))
        .retry(every(Duration::from_millis(1)))
        .run()
        .await
        .unwrap();

    assert_eq!((summary.delivered, summary.failed), (1, 4));
    let took = started.elapsed();
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(5)).contains(&took),
        "five attempts at one a second took {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_resting_message_leaves_its_place_to_another() {
    let sink = MemorySink::answering(|message| {
        if message.payload == "0" && message.attempt == 1 {
            no("first")
        } else {
            Ok(())
        }
    });

    let summary = pipeline(MemorySource::ending(numbered(3)), &sink)
        .concurrency(1)
        .retry(every(Duration::from_secs(2)))
        .run()
        .await
        .unwrap();

    assert_eq!(
        (summary.delivered, sink.texts()),
        (3, ["1", "2", "0"].map(str::to_owned).to_vec())
    );
}

#[tokio::test(start_paused = true)]
async fn the_timeout_bounds_each_attempt_and_not_all_of_them() {
    let store = Arc::new(MemoryStore::new());
    let sink = MemorySink::slow(Duration::from_secs(3_600), |_| Ok(()));
    let policy = RetryPolicy {
        max_attempts: 3,
        ..every(Duration::from_secs(1))
    };
    let started = Instant::now();

    let summary = pipeline(MemorySource::ending(numbered(1)), &sink)
        .store(store.clone())
        .timeout(Duration::from_secs(10))
        .retry(policy)
        .run()
        .await
        .unwrap();

    let letters = letters(&store).await;
    let codes: Vec<_> = letters[0]
        .attempts
        .iter()
        .map(|attempt| attempt.code.as_deref())
        .collect();
    assert_eq!(codes, [Some("timeout"); 3]);
    assert_eq!((letters[0].reason.as_str(), summary.failed), ("exhausted", 3));
    assert_eq!(
        started.elapsed().as_secs(),
        32,
        "three attempts of 10 s and two waits of 1 s"
    );
}

/// The age of a message is told by the machine's own clock, which a paused one does not move.
#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_max_elapsed() {
    for (age, wait, attempts) in [(0, 59, 5), (0, 61, 1), (50, 9, 5), (50, 11, 1), (3_600, 1, 1)] {
        for stays in [true, false] {
            let store = Arc::new(MemoryStore::new());
            let sink = MemorySink::answering(|_| no("never"));
            let created = SystemTime::now() - Duration::from_secs(age);
            let policy = RetryPolicy {
                max_attempts: 5,
                max_elapsed: Some(Duration::from_secs(60)),
                stay: Duration::from_secs(if stays { 3_600 } else { 0 }),
                ..every(Duration::from_secs(wait))
            };

            pipeline(MemorySource::ending([Message::with_id_at("m", "x", created)]), &sink)
                .store(store.clone())
                .retry(policy)
                .run()
                .await
                .unwrap();

            let row = format!("{age} s old, waits of {wait} s, waited here: {stays}");
            assert_eq!(letters(&store).await[0].reason, "exhausted", "{row}");
            assert_eq!(sink.calls()["m"], attempts, "{row}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_far_side_that_asks_for_time_gets_it_from_all_messages_within_the_bound() {
    let bounded = RetryPolicy {
        throttle_max: Duration::from_secs(10),
        ..RetryPolicy::default()
    };
    // With retries off, the sink's own bound is all there is.
    for (rate, retry, lease, asked, expected) in [
        (true, Some(bounded.clone()), None, 3_600, 10),
        (false, Some(bounded), None, 3_600, 10),
        (true, None, None, 3_600, 3_600),
        (false, None, None, 3_600, 3_600),
        (false, None, None, 72_000, 21_600),
        // Nobody extends it: what waits longer is somebody else's.
        (false, None, Some(30), 3_600, 15),
        (true, None, Some(30), 3_600, 15),
    ] {
        let row = format!(
            "rate: {rate}, retries: {}, lease: {lease:?}, asked for {asked} s",
            retry.is_some()
        );
        let source = MemorySource::ending(numbered(2)).poor().with(|can| {
            can.lease = lease.map(Duration::from_secs);
            can.extends = false;
        });
        let sink = MemorySink::answering(move |message| match message.id().as_str() {
            "m0" => Err(Error::throttled(Some(Duration::from_secs(asked)), "come back later")),
            _ => Ok(()),
        });
        let mut pipeline = pipeline(source, &sink)
            .concurrency(1)
            .timeout(Duration::from_secs(5))
            .stack(|stack| stack.retry = retry);
        if rate {
            pipeline = pipeline.rate_limit(1_000, Duration::from_secs(1));
        }
        let pipeline = pipeline.build().unwrap();
        let handle = pipeline.handle();
        let started = Instant::now();
        let run = tokio::spawn(pipeline.run());

        while sink.count() == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        let held = started.elapsed();
        let expected = Duration::from_secs(expected);
        assert!(
            (expected..expected + Duration::from_secs(1)).contains(&held),
            "{row}: {held:?}"
        );
        assert!(
            handle.stats().rate_limited_wait.snapshot().count() > 0,
            "{row}: waits are counted"
        );
        handle.stop_now();
        drop(run.await);
    }
}
