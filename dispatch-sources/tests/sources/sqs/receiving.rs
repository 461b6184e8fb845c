use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use dispatch_core::{
    Delivery, Error, Received, Source as _,
    layer::{BreakerLayer, BreakerSettings},
    testing::{
        MemorySink,
        source::{Bench, source_battery},
    },
};
use dispatch_sources::sqs::fake::{FakeMessage, Fault};
use tokio::time::{Instant, timeout};

use super::*;

#[tokio::test]
async fn it_passes_the_battery() {
    for queue in ["q", "q.fifo"] {
        source_battery(async || {
            let fake = fake();
            fake.create_queue("q.fifo", QueueOptions::default());
            let source = source_of(&fake, queue, |config| config.visibility_timeout = period(2));
            Bench::new(source, move |payloads| {
                for payload in payloads {
                    let body = String::from_utf8(payload.to_vec()).unwrap();
                    let message = FakeMessage::new(body.clone()).group(body.clone()).dedup(body);
                    fake.send_message(queue, message);
                }
                Box::pin(async {})
            })
        })
        .await;
    }
}

async fn receive(source: &mut SqsSource, max: usize) -> Vec<Delivery> {
    match source.receive(max).await.unwrap() {
        Received::Batch(batch) => batch,
        Received::End => panic!("ended"),
        Received::Health(health) => panic!("{health:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_held_than_the_window_has_free() {
    let fake = fake();
    (0..500).for_each(|n| drop(fake.send("q", n.to_string())));
    let sink = MemorySink::slow(SECOND, |_| Ok(()));
    let source = source(&fake, |config| config.pollers = 8);

    let pipeline = pipeline(source, &sink).concurrency(17).prefetch(4).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.took(500).await;
    handle.drain();
    run.await.unwrap().unwrap();

    // Beyond those that are worked on and prefetched: what is done and waits up to 50 ms for its delete.
    assert!(fake.most_in_flight("q") <= 21 + 50, "{}", fake.most_in_flight("q"));
    assert_eq!((fake.deleted("q"), fake.visible("q")), (500, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_received_while_all_are_busy() {
    let fake = fake();
    (0..500).for_each(|n| drop(fake.send("q", n.to_string())));
    let sink = MemorySink::slow(Duration::from_secs(3_000), |_| Ok(()));
    let source = source(&fake, |config| config.pollers = 8);
    let pipeline = pipeline(source, &sink).concurrency(17).prefetch(4).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(17).await;

    tokio::time::sleep(Duration::from_secs(1_000)).await;

    assert_eq!((fake.in_flight("q"), fake.most_in_flight("q")), (21, 21));
    handle.drain();
    drop(run.await);
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_is_still_deleted_ten_at_a_time() {
    let fake = fake();
    (0..1_000).for_each(|n| drop(fake.send("q", n.to_string())));
    let sink = MemorySink::slow(Duration::from_millis(1), |_| Ok(()));
    let pipeline = pipeline(source(&fake, |_| ()), &sink)
        .concurrency(1)
        .prefetch(0)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("all are deleted", || fake.deleted("q") == 1_000).await;

    let deletes = fake.requests("DeleteMessageBatch");
    assert!(deletes <= 110, "{deletes} deletes of 1000 messages");
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_to_a_connection_that_was_cut_comes_again_in_a_moment() {
    for (queue, visibility) in [("q", 30), ("q", 3), ("q.fifo", 600)] {
        let fake = fake();
        fake.create_queue("q.fifo", QueueOptions::default());
        let put = || fake.send_message(queue, FakeMessage::new("x").group("g").dedup("d"));
        // The queue is empty; SQS hands the message out and nobody hears of it.
        let mut first = source_of(&fake, queue, |config| config.visibility_timeout = period(visibility));
        assert!(timeout(SECOND, first.receive(10)).await.is_err());
        fake.fail("ReceiveMessage", 1, Fault::LostAnswer);
        drop(first);
        let mut lost = source_of(&fake, queue, |config| config.visibility_timeout = period(visibility));
        put();
        let began = Instant::now();

        let received = receive(&mut lost, 10).await;

        let after = began.elapsed();
        assert!(
            after <= Duration::from_millis(6_500),
            "{queue}, {visibility} s: {after:?}"
        );
        // And it is ours for the whole visibility now.
        tokio::time::sleep(Duration::from_secs(visibility) - Duration::from_millis(2_500).min(after)).await;
        assert_eq!(
            (received.len(), fake.in_flight(queue)),
            (1, 1),
            "{queue}, {visibility} s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_was_set_is_the_wait_right_after_messages_and_strands_none() {
    // (set, waited, changes of visibility for the first message)
    for (set, waited, changes) in [(None, 2, 1), (Some(1), 1, 0), (Some(7), 7, 1), (Some(20), 20, 1)] {
        let fake = fake();
        fake.send("q", "first");
        let change = |config: &mut SqsSourceConfig| config.wait_time = set.map(period);
        let mut source = source(&fake, change);
        let first = receive(&mut source, 10).await;
        assert_eq!(fake.requests("ChangeMessageVisibilityBatch"), changes, "{set:?}");

        // It comes back empty once.
        let began = Instant::now();
        let dry = async {
            tokio::select! {
                received = source.receive(10) => panic!("{received:?}"),
                () = until("the third receive", || fake.requests("ReceiveMessage") == 3) => (),
            }
        };
        dry.await;
        let after = began.elapsed();
        assert!(
            (waited * SECOND..waited * SECOND + Duration::from_millis(200)).contains(&after),
            "{set:?}: {after:?}"
        );

        // What SQS hands to a receive that is cut off comes again in a moment, where it waits long.
        fake.fail("ReceiveMessage", 1, Fault::LostAnswer);
        if set.is_some_and(|wait| wait > 2) {
            fake.send("q", "second");
            let sent = Instant::now();
            let second = receive(&mut source, 10).await;
            assert!(sent.elapsed() <= Duration::from_millis(6_500), "{:?}", sent.elapsed());
            drop(second);
        }
        drop(first);
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_runs_dry_is_asked_how_many_are_out_once_in_a_while() {
    let fake = fake();
    fake.send("q", "x");
    let change = |config: &mut SqsSourceConfig| {
        (config.wait_time, config.visibility_timeout) = (Some(period(1)), period(3_600));
    };
    let mut source = source(&fake, change);
    let kept = receive(&mut source, 10).await;

    assert!(timeout(Duration::from_secs(300), source.receive(10)).await.is_err());

    assert_eq!(fake.requests("GetQueueAttributes"), 1);
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn receives_grow_with_the_work() {
    let fake = fake();
    (0..1_000).for_each(|n| drop(fake.send("q", n.to_string())));
    // Each receive takes a while, as over a network.
    fake.script(|call| (call.operation == "ReceiveMessage").then_some(Fault::Slow(Duration::from_millis(100))));
    let sink = MemorySink::new();
    let took = async |pollers| {
        let pipeline = pipeline(source(&fake, |config| config.pollers = pollers), &sink)
            .build()
            .unwrap();
        let handle = pipeline.handle();
        let (began, target) = (Instant::now(), sink.count() + 500);
        let run = tokio::spawn(pipeline.run());
        sink.took(target).await;
        let took = began.elapsed();
        handle.drain();
        run.await.unwrap().unwrap();
        took
    };

    let (one, six) = (took(1).await, took(6).await);

    assert!(six * 3 < one, "one receive at a time: {one:?}, six: {six:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_queue_is_asked_three_times_a_minute() {
    for (pollers, wait) in [(1, None), (8, None), (2, Some(20)), (4, Some(1))] {
        let fake = fake();
        let sink = MemorySink::new();
        let change = |config: &mut SqsSourceConfig| (config.pollers, config.wait_time) = (pollers, wait.map(period));
        let pipeline = pipeline(source(&fake, change), &sink).build().unwrap();
        let handle = pipeline.handle();
        let run = tokio::spawn(pipeline.run());
        // From work into idleness.
        (0..200).for_each(|n| drop(fake.send("q", n.to_string())));
        sink.took(200).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let all = || {
            [
                "ReceiveMessage",
                "GetQueueAttributes",
                "DeleteMessageBatch",
                "ChangeMessageVisibilityBatch",
            ]
            .map(|operation| fake.requests(operation))
            .iter()
            .sum::<u64>()
        };
        let before = all();
        tokio::time::sleep(Duration::from_secs(600)).await;

        let asked = all() - before;
        assert!(
            (25..=30).contains(&asked),
            "{asked} requests in ten minutes; pollers {pollers}, wait {wait:?} s"
        );

        // And what comes then is there at once.
        let came = Instant::now();
        fake.send("q", "late");
        sink.took(201).await;
        assert!(came.elapsed() < Duration::from_millis(100), "{:?}", came.elapsed());
        handle.drain();
        run.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_connection_cannot_stop_receiving() {
    let fake = fake();
    // The SDK tries a receive three times within its limit.
    fake.fail("ReceiveMessage", 7, Fault::Stall);
    fake.send("q", "x");
    let sink = MemorySink::new();
    let pipeline = pipeline(source(&fake, |_| ()), &sink).build().unwrap();
    let handle = pipeline.handle();
    let began = Instant::now();
    let run = tokio::spawn(pipeline.run());

    sink.took(1).await;

    assert!(began.elapsed() < Duration::from_secs(400), "{:?}", began.elapsed());
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_while_the_gate_is_closed_and_what_comes_late_goes_back() {
    let fake = fake();
    let mut source = source(&fake, |_| ());
    assert!(timeout(SECOND, source.receive(10)).await.is_err(), "there is nothing");

    source.hold().await.unwrap();
    fake.send("q", "x");
    until("the late message is back", || {
        fake.requests("ChangeMessageVisibilityBatch") == 1
    })
    .await;

    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((fake.visible("q"), fake.requests("ReceiveMessage")), (1, 1));
    assert_eq!(
        receive(&mut source, 10).await[0].message.attempt,
        1,
        "to give back untried counts no attempt"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_receive_brings_after_the_stop_is_visible_at_once() {
    let fake = fake();
    let mut source = source(&fake, |_| ());
    assert!(timeout(SECOND, source.receive(10)).await.is_err());

    let (closed, ()) = tokio::join!(source.close(), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        (0..3).for_each(|n| drop(fake.send("q", n.to_string())));
    });

    closed.unwrap();
    assert_eq!((fake.visible("q"), fake.in_flight("q")), (3, 0));
    assert!(matches!(source.receive(1).await.unwrap(), Received::End));
}

/// A receive that has come back and was not looked at: what it brought goes back before the close is over.
#[tokio::test(start_paused = true)]
async fn what_came_back_unseen_before_the_stop_is_given_back_by_it() {
    for hold_only in [true, false] {
        let fake = fake();
        let mut source = source(&fake, |_| ());
        assert!(timeout(SECOND, source.receive(10)).await.is_err());
        (0..3).for_each(|n| drop(fake.send("q", n.to_string())));
        until("they were taken", || fake.in_flight("q") == 3).await;
        // The receive's own task ends; nobody asks for what it brought.
        tokio::time::sleep(SECOND).await;

        if hold_only {
            source.hold().await.unwrap();
        } else {
            source.close().await.unwrap();
        }

        assert_eq!(
            (fake.visible("q"), fake.in_flight("q")),
            (3, 0),
            "hold only: {hold_only}"
        );
    }
}

/// A receive that came back while nobody asked, as with a window that is full for long: nothing extends what it brought.
#[tokio::test(start_paused = true)]
async fn what_lay_too_long_before_it_was_asked_for_is_not_handed_out() {
    for (waited, handed_out) in [(5, 3), (12, 0)] {
        let fake = fake();
        let mut source = source(&fake, |config| config.visibility_timeout = period(40));
        assert!(timeout(SECOND, source.receive(10)).await.is_err());
        (0..3).for_each(|n| drop(fake.send("q", n.to_string())));
        until("they were taken", || fake.in_flight("q") == 3).await;
        tokio::time::sleep(waited * SECOND).await;

        let first = timeout(Duration::ZERO, source.receive(10)).await;

        let count = match first {
            Ok(Ok(Received::Batch(batch))) => batch.len(),
            Err(_) => 0,
            other => panic!("{other:?}"),
        };
        assert_eq!(count, handed_out, "after {waited} s");
        // They come again, under a lease that is new.
        if handed_out == 0 {
            let Received::Batch(again) = source.receive(10).await.unwrap() else {
                panic!("they come again")
            };
            assert_eq!((again.len(), again[0].message.attempt), (3, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_receive_that_hangs_at_the_stop_is_cut_off_and_takes_nothing() {
    let fake = fake();
    let mut source = source(&fake, |_| ());
    assert!(timeout(SECOND, source.receive(10)).await.is_err());
    assert!(fake.waiting("q") > 0);
    let began = Instant::now();

    source.close().await.unwrap();

    assert!(began.elapsed() <= 2 * SECOND, "{:?}", began.elapsed());
    assert_eq!(fake.waiting("q"), 0);
    fake.send("q", "x");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((fake.visible("q"), fake.in_flight("q")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn no_message_waits_for_its_visibility_after_a_drain() {
    let fake = fake();
    (0..400).for_each(|n| drop(fake.send("q", n.to_string())));
    let sink = MemorySink::slow(Duration::from_secs(7), |_| Ok(()));
    let pipeline = pipeline(source(&fake, |config| config.pollers = 4), &sink)
        .concurrency(32)
        .prefetch(64)
        .drain_timeout(2 * SECOND)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.took(40).await;

    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert!(!summary.finished, "what took too long was cancelled");
    assert_eq!(fake.in_flight("q"), 0, "nothing is left in flight");
    assert_eq!(fake.visible("q") + fake.deleted("q"), 400);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_old_is_deleted_untried() {
    for (hours, kept) in [(3, true), (5, false)] {
        let fake = Fake::behind(Duration::from_secs(hours * 3_600));
        fake.create_queue("q", QueueOptions::default());
        fake.send("q", "x");
        let mut source = source(&fake, |config| config.retention = Some(period(4 * 3_600)));

        let received = timeout(Duration::from_secs(5), source.receive(1)).await;

        assert_eq!(received.is_ok(), kept, "{hours} h");
        assert_eq!(
            (source.expired(), fake.deleted("q")),
            if kept { (0, 0) } else { (1, 1) },
            "{hours} h"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_what_its_md5_says_is_given_back() {
    for verify in [true, false] {
        let fake = fake();
        fake.send("q", "häßlich");
        fake.fail("ReceiveMessage", 1, Fault::WrongMd5);
        let mut source = source(&fake, |config| config.verify_md5 = verify);

        let received = receive(&mut source, 1).await;

        assert_eq!(received[0].message.payload, "häßlich");
        assert_eq!(fake.requests("ReceiveMessage"), if verify { 2 } else { 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_before_the_stop_is_given_back_however_slowly() {
    let fake = fake();
    let mut source = source(&fake, |_| ());
    assert!(timeout(SECOND, source.receive(10)).await.is_err());
    fake.fail("ChangeMessageVisibilityBatch", 1, Fault::Slow(3 * SECOND));

    let (closed, ()) = tokio::join!(source.close(), async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        fake.send("q", "x");
    });

    closed.unwrap();
    assert_eq!((fake.visible("q"), fake.in_flight("q")), (1, 0));
}

/// The failure breaker of the layers closes the gate: a sink that fails spends no receives.
#[tokio::test(start_paused = true)]
async fn nothing_is_asked_while_the_breaker_is_open() {
    let fake = fake();
    (0..100).for_each(|n| drop(fake.send("q", n.to_string())));
    let well = Arc::new(AtomicBool::new(false));
    let sink = {
        let well = well.clone();
        MemorySink::answering(move |_| match well.load(Relaxed) {
            true => Ok(()),
            false => Err(Error::retry("500")),
        })
    };
    let pipeline = pipeline(source(&fake, |_| ()), &sink)
        .concurrency(10)
        .stack(|stack| {
            stack.retry = None;
            stack.breaker = Some(BreakerLayer::new(BreakerSettings::default()));
        })
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("it is open", || handle.status().breaker == "open").await;
    // What was asked before that may yet come back.
    tokio::time::sleep(SECOND).await;
    let (asked, posted) = (fake.requests("ReceiveMessage"), sink.calls().values().sum::<u32>());
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(fake.requests("ReceiveMessage"), asked, "nothing is asked");
    assert_eq!(sink.calls().values().sum::<u32>(), posted, "and nothing tried");
    // No more receives than calls are spent: 20 of them say that it fails.
    assert!((20..=30).contains(&posted), "{posted}");

    well.store(true, Relaxed);
    until("all are deleted", || fake.deleted("q") == 100).await;
    assert_eq!(handle.status().breaker, "closed");
    handle.drain();
    run.await.unwrap().unwrap();
}
