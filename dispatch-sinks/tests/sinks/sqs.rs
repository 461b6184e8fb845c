//! The sink `sqs` against the fake, and against real servers.

use std::{io::Write as _, sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::QueueAttributeName,
};
use dispatch_core::{
    Class, Message, Sink as _,
    config::{Period, Secret},
    random_id,
    testing::sink::sink_battery,
};
use dispatch_sinks::sqs::{SqsSink, SqsSinkConfig};
use dispatch_sources::sqs::fake::{Fake, Fault, QueueOptions};

fn fake() -> Fake {
    let fake = Fake::new();
    for queue in ["q", "q.fifo"] {
        fake.create_queue(queue, QueueOptions::default());
    }
    fake
}

fn config(url: impl Into<String>) -> SqsSinkConfig {
    let mut config = SqsSinkConfig::new(url);
    config.region = Some("us-east-1".to_owned());
    config.access_key_id = Some("key".to_owned());
    config.secret_access_key = Some(Secret::new("secret"));
    config
}

fn sink(fake: &Fake, queue: &str) -> SqsSink {
    SqsSink::with_http_client(config(fake.queue_url(queue)), fake.http_client()).unwrap()
}

#[tokio::test]
async fn it_passes_the_battery_over_http() {
    let fake = fake();
    let server = fake.serve().await;
    let mut config = config(fake.queue_url("q"));
    config.endpoint_url = Some(server.url());
    let sink = SqsSink::new(config).unwrap();
    let seen = std::sync::Mutex::new(0);

    sink_battery(&sink, async |_| {
        // SQS gives ids of its own: any new one is there.
        let (mut seen, now) = (seen.lock().unwrap(), fake.visible("q"));
        let is_new = now > *seen;
        *seen += usize::from(is_new);
        is_new
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn messages_sent_at_once_share_requests() {
    let fake = fake();
    let sink = Arc::new(sink(&fake, "q"));

    let sends = (0..95).map(|n| {
        let sink = Arc::clone(&sink);
        async move { sink.send(Message::new(n.to_string())).await }
    });
    let replies = futures::future::join_all(sends).await;

    let ids: std::collections::HashSet<_> = replies
        .iter()
        .map(|reply| reply.as_ref().unwrap().headers.get("sqs-message-id").unwrap())
        .collect();
    assert_eq!(
        (ids.len(), fake.requests("SendMessageBatch"), fake.visible("q")),
        (95, 10, 95)
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_no_larger_than_sqs_takes() {
    let fake = fake();
    let sink = sink(&fake, "q");
    // Three of these are more than 1 MiB.
    let messages = (0..6).map(|_| Message::new(vec![b'x'; 400_000])).collect();

    let results = sink.send_batch(messages).await;

    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!((fake.requests("SendMessageBatch"), fake.visible("q")), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn a_message_fails_alone() {
    let fake = fake();
    let sink = sink(&fake, "q");
    fake.fail("SendMessageBatch", 1, Fault::entries([1]));
    let messages = ["a", "b", "", "c"].map(Message::new).to_vec();

    let results = sink.send_batch(messages).await;

    let classes: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(|error| error.class()))
        .collect();
    assert_eq!(classes, [None, Some(Class::Retry), Some(Class::Permanent), None]);
    assert_eq!(fake.bodies("q"), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_refused_as_a_whole_is_sent_one_by_one() {
    let fake = fake();
    let sink = sink(&fake, "q");
    fake.fail("SendMessageBatch", 1, Fault::error("InvalidMessageContents"));

    let results = sink.send_batch(["a", "b"].map(Message::new).to_vec()).await;

    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!((fake.requests("SendMessageBatch"), fake.visible("q")), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn each_failure_has_its_class() {
    let table = [
        (Fault::Status(500), Class::Retry),
        (Fault::error("RequestThrottled"), Class::Throttled(None)),
        (
            Fault::Throttled(Some(Duration::from_secs(3))),
            Class::Throttled(Some(Duration::from_secs(3))),
        ),
        (Fault::error("QueueDoesNotExist"), Class::Unavailable),
        (Fault::error("AccessDenied"), Class::Unavailable),
        (Fault::error("KMS.DisabledException"), Class::Unavailable),
        (Fault::error("InvalidMessageContents"), Class::Permanent),
        (Fault::Reset, Class::Unavailable),
        (Fault::Stall, Class::Retry),
    ];
    for omit in [false, true] {
        for (fault, class) in table.clone() {
            let fake = fake();
            fake.omit_query_errors(omit);
            fake.fail("SendMessageBatch", 4, fault.clone());
            let error = sink(&fake, "q").send(Message::new("x")).await.unwrap_err();
            assert_eq!(error.class(), class, "{fault:?}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn none_of_a_fifo_group_overtakes_one_that_failed() {
    let fake = fake();
    let sink = sink(&fake, "q.fifo");
    let message =
        |n: usize| Message::with_id(format!("m{n}"), n.to_string()).with_key(if n == 9 { "other" } else { "k" });
    // The first of the first request: of group `k`.
    fake.fail("SendMessageBatch", 1, Fault::entries([0]));

    let first = sink.send_batch((0..10).map(message).collect()).await;

    let sent: Vec<_> = (0..10).filter(|n| first[*n].is_ok()).collect();
    assert_eq!(
        (sent, fake.bodies("q.fifo")),
        (vec![9], vec!["9".to_owned()]),
        "{first:?}"
    );
    assert!(
        first[..9]
            .iter()
            .all(|result| result.as_ref().is_err_and(|error| error.class() == Class::Retry))
    );
    for result in sink.send_batch((0..9).map(message).collect()).await {
        result.unwrap();
    }
    let expected: Vec<_> = std::iter::once(9).chain(0..9).map(|n| n.to_string()).collect();
    assert_eq!(fake.bodies("q.fifo"), expected);
}

#[tokio::test(start_paused = true)]
async fn a_fifo_message_that_is_sent_again_is_there_once() {
    let fake = fake();
    let sink = sink(&fake, "q.fifo");
    let message = Message::with_id("m1", "x").with_key("k");
    fake.fail("SendMessageBatch", 1, Fault::LostAnswer);

    let first = sink.send(message.clone()).await.unwrap();
    let again = sink.send(message).await.unwrap();
    let batch = (0..25).map(|n| Message::new(n.to_string()).with_key("k")).collect();
    assert!(sink.send_batch(batch).await.iter().all(Result::is_ok));

    let number = |reply: &dispatch_core::Reply| reply.headers.get("sqs-sequence-number").map(str::to_owned);
    assert!(number(&first).is_some() && number(&first) == number(&again));
    let expected: Vec<_> = ["x".to_owned()]
        .into_iter()
        .chain((0..25).map(|n| n.to_string()))
        .collect();
    assert_eq!(fake.bodies("q.fifo"), expected, "in the order that they were sent in");
    assert_eq!(fake.messages("q.fifo")[0].group.as_deref(), Some("k"));
}

#[tokio::test(start_paused = true)]
async fn attributes_delay_and_trace_go_along() {
    let fake = fake();
    let mut config = config(fake.queue_url("q"));
    config.delay = Some(Period(Duration::from_secs(60)));
    let sink = SqsSink::with_http_client(config, fake.http_client()).unwrap();
    let message = Message::new("x")
        .header("tenant", "a7")
        .header("raw", vec![0_u8, 255])
        .meta("sqs_aws_trace_header", "Root=1");

    sink.send(message).await.unwrap();

    assert_eq!((fake.visible("q"), fake.hidden("q")), (0, 1));
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(fake.visible("q"), 1);
    let message = fake.messages("q").remove(0);
    assert_eq!(message.attribute_of("tenant"), Some(("String", "a7")));
    assert_eq!(message.attribute_of("raw"), Some(("Binary", "AP8=")));
    assert_eq!(message.trace_header.as_deref(), Some("Root=1"));
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_field() {
    let url = "https://sqs.eu-west-1.amazonaws.com/1/q";
    let fifo = "https://sqs.eu-west-1.amazonaws.com/1/q.fifo";
    type Change = fn(&mut SqsSinkConfig);
    let table: [(&str, Change, &str); 7] = [
        (url, |config| config.queue_url = None, "queue_url"),
        ("orders", |_| (), "queue_url"),
        (url, |config| config.queue_name = Some("q".to_owned()), "queue_name"),
        (
            url,
            |config| config.delay = Some(Period(Duration::from_secs(901))),
            "delay",
        ),
        (
            fifo,
            |config| config.delay = Some(Period(Duration::from_secs(1))),
            "delay",
        ),
        (url, |config| config.linger = Period(Duration::from_secs(2)), "linger"),
        (
            url,
            |config| config.deduplication_id = Some("x".parse().unwrap()),
            "deduplication_id",
        ),
    ];
    for (url, change, field) in table {
        let mut config = config(url);
        change(&mut config);
        let error = SqsSink::new(config).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{error}");
    }
}

/// The server under this variable; none where it is not set, which in CI is a failure.
fn server(test: &str, variable: &str) -> Option<String> {
    let url = std::env::var(variable).ok();
    if url.is_none() {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "{test}: CI must set {variable}"
        );
        // Not `eprintln`, which the test harness keeps to itself.
        let line = format!("skipped: {test}: {variable} is not set\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    url
}

async fn battery(endpoint: String) {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let settings = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .endpoint_url(&endpoint)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"));
    let client = Client::from_conf(settings.build());
    for fifo in [false, true] {
        let mut make =
            client
                .create_queue()
                .queue_name(format!("t-{}{}", random_id(), if fifo { ".fifo" } else { "" }));
        if fifo {
            make = make.attributes(QueueAttributeName::FifoQueue, "true");
        }
        let queue = make.send().await.unwrap().queue_url.unwrap();
        let mut config = config(&queue);
        config.endpoint_url = Some(endpoint.clone());
        if fifo {
            config.group_id = Some("{{ id }}".parse().unwrap());
        }
        let sink = SqsSink::new(config).unwrap();

        sink_battery(&sink, async |_| {
            let received = client
                .receive_message()
                .queue_url(&queue)
                .wait_time_seconds(1)
                .send()
                .await
                .unwrap();
            for message in received.messages() {
                let handle = message.receipt_handle().unwrap();
                client
                    .delete_message()
                    .queue_url(&queue)
                    .receipt_handle(handle)
                    .send()
                    .await
                    .unwrap();
            }
            received.messages().len() == 1
        })
        .await;
    }
}

#[tokio::test]
async fn elasticmq_passes_the_battery() {
    if let Some(url) = server("elasticmq_passes_the_battery", "DISPATCH_TEST_SQS_URL") {
        battery(url).await;
    }
}

#[tokio::test]
async fn moto_passes_the_battery() {
    if let Some(url) = server("moto_passes_the_battery", "DISPATCH_TEST_MOTO_URL") {
        battery(url).await;
    }
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_told_apart_and_loaded_anew() {
    for (code, loaded) in [("ExpiredToken", 2), ("AccessDenied", 2), ("RequestThrottled", 1)] {
        let fake = fake();
        // Each load asks for the queue of this name.
        let mut config = config("");
        (config.queue_url, config.queue_name) = (None, Some("q".to_owned()));
        let sink = SqsSink::with_http_client(config, fake.http_client()).unwrap();
        // As often as the SDK asks.
        fake.fail("SendMessageBatch", if loaded == 1 { 3 } else { 1 }, Fault::error(code));

        let error = sink.send(Message::new("x")).await.unwrap_err();
        sink.send(Message::new("x")).await.unwrap();

        let denied = error.to_string().contains("access denied");
        assert_eq!((denied, fake.requests("GetQueueUrl")), (loaded == 2, loaded), "{error}");
        assert_eq!(error.code().map(|code| &**code), Some(code));
    }
}

#[tokio::test(start_paused = true)]
async fn a_mistake_of_ours_costs_no_message() {
    for code in [
        "EmptyBatchRequest",
        "BatchEntryIdsNotDistinct",
        "TooManyEntriesInBatchRequest",
    ] {
        let fake = fake();
        let sink = sink(&fake, "q");
        fake.fail("SendMessageBatch", 1, Fault::error(code));

        let error = sink.send(Message::new("x")).await.unwrap_err();

        assert_eq!(error.class(), Class::Unavailable, "{error}");
        assert!(error.to_string().contains("our own mistake"), "{error}");
    }
}
