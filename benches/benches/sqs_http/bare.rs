//! The bare loop: the same SDK and hyper.

use std::net::SocketAddr;

use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::{DeleteMessageBatchRequestEntry, MessageSystemAttributeName},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use bytes::Bytes;
use cpu_time::ThreadTime;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    measured::{Took, measured, told},
    place::{Place, one_thread},
};

/// `fetchers` loops, each with a kept connection for each of the `batch` messages that it receives at once. `whole`: it
/// asks for the attributes of each message, which the pipeline must and a bare loop need not.
pub(crate) fn bare(place: &Place, count: usize, fetchers: usize, batch: usize, whole: bool) -> Took {
    measured(place, count, |ended| {
        let (queue, endpoint, worker) = (place.fake.queue_url("q"), place.endpoint.clone(), place.worker);
        std::thread::spawn(move || {
            let cpu = ThreadTime::now();
            one_thread().block_on(async {
                let http = Builder::new()
                    .tls_provider(Provider::Rustls(CryptoMode::Ring))
                    .build_https();
                let config = aws_sdk_sqs::Config::builder()
                    .behavior_version(BehaviorVersion::v2026_01_12())
                    .region(Region::new("us-east-1"))
                    .credentials_provider(Credentials::new("key", "secret", None, None, "bench"))
                    .endpoint_url(endpoint)
                    .http_client(http)
                    .build();
                let sqs = Client::from_conf(config);
                let fetchers = (0..fetchers).map(|_| fetch(sqs.clone(), queue.clone(), worker, batch, whole));
                let mut tasks: tokio::task::JoinSet<()> = fetchers.collect();
                told(ended).await;
                tasks.shutdown().await;
            });
            cpu.elapsed()
        })
    })
}

async fn fetch(sqs: Client, queue: String, worker: SocketAddr, batch: usize, whole: bool) {
    let mut senders = Vec::new();
    for _ in 0..batch {
        let stream = TcpStream::connect(worker).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        senders.push(sender);
    }
    loop {
        let received = sqs
            .receive_message()
            .queue_url(&queue)
            .max_number_of_messages(i32::try_from(batch).unwrap())
            .wait_time_seconds(1)
            .set_message_system_attribute_names(whole.then(|| vec![MessageSystemAttributeName::All]))
            .set_message_attribute_names(whole.then(|| vec!["All".to_owned()]))
            .send()
            .await
            .unwrap();
        let messages = received.messages.unwrap_or_default();
        if messages.is_empty() {
            continue;
        }
        let posts = messages.into_iter().zip(&mut senders).enumerate();
        let posts = posts.map(async |(index, (message, sender))| {
            sender.ready().await.unwrap();
            let request = Request::post("/work")
                .header("host", "127.0.0.1")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(message.body.unwrap())))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert!(response.status().is_success());
            response.into_body().collect().await.unwrap();
            DeleteMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(message.receipt_handle.unwrap())
                .build()
                .unwrap()
        });
        let entries = futures::future::join_all(posts).await;
        let deleted = sqs.delete_message_batch().queue_url(&queue).set_entries(Some(entries));
        assert!(deleted.send().await.unwrap().failed.is_empty());
    }
}
