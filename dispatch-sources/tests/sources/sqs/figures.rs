//! The figures that this room owes; the clock is paused, so hours take seconds.

use dispatch_core::Error;
use dispatch_sources::sqs::fake::Fault;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn ten_thousand_messages_slower_than_their_visibility_come_once_each() {
    let fake = fake();
    (0..10_000).for_each(|n| drop(fake.send("q", n.to_string())));
    // 5 s of visibility, 12 s of work.
    let sink = MemorySink::slow(12 * SECOND, |_| Ok(()));
    let change = |config: &mut SqsSourceConfig| (config.visibility_timeout, config.pollers) = (period(5), 8);
    let pipeline = pipeline(source(&fake, change), &sink).concurrency(500).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("all are deleted", || fake.deleted("q") == 10_000).await;
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert_eq!(
        (sink.calls().len(), sink.calls().values().max()),
        (10_000, Some(&1)),
        "repeated: none"
    );
    assert_eq!(
        (summary.delivered, fake.visible("q") + fake.in_flight("q")),
        (10_000, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn under_load_a_delete_takes_ten() {
    for (concurrency, takes) in [(64, 1), (64, 30), (256, 250)] {
        let fake = fake();
        (0..10_000).for_each(|n| drop(fake.send("q", n.to_string())));
        let sink = MemorySink::slow(Duration::from_millis(takes), |_| Ok(()));
        let change = |config: &mut SqsSourceConfig| config.pollers = 4;
        let pipeline = pipeline(source(&fake, change), &sink)
            .concurrency(concurrency)
            .build()
            .unwrap();
        let handle = pipeline.handle();
        // As over a network.
        fake.script(|_| Some(Fault::Slow(Duration::from_millis(5))));
        let run = tokio::spawn(pipeline.run());

        until("all are deleted", || fake.deleted("q") == 10_000).await;

        let deletes = fake.requests("DeleteMessageBatch");
        let share = deletes as f64 / 10_000.0;
        assert!(
            share <= 0.11,
            "{share} deletes a message; concurrency {concurrency}, {takes} ms"
        );
        handle.drain();
        run.await.unwrap().unwrap();
    }
}

/// One hour, with one request in five going wrong in one way or another.
async fn an_hour_of_faults(seed: u64) {
    let fake = fake();
    let mut dice = StdRng::seed_from_u64(seed);
    fake.script(move |call| {
        let batch = call.operation.ends_with("Batch");
        match dice.random_range(0..100) {
            0..4 => Some(Fault::Status(500)),
            4..7 => Some(Fault::Status(503)),
            7..9 => Some(Fault::Reset),
            9..10 => Some(Fault::LostAnswer),
            10..12 => Some(Fault::Stall),
            12..14 => Some(Fault::Throttled(None)),
            14..16 => Some(Fault::error("OverLimit")),
            16..17 => Some(Fault::error("KMS.ThrottlingException")),
            17..18 => Some(Fault::Slow(3 * SECOND)),
            18..22 if batch => Some(Fault::entries([0, 3])),
            _ => None,
        }
    });
    let sink = MemorySink::slow(SECOND, |_| Ok(()));
    let pipeline = pipeline(source(&fake, |config| config.pollers = 4), &sink)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    let began = Instant::now();
    let mut sent = 0;
    let (mut last_count, mut last_progress, mut longest) = (0, began, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(3_600) {
        (0..10).for_each(|n| drop(fake.send("q", format!("{sent}-{n}"))));
        sent += 10;
        tokio::time::sleep(10 * SECOND).await;
        if sink.count() > last_count {
            (last_count, last_progress) = (sink.count(), Instant::now());
        }
        longest = longest.max(last_progress.elapsed());
    }
    assert!(
        longest < Duration::from_secs(180),
        "seed {seed}: nothing came for {longest:?}"
    );

    until("the rest is deleted", || fake.visible("q") + fake.hidden("q") == 0).await;
    handle.drain();
    run.await.unwrap().unwrap();
    assert_eq!(sink.calls().len(), sent, "seed {seed}: every message was worked on");
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_faults_never_stops_receiving() {
    for seed in [1, 2, 3] {
        an_hour_of_faults(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_fail_die_in_the_queues_own_dead_letter_queue() {
    let fake = Fake::new();
    fake.create_queue("dead", QueueOptions::default());
    fake.create_queue("q", QueueOptions::default().redrive("dead", 3));
    (0..20).for_each(|n| drop(fake.send("q", n.to_string())));
    let sink = MemorySink::answering(|_| Err(Error::retry("never")));
    let change = |config: &mut SqsSourceConfig| config.error_visibility_timeout = Some(period(2));
    let pipeline = pipeline(source(&fake, change), &sink)
        .stack(|stack| stack.retry = None)
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    until("all are dead", || fake.visible("dead") == 20).await;

    assert!(sink.calls().values().all(|calls| *calls == 3), "{:?}", sink.calls());
    handle.drain();
    run.await.unwrap().unwrap();
}

/// Prints what the fake does over loopback; `--release` says how fast it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fake_is_not_what_holds_a_bench_up() {
    use http_body_util::{BodyExt as _, Full};
    let fake = fake();
    const COUNT: usize = 20_000;
    (0..COUNT).for_each(|n| drop(fake.send("q", format!("{n:0200}"))));
    let server = fake.serve().await;
    let address = server.address();
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let stream = hyper_util::rt::TokioIo::new(stream);
            let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let mut ask = async |operation: &str, body: serde_json::Value| -> serde_json::Value {
                let request = hyper::Request::post("/")
                    .header("host", "fake")
                    .header("x-amz-target", format!("AmazonSQS.{operation}"))
                    .body(Full::new(bytes::Bytes::from(body.to_string())))
                    .unwrap();
                let answer = client.send_request(request).await.unwrap();
                serde_json::from_slice(&answer.collect().await.unwrap().to_bytes()).unwrap()
            };
            loop {
                let receive = serde_json::json!({ "QueueUrl": "http://x/q", "MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["All"] });
                let received = ask("ReceiveMessage", receive).await;
                let Some(messages) = received["Messages"].as_array() else { return };
                let entries: Vec<_> = messages
                    .iter()
                    .enumerate()
                    .map(|(id, message)| serde_json::json!({ "Id": id.to_string(), "ReceiptHandle": message["ReceiptHandle"] }))
                    .collect();
                ask("DeleteMessageBatch", serde_json::json!({ "QueueUrl": "http://x/q", "Entries": entries })).await;
            }
        });
    }
    tasks.join_all().await;

    let rate = COUNT as f64 / began.elapsed().as_secs_f64();
    println!("received and deleted over loopback: {rate:.0} messages a second");
    assert_eq!(fake.deleted("q"), COUNT);
    assert!(rate > 1_000.0, "{rate:.0} messages a second");
}
