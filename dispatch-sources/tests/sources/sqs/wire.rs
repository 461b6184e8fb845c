//! Over sockets: what only they can do.

use dispatch_core::{Received, Source as _, testing::MemorySink};
use dispatch_sources::sqs::fake::{FakeMessage, Fault};

use super::*;

fn over_http(fake: &Fake, endpoint: String) -> SqsSource {
    let mut config = config(fake, "q");
    config.endpoint_url = Some(endpoint);
    SqsSource::new(config).unwrap()
}

#[tokio::test]
async fn everything_that_belongs_to_a_message_comes_over_http() {
    let fake = fake();
    let server = fake.serve().await;
    let mut message = FakeMessage::new("body")
        .attribute("tenant", "String", "a7")
        .attribute("size", "Number.int", "12")
        .binary("raw", &[0, 255, 7]);
    message.trace_header = Some("Root=1-2-3".to_owned());
    let id = fake.send_message("q", message);
    let mut source = over_http(&fake, server.url());

    let Received::Batch(batch) = source.receive(10).await.unwrap() else {
        panic!("ended");
    };

    let message = &batch[0].message;
    assert_eq!(
        (message.id().as_str(), &message.payload[..], message.attempt),
        (id.as_str(), &b"body"[..], 1)
    );
    assert_eq!(
        (message.headers().get("tenant"), message.headers().get("size")),
        (Some("a7"), Some("12"))
    );
    assert_eq!(
        message.headers().get_bytes("raw").map(|raw| &raw[..]),
        Some(&[0, 255, 7][..])
    );
    assert_eq!(message.metadata().get("sqs_type_size"), Some("Number.int"));
    assert_eq!(message.metadata().get("sqs_aws_trace_header"), Some("Root=1-2-3"));
    assert_eq!(message.metadata().get("sqs_queue_name"), Some("q"));
}

#[tokio::test]
async fn a_queue_is_found_by_its_name_and_an_endpoint_by_its_url() {
    let fake = fake();
    let server = fake.serve().await;
    fake.send("q", "x");
    let mut by_name = config(&fake, "q");
    by_name.queue_url = None;
    by_name.queue_name = Some("q".to_owned());
    by_name.endpoint_url = Some(server.url());
    let mut by_url = config(&fake, "q");
    by_url.queue_url = Some(format!("{}/000000000000/q", server.url()));

    for config in [by_name, by_url] {
        let mut source = SqsSource::new(config).unwrap();
        source.probe().await.unwrap();
    }
    assert_eq!(
        (fake.requests("GetQueueUrl"), fake.requests("GetQueueAttributes")),
        (1, 2)
    );
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_found_again() {
    let fake = fake();
    let server = fake.serve().await;
    let address = server.address();
    let sink = MemorySink::new();
    let pipeline = pipeline(over_http(&fake, server.url()), &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    fake.send("q", "before");
    sink.took(1).await;
    fake.fail("*", 2, Fault::Reset);

    server.stop().await;
    fake.send("q", "after");
    let _server = fake.serve_on(address).await;

    sink.took(2).await;
    handle.drain();
    assert!(run.await.unwrap().unwrap().finished);
}

#[tokio::test]
async fn what_is_asked_and_done_is_counted() {
    use dispatch_core::telemetry::Meter;
    let fake = fake();
    let server = fake.serve().await;
    (0..20).for_each(|n| drop(fake.send("q", n.to_string())));
    fake.fail("DeleteMessageBatch", 1, Fault::entries([1]));
    fake.fail("ReceiveMessage", 4, Fault::error("OverLimit"));
    let meter = Meter::default().of("source");
    let mut config = config(&fake, "q");
    config.endpoint_url = Some(server.url());
    config.wait_time = Some(period(1));
    let sink = MemorySink::new();
    let source = SqsSource::metered(config, &meter).unwrap();
    let pipeline = pipeline(source, &sink).build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());
    until("all are deleted", || fake.deleted("q") == 20).await;
    until("one brought nothing", || {
        read(&meter, "dispatch_sqs_empty_receives_total") > 0
    })
    .await;
    handle.drain();
    run.await.unwrap().unwrap();

    let read = |name| read(&meter, name);
    assert_eq!(read("dispatch_sqs_deleted_total"), 20);
    assert_eq!(read("dispatch_sqs_delete_retried_total"), 1);
    assert!(read("dispatch_sqs_throttled_total") >= 1);
    let requests = read("dispatch_sqs_delete_requests_total");
    assert!((3..=5).contains(&requests), "{requests} deletes");
    // The one that failed went again: as large as it was told, each time.
    let Measured::Sizes { buckets, sum } = measured(&meter, "dispatch_sqs_delete_batch_size") else {
        panic!("no sizes")
    };
    let batches: u64 = buckets.iter().map(|(_, count)| count).sum();
    assert_eq!((batches, sum), (requests, 21), "{buckets:?}");
    assert!(read("dispatch_sqs_receive_requests_total") >= 3);
    assert_eq!(
        (
            read("dispatch_sqs_delete_rejected_total"),
            read("dispatch_sqs_delete_abandoned_total"),
            read("dispatch_sqs_expired_total"),
        ),
        (0, 0, 0)
    );
}
