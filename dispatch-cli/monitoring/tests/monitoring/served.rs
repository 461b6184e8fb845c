use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use dispatch_core::{BoxError, Message, Pipeline, pipeline::Handle, sink_fn, testing::MemorySource};
use dispatch_monitoring::{
    Server,
    proto::{
        CurrentWorkingsRequest, CurrentWorkingsResponse, Task, monitoring_service_client::MonitoringServiceClient,
    },
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::{net::TcpStream, sync::Semaphore, task::JoinHandle};
use tonic::transport::Endpoint;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// A pipeline whose sink holds what it gets: a permit lets one message go, and the word "bad" fails it.
struct Held {
    handle: Handle,
    queue: dispatch_core::testing::MemoryQueue,
    started: Arc<Semaphore>,
    release: Arc<Semaphore>,
    run: JoinHandle<()>,
}

fn held() -> Held {
    let (started, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let source = MemorySource::new();
    let queue = source.queue();
    let sink = sink_fn({
        let (started, release) = (started.clone(), release.clone());
        move |message: Message| {
            let (started, release) = (started.clone(), release.clone());
            async move {
                started.add_permits(1);
                release.acquire().await?.forget();
                if &message.payload[..] == b"bad" {
                    Err(BoxError::from("bad"))
                } else {
                    Ok(())
                }
            }
        }
    });
    let pipeline = Pipeline::builder("held")
        .source(source)
        .sink(sink)
        .stack(|stack| stack.retry = None)
        .concurrency(3);
    let pipeline = pipeline.build().unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(async move { drop(pipeline.run().await.unwrap()) });
    Held {
        handle,
        queue,
        started,
        release,
        run,
    }
}

impl Held {
    async fn started(&self, count: u32) {
        self.started.acquire_many(count).await.unwrap().forget();
    }

    fn server(&self) -> Server {
        Server::start("127.0.0.1:0".parse().unwrap(), [self.handle.clone()]).unwrap()
    }

    async fn end(self) {
        self.release.add_permits(100);
        self.handle.drain();
        self.run.await.unwrap();
    }
}

/// Status, content type and body of a plain request.
async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "monitoring")
        .body(Empty::<Bytes>::new());
    let (parts, body) = sender.send_request(request.unwrap()).await.unwrap().into_parts();
    let kind = parts
        .headers
        .get("content-type")
        .map(|kind| kind.to_str().unwrap().to_owned());
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
    (parts.status.as_u16(), kind.unwrap_or_default(), body)
}

async fn json(address: SocketAddr, path: &str) -> serde_json::Value {
    let (status, kind, body) = ask(address, "GET", path).await;
    assert_eq!((status, kind.as_str()), (200, "application/json"), "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn the_scoreboard_shows_what_is_being_worked_on() {
    let held = held();
    let server = held.server();
    let channel = Endpoint::from_shared(format!("http://{}", server.address()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = MonitoringServiceClient::new(channel);
    let tasks = |response: tonic::Response<CurrentWorkingsResponse>| response.into_inner().tasks;
    assert!(tasks(client.current_workings(CurrentWorkingsRequest {}).await.unwrap()).is_empty());

    let before = SystemTime::now();
    // The same message twice, under two receipts; and more than there are workers.
    for receipt in ["r1", "r2"] {
        held.queue
            .push(Message::with_id("m-1", "x").meta("sqs_receipt_handle", receipt));
        held.started(1).await;
    }
    for id in ["m-2", "m-3", "m-4"] {
        held.queue
            .push(Message::with_id(id, "x").meta("sqs_receipt_handle", "r"));
    }
    held.started(1).await;

    let seen = tasks(client.current_workings(CurrentWorkingsRequest {}).await.unwrap());
    let ids: Vec<_> = seen
        .iter()
        .map(|task| (task.id.as_str(), task.receipt.as_str()))
        .collect();
    assert_eq!(ids, [("m-1", "r1"), ("m-1", "r2"), ("m-2", "r")]);
    let times: Vec<SystemTime> = seen
        .iter()
        .map(|task| task.started_at.unwrap().try_into().unwrap())
        .collect();
    assert!(times.is_sorted());
    assert!(
        times
            .iter()
            .all(|time| *time + Duration::from_millis(50) >= before && *time <= SystemTime::now())
    );
    server.stop().await;
    held.end().await;
}

#[test]
fn the_wire_is_that_of_sqsd() {
    let started_at = Some(prost_types::Timestamp { seconds: 300, nanos: 5 });
    let tasks = vec![Task {
        id: "a".into(),
        receipt: "bc".into(),
        started_at,
    }];

    let bytes = CurrentWorkingsResponse { tasks }.encode_to_vec();

    // Field 1, 14 bytes: field 1 "a", field 2 "bc", field 3 with seconds 300 and nanos 5.
    let task = [0x0a, 1, b'a', 0x12, 2, b'b', b'c', 0x1a, 5, 0x08, 0xac, 0x02, 0x10, 5];
    assert_eq!(bytes, [&[0x0a, 14][..], &task].concat());
}

#[tokio::test]
async fn reflection_tells_of_the_service() {
    let held = held();
    let server = held.server();
    let channel = Endpoint::from_shared(format!("http://{}", server.address()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = ServerReflectionClient::new(channel);
    let question = |request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let questions = vec![
        question(MessageRequest::ListServices(String::new())),
        question(MessageRequest::FileContainingSymbol("sqsd.MonitoringService".into())),
        question(MessageRequest::FileByFilename("google/protobuf/timestamp.proto".into())),
    ];

    let mut answers = client
        .server_reflection_info(tokio_stream::iter(questions))
        .await
        .unwrap()
        .into_inner();

    let Some(MessageResponse::ListServicesResponse(services)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("a list is the answer to the first question");
    };
    assert!(
        services
            .service
            .iter()
            .any(|service| service.name == "sqsd.MonitoringService"),
        "{services:?}"
    );
    for _ in 0..2 {
        let answer = answers.message().await.unwrap().unwrap().message_response;
        assert!(
            matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))),
            "{answer:?}"
        );
    }
    server.stop().await;
    held.end().await;
}

#[tokio::test]
async fn the_endpoints_of_the_first_version_are_there() {
    let held = held();
    let server = held.server();
    let at = server.address();
    held.queue.push(Message::with_id("good", "x"));
    held.queue.push(Message::with_id("bad", "bad"));
    held.started(2).await;
    let jobs = json(at, "/worker/current/jobs").await;
    let ids: Vec<_> = jobs["current_jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["good", "bad"]);
    assert!(jobs["current_jobs"][0]["started_at"].as_u64().unwrap() > 1_700_000_000_000);
    let stats = json(at, "/worker/stats").await;
    assert_eq!(
        (&stats["max_worker"], &stats["busy_worker"], &stats["idle_worker"]),
        (&3.into(), &2.into(), &1.into())
    );

    held.release.add_permits(2);
    // The failed one comes again; it is at work once both have been counted.
    held.started(1).await;
    let stats = json(at, "/worker/stats").await;
    for (name, value) in [
        ("is_working", serde_json::json!(true)),
        ("total_handled", serde_json::json!(2)),
        ("total_succeeded", serde_json::json!(1)),
        ("total_failed", serde_json::json!(1)),
    ] {
        assert_eq!(stats[name], value, "{name}: {stats}");
    }

    assert_eq!(
        ask(at, "POST", "/worker/pause").await,
        (200, "application/json".into(), r#"{"success":true}"#.into())
    );
    assert!(held.handle.status().paused);
    assert_eq!(json(at, "/worker/stats").await["is_working"], false);
    assert_eq!(ask(at, "POST", "/worker/resume").await.2, r#"{"success":true}"#);
    assert!(!held.handle.status().paused);
    assert_eq!(json(at, "/stats").await["pipelines"][0]["name"], "held");
    for (method, path, expected) in [
        ("GET", "/worker/pause", (405, "Method Not Allowed")),
        ("POST", "/worker/stats", (405, "Method Not Allowed")),
        ("GET", "/nowhere", (404, "")),
    ] {
        let (status, _, body) = ask(at, method, path).await;
        assert_eq!((status, body.as_str()), expected, "{method} {path}");
    }
    server.stop().await;
    held.end().await;
}

#[tokio::test]
async fn an_address_in_use_is_an_error_and_a_stopped_server_leaves_its_port() {
    let held = held();
    let server = held.server();
    let address = server.address();

    assert!(Server::start(address, [held.handle.clone()]).is_err());
    server.stop().await;
    drop(Server::start(address, [held.handle.clone()]).unwrap());
    held.end().await;
}
