//! Traces, as a collector gets them: a receiver of OTLP over HTTP on the protocol's own types.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message as _;
use rustix::process::Signal;
use tempfile::NamedTempFile;
use tokio::{net::TcpListener, time::Instant};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use crate::support::{Done, LONG, Running, Worker, ask, command, dir, done, file_to, lines, until};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CANARY: &str = "canary-3f70";
// OpenTelemetry's numbers for kinds of spans and for the status of failures.
const CLIENT: i32 = 3;
const CONSUMER: i32 = 5;
const ERROR: i32 = 2;

/// What came to the collector.
#[derive(Debug, Clone, Default)]
struct Got {
    spans: Vec<Span>,
    resource: HashMap<String, String>,
    headers: Vec<HeaderMap>,
}

#[derive(Debug, Clone)]
struct Collector {
    url: String,
    got: Arc<Mutex<Got>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let got = Arc::<Mutex<Got>>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(got.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, got }
    }

    /// One that speaks TLS, and the file with its certificate.
    async fn secured() -> (Self, NamedTempFile) {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), own.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let got = Arc::<Mutex<Got>>::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(got.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.ok()?;
                    let serve = http1::Builder::new();
                    serve
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                        .await
                        .ok()
                });
            }
        });
        (Self { url, got }, file)
    }

    fn got(&self) -> Got {
        self.got.lock().unwrap().clone()
    }

    /// The spans under this name.
    fn spans(&self, name: &str) -> Vec<Span> {
        let spans = self.got().spans.into_iter();
        spans.filter(|span| span.name == name).collect()
    }

    fn env(&self) -> [(&'static str, &str); 1] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url)]
    }
}

async fn take(State(got): State<Arc<Mutex<Got>>>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut got = got.lock().unwrap();
    got.headers.push(headers);
    for one in request.resource_spans {
        got.resource.extend(map(&one.resource.unwrap().attributes));
        got.spans
            .extend(one.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    Vec::new()
}

fn map(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let pair = |pair: &KeyValue| {
        let value = pair.value.as_ref().unwrap().value.as_ref().unwrap();
        (pair.key.clone(), text(value))
    };
    attributes.iter().map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The `traceparent` that names this span to the next hop.
fn parent(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

fn failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == ERROR)
}

/// Runs a file to its end with these variables.
fn run(config: &str, input: &str, flags: &[&str], variables: &[(&str, &str)]) -> Done {
    let dir = dir(&[("in.txt", input), ("p.toml", config)]);
    let mut command = command(dir.path(), &[&["run", "p.toml"], flags].concat());
    done(command.envs(variables.iter().copied()).stdin(Stdio::null()))
}

/// What the run says of traces, above the level info.
fn warnings(done: &Done) -> Vec<&str> {
    let of_traces = |line: &&str| line.contains("\"WARN\"") && line.contains("traces");
    done.err.lines().filter(of_traces).collect()
}

fn http_to(worker: &Worker) -> String {
    file_to(worker).replace(
        "type = \"file\"\npaths = [\"in.txt\"]",
        "type = \"http\"\nlisten = \"127.0.0.1:0\"",
    )
}

/// Posts to a pipeline's source with these headers, ends the run when the worker has it, and says what the worker got.
async fn through(collector: &Collector, headers: &[(&str, &str)], variables: &[(&str, &str)]) -> HeaderMap {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &http_to(&worker))]);
    let mut command = command(dir.path(), &["run", "p.toml"]);
    let mut running = Running::spawn(command.envs(collector.env()).envs(variables.iter().copied()));
    running.ready().await;
    let line: serde_json::Value = serde_json::from_str(&running.says("\"listening\"").await).unwrap();
    let url = format!("http://{}/", line["address"].as_str().unwrap());
    let (status, _) = ask("POST", &url, headers).await;
    assert!((200..300).contains(&status), "{status}");
    until("the message", async || worker.count() == 1).await;
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    worker.headers().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_s_span_hangs_between_its_sender_s_and_its_worker_s() {
    let collector = Collector::start().await;
    let sender = format!("00-{TRACE}-b7ad6b7169203331-01");

    let headers = through(
        &collector,
        &[("traceparent", &sender), ("tracestate", "vendor=1")],
        &[
            ("OTEL_SERVICE_NAME", "mine"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ],
    )
    .await;

    let got = collector.got();
    let [span] = &got.spans[..] else { panic!("{got:?}") };
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(
        headers["traceparent"],
        parent(span).as_str(),
        "the worker's parent is ours"
    );
    assert_eq!(
        (&headers["tracestate"], span.trace_state.as_str()),
        (&"vendor=1".parse().unwrap(), "vendor=1")
    );
    assert_eq!(
        (span.name.as_str(), span.kind, failed(span)),
        ("process p", CONSUMER, false)
    );
    let attributes = map(&span.attributes);
    for (name, value) in [
        ("messaging.system", "dispatch"),
        ("messaging.destination.name", "p"),
        ("messaging.operation.type", "process"),
        ("messaging.operation.name", "process"),
        ("messaging.message.id", headers["idempotency-key"].to_str().unwrap()),
        ("messaging.message.body.size", "0"),
        ("dispatch.attempt", "1"),
    ] {
        assert_eq!(attributes[name], value, "{name}");
    }
    assert_eq!(got.resource["service.name"], "mine");
    assert_eq!(got.resource["deployment.environment.name"], "test");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sender_does_not_sample_is_handed_on_and_not_sent() {
    let collector = Collector::start().await;
    let sender = format!("00-{TRACE}-b7ad6b7169203331-00");

    let headers = through(&collector, &[("traceparent", &sender)], &[]).await;

    let next = headers["traceparent"].to_str().unwrap();
    assert!(next.starts_with(&sender[..36]) && next.ends_with("-00"), "{next}");
    assert_ne!(next, sender);
    assert_eq!(collector.got().spans, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_events_and_the_status_of_the_message_s_span() {
    let (collector, worker) = (Collector::start().await, Worker::start().await);
    worker.answer(500);

    let done = run(&file_to(&worker), "one\n", &[], &collector.env());

    assert_eq!(done.code, 0, "{done:?}");
    let got = collector.got();
    let [span] = &got.spans[..] else { panic!("{got:?}") };
    let status = span.status.as_ref().unwrap();
    assert!(failed(span) && status.message.contains("500"), "{status:?}");
    assert!(span.parent_span_id.is_empty(), "nobody sent one");
    let attributes = map(&span.attributes);
    assert_eq!(
        (
            attributes["error.type"].as_str(),
            attributes["dispatch.error.class"].as_str()
        ),
        ("500", "retry")
    );
    let events: Vec<_> = span
        .events
        .iter()
        .map(|event| (&*event.name, map(&event.attributes)))
        .collect();
    assert_eq!(events.len(), 2, "{events:?}");
    for (number, (name, attributes)) in events.iter().enumerate() {
        assert_eq!(
            (*name, &*attributes["dispatch.attempt"]),
            ("attempt failed", &*(number + 1).to_string())
        );
        assert!(attributes["exception.message"].contains("500"), "{attributes:?}");
    }
    let parents: Vec<_> = worker
        .headers()
        .iter()
        .map(|headers| headers["traceparent"].clone())
        .collect();
    assert_eq!(
        parents,
        [parent(span).as_str(), &parent(span)],
        "both attempts are of one span"
    );
    assert_eq!(got.resource["service.name"], "dispatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_a_span_of_its_own_that_links_to_its_messages() {
    let (collector, worker) = (Collector::start().await, Worker::start().await);
    let config = file_to(&worker).replace("/work\"", "/work\"\nsqsd = { batch = { size = 3, linger = \"20s\" } }");

    let done = run(&config, &lines(3), &[], &collector.env());

    assert_eq!(done.code, 0, "{done:?}");
    let host = worker.url.trim_start_matches("http://");
    let batches = collector.spans(&format!("send {host}"));
    let [batch] = &batches[..] else {
        panic!("{:?}", collector.got())
    };
    assert_linked(&batches, &collector.spans("process p"), 3);
    assert_eq!(map(&batch.attributes)["messaging.system"], "http");
    let headers = worker.headers();
    assert_eq!(headers.len(), 1);
    assert_eq!(headers[0]["traceparent"], parent(batch).as_str());
}

/// Whether `batches` link to all of `messages`, each once, and hang below none of them.
fn assert_linked(batches: &[Span], messages: &[Span], count: usize) {
    let ids = |trace: &[u8], span: &[u8]| (hex(trace), hex(span));
    let all = batches.iter().flat_map(|batch| &batch.links);
    let mut links: Vec<_> = all.map(|link| ids(&link.trace_id, &link.span_id)).collect();
    let own = messages.iter().map(|span| ids(&span.trace_id, &span.span_id));
    let mut spans: Vec<_> = own.collect();
    links.sort();
    spans.sort();
    assert_eq!((&links, links.len()), (&spans, count));
    for batch in batches {
        assert_eq!((batch.kind, failed(batch)), (CLIENT, false));
        assert!(batch.parent_span_id.is_empty());
        assert!(messages.iter().all(|span| span.trace_id != batch.trace_id));
        let said = &map(&batch.attributes)["messaging.batch.message_count"];
        assert_eq!(*said, batch.links.len().to_string());
    }
}

#[cfg(feature = "sqs")]
#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_sqs_links_to_the_messages_in_it() {
    use dispatch_sources::sqs::fake::{Fake, QueueOptions};
    let collector = Collector::start().await;
    let fake = Fake::new();
    fake.create_queue("q", QueueOptions::default());
    let server = fake.serve().await;
    let config = format!(
        "name = \"p\"\n[source]\ntype = \"file\"\npaths = [\"in.txt\"]\n[sink]\ntype = \"sqs\"\nqueue_url = \"{}\"\n\
         endpoint_url = \"{}\"\nregion = \"us-east-1\"\naccess_key_id = \"key\"\nsecret_access_key = \"{CANARY}\"\n\
         linger = \"1s\"\n[admin]\nlisten = \"off\"\n",
        fake.queue_url("q"),
        server.url(),
    );

    let done = run(&config, &lines(10), &[], &collector.env());

    assert_eq!((done.code, fake.visible("q")), (0, 10), "{done:?}");
    let batches = collector.spans("send q");
    assert!((1..10).contains(&batches.len()), "{batches:?}");
    assert_linked(&batches, &collector.spans("process p"), 10);
    assert_eq!(map(&batches[0].attributes)["messaging.system"], "aws_sqs");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_where_traces_are_turned_off() {
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let (collector, worker) = (Collector::start().await, Worker::start().await);

        let done = run(&file_to(&worker), "one\n", &[], &[collector.env()[0], off]);

        assert_eq!((done.code, worker.count()), (0, 1), "{done:?}");
        assert_eq!(collector.got().headers.len(), 0, "{off:?}");
        assert!(!worker.headers()[0].contains_key("traceparent"), "{off:?}");
        assert_eq!(warnings(&done), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_mute_holds_no_end_up_and_fails_nothing() {
    // It takes connections and never says a word; the other's port is closed again.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for address in [mute.local_addr().unwrap(), closed] {
        let worker = Worker::start().await;
        let began = Instant::now();

        let done = run(
            &file_to(&worker),
            &lines(1_000),
            &[],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{address}")),
                // Without a bound of our own it would take ten minutes.
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"),
                ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100"),
            ],
        );

        assert_eq!((done.code, worker.count()), (0, 1_000), "{done:?}");
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
        assert_eq!(warnings(&done).len(), 1, "{address}: {}", done.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_go_to_the_collector_and_nowhere_else() {
    let (collector, worker) = (Collector::start().await, Worker::start().await);
    let secret = format!("authorization=Bearer%20{CANARY},x-tenant=a");
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", secret.as_str());

    let good = run(&file_to(&worker), "one\n", &["-vv"], &[collector.env()[0], headers]);
    let away = run(
        &file_to(&worker),
        "one\n",
        &["-vv"],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), headers],
    );

    let got = collector.got();
    assert_eq!(got.headers[0]["authorization"], format!("Bearer {CANARY}"));
    assert_eq!(got.headers[0]["x-tenant"], "a");
    for done in [good, away] {
        assert_eq!(done.code, 0, "{done:?}");
        assert!(!done.err.contains(CANARY) && !done.out.contains(CANARY), "{done:?}");
    }
    assert!(!format!("{:?}", worker.headers()).contains(CANARY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_cannot_be_followed_ends_the_run_with_its_name() {
    let (collector, worker) = (Collector::start().await, Worker::start().await);

    let done = run(
        &file_to(&worker),
        "one\n",
        &[],
        &[collector.env()[0], ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
    );

    assert_eq!((done.code, worker.count()), (2, 0), "{done:?}");
    assert!(
        done.err.contains("OTEL_EXPORTER_OTLP_PROTOCOL: \"grpc\"") && done.err.contains("http/protobuf"),
        "{done:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_tls_is_trusted_by_the_file_of_authorities_or_not_at_all() {
    let worker = Worker::start().await;
    let (collector, authorities) = Collector::secured().await;
    let file = authorities.path().to_str().unwrap();

    let strange = run(&file_to(&worker), "one\n", &[], &collector.env());
    assert_eq!((strange.code, collector.got().spans.len()), (0, 0), "{strange:?}");
    assert_eq!(warnings(&strange).len(), 1, "{strange:?}");

    let trusted = run(
        &file_to(&worker),
        "one\n",
        &[],
        &[collector.env()[0], ("SSL_CERT_FILE", file)],
    );
    assert_eq!((trusted.code, collector.got().spans.len()), (0, 1), "{trusted:?}");
    assert_eq!(warnings(&trusted), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drain_cuts_off_is_a_cancelled_span() {
    let (collector, worker) = (Collector::start().await, Worker::start().await);
    worker.hold();
    let config = format!("drain_timeout = \"100ms\"\n{}", file_to(&worker));
    let dir = dir(&[("in.txt", "one\n"), ("p.toml", &config)]);
    let mut command = command(dir.path(), &["run", "p.toml"]);
    let mut running = Running::spawn(command.envs(collector.env()));
    until("the attempt", async || worker.open() == 1).await;

    running.signal(Signal::TERM);

    assert_eq!(running.ends().await, 1, "{:#?}", running.log());
    let got = collector.got();
    let [span] = &got.spans[..] else { panic!("{got:?}") };
    assert!(failed(span), "{span:?}");
    assert_eq!(map(&span.attributes)["error.type"], "cancelled");
}
