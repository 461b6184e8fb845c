//! The battery against servers that others wrote.

use std::{collections::HashMap, io::Write as _};

use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::QueueAttributeName,
};
use dispatch_core::{
    Class, Classify as _, Error, Source as _, random_id,
    testing::source::{Bench, source_battery},
};

use dispatch_sources::sqs::redrive::DeadLetters;

use super::*;

/// The server under this variable; none where it is not set, which in CI is a failure.
pub(super) fn server(test: &str, variable: &str) -> Option<String> {
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

fn client(url: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .endpoint_url(url)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"));
    Client::from_conf(config.build())
}

async fn make_queue(client: &Client, fifo: bool) -> String {
    let name = format!("t-{}{}", random_id(), if fifo { ".fifo" } else { "" });
    let mut make = client.create_queue().queue_name(name);
    if fifo {
        make = make
            .attributes(QueueAttributeName::FifoQueue, "true")
            .attributes(QueueAttributeName::ContentBasedDeduplication, "true");
    }
    make.send().await.unwrap().queue_url.unwrap()
}

/// `fenced`: whether the handle of an earlier receive deletes nothing.
async fn battery(url: String, fenced: bool) {
    let client = client(&url);
    for fifo in [false, true] {
        source_battery(async || {
            let queue = make_queue(&client, fifo).await;
            let mut config = SqsSourceConfig::new(&queue);
            config.endpoint_url = Some(url.clone());
            config.region = Some("us-east-1".to_owned());
            config.access_key_id = Some("key".to_owned());
            config.secret_access_key = Some(Secret::new("secret"));
            config.visibility_timeout = period(2);
            config.wait_time = Some(period(1));
            let client = client.clone();
            let bench = Bench::new(SqsSource::new(config).unwrap(), move |payloads| {
                let (client, queue) = (client.clone(), queue.clone());
                Box::pin(async move {
                    for payload in payloads {
                        let body = String::from_utf8(payload.to_vec()).unwrap();
                        let mut send = client.send_message().queue_url(&queue).message_body(&body);
                        if fifo {
                            send = send.message_group_id(body);
                        }
                        send.send().await.unwrap();
                    }
                })
            });
            if fenced { bench } else { bench.without_fencing() }
        })
        .await;
    }
}

#[tokio::test]
async fn elasticmq_passes_the_battery() {
    if let Some(url) = server("elasticmq_passes_the_battery", "DISPATCH_TEST_SQS_URL") {
        battery(url, true).await;
    }
}

/// To moto any handle that a message ever had is its handle.
#[tokio::test]
async fn moto_passes_the_battery() {
    if let Some(url) = server("moto_passes_the_battery", "DISPATCH_TEST_MOTO_URL") {
        battery(url, false).await;
    }
}

/// A receive that a close cuts off may be handed a message all the same: ElasticMQ does so.
#[tokio::test]
async fn after_a_close_the_next_message_is_soon_there_for_others() {
    let Some(url) = server(
        "after_a_close_the_next_message_is_soon_there_for_others",
        "DISPATCH_TEST_SQS_URL",
    ) else {
        return;
    };
    let client = client(&url);
    let queue = make_queue(&client, false).await;
    let consumer = || {
        let mut config = SqsSourceConfig::new(&queue);
        config.endpoint_url = Some(url.clone());
        config.region = Some("us-east-1".to_owned());
        config.access_key_id = Some("key".to_owned());
        config.secret_access_key = Some(Secret::new("secret"));
        SqsSource::new(config).unwrap()
    };
    let mut first = consumer();
    assert!(
        tokio::time::timeout(SECOND, first.receive(10)).await.is_err(),
        "there is nothing"
    );
    let began = tokio::time::Instant::now();
    first.close().await.unwrap();
    assert!(began.elapsed() < 2 * SECOND, "a close is quick: {:?}", began.elapsed());

    client
        .send_message()
        .queue_url(&queue)
        .message_body("x")
        .send()
        .await
        .unwrap();
    let sent = tokio::time::Instant::now();
    let mut second = consumer();
    let received = tokio::time::timeout(12 * SECOND, second.receive(10)).await;

    assert!(
        received.is_ok_and(|received| received.is_ok()),
        "after {:?}",
        sent.elapsed()
    );
}

/// Both servers hand out several messages of a group in one answer.
async fn order_of_groups(url: String, fails: fn(u32) -> bool) {
    let failing = u64::try_from((0..70).filter(|n| fails(*n)).count()).unwrap();
    let client = client(&url);
    let queue = make_queue(&client, true).await;
    for n in 0..70 {
        let send = client.send_message().queue_url(&queue).message_body(n.to_string());
        send.message_group_id(format!("g{}", n % 7)).send().await.unwrap();
    }
    let sink = MemorySink::slow(Duration::from_millis(5), move |message| {
        let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        if fails(n) && message.attempt < 2 {
            Err(Error::retry("tenth"))
        } else {
            Ok(())
        }
    });
    let mut config = SqsSourceConfig::new(&queue);
    config.endpoint_url = Some(url);
    config.region = Some("us-east-1".to_owned());
    config.access_key_id = Some("key".to_owned());
    config.secret_access_key = Some(Secret::new("secret"));
    config.wait_time = Some(period(1));
    let pipeline = pipeline(SqsSource::new(config).unwrap(), &sink)
        .concurrency(32)
        .retry(every(6 * SECOND))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    let done = tokio::time::timeout(60 * SECOND, sink.took(70)).await;
    handle.drain();
    let summary = run.await.unwrap().unwrap();

    assert!(done.is_ok(), "{summary:?}");
    let mut groups: HashMap<_, Vec<u32>> = HashMap::new();
    for message in sink.messages() {
        let n: u32 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        groups.entry(message.key().cloned()).or_default().push(n);
    }
    for (group, numbers) in &groups {
        assert!(numbers.is_sorted(), "{group:?}: {numbers:?}");
    }
    assert_eq!((summary.delivered, summary.nacked), (70, failing));
    assert_eq!(
        attribute(
            &client,
            &queue,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible
        )
        .await,
        "0"
    );
}

#[tokio::test]
async fn elasticmq_keeps_the_order_of_groups_while_one_in_ten_fails() {
    let name = "elasticmq_keeps_the_order_of_groups_while_one_in_ten_fails";
    if let Some(url) = server(name, "DISPATCH_TEST_SQS_URL") {
        order_of_groups(url, |n| n.is_multiple_of(10)).await;
    }
}

/// One fails, and not one of ten: while it walks its queue, moto asks anew which groups are held as soon as a failed
/// message is visible again. It has then passed over the head of a group that was held before, and hands out what is
/// behind it.
#[tokio::test]
async fn moto_keeps_the_order_of_groups_while_one_message_fails() {
    let name = "moto_keeps_the_order_of_groups_while_one_message_fails";
    if let Some(url) = server(name, "DISPATCH_TEST_MOTO_URL") {
        order_of_groups(url, |n| n == 40).await;
    }
}

async fn attribute(client: &Client, queue: &str, name: QueueAttributeName) -> String {
    let asked = client
        .get_queue_attributes()
        .queue_url(queue)
        .attribute_names(name.clone());
    asked.send().await.unwrap().attributes.unwrap().remove(&name).unwrap()
}

#[tokio::test]
async fn elasticmq_moves_dead_letters_back_until_the_move_is_ended() {
    let Some(url) = server(
        "elasticmq_moves_dead_letters_back_until_the_move_is_ended",
        "DISPATCH_TEST_SQS_URL",
    ) else {
        return;
    };
    let client = client(&url);
    let (dead, queue) = (make_queue(&client, false).await, make_queue(&client, false).await);
    let arn = attribute(&client, &dead, QueueAttributeName::QueueArn).await;
    let policy = format!(r#"{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": 2}}"#);
    let set = client.set_queue_attributes().queue_url(&queue);
    set.attributes(QueueAttributeName::RedrivePolicy, policy)
        .send()
        .await
        .unwrap();
    for n in 0..30 {
        let send = client.send_message().queue_url(&dead).message_body(n.to_string());
        send.send().await.unwrap();
    }
    let mut config = SqsSourceConfig::new(&dead);
    config.endpoint_url = Some(url.clone());
    config.access_key_id = Some("key".to_owned());
    config.secret_access_key = Some(Secret::new("secret"));
    let letters = DeadLetters::open(&config).await.unwrap();
    let before = letters.moves().await.unwrap();
    let to = attribute(&client, &queue, QueueAttributeName::QueueArn).await;

    let handle = letters.redrive(Some(&to), Some(5)).await.unwrap();
    let second = letters.redrive(Some(&to), None).await;
    let during = letters.moves().await.unwrap();
    let moved = letters.cancel(&handle).await.unwrap();
    let again = letters.cancel(&handle).await;

    assert_eq!((letters.waiting(), before.len()), (30, 0));
    let [running] = &during[..] else {
        panic!("one move: {during:?}")
    };
    assert_eq!(
        (&*running.status, running.handle.as_deref(), running.rate),
        ("RUNNING", Some(&*handle), Some(5))
    );
    assert_eq!((running.destination.as_deref(), running.total), (Some(&*to), Some(30)));
    for refused in [second.map(drop), again.map(drop)] {
        assert_eq!(refused.unwrap_err().class(), Class::Unavailable);
    }
    let waiting = async |queue| {
        let count = attribute(&client, queue, QueueAttributeName::ApproximateNumberOfMessages).await;
        count.parse::<u64>().unwrap()
    };
    let (left, back) = (waiting(&dead).await, waiting(&queue).await);
    assert!((1..30).contains(&moved) && back >= moved, "{moved} {back}");
    assert_eq!(left + back, 30);
}
