use dispatch_core::{
    Class, Message, Sink,
    config::Secret,
    random_id,
    tasks::{BarePayload, Incoming, chunks::Assembly},
};
use dispatch_pg_client::{Server, quoted};
use dispatch_sinks::pg_notify::{PgNotifySink, PgNotifySinkConfig};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_postgres::AsyncMessage;

/// None where there is no server; in CI that is a failure.
fn server(test: &str) -> Option<String> {
    let url = std::env::var("DISPATCH_TEST_POSTGRES_URL").ok();
    if url.is_none() {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "{test}: CI must set DISPATCH_TEST_POSTGRES_URL"
        );
        let line = format!("skipped: {test}: DISPATCH_TEST_POSTGRES_URL is not set\n");
        // Not `eprintln`, which the harness keeps to itself when a test passes.
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    }
    url
}

/// What comes over a channel from now on.
async fn listen(url: &str, channel: &str) -> (tokio_postgres::Client, UnboundedReceiver<String>) {
    let (client, mut connection) = Server::parse(url).unwrap().connect().await.unwrap();
    let (heard, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                heard.send(notification.payload().to_owned()).unwrap_or_default();
            }
        }
    });
    client
        .batch_execute(&format!("LISTEN {}", quoted(channel)))
        .await
        .unwrap();
    (client, receiver)
}

fn sink(url: &str, channel: &str) -> PgNotifySink {
    PgNotifySink::new(PgNotifySinkConfig::new(Secret::new(url), channel.parse().unwrap())).unwrap()
}

#[tokio::test]
async fn a_message_becomes_a_notification_and_a_large_one_several() {
    let Some(url) = server("a_message_becomes_a_notification_and_a_large_one_several") else {
        return;
    };
    let channel = format!("Kanal \"{}\" é", random_id());
    let (_client, mut heard) = listen(&url, &channel).await;
    let sink = sink(&url, "{{ header:queue }}");
    let large = serde_json::json!({ "task": "a.b", "args": ["é\"".repeat(9_000)] }).to_string();

    for payload in ["plain text", "", &"x".repeat(7_999), &large] {
        let message = Message::new(payload.to_owned()).header("queue", channel.as_str());
        sink.send(message).await.unwrap();
    }

    assert_eq!(heard.recv().await.unwrap(), "plain text");
    assert_eq!(heard.recv().await.unwrap(), "");
    assert_eq!(heard.recv().await.unwrap().len(), 7_999);
    let mut assembly = Assembly::new(None);
    let whole = loop {
        let Incoming::Chunk(chunk) = Incoming::read(&heard.recv().await.unwrap(), BarePayload::Reject) else {
            panic!("no piece")
        };
        if let Some(whole) = assembly.take(chunk) {
            break whole;
        }
    };
    assert_eq!(whole, large);
}

#[tokio::test]
async fn what_cannot_be_a_notification_is_permanent_and_what_may_pass_is_not() {
    let Some(url) = server("what_cannot_be_a_notification_is_permanent_and_what_may_pass_is_not") else {
        return;
    };
    let sink = sink(&url, "{{ header:queue }}");
    let to = |payload: &[u8], queue: &str| Message::new(payload.to_vec()).header("queue", queue);
    for (message, part) in [
        (to(b"x", ""), "no channel"),
        (to(b"x", &"x".repeat(64)), "no channel"),
        (to(b"\xff", "c"), "UTF-8"),
        (to(b"a\0b", "c"), "zero byte"),
        (to(&vec![b'x'; 8_000], "c"), "only a JSON object"),
        (Message::new("no header"), "queue"),
    ] {
        let error = sink.send(message).await.unwrap_err();
        assert!(
            error.class() == Class::Permanent && error.report().contains(part),
            "{part}: {}",
            error.report()
        );
    }
    let nobody = PgNotifySink::new(PgNotifySinkConfig::new(
        Secret::new("host=127.0.0.1 port=1"),
        "c".parse().unwrap(),
    ))
    .unwrap();
    assert_eq!(nobody.probe().await.unwrap_err().class(), Class::Unavailable);
    assert!(PgNotifySink::new(PgNotifySinkConfig::new(Secret::new("nonsense"), "c".parse().unwrap())).is_err());
}

#[tokio::test]
async fn a_lost_connection_is_made_anew() {
    let Some(url) = server("a_lost_connection_is_made_anew") else {
        return;
    };
    let name = format!("publisher{}", random_id().replace(['-', '_'], ""));
    let mark = if url.contains('?') { '&' } else { '?' };
    let sink = sink(&format!("{url}{mark}application_name={name}"), "nobody_listens");
    sink.send(Message::new("first")).await.unwrap();
    let (client, _heard) = listen(&url, "unused").await;
    let killed = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = $1";
    let killed: i64 = client.query_one(killed, &[&name]).await.unwrap().get(0);
    assert_eq!(killed, 1);

    let mut tries = 0;
    while sink.send(Message::new("again")).await.is_err() {
        tries += 1;
        assert!(
            tries < 3,
            "the first may fail, since nobody has seen the end of the connection yet"
        );
    }
}
