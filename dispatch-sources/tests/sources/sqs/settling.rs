use std::sync::atomic::Ordering::Relaxed;

use dispatch_core::{Delivery, Disposition, Error, Message, Received, Reply, SettleError, Settlement, Source as _};
use dispatch_sources::sqs::fake::Fault;
use tokio::time::{Instant, timeout};

use super::*;

async fn receive(source: &mut SqsSource, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        match source.receive(count - all.len()).await.unwrap() {
            Received::Batch(batch) => all.extend(batch),
            Received::End => panic!("ended"),
            Received::Health(health) => panic!("{health:?}"),
        }
    }
    all
}

fn settlements(deliveries: Vec<Delivery>, disposition: &Disposition) -> Vec<Settlement> {
    deliveries
        .into_iter()
        .map(|delivery| Settlement {
            token: delivery.receipt.into_parts().0,
            disposition: disposition.clone(),
        })
        .collect()
}

const fn ack() -> Disposition {
    Disposition::DeadLetter(Vec::new())
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_only_what_failed_is_told_again() {
    let fake = fake();
    (0..10).for_each(|n| drop(fake.send("q", n.to_string())));
    let mut source = source(&fake, |_| ());
    let deliveries = receive(&mut source, 10).await;
    fake.fail("DeleteMessageBatch", 1, Fault::entries([1, 4, 9]));
    fake.fail("DeleteMessageBatch", 1, Fault::entries([2]));

    let answers = source.settler().settle(settlements(deliveries, &ack())).await;

    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((fake.deleted("q"), fake.requests("DeleteMessageBatch")), (10, 3));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_refused_for_good_is_not_told_again() {
    let fake = fake();
    (0..3).for_each(|n| drop(fake.send("q", n.to_string())));
    let mut source = source(&fake, |_| ());
    let deliveries = receive(&mut source, 3).await;
    let (code, sender_fault) = ("ReceiptHandleIsInvalid".to_owned(), true);
    let which = vec![1];
    fake.fail(
        "DeleteMessageBatch",
        1,
        Fault::Entries {
            which,
            code,
            sender_fault,
        },
    );

    let answers = source.settler().settle(settlements(deliveries, &ack())).await;

    assert!(
        matches!(answers[..], [Ok(()), Err(SettleError::Stale), Ok(())]),
        "{answers:?}"
    );
    assert_eq!((fake.deleted("q"), fake.requests("DeleteMessageBatch")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_whole_call_that_fails_is_made_again() {
    for fault in [
        Fault::Status(503),
        Fault::Reset,
        Fault::LostAnswer,
        Fault::Throttled(None),
        Fault::Stall,
        Fault::error("KMS.ThrottlingException"),
    ] {
        let fake = fake();
        (0..10).for_each(|n| drop(fake.send("q", n.to_string())));
        let mut source = source(&fake, |_| ());
        let deliveries = receive(&mut source, 10).await;
        fake.fail("DeleteMessageBatch", 2, fault.clone());

        let answers = source.settler().settle(settlements(deliveries, &ack())).await;

        assert!(answers.iter().all(Result::is_ok), "{fault:?}: {answers:?}");
        assert_eq!(fake.visible("q") + fake.in_flight("q"), 0, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_cannot_be_made_keeps_its_message_and_its_lease() {
    // Deletes fail for twenty minutes; the visibility is 30 s.
    let fake = fake();
    let began = Instant::now();
    fake.script(move |call| {
        (call.operation == "DeleteMessageBatch" && began.elapsed() < Duration::from_secs(1_200))
            .then_some(Fault::Status(500))
    });
    (0..5).for_each(|n| drop(fake.send("q", n.to_string())));
    let sink = MemorySink::new();
    let pipeline = pipeline(source(&fake, |_| ()), &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("all are deleted", || fake.deleted("q") == 5).await;

    assert_eq!(sink.calls().values().max(), Some(&1), "no message came again meanwhile");
    handle.drain();
    assert!(run.await.unwrap().unwrap().finished);
}

#[tokio::test(start_paused = true)]
async fn a_stale_handle_is_a_lost_lease_and_is_not_deleted_under() {
    let fake = fake();
    let id = fake.send("q", "x");
    let mut source = source(&fake, |_| ());
    let first = receive(&mut source, 1).await;
    let token = first[0].receipt.token().clone();
    fake.expire("q", &id);
    let second = receive(&mut source, 1).await;

    let extended = source.settler().extend(vec![token], Duration::from_secs(30)).await;
    let before = fake.requests("DeleteMessageBatch");
    let stale = source.settler().settle(settlements(first, &ack())).await;

    assert!(matches!(extended[..], [Err(SettleError::Stale)]), "{extended:?}");
    assert!(matches!(stale[..], [Err(SettleError::Stale)]), "{stale:?}");
    assert_eq!(
        (fake.requests("DeleteMessageBatch") - before, fake.in_flight("q")),
        (0, 1)
    );
    assert!(source.settler().settle(settlements(second, &ack())).await[0].is_ok());
    assert_eq!(fake.deleted("q"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_visible_again_is_a_lost_lease() {
    for omit in [false, true] {
        let fake = fake();
        fake.omit_query_errors(omit);
        let id = fake.send("q", "x");
        let mut source = source(&fake, |_| ());
        let first = receive(&mut source, 1).await;
        fake.expire("q", &id);

        let token = first[0].receipt.token().clone();
        let extended = source.settler().extend(vec![token], Duration::from_secs(30)).await;

        assert!(matches!(extended[..], [Err(SettleError::Stale)]), "{extended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_nack_waits_its_delay_and_no_late_extension_takes_its_place() {
    let fake = fake();
    fake.send("q", "x");
    let mut source = source(&fake, |_| ());
    let delivery = receive(&mut source, 1).await;
    let token = delivery[0].receipt.token().clone();
    let settler = source.settler();
    // The extension is still on its way when the message fails.
    fake.fail("ChangeMessageVisibilityBatch", 1, Fault::Slow(2 * SECOND));
    let nack = Disposition::Nack {
        delay: Some(Duration::from_millis(4_500)),
        attempts: Vec::new(),
    };
    let began = Instant::now();

    let (extended, nacked) = tokio::join!(
        settler.extend(vec![token], Duration::from_secs(30)),
        settler.settle(settlements(delivery, &nack))
    );

    assert!(extended[0].is_ok() && nacked[0].is_ok(), "{extended:?} {nacked:?}");
    receive(&mut source, 1).await;
    // 2 s for the extension, and then 5 whole seconds.
    assert_eq!(began.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_failure_without_a_delay_is_left_to_the_visibility_or_to_what_the_file_says() {
    for (error_visibility, expected) in [(None, 30), (Some(2), 2), (Some(0), 0)] {
        let fake = fake();
        fake.send("q", "x");
        let mut source = source(&fake, |config| {
            config.error_visibility_timeout = error_visibility.map(period)
        });
        let delivery = receive(&mut source, 1).await;
        let began = Instant::now();
        let nack = Disposition::Nack {
            delay: None,
            attempts: Vec::new(),
        };

        assert!(source.settler().settle(settlements(delivery, &nack)).await[0].is_ok());
        receive(&mut source, 1).await;

        assert_eq!(began.elapsed().as_secs(), expected, "{error_visibility:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_visibility_ends_later_than_12_hours_after_the_receive() {
    for held in [0, 7_200, 43_000] {
        let fake = fake();
        fake.send("q", "x");
        let mut source = source(&fake, |config| {
            (config.heartbeat, config.visibility_timeout) = (false, period(43_200))
        });
        let delivery = receive(&mut source, 1).await;
        // Half a second more, so that rounding up would be too much.
        tokio::time::sleep(Duration::from_secs(held) + SECOND / 2).await;
        let nack = Disposition::Nack {
            delay: Some(Duration::from_secs(43_200)),
            attempts: Vec::new(),
        };

        let answers = source.settler().settle(settlements(delivery, &nack)).await;

        assert!(answers[0].is_ok(), "after {held} s: {answers:?}");
        assert_eq!(fake.in_flight("q"), 1, "hidden as long as it may be");
    }
}

#[tokio::test(start_paused = true)]
async fn extending_ends_where_the_file_or_sqs_ends_it() {
    let fake = fake();
    fake.send("q", "x");
    let sink = MemorySink::slow(Duration::from_secs(1_000), |_| Ok(()));
    let change = |config: &mut SqsSourceConfig| config.max_extension = period(100);
    let pipeline = pipeline(source(&fake, change), &sink)
        .cancel_on_lost_lease(true)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;
    let began = Instant::now();

    sink.called(2).await;

    let after = began.elapsed().as_secs();
    assert!((99..=121).contains(&after), "given up after {after} s");
    until("the first is a lost lease", || {
        handle.stats().lease_lost.load(Relaxed) == 1
    })
    .await;
    handle.drain();
    drop(timeout(Duration::from_secs(60), run).await);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_counted_over_retries_here_and_receives_there() {
    let fake = fake();
    fake.send("q", "x");
    let attempts = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = attempts.clone();
    let sink = MemorySink::answering(move |message: &Message| {
        seen.lock().unwrap().push(message.attempt);
        // The first and the fourth are put off once, which counts no attempt.
        let times = seen
            .lock()
            .unwrap()
            .iter()
            .filter(|attempt| **attempt == message.attempt)
            .count();
        match (message.attempt, times) {
            (1 | 4, 1) => Err(Error::throttled(Some(Duration::from_secs(60)), "later")),
            (..5, _) => Err(Error::retry("again")),
            _ => Ok(()),
        }
    });
    let pipeline = pipeline(source(&fake, |_| ()), &sink)
        .retry(every(Duration::from_secs(20)))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("it is done", || fake.deleted("q") == 1).await;

    assert_eq!(*attempts.lock().unwrap(), [1, 1, 2, 3, 4, 4, 5]);
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn more_than_a_batch_is_several_requests() {
    let fake = fake();
    (0..23).for_each(|n| drop(fake.send("q", n.to_string())));
    let mut source = source(&fake, |_| ());
    let deliveries = receive(&mut source, 23).await;

    let answers = source
        .settler()
        .settle(settlements(deliveries, &Disposition::Ack(Reply::default())))
        .await;

    assert!(answers.len() == 23 && answers.iter().all(Result::is_ok));
    assert_eq!((fake.deleted("q"), fake.requests("DeleteMessageBatch")), (23, 3));
}
