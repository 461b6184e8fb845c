use dispatch_core::Disposition;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_is_started_and_releases_what_is_not() {
    let source = MemorySource::new();
    let queue = source.queue();
    numbered(100).into_iter().for_each(|message| queue.push(message));
    let sink = MemorySink::slow(Duration::from_secs(5), |_| Ok(()));
    let pipeline = pipeline(source, &sink).concurrency(4).prefetch(10).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(4).await;
    let started = tokio::time::Instant::now();

    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert!(summary.finished && started.elapsed() <= Duration::from_secs(6));
    assert_eq!(
        (summary.delivered, summary.released, queue.waiting(), queue.out()),
        (4, 10, 96, 0)
    );
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn what_outlasts_the_drain_is_cancelled_and_released_at_once() {
    for hurry in [false, true] {
        let source = MemorySource::new().leasing(Duration::from_secs(600));
        let queue = source.queue();
        numbered(3).into_iter().for_each(|message| queue.push(message));
        let sink = MemorySink::slow(Duration::from_secs(3_600), |_| Ok(()));
        let pipeline = pipeline(source, &sink)
            .timeout(Duration::from_secs(7_200))
            .drain_timeout(Duration::from_secs(25))
            .build()
            .unwrap();
        let handle = pipeline.handle();
        let run = tokio::spawn(pipeline.run());
        sink.called(3).await;
        let started = tokio::time::Instant::now();

        handle.drain();
        if hurry {
            handle.stop_now();
        }
        let summary = run.await.unwrap().unwrap();

        assert_eq!(started.elapsed().as_secs(), if hurry { 0 } else { 25 });
        assert_eq!((summary.finished, summary.released, queue.waiting()), (false, 3, 3));
        assert!(
            queue.settled().iter().all(|(_, how)| *how == Disposition::Release),
            "no attempt is counted"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_pipeline_releases_what_it_holds() {
    let source = MemorySource::new();
    let queue = source.queue();
    numbered(10).into_iter().for_each(|message| queue.push(message));
    let sink = MemorySink::slow(Duration::from_secs(3_600), |_| Ok(()));
    let run = tokio::spawn(pipeline(source, &sink).concurrency(4).prefetch(2).run());
    sink.called(4).await;

    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());

    while queue.waiting() < 10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(queue.out(), 0);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_red_before_receiving_stops() {
    let source = MemorySource::new();
    let sink = MemorySink::slow(Duration::from_secs(5), |_| Ok(()));
    source.queue().push(Message::new("x"));
    let pipeline = pipeline(source, &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    sink.called(1).await;
    assert!(handle.status().ready);

    handle.drain();

    assert!(!handle.status().ready);
    run.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_with_the_future_it_is_given() {
    let source = MemorySource::new();
    source.queue().push(Message::new("x"));
    let sink = MemorySink::new();
    let took = sink.clone();

    let summary = pipeline(source, &sink)
        .build()
        .unwrap()
        .run_until(async move { took.took(1).await })
        .await
        .unwrap();

    assert_eq!((summary.delivered, summary.finished), (1, true));
}
