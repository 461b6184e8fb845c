use super::*;

#[tokio::test(start_paused = true)]
async fn every_message_is_delivered_once_and_acked() {
    let source = MemorySource::ending(numbered(1_000));
    let queue = source.queue();
    let sink = MemorySink::new();

    let summary = pipeline(source, &sink).run().await.unwrap();

    assert_eq!(
        (summary.received, summary.delivered, sink.count(), queue.settled().len()),
        (1_000, 1_000, 1_000, 1_000)
    );
    assert!(summary.finished && sink.calls().values().all(|calls| *calls == 1));
    assert_balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn never_more_is_held_than_concurrency_and_prefetch_nor_worked_on_than_concurrency() {
    let source = MemorySource::ending(numbered(500));
    let queue = source.queue();
    let sink = MemorySink::slow(Duration::from_millis(5), |_| Ok(()));

    pipeline(source, &sink).concurrency(7).prefetch(3).run().await.unwrap();

    assert_eq!((queue.most_out(), sink.most_at_once()), (10, 7));
}

async fn most_held(each: Duration, change: impl FnOnce(PipelineBuilder) -> PipelineBuilder) -> usize {
    let source = MemorySource::ending(numbered(5_000)).with(|can| can.prefetch = 400);
    let queue = source.queue();
    let sink = MemorySink::slow(each, |_| Ok(()));

    change(pipeline(source, &sink).concurrency(10)).run().await.unwrap();

    queue.most_out()
}

#[tokio::test(start_paused = true)]
async fn what_a_source_advises_is_held_where_it_is_worked_off_quickly() {
    assert_eq!(most_held(Duration::from_millis(1), |same| same).await, 410);
    assert_eq!(most_held(Duration::from_secs(10), |same| same).await, 26);
}

#[tokio::test(start_paused = true)]
async fn lanes_see_all_that_is_advised_however_slow_the_sink() {
    let lanes = lanes::by_key(false);

    assert_eq!(most_held(Duration::from_secs(10), |same| same.lanes(lanes)).await, 410);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_without_a_place_at_the_sink() {
    // One message fails at once and waits; with one place the others must pass meanwhile.
    let source = MemorySource::ending(numbered(50));
    let sink = MemorySink::answering(|message| {
        if message.payload == "0" && message.attempt == 1 {
            no("first")
        } else {
            Ok(())
        }
    });

    pipeline(source, &sink)
        .concurrency(1)
        .prefetch(5)
        .retry(every(Duration::from_secs(1)))
        .run()
        .await
        .unwrap();

    assert_eq!(sink.texts().last().map(String::as_str), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn half_of_the_messages_waiting_does_not_slow_the_others() {
    async fn run(failing: bool) -> (Duration, u64) {
        let source = MemorySource::ending(numbered(2_000));
        let sink = MemorySink::slow(Duration::from_millis(10), move |message| {
            let even = message.payload.last().is_some_and(|digit| digit % 2 == 0);
            if failing && even && message.attempt == 1 {
                no("even")
            } else {
                Ok(())
            }
        });
        let started = tokio::time::Instant::now();
        let handle = {
            let pipeline = pipeline(source, &sink)
                .concurrency(10)
                .stack(|stack| stack.breaker = None)
                .retry(every(Duration::from_secs(60)))
                .build()
                .unwrap();
            tokio::spawn(pipeline.run())
        };
        // All that can be delivered at once: half of them where the other half waits.
        sink.called(2_000).await;
        let took = started.elapsed();
        let summary = handle.await.unwrap().unwrap();
        assert_balanced(&summary);
        (took, summary.delivered)
    }

    let (base, _) = run(false).await;
    let (failing, delivered) = run(true).await;

    assert_eq!(delivered, 2_000);
    assert!(failing <= base.mul_f64(1.05), "{failing:?} against {base:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panicking_sink_fails_its_message_alone() {
    let source = MemorySource::ending(numbered(20));
    let sink = MemorySink::answering(|message| {
        assert!(message.payload != "7" || message.attempt > 1, "seven");
        Ok(())
    });

    let summary = pipeline(source, &sink).run().await.unwrap();

    assert_eq!((summary.delivered, summary.failed), (20, 1));
}

#[tokio::test(start_paused = true)]
async fn two_shards_share_one_source_and_lose_nothing() {
    let source = MemorySource::ending(numbered(1_000));
    let queue = source.queue();
    let sink = MemorySink::slow(Duration::from_millis(1), |_| Ok(()));

    let summary = pipeline(source, &sink)
        .concurrency(8)
        .prefetch(0)
        .shards(2)
        .run()
        .await
        .unwrap();

    assert_eq!(
        (summary.delivered, queue.settled().len(), queue.most_out()),
        (1_000, 1_000, 8)
    );
}

#[tokio::test]
async fn a_layer_of_the_users_own_stands_around_the_sink() {
    let source = MemorySource::ending(numbered(10));
    let sink = MemorySink::slow(Duration::from_millis(1), |_| Ok(()));

    let summary = pipeline(source, &sink)
        .layer(tower::limit::ConcurrencyLimitLayer::new(2))
        .run()
        .await
        .unwrap();

    assert_eq!((summary.delivered, sink.most_at_once()), (10, 2));
}

#[tokio::test]
async fn any_tower_service_is_a_sink() {
    let service = tower::service_fn(|message: Message| async move { Ok::<_, Error>(message.payload.clone()) });

    let summary = Pipeline::builder("test")
        .source(MemorySource::ending(numbered(3)))
        .service(service)
        .run()
        .await
        .unwrap();

    assert_eq!(summary.delivered, 3);
}

#[test]
fn a_driver_whose_budget_is_spent_goes_on() {
    // Under `block_on` of this runtime a primitive of a task that has spent its budget wakes it again at once.
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let sink = MemorySink::slow(Duration::from_millis(20), |_| Ok(()));
        let run = pipeline(MemorySource::ending(numbered(2_000)), &sink)
            .concurrency(1_000)
            .run();
        done.send(runtime.block_on(run).unwrap().delivered).unwrap();
    });

    assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Ok(2_000));
}
