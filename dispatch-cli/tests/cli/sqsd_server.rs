//! The preset `sqsd` between a real SQS server and a real worker.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{LONG, Running, Worker, command, dir, get, until};

/// A queue of its own on the server of `DISPATCH_TEST_SQS_URL`; none where there is no server.
pub(crate) struct Queue {
    pub(crate) server: String,
    pub(crate) url: String,
}

impl Queue {
    pub(crate) async fn new(name: &str) -> Option<Self> {
        let Ok(server) = std::env::var("DISPATCH_TEST_SQS_URL") else {
            assert!(std::env::var_os("CI").is_none(), "DISPATCH_TEST_SQS_URL is not set");
            drop(writeln!(
                std::io::stderr(),
                "skipped: {name}: DISPATCH_TEST_SQS_URL is not set"
            ));
            return None;
        };
        let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let made = match name.strip_suffix(".fifo") {
            None => json!({ "QueueName": format!("{name}-{unique}") }),
            Some(name) => {
                json!({ "QueueName": format!("{name}-{unique}.fifo"), "Attributes": { "FifoQueue": "true" } })
            }
        };
        let made = call(&server, "CreateQueue", made).await;
        let url = made["QueueUrl"].as_str().unwrap().to_owned();
        Some(Self { server, url })
    }

    pub(crate) async fn send(&self, body: &str, attributes: &[(&str, &str)]) {
        let attributes: Value = attributes
            .iter()
            .map(|(name, value)| {
                (
                    (*name).to_owned(),
                    json!({ "DataType": "String", "StringValue": value }),
                )
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
        let message = json!({ "QueueUrl": self.url, "MessageBody": body, "MessageAttributes": attributes });
        call(&self.server, "SendMessage", message).await;
    }

    /// Sends to a group of a FIFO queue.
    pub(crate) async fn send_to(&self, group: &str, body: &str) {
        let message = json!({
            "QueueUrl": self.url, "MessageBody": body, "MessageGroupId": group,
            "MessageDeduplicationId": format!("{group}-{body}"),
        });
        call(&self.server, "SendMessage", message).await;
    }

    /// How many messages wait, and how many are with somebody.
    pub(crate) async fn depth(&self) -> (u64, u64) {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let answer = call(
            &self.server,
            "GetQueueAttributes",
            json!({ "QueueUrl": self.url, "AttributeNames": names }),
        )
        .await;
        let number = |name: &str| answer["Attributes"][name].as_str().unwrap().parse().unwrap();
        (number(names[0]), number(names[1]))
    }

    /// The variables that let the preset reach it.
    pub(crate) fn environment(&self, worker: &str) -> Vec<(String, String)> {
        let pairs = [
            ("QUEUE_URL", self.url.as_str()),
            ("INVOKER_URL", &format!("{worker}/work")),
            ("SQS_ENDPOINT_URL", &self.server),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("MONITORING_PORT", "0"),
            ("INVOKER_PARALLEL_COUNT", "4"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

/// One call of the JSON protocol; a test server asks for no signature.
async fn call(server: &str, operation: &str, input: Value) -> Value {
    let uri: http::Uri = server.parse().unwrap();
    let authority = uri.authority().unwrap().as_str();
    let stream = TcpStream::connect(authority).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("/")
        .header("host", authority)
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", format!("AmazonSQS.{operation}"))
        .body(Full::new(Bytes::from(input.to_string())))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(
        status.is_success(),
        "{operation}: {status} {}",
        String::from_utf8_lossy(&body)
    );
    serde_json::from_slice(&body).unwrap_or_default()
}

pub(crate) async fn scoreboard(running: &Running) -> String {
    let line: Value = serde_json::from_str(&running.says("monitoring listens").await).unwrap();
    format!("http://{}", line["address"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_worked_on_and_deleted_by_file_and_by_environment() {
    for by_file in [true, false] {
        let Some(queue) = Queue::new("preset").await else {
            return;
        };
        let worker = Worker::start().await;
        let environment = queue.environment(&worker.url);
        let file: String = environment
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let dir = dir(&[(".env", &file)]);
        let mut running = Running::spawn(&mut match by_file {
            true => command(dir.path(), &["sqsd", "-e", ".env"]),
            false => {
                let mut command = command(dir.path(), &["sqsd"]);
                command.envs(environment);
                command
            }
        });
        for number in 0..20 {
            queue.send(&format!("{{\"n\":{number}}}"), &[("Tenant", "a7")]).await;
        }
        let times = [
            ("beanstalk.sqsd.scheduled_time", "2026-11-22 07:00:00 UTC"),
            ("beanstalk.sqsd.path", "/backup"),
        ];
        queue.send("elasticbeanstalk scheduled job", &times).await;

        until("all is worked on", async || worker.count() == 21).await;
        until("all is deleted", async || queue.depth().await == (0, 0)).await;
        let at = scoreboard(&running).await;
        let stats: Value = serde_json::from_str(&get(&format!("{at}/worker/stats")).await.1).unwrap();
        assert_eq!(
            (&stats["total_succeeded"], &stats["max_worker"]),
            (&21.into(), &4.into()),
            "{stats}"
        );
        // Each once, the task at its own path and without a body.
        assert!(worker.ids().values().all(|count| *count == 1), "{:?}", worker.ids());
        let tasks = worker
            .paths()
            .iter()
            .zip(worker.bodies())
            .filter(|(path, body)| *path == "/backup" && body.is_empty())
            .count();
        assert_eq!(tasks, 1);
        // SIGHUP drains, as the original does.
        running.signal(Signal::HUP);
        assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_left_to_the_queue_and_comes_again_once_it_may() {
    let Some(queue) = Queue::new("failing").await else {
        return;
    };
    let worker = Worker::start().await;
    worker.answer(404);
    let mut environment = queue.environment(&worker.url);
    environment.push(("SQSD_ERROR_VISIBILITY_TIMEOUT".into(), "1".into()));
    let dir = dir(&[]);
    let mut running = Running::spawn(command(dir.path(), &["sqsd"]).envs(environment));
    queue.send("{}", &[]).await;

    // A failed message is never locked out: it comes again, under the same id, and is deleted once it works.
    until("it came twice", async || worker.ids().values().sum::<u32>() >= 2).await;
    worker.answer(200);
    until("it is deleted", async || queue.depth().await == (0, 0)).await;

    assert_eq!(worker.count(), 1);
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_the_worker_is_seen_and_what_is_not_stays_in_the_queue() {
    let Some(queue) = Queue::new("held").await else { return };
    let worker = Worker::start().await;
    worker.hold();
    let dir = dir(&[]);
    let mut running = Running::spawn(command(dir.path(), &["sqsd"]).envs(queue.environment(&worker.url)));
    for _ in 0..10 {
        queue.send("{}", &[]).await;
    }
    until("all workers are busy", async || worker.count() == 4).await;
    let at = scoreboard(&running).await;
    let jobs: Value = serde_json::from_str(&get(&format!("{at}/worker/current/jobs")).await.1).unwrap();
    let jobs = jobs["current_jobs"].as_array().unwrap();
    let mut seen: Vec<_> = jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect();
    let mut at_work: Vec<_> = worker.ids().into_keys().collect();
    seen.sort();
    at_work.sort();
    assert_eq!(seen, at_work);
    assert!(
        jobs.iter()
            .all(|job| job["receipt"].as_str().is_some_and(|receipt| receipt.len() > 4)),
        "{jobs:?}"
    );
    assert_eq!(queue.depth().await, (6, 4));

    // A drain lets those finish, and takes no other.
    running.signal(Signal::TERM);
    running.says("Draining").await;
    worker.let_go();
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    assert_eq!(queue.depth().await, (6, 0));
}

/// The SDK looks into the process's own environment for what only it knows, such as the token of temporary keys.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_says_to_amazons_sdk_reaches_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let file = format!(
        "QUEUE_URL=https://sqs.eu-west-1.amazonaws.com/000000000000/q\nINVOKER_URL=http://127.0.0.1:9/\n\
         AWS_ENDPOINT_URL_SQS=http://127.0.0.1:{port}\nAWS_ACCESS_KEY_ID=AKTEMP\nAWS_SECRET_ACCESS_KEY=canary-1\n\
         AWS_SESSION_TOKEN=token-of-the-file\nMONITORING_PORT=0\nSQSD_RUN_DAEMONIZED=0\n"
    );
    let dir = dir(&[(".env", &file)]);
    let mut command = command(dir.path(), &["sqsd", "-e", ".env"]);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        command.env_remove(name);
    }
    let mut running = Running::spawn(command.stdin(Stdio::null()));

    let head = tokio::task::spawn_blocking(move || {
        let (stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>()
    });
    let head = tokio::time::timeout(LONG, head).await.unwrap().unwrap();
    running.kill();

    let has = |part: &str| head.iter().any(|line| line.contains(part));
    assert!(
        has("x-amz-security-token: token-of-the-file") && has("Credential=AKTEMP/"),
        "{head:?}"
    );
    assert!(has("/eu-west-1/sqs/"), "{head:?}");
    assert!(!running.log().iter().any(|line| line.contains("canary-1")));
    let warned = running
        .log()
        .iter()
        .filter(|line| line.contains("SQSD_RUN_DAEMONIZED=0"))
        .count();
    assert_eq!(warned, 1, "{:#?}", running.log());
}
