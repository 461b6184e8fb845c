//! The visibility of what is here, from the receive on until it is settled.

use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn extensions_go_ten_at_a_time_at_half_of_the_visibility() {
    let fake = fake();
    (0..25).for_each(|n| drop(fake.send("q", n.to_string())));
    let sink = MemorySink::slow(Duration::from_secs(85), |_| Ok(()));
    let change = |config: &mut SqsSourceConfig| config.visibility_timeout = period(20);
    // Five at work and twenty that wait: what is not begun is extended as well.
    let pipeline = pipeline(source(&fake, change), &sink)
        .concurrency(5)
        .prefetch(20)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(5).await;
    until("all are here", || fake.in_flight("q") == 25).await;
    let (began, before) = (Instant::now(), fake.requests("ChangeMessageVisibilityBatch"));

    // Eight halves.
    tokio::time::sleep(Duration::from_secs(80)).await;

    let requests = fake.requests("ChangeMessageVisibilityBatch") - before;
    assert!(
        (21..=30).contains(&requests),
        "{requests} requests in {:?}",
        began.elapsed()
    );
    assert_eq!(fake.in_flight("q"), 25, "none was visible again");
    until("all are deleted", || fake.deleted("q") == 25).await;
    assert_eq!(sink.calls().values().max(), Some(&1));
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_at_work_stays_ours_while_it_is_drained() {
    let fake = fake();
    (0..8).for_each(|n| drop(fake.send("q", n.to_string())));
    let sink = MemorySink::slow(Duration::from_secs(60), |_| Ok(()));
    let change = |config: &mut SqsSourceConfig| config.visibility_timeout = period(5);
    let pipeline = pipeline(source(&fake, change), &sink)
        .concurrency(8)
        .drain_timeout(Duration::from_secs(120))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(8).await;

    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert!(summary.finished);
    assert_eq!((fake.deleted("q"), fake.visible("q")), (8, 0), "deleted before the end");
    assert_eq!(sink.calls().values().max(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn without_a_heartbeat_the_visibility_is_not_extended() {
    let fake = fake();
    fake.send("q", "x");
    let sink = MemorySink::slow(Duration::from_secs(25), |_| Ok(()));
    let change = |config: &mut SqsSourceConfig| (config.heartbeat, config.visibility_timeout) = (false, period(30));
    let pipeline = pipeline(source(&fake, change), &sink)
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("it is deleted", || fake.deleted("q") == 1).await;

    // One that made it ours for the whole visibility: the receive asked for a moment.
    assert!(fake.requests("ChangeMessageVisibilityBatch") <= 1);
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_heartbeat_no_attempt_may_outlast_its_visibility() {
    for (heartbeat, timeout, is_right) in [(false, 31, false), (false, 30, true), (true, 3_600, true)] {
        let change =
            |config: &mut SqsSourceConfig| (config.heartbeat, config.visibility_timeout) = (heartbeat, period(30));
        let pipeline = pipeline(source(&fake(), change), &MemorySink::new()).timeout(Duration::from_secs(timeout));

        match pipeline.build() {
            Ok(_) => assert!(is_right, "timeout {timeout} s"),
            Err(error) => {
                assert!(!is_right, "timeout {timeout} s: {error}");
                assert!(
                    error.to_string().contains("leases of 30s that nobody extends"),
                    "{error}"
                );
            }
        }
    }
}
