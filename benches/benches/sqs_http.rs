//! SQS to HTTP, from a fake SQS over TCP to a worker over TCP, each on a thread of its own: a bare loop of the same SDK
//! and hyper (receive 10, POST all, delete the batch), then the pipeline, then npm's sqs-consumer, in turn, so that
//! each ratio is of one run.
//!
//! `scripts/bench-sqs` prints it.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

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
use dispatch_core::{
    MemoryStore, Pipeline, Store,
    config::{Period, Secret},
    layer::DedupeLayer,
};
use dispatch_sinks::http::{HttpSink, HttpSinkConfig, SqsdConfig};
use dispatch_sources::sqs::{
    SqsSource, SqsSourceConfig,
    fake::{Fake, QueueOptions},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    time::{Instant, sleep},
};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs `start` on a thread with a runtime of its own, for ever; gives what it says.
fn thread<T: Send + 'static>(start: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let (say, said) = mpsc::channel();
    drop(std::thread::spawn(move || {
        one_thread().block_on(async {
            say.send(start().await).unwrap();
            std::future::pending::<()>().await;
        });
    }));
    said.recv().unwrap()
}

struct Place {
    fake: Fake,
    endpoint: String,
    worker: SocketAddr,
    posts: Arc<AtomicU64>,
}

impl Place {
    /// A fake with an empty queue, and a worker that takes `work` for each message.
    fn new(work: Duration) -> Self {
        let fake = Fake::new();
        fake.create_queue("q", QueueOptions::default());
        let own = fake.clone();
        let endpoint = thread(async move || {
            let server = own.serve().await;
            let url = server.url();
            std::mem::forget(server);
            url
        });
        let posts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&posts);
        let worker = thread(async move || worker(work, counted).await);
        Self {
            fake,
            endpoint,
            worker,
            posts,
        }
    }

    fn fill(&self, count: usize) {
        (0..count).for_each(|n| drop(self.fake.send("q", format!("{{\"job\":{n:0240}}}"))));
    }

    /// Seconds until all are deleted.
    fn until_empty(&self, began: Instant, before: usize, count: usize) -> f64 {
        one_thread().block_on(async {
            while self.fake.deleted("q") - before < count {
                sleep(Duration::from_millis(1)).await;
            }
        });
        began.elapsed().as_secs_f64()
    }

    /// Until no receive of those before waits: one whose connection has ended may still take messages, and nobody would
    /// work on them.
    fn until_alone(&self) {
        one_thread().block_on(async {
            while self.fake.waiting("q") > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        });
    }

    fn url(&self) -> String {
        format!("http://{}/work", self.worker)
    }
}

async fn worker(work: Duration, posts: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let posts = Arc::clone(&posts);
            let answer = service_fn(move |request: Request<Incoming>| {
                let posts = Arc::clone(&posts);
                async move {
                    drop(request.into_body().collect().await);
                    if !work.is_zero() {
                        sleep(work).await;
                    }
                    posts.fetch_add(1, Relaxed);
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

/// What one run took: seconds until the last delete, and the client's own processor time for each message, in µs.
#[derive(Debug, Clone, Copy)]
struct Took {
    seconds: f64,
    cpu: f64,
    /// Requests for each message, by operation.
    requests: [f64; 3],
}

const OPERATIONS: [&str; 3] = ["ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"];

impl Took {
    fn rate(self, count: usize) -> f64 {
        count as f64 / self.seconds
    }
}

/// Fills the queue, runs `client` on one thread until the queue is empty, and ends it.
fn measured(place: &Place, count: usize, client: impl FnOnce(mpsc::Receiver<()>) -> JoinHandle<Duration>) -> Took {
    place.fill(count);
    let (before, posts) = (place.fake.deleted("q"), place.posts.load(Relaxed));
    let requests = OPERATIONS.map(|operation| place.fake.requests(operation));
    let (end, ended) = mpsc::channel();
    let began = Instant::now();
    let client = client(ended);
    let seconds = place.until_empty(began, before, count);
    end.send(()).unwrap();
    let cpu = client.join().unwrap();
    place.until_alone();
    assert_eq!(place.posts.load(Relaxed) - posts, count as u64, "each is posted once");
    Took {
        seconds,
        cpu: cpu.as_secs_f64() * 1e6 / count as f64,
        requests: std::array::from_fn(|which| {
            (place.fake.requests(OPERATIONS[which]) - requests[which]) as f64 / count as f64
        }),
    }
}

/// Tells a runtime that a channel has spoken.
async fn told(ended: mpsc::Receiver<()>) {
    tokio::task::spawn_blocking(move || ended.recv().unwrap())
        .await
        .unwrap();
}

/// `fetchers` loops, each with a kept connection for each of the `batch` messages that it receives at once. `whole`: it
/// asks for the attributes of each message, which the pipeline must and a bare loop need not.
fn bare(place: &Place, count: usize, fetchers: usize, batch: usize, whole: bool) -> Took {
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

/// What the pipeline does beside one POST a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// Nothing, as the bare loop.
    Nothing,
    /// sqsd's headers, as `dispatch sqsd` has them.
    Headers,
    /// These, and the locker.
    Locker,
}

fn ours(place: &Place, count: usize, pollers: usize, concurrency: usize, beside: Beside) -> Took {
    with_visibility(place, count, pollers, concurrency, beside, 30)
}

fn with_visibility(
    place: &Place,
    count: usize,
    pollers: usize,
    concurrency: usize,
    beside: Beside,
    visibility: u64,
) -> Took {
    let mut source = SqsSourceConfig::new(place.fake.queue_url("q"));
    source.endpoint_url = Some(place.endpoint.clone());
    source.region = Some("us-east-1".to_owned());
    source.access_key_id = Some("key".to_owned());
    source.secret_access_key = Some(Secret::new("secret"));
    source.pollers = pollers;
    source.visibility_timeout = Period(Duration::from_secs(visibility));
    source.wait_time = Some(Period(Duration::from_secs(1)));
    let mut sink = HttpSinkConfig::new(place.url().parse().unwrap());
    sink.sqsd = (beside != Beside::Nothing).then(SqsdConfig::default);
    sink.idempotency_header = "off".into();
    measured(place, count, |ended| {
        std::thread::spawn(move || {
            let cpu = ThreadTime::now();
            one_thread().block_on(async {
                let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
                let mut pipeline = Pipeline::builder("bench")
                    .source(SqsSource::new(source).unwrap())
                    .sink(HttpSink::new(&sink, ".".as_ref()).unwrap())
                    .concurrency(concurrency)
                    .prefetch(0)
                    .timeout(Duration::from_secs(60))
                    .stack(|stack| stack.retry = None)
                    .store(Arc::clone(&store));
                if beside == Beside::Locker {
                    pipeline = pipeline.dedupe(DedupeLayer::new(store, "q"));
                }
                let pipeline = pipeline.build().unwrap();
                // In a task, as the fetchers of the bare loop are and as the binary has it.
                let run = tokio::spawn(pipeline.run_until(told(ended)));
                assert!(run.await.unwrap().unwrap().finished);
            });
            cpu.elapsed()
        })
    })
}

/// Ends its process when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// sqs-consumer, from its first delete on: what Node takes to start is not counted.
fn sqs_consumer(place: &Place, count: usize, mode: &[&str]) -> Option<f64> {
    let script = std::env::var_os("BENCH_SQS_CONSUMER")?;
    let before = place.fake.deleted("q");
    let child = Command::new("node")
        .arg(script)
        .args(mode)
        .env("QUEUE_URL", place.fake.queue_url("q"))
        .env("SQS_ENDPOINT_URL", &place.endpoint)
        .env("WORKER_URL", place.url())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let child = Ended(child.unwrap());
    // One to warm up with.
    place.fill(count / 10);
    place.until_empty(Instant::now(), before, count / 10);
    let before = place.fake.deleted("q");
    place.fill(count);
    let began = Instant::now();
    let seconds = place.until_empty(began, before, count);
    drop(child);
    place.until_alone();
    Some(count as f64 / seconds)
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bare and ours in turn, `rounds` times; the first bare runs choose how many fetchers do best, which is returned.
fn compare(name: &str, place: &Place, count: usize, rounds: usize, shapes: &[(usize, usize)]) -> (usize, usize) {
    // Connections, allocators, branch predictors.
    bare(place, count / 10, 8, 8, false);
    let tried = shapes
        .iter()
        .map(|shape| (*shape, bare(place, count, shape.0, shape.1, false).rate(count)));
    let (best, _) = tried
        .inspect(|((fetchers, batch), rate)| println!("{name}: bare, {fetchers} fetchers of {batch}: {rate:.0}/s"))
        .max_by(|one, other| one.1.total_cmp(&other.1))
        .unwrap();
    let (fetchers, batch) = best;
    let (mut rates, mut cpus, mut last) = (Vec::new(), Vec::new(), [0.0; 3]);
    for round in 1..=rounds {
        let post = ours(place, count, fetchers, fetchers * batch, Beside::Nothing);
        let plain = ours(place, count, fetchers, fetchers * batch, Beside::Headers);
        let raw = bare(place, count, fetchers, batch, false);
        let whole = bare(place, count, fetchers, batch, true);
        let locked = ours(place, count, fetchers, fetchers * batch, Beside::Locker);
        println!(
            "{name}: round {round}: bare {:.0}/s {:.1} µs, with attributes {:.0}/s {:.1} µs, pipeline {:.0}/s {:.1} µs, with sqsd's headers {:.0}/s {:.1} µs, with the locker {:.0}/s {:.1} µs",
            raw.rate(count),
            raw.cpu,
            whole.rate(count),
            whole.cpu,
            post.rate(count),
            post.cpu,
            plain.rate(count),
            plain.cpu,
            locked.rate(count),
            locked.cpu,
        );
        rates.push([
            raw.seconds / post.seconds,
            raw.seconds / plain.seconds,
            raw.seconds / locked.seconds,
            whole.seconds / plain.seconds,
        ]);
        cpus.push([post.cpu / raw.cpu, plain.cpu / raw.cpu, plain.cpu / whole.cpu]);
        last = plain.requests;
    }
    let [receives, deletes, changes] = last;
    println!(
        "{name}: for each message {receives:.3} receives, {deletes:.3} deletes, {changes:.3} changes of visibility"
    );
    println!(
        "{name}: ratio {:.2}, with sqsd's headers {:.2}, with the locker {:.2}, with the headers to the loop that asks for \
         attributes {:.2}; processor time for each message {:.2} times the loop's, with the headers {:.2} times, and {:.2} \
         times that of the other",
        median(rates.iter().map(|ratio| ratio[0])),
        median(rates.iter().map(|ratio| ratio[1])),
        median(rates.iter().map(|ratio| ratio[2])),
        median(rates.iter().map(|ratio| ratio[3])),
        median(cpus.iter().map(|ratio| ratio[0])),
        median(cpus.iter().map(|ratio| ratio[1])),
        median(cpus.iter().map(|ratio| ratio[2])),
    );
    best
}

fn main() {
    let (count, rounds) = (number("BENCH_MESSAGES", 30_000), number("BENCH_ROUNDS", 5));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let fast = Place::new(Duration::ZERO);
    if only.is_empty() || only == "fast" {
        let (fetchers, batch) = compare("worker at once", &fast, count, rounds, &[(4, 10), (8, 10), (16, 10)]);
        for (name, mode, part) in [
            ("default", &["default"][..], 20),
            ("batched, 8 consumers", &["batched", "8"], 4),
        ] {
            // Ours in turn with it, so that whatever else is at work is at work for both.
            let runs: Option<Vec<_>> = (0..3)
                .map(|_| {
                    let rate = sqs_consumer(&fast, count / part, mode)?;
                    let own = ours(&fast, count, fetchers, fetchers * batch, Beside::Headers).rate(count);
                    println!("sqs-consumer, {name}: {rate:.0}/s, pipeline {own:.0}/s");
                    Some(own / rate)
                })
                .collect();
            match runs {
                Some(ratios) => println!(
                    "sqs-consumer, {name}: the pipeline does {:.1} times that",
                    median(ratios)
                ),
                None => println!("sqs-consumer, {name}: not here (scripts/bench-sqs installs it)"),
            }
        }
    }
    if only.is_empty() || only == "1ms" {
        let slow = Place::new(Duration::from_millis(1));
        compare(
            "worker of 1 ms, 64 at once",
            &slow,
            count,
            rounds,
            &[(6, 10), (7, 9), (8, 8)],
        );
    }
    if only.is_empty() || only == "slow" {
        // Each post is counted, and a second one of any fails the assertion.
        let place = Place::new(Duration::from_secs(5));
        let took = with_visibility(&place, 10_000, 16, 1_000, Beside::Headers, 2);
        println!(
            "10000 messages of 5 s each, with a visibility of 2 s: repeated posts 0, {:.0} s",
            took.seconds
        );
    }
    // For a profiler.
    if only == "bare" {
        println!("{:?}", bare(&fast, count, 8, 10, false));
    }
    let profiled = [
        ("post", Beside::Nothing),
        ("pipeline", Beside::Headers),
        ("locker", Beside::Locker),
    ];
    if let Some((_, beside)) = profiled.into_iter().find(|(name, _)| *name == only) {
        println!("{:?}", ours(&fast, count, 8, 80, beside));
    }
}
