//! Payloads in S3: moto's S3, the fake's SQS.

use dispatch_core::{Delivery, Disposition, Received, Source as _, random_id};
use dispatch_sources::sqs::{S3PayloadConfig, fake::FakeMessage};
use http_body_util::{BodyExt as _, Full};

use super::{servers::server, *};

async fn ask(endpoint: &str, method: &str, path: &str, body: &'static [u8]) -> (u16, bytes::Bytes) {
    let address = endpoint.strip_prefix("http://").unwrap();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address)
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0",
        )
        .body(Full::new(bytes::Bytes::from_static(body)))
        .unwrap();
    let answer = client.send_request(request).await.unwrap();
    (answer.status().as_u16(), answer.collect().await.unwrap().to_bytes())
}

fn pointer(bucket: &str, key: &str) -> FakeMessage {
    let class = "software.amazon.payloadoffloading.PayloadS3Pointer";
    FakeMessage::new(format!(r#"["{class}",{{"s3BucketName":"{bucket}","s3Key":"{key}"}}]"#))
        .attribute("ExtendedPayloadSize", "Number", "300000")
        .attribute("tenant", "String", "a7")
}

async fn receive(source: &mut SqsSource) -> Delivery {
    match source.receive(1).await.unwrap() {
        Received::Batch(mut batch) => batch.remove(0),
        Received::End => panic!("ended"),
        Received::Health(health) => panic!("{health:?}"),
    }
}

#[tokio::test]
async fn a_payload_in_s3_is_fetched_and_goes_with_its_message_if_it_is_to() {
    let Some(endpoint) = server("a_payload_in_s3_is_fetched", "DISPATCH_TEST_MOTO_URL") else {
        return;
    };
    let bucket = format!("t-{}", random_id().to_lowercase().replace('_', "-"));
    assert_eq!(ask(&endpoint, "PUT", &format!("/{bucket}"), b"").await.0, 200);
    for delete in [false, true] {
        let object = format!("/{bucket}/some/key");
        assert_eq!(ask(&endpoint, "PUT", &object, b"large").await.0, 200);
        let fake = fake();
        fake.send_message("q", pointer(&bucket, "some/key"));
        let mut source = source(&fake, |config| {
            let mut s3 = S3PayloadConfig::default();
            s3.delete = delete;
            s3.endpoint_url = Some(endpoint.clone());
            config.s3_payload = Some(s3);
        });

        let first = receive(&mut source).await;
        assert_eq!(first.message.payload, "large");
        assert_eq!(first.message.headers().get("ExtendedPayloadSize"), None);
        assert_eq!(first.message.headers().get("tenant"), Some("a7"));
        assert_eq!(first.message.metadata().get("sqs_type_ExtendedPayloadSize"), None);
        assert_eq!(first.message.metadata().get("sqs_s3_key"), Some("some/key"));
        first.settle(Disposition::Release).await.unwrap();
        assert_eq!(
            ask(&endpoint, "GET", &object, b"").await,
            (200, "large".into()),
            "given back: the payload stays"
        );

        let again = receive(&mut source).await;
        again.settle(Disposition::DeadLetter(Vec::new())).await.unwrap();
        let (status, _) = ask(&endpoint, "GET", &object, b"").await;
        assert_eq!((fake.deleted("q"), status), (1, if delete { 404 } else { 200 }));
    }
}

#[tokio::test]
async fn a_message_whose_payload_is_missing_or_too_large_comes_again() {
    let Some(endpoint) = server("a_message_whose_payload_is_missing", "DISPATCH_TEST_MOTO_URL") else {
        return;
    };
    let bucket = format!("t-{}", random_id().to_lowercase().replace('_', "-"));
    assert_eq!(ask(&endpoint, "PUT", &format!("/{bucket}"), b"").await.0, 200);
    assert_eq!(
        ask(&endpoint, "PUT", &format!("/{bucket}/large"), b"larger than that")
            .await
            .0,
        200
    );
    for key in ["gone", "large"] {
        let fake = fake();
        fake.send_message("q", pointer(&bucket, key));
        let mut source = source(&fake, |config| {
            let mut s3 = S3PayloadConfig::default();
            s3.max_size = "10B".parse().unwrap();
            s3.endpoint_url = Some(endpoint.clone());
            config.s3_payload = Some(s3);
            config.error_visibility_timeout = Some(period(3_600));
        });

        tokio::select! {
            delivery = receive(&mut source) => panic!("{key}: {:?}", delivery.message),
            () = until("it is put off", || fake.requests("ChangeMessageVisibilityBatch") > 0) => {}
        }

        assert_eq!(
            (fake.in_flight("q"), fake.visible("q"), fake.deleted("q")),
            (1, 0, 0),
            "{key}"
        );
    }
}

/// An S3 that answers once `may` holds: no server can be told to be slow.
async fn slow_s3(may: impl Fn() -> bool + Clone + Send + Sync + 'static) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let may = may.clone();
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") && stream.read_buf(&mut asked).await? > 0 {}
                until("S3 may answer", may).await;
                let head = "HTTP/1.1 200 OK\r\netag: \"x\"\r\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
                let rest = "content-length: 5\r\n\r\nlarge";
                stream.write_all([head, rest].concat().as_bytes()).await
            });
        }
    });
    url
}

fn from_s3(fake: &Fake, endpoint: String, visibility: u64) -> SqsSource {
    source(fake, |config| {
        let mut s3 = S3PayloadConfig::default();
        s3.endpoint_url = Some(endpoint);
        config.s3_payload = Some(s3);
        config.visibility_timeout = period(visibility);
    })
}

#[tokio::test]
async fn a_message_is_ours_while_its_payload_is_slow_to_come() {
    // Three halves of the shortest visibility; and a receive that asked for a moment only.
    for (visibility, extensions) in [(2, 3), (3_600, 1)] {
        let fake = fake();
        let watched = fake.clone();
        let endpoint = slow_s3(move || watched.requests("ChangeMessageVisibilityBatch") >= extensions).await;
        fake.send_message("q", pointer("bucket", "key"));
        let mut source = from_s3(&fake, endpoint, visibility);

        let delivery = tokio::time::timeout(60 * SECOND, receive(&mut source)).await.unwrap();

        assert_eq!(
            (delivery.message.payload.as_ref(), delivery.message.attempt),
            (&b"large"[..], 1)
        );
        assert_eq!((fake.in_flight("q"), fake.visible("q")), (1, 0));
        delivery.settle(Disposition::DeadLetter(Vec::new())).await.unwrap();
        assert_eq!(fake.deleted("q"), 1, "{visibility} s");
    }
}

#[tokio::test]
async fn a_close_does_not_wait_for_a_payload() {
    let fake = fake();
    let endpoint = slow_s3(|| false).await;
    fake.send_message("q", pointer("bucket", "key"));
    let mut source = from_s3(&fake, endpoint, 3_600);
    tokio::select! {
        delivery = receive(&mut source) => panic!("{:?}", delivery.message),
        () = until("it is being fetched", || fake.requests("ChangeMessageVisibilityBatch") > 0) => {}
        () = tokio::time::sleep(60 * SECOND) => panic!("it was not made ours"),
    }

    tokio::time::timeout(60 * SECOND, source.close())
        .await
        .unwrap()
        .unwrap();

    assert_eq!((fake.in_flight("q"), fake.visible("q")), (0, 1), "given back");
}

#[tokio::test]
async fn a_gate_that_closes_does_not_wait_for_a_payload() {
    let fake = fake();
    let endpoint = slow_s3(|| false).await;
    fake.send_message("q", pointer("bucket", "key"));
    let mut source = from_s3(&fake, endpoint, 3_600);
    tokio::select! {
        delivery = receive(&mut source) => panic!("{:?}", delivery.message),
        () = until("it is being fetched", || fake.requests("ChangeMessageVisibilityBatch") > 0) => {}
        () = tokio::time::sleep(60 * SECOND) => panic!("it was not made ours"),
    }

    source.hold().await.unwrap();

    until("it is given back", || {
        (fake.in_flight("q"), fake.visible("q")) == (0, 1)
    })
    .await;
}

#[tokio::test]
async fn what_is_behind_a_message_without_its_payload_goes_back_with_it() {
    let Some(endpoint) = server("what_is_behind_a_message_without_its_payload", "DISPATCH_TEST_MOTO_URL") else {
        return;
    };
    let bucket = format!("t-{}", random_id().to_lowercase().replace('_', "-"));
    assert_eq!(ask(&endpoint, "PUT", &format!("/{bucket}"), b"").await.0, 200);
    let fake = Fake::new();
    fake.create_queue("q.fifo", QueueOptions::default());
    let in_group = |message: FakeMessage, group: &str, n: u32| message.group(group).dedup(format!("{group}/{n}"));
    fake.send_message("q.fifo", in_group(pointer(&bucket, "gone"), "a", 1));
    for (group, n) in [("a", 2), ("b", 1), ("a", 3)] {
        fake.send_message("q.fifo", in_group(FakeMessage::new(format!("{group}{n}")), group, n));
    }
    let mut source = source_of(&fake, "q.fifo", |config| {
        let mut s3 = S3PayloadConfig::default();
        s3.endpoint_url = Some(endpoint.clone());
        config.s3_payload = Some(s3);
        config.error_visibility_timeout = Some(period(3_600));
    });

    let Received::Batch(batch) = source.receive(10).await.unwrap() else {
        panic!("nothing came");
    };

    let bodies: Vec<_> = batch.iter().map(|delivery| delivery.message.payload.as_ref()).collect();
    assert_eq!(bodies, [b"b1"]);
    // The first waits for its hour; the others of its group for the first.
    assert_eq!((fake.in_flight("q.fifo"), fake.visible("q.fifo")), (2, 2));
}
