//! Near the most messages that a queue hands out at once.

use dispatch_core::{Class, Source as _, testing::Logs};
use dispatch_sources::sqs::fake::FakeMessage;
use tokio::time::{Instant, timeout};

use super::*;

const TOO_MANY: &str = "SQS hands out no more than 120000 messages at once";

#[tokio::test(start_paused = true)]
async fn a_queue_with_too_many_messages_out_is_told_of_and_asked_until_they_are_fewer() {
    for (queue, wait) in [("q", 1), ("q", 20), ("q.fifo", 20)] {
        let (logs, _guard) = Logs::gather();
        let fake = fake();
        fake.create_queue("q.fifo", QueueOptions::default());
        fake.out_with_others(queue, 120_000);
        fake.send_message(queue, FakeMessage::new("x").group("g").dedup("d"));
        let mut source = source_of(&fake, queue, |config| config.wait_time = Some(period(wait)));

        // Nothing comes, and SQS says nothing of why.
        let hour = Duration::from_secs(3_600);
        assert!(timeout(hour, source.receive(10)).await.is_err(), "{queue}");
        let told = logs.count("ERROR", TOO_MANY);
        assert!(
            (5..=6).contains(&told),
            "{queue}, wait {wait} s: told {told} times in an hour"
        );
        assert_eq!(logs.count("ERROR", "in_flight=120000"), told);

        fake.out_with_others(queue, 99_999);
        assert!(source.receive(10).await.is_ok());
        drop(timeout(2 * hour, source.receive(10)).await);
        assert_eq!(
            logs.count("ERROR", TOO_MANY),
            told,
            "{queue}: fewer than 100000 are no matter"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_at_the_limit_is_told_of_at_once() {
    let (logs, _guard) = Logs::gather();
    let fake = fake();
    fake.out_with_others("q", 100_000);
    let mut source = source(&fake, |_| ());

    assert!(timeout(Duration::from_secs(25), source.receive(10)).await.is_err());

    assert_eq!(logs.count("ERROR", TOO_MANY), 1);
}

#[tokio::test(start_paused = true)]
async fn over_the_limit_receives_rest_and_deletes_go_on() {
    let (logs, _guard) = Logs::gather();
    let fake = fake();
    fake.send("q", "x");
    // Short polls are told; long ones are not.
    let mut source = source(&fake, |config| config.wait_time = Some(period(0)));
    let held = crate::receive(&mut source, 1).await.remove(0);
    fake.out_with_others("q", 120_000);
    fake.send("q", "y");

    let error = source.receive(1).await.unwrap_err();
    let (began, asked) = (Instant::now(), fake.requests("ReceiveMessage"));
    crate::ack(held).await;

    assert_eq!(
        (error.class(), error.code().map(|code| &**code)),
        (Class::Throttled(None), Some("OverLimit"))
    );
    assert_eq!(logs.count("ERROR", "too many messages of this queue are out"), 1);
    assert_eq!((fake.deleted("q"), fake.requests("ReceiveMessage")), (1, asked));
    fake.out_with_others("q", 119_999);
    crate::receive(&mut source, 1).await;
    let rested = began.elapsed();
    assert!((SECOND..=5 * SECOND).contains(&rested), "{rested:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_lasts_is_told_of_once_a_minute() {
    let (logs, _guard) = Logs::gather();
    let fake = fake();
    fake.out_with_others("q", 120_000);
    let sink = MemorySink::new();
    let short = source(&fake, |config| config.wait_time = Some(period(0)));
    let pipeline = pipeline(short, &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    tokio::time::sleep(Duration::from_secs(600)).await;

    let told = logs.count("ERROR", "too many messages of this queue are out");
    assert!((8..=11).contains(&told), "told {told} times in ten minutes");
    fake.out_with_others("q", 0);
    fake.send("q", "x");
    sink.took(1).await;
    handle.drain();
    run.await.unwrap().unwrap();
}
