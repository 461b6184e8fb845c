use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use dispatch_core::testing::source::{Bench, source_battery};
use dispatch_core::{
    Attempt, Disposition, Error, Headers, MemoryStore, NackDelay, Reply, Source as _, Store,
    store::{
        Claim, Claimed, Completion, DeadLetters, Depth, Enqueued, Item, Lease, Look, Page, Place, Positions, Queue,
        Rates, Reservations, Slots, Stale,
    },
};
use dispatch_core::{Message, Pipeline, sink_fn};
use dispatch_sources::http::{HttpSource, HttpSourceConfig, Mode};
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::{context, memory, receive, text};

async fn source(store: Arc<dyn Store>, change: impl FnOnce(&mut HttpSourceConfig)) -> (HttpSource, SocketAddr) {
    let mut config = HttpSourceConfig::default();
    config.listen.set_port(0);
    change(&mut config);
    let mut source = HttpSource::new(&config, &context(".".as_ref(), store)).unwrap();
    source.probe().await.unwrap();
    let address = source.local_addr().unwrap();
    (source, address)
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "h");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender
        .send_request(request.body(Full::new(body.into())).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

async fn post(address: SocketAddr, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    request(address, "POST", "/", headers, body).await
}

/// A memory store whose queue can fail.
#[derive(Debug, Default)]
struct Shaky {
    store: MemoryStore,
    broken: AtomicBool,
}

#[async_trait]
impl Store for Shaky {
    fn dead_letters(&self) -> &dyn DeadLetters {
        &self.store
    }
    fn reservations(&self) -> &dyn Reservations {
        &self.store
    }
    fn slots(&self) -> &dyn Slots {
        &self.store
    }
    fn queue(&self) -> &dyn Queue {
        self
    }
    fn positions(&self) -> &dyn Positions {
        &self.store
    }
    fn rates(&self) -> &dyn Rates {
        &self.store
    }
    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Queue for Shaky {
    async fn enqueue(&self, queue: &str, items: Vec<Item>) -> Result<Vec<Enqueued>, Error> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(Error::unavailable("disk full"));
        }
        self.store.enqueue(queue, items).await
    }
    async fn claim(&self, queue: &str, claim: Claim) -> Result<Vec<Claimed>, Error> {
        self.store.claim(queue, claim).await
    }
    async fn settle(&self, queue: &str, batch: Vec<Completion>) -> Result<Vec<Result<(), Stale>>, Error> {
        self.store.settle(queue, batch).await
    }
    async fn extend(&self, queue: &str, leases: Vec<Lease>, by: Duration) -> Result<Vec<Result<(), Stale>>, Error> {
        self.store.extend(queue, leases, by).await
    }
    async fn depth(&self, queue: &str) -> Result<Depth, Error> {
        self.store.depth(queue).await
    }
    async fn keys(&self, queue: &str) -> Result<Vec<(smol_str::SmolStr, u64)>, Error> {
        self.store.keys(queue).await
    }
    async fn waiting(&self, queue: &str, look: Look) -> Result<Page, Error> {
        self.store.waiting(queue, look).await
    }
    async fn withdraw(&self, queue: &str, places: &[Place]) -> Result<Vec<u64>, Error> {
        self.store.withdraw(queue, places).await
    }
    async fn purge(&self, queue: &str) -> Result<u64, Error> {
        Queue::purge(&self.store, queue).await
    }
    async fn changed(&self, queue: &str) {
        self.store.changed(queue).await;
    }
}

#[tokio::test]
async fn what_is_answered_202_is_durable_before() {
    let store = memory();
    let (mut first, address) = source(store.clone(), |config| config.path = "/work".into()).await;

    let headers = [
        ("content-type", "text/plain"),
        ("x-tag", "a"),
        ("accept", "no"),
        ("traceparent", "00-1"),
    ];
    let answer = request(address, "POST", "/work?q=1", &headers, "hello").await;
    let elsewhere = post(address, &[], "hello").await;
    first.close().await.unwrap();
    drop(first);
    let (mut second, _) = source(store, |_| {}).await;
    let delivery = receive(&mut second, 1).await.remove(0);

    assert_eq!((answer.status, elsewhere.status), (202, 404));
    let message = &delivery.message;
    assert_eq!(
        (answer.json()["id"].as_str().unwrap(), text(&delivery)),
        (message.id().as_str(), "hello")
    );
    let expected: Headers = [("content-type", "text/plain"), ("x-tag", "a"), ("traceparent", "00-1")]
        .into_iter()
        .collect();
    assert_eq!(message.headers(), &expected);
    assert_eq!(
        (
            message.metadata().get("http_path"),
            message.metadata().get("http_query")
        ),
        (Some("/work"), Some("q=1"))
    );
    assert!(message.metadata().get("http_remote").unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_failed_comes_again_and_remembers() {
    let (mut source, address) = source(memory(), |_| {}).await;
    post(address, &[], "hello").await;
    let failed = Attempt::failed(1, SystemTime::now(), Duration::ZERO, &Error::retry("no"));

    let first = receive(&mut source, 1).await.remove(0);
    let nack = Disposition::Nack {
        delay: Some(Duration::from_secs(60)),
        attempts: vec![failed.clone()],
    };
    first.settle(nack).await.unwrap();
    let second = receive(&mut source, 1).await.remove(0);

    assert_eq!((second.message.attempt, &second.history), (2, &vec![failed]));
    second.settle(Disposition::Ack(Reply::default())).await.unwrap();
    assert_eq!(source.capabilities().nack_delay, NackDelay::Unlimited);
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_not_at_all() {
    let (mut source, address) = source(memory(), |_| {}).await;
    let batch = [("content-type", "application/x-ndjson; charset=utf-8")];

    let bad = post(address, &batch, "{}\nnot json\n[]\n").await;
    let good = post(address, &batch, "{\"a\":1}\n\n[2]").await;
    let empty = post(address, &batch, "").await;

    assert_eq!((bad.status, good.status, empty.status), (400, 202, 202));
    assert!(bad.json()["error"].as_str().unwrap().starts_with("line 2: "));
    assert_eq!(
        (good.json()["accepted"].as_u64(), empty.json()["accepted"].as_u64()),
        (Some(2), Some(0))
    );
    assert_eq!(
        receive(&mut source, 2).await.iter().map(text).collect::<Vec<_>>(),
        ["{\"a\":1}", "[2]"]
    );
    assert!(futures::FutureExt::now_or_never(source.receive(1)).is_none());
}

#[tokio::test]
async fn an_idempotency_key_is_taken_once() {
    let (mut source, address) = source(memory(), |_| {}).await;
    let key = [("idempotency-key", "order-7")];

    let first = post(address, &key, "a").await;
    receive(&mut source, 1)
        .await
        .remove(0)
        .settle(Disposition::Ack(Reply::default()))
        .await
        .unwrap();
    let again = post(address, &key, "a").await;
    let bad = post(address, &[("idempotency-key", "")], "a").await;

    assert_eq!((first.status, again.status, bad.status), (202, 202, 400));
    assert_eq!(
        (first.json()["id"].as_str(), first.json()["duplicate"].as_bool()),
        (Some("order-7"), None)
    );
    assert_eq!(
        (again.json()["id"].as_str(), again.json()["duplicate"].as_bool()),
        (Some("order-7"), Some(true))
    );
    assert!(futures::FutureExt::now_or_never(source.receive(1)).is_none());
}

#[tokio::test]
async fn a_store_that_fails_is_told_and_the_key_stays_free() {
    let store = Arc::new(Shaky::default());
    let (mut source, address) = source(store.clone(), |_| {}).await;
    let key = [("idempotency-key", "k")];

    store.broken.store(true, Ordering::SeqCst);
    let refused = post(address, &key, "a").await;
    store.broken.store(false, Ordering::SeqCst);
    let taken = post(address, &key, "a").await;

    assert_eq!(
        (refused.status, refused.header("retry-after"), taken.status),
        (503, "1", 202)
    );
    assert_eq!(receive(&mut source, 1).await.len(), 1);
}

#[tokio::test]
async fn requests_that_cannot_be_taken_are_told_why() {
    let (_source, address) = source(memory(), |config| {
        config.max_body = "10B".parse().unwrap();
        config.token = Some(dispatch_core::config::Secret::new("canary"));
    })
    .await;
    let token = ("authorization", "Bearer canary");

    for (headers, body, status, words) in [
        (&[][..], "a", 401, "token"),
        (&[("authorization", "Bearer canari")], "a", 401, "token"),
        (&[("authorization", "canary")], "a", 401, "token"),
        (&[token], "eleven byte", 413, "10B"),
        (&[token], "ten bytes.", 202, ""),
    ] {
        let answer = post(address, headers, body).await;

        assert_eq!(answer.status, status, "{body}");
        assert!(
            status == 202 || answer.json()["error"].as_str().unwrap().contains(words),
            "{}",
            answer.body
        );
        assert!(!answer.body.contains("canary"));
        assert_eq!(answer.header("www-authenticate") == "Bearer", status == 401);
    }
    let get = request(address, "GET", "/", &[token], "").await;
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
}

#[tokio::test]
async fn the_sinks_answer_goes_back_to_the_caller() {
    let (mut source, address) = source(memory(), |config| config.mode = Mode::Sync).await;
    let failed = Attempt::failed(
        1,
        SystemTime::now(),
        Duration::ZERO,
        &Error::permanent("secret place").with_code("404"),
    );
    let mut reply = Reply::new("done");
    reply.headers.append("x-answer", "7");
    reply.headers.append("content-length", "999");

    for (disposition, status, retry_after, body) in [
        (Disposition::Ack(reply), 200, "", "done"),
        (Disposition::Parked, 202, "", "\"id\""),
        (
            Disposition::DeadLetter(vec![failed.clone()]),
            502,
            "",
            "\"code\":\"404\"",
        ),
        (
            Disposition::Nack {
                delay: Some(Duration::from_millis(1500)),
                attempts: vec![failed],
            },
            503,
            "2",
            "\"class\":\"permanent\"",
        ),
        (Disposition::Release, 503, "1", "not worked on"),
    ] {
        let caller = tokio::spawn(post(address, &[], "hello"));
        let delivery = receive(&mut source, 1).await.remove(0);
        assert_eq!(text(&delivery), "hello");
        delivery.settle(disposition).await.unwrap();

        let answer = caller.await.unwrap();

        assert_eq!((answer.status, answer.header("retry-after")), (status, retry_after));
        assert!(
            answer.body.contains(body) && !answer.body.contains("secret place"),
            "{}",
            answer.body
        );
        assert_eq!(answer.header("x-answer"), if status == 200 { "7" } else { "" });
    }
    let batch = post(address, &[("content-type", "application/x-ndjson")], "{}").await;
    assert_eq!(batch.status, 415);
    assert!(source.capabilities().wants_reply);
}

#[tokio::test]
async fn a_caller_that_is_gone_is_a_lost_lease() {
    let (mut source, address) = source(memory(), |config| config.mode = Mode::Sync).await;
    let caller = tokio::spawn(post(address, &[], "hello"));

    let delivery = receive(&mut source, 1).await.remove(0);
    caller.abort();
    caller.await.unwrap_err();
    // The server notices when it looks at its socket; a second caller is served after that.
    let other = tokio::spawn(post(address, &[], "other"));
    let second = receive(&mut source, 1).await.remove(0);
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }

    assert!(delivery.settle(Disposition::Ack(Reply::default())).await.is_err());
    second.settle(Disposition::Ack(Reply::default())).await.unwrap();
    assert_eq!(other.await.unwrap().status, 200);
}

#[tokio::test]
async fn nobody_waits_while_the_gate_is_closed_or_the_room_is_full() {
    let (mut source, address) = source(memory(), |config| {
        config.mode = Mode::Sync;
        config.max_waiting = 1;
    })
    .await;

    source.hold().await.unwrap();
    let held = post(address, &[], "held").await;
    // Asking again opens the gate; nobody is there yet.
    assert!(futures::FutureExt::now_or_never(source.receive(1)).is_none());
    let mut callers: futures::stream::FuturesUnordered<_> = (0..2).map(|_| Box::pin(post(address, &[], "x"))).collect();
    let full = futures::StreamExt::next(&mut callers).await.unwrap();

    assert_eq!((held.status, full.status), (503, 503));
    assert!(held.body.contains("nobody works") && full.body.contains("too many"));
    let (delivery, answer) = tokio::join!(
        async {
            let delivery = receive(&mut source, 1).await.remove(0);
            delivery.settle(Disposition::Ack(Reply::default())).await
        },
        futures::StreamExt::next(&mut callers)
    );
    delivery.unwrap();
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn closing_sends_waiting_callers_away_but_lets_work_end() {
    let (mut source, address) = source(memory(), |config| config.mode = Mode::Sync).await;
    let working = tokio::spawn(post(address, &[], "working"));
    let delivery = receive(&mut source, 1).await.remove(0);

    source.close().await.unwrap();
    delivery.settle(Disposition::Ack(Reply::new("done"))).await.unwrap();

    assert_eq!(working.await.unwrap().body, "done");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_clear_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = HttpSourceConfig::default();
    config.listen = taken.local_addr().unwrap();
    let mut source = HttpSource::new(&config, &context(".".as_ref(), memory())).unwrap();

    for error in [source.probe().await.unwrap_err(), source.receive(1).await.unwrap_err()] {
        let words = error.to_string();
        assert!(
            words.contains(&config.listen.to_string()) && words.contains("already"),
            "{words}"
        );
    }
    drop(taken);
    source.probe().await.unwrap();
}

#[test]
fn mistakes_name_their_field_and_the_remedy() {
    for (toml, field, words) in [
        ("listen = \"0.0.0.0:8080\"", "listen", "token"),
        ("path = \"work\"", "path", "/messages"),
        ("path = \"/{id}\"", "path", "/messages"),
        ("headers = [\"a b\"]", "headers", ""),
        ("max_waiting = 0", "max_waiting", "at least 1"),
        ("token = \"\"", "token", ""),
    ] {
        let config: HttpSourceConfig = toml::from_str(toml).unwrap();
        let error = HttpSource::new(&config, &context(".".as_ref(), memory())).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field));
        assert!(error.help.unwrap_or_default().contains(words), "{toml}");
    }
    let open: HttpSourceConfig = toml::from_str("listen = \"0.0.0.0:0\"\ntoken = \"t\"").unwrap();
    HttpSource::new(&open, &context(".".as_ref(), memory())).unwrap();
}

#[tokio::test]
async fn the_battery_holds() {
    source_battery(async || {
        let (source, address) = source(memory(), |_| {}).await;
        Bench::new(source, move |payloads| {
            Box::pin(async move {
                for payload in payloads {
                    assert_eq!(post(address, &[], payload).await.status, 202);
                }
            })
        })
    })
    .await;
}

#[tokio::test]
async fn a_pipeline_answers_its_callers() {
    for mode in [Mode::Sync, Mode::Async] {
        let store = memory();
        let (source, address) = source(store.clone(), |config| config.mode = mode).await;
        let (arrived, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let sink = sink_fn(move |message: Message| {
            arrived.send(message.payload.clone()).unwrap();
            async move {
                match &message.payload[..] {
                    b"bad" => Err(Error::permanent("never").with_code("404")),
                    _ => Ok(Reply::new(message.payload.clone())),
                }
            }
        });
        let pipeline = Pipeline::builder("p")
            .source(source)
            .sink(sink)
            .store(store.clone())
            .build()
            .unwrap();
        let handle = pipeline.handle();
        let running = tokio::spawn(pipeline.run());

        let good = post(address, &[], "good").await;
        let bad = post(address, &[], "bad").await;
        let first = seen.recv().await.unwrap();
        let second = seen.recv().await.unwrap();
        handle.drain();
        let summary = running.await.unwrap().unwrap();

        assert_eq!(
            HashSet::from([first, second]),
            HashSet::from([Bytes::from("good"), Bytes::from("bad")])
        );
        match mode {
            Mode::Sync => assert_eq!((good.status, good.body.as_str(), bad.status), (200, "good", 502)),
            Mode::Async => assert_eq!((good.status, bad.status), (202, 202)),
        }
        assert_eq!((summary.delivered, summary.dead_lettered), (1, 1), "{summary:?}");
    }
}
