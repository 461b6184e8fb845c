//! The battery against servers that others wrote.

use std::io::Write as _;

use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::QueueAttributeName,
};
use dispatch_core::{
    Source as _, random_id,
    testing::source::{Bench, source_battery},
};

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

async fn battery(url: String) {
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
            config.wait_time = period(1);
            let client = client.clone();
            Bench::new(SqsSource::new(config).unwrap(), move |payloads| {
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
            })
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
