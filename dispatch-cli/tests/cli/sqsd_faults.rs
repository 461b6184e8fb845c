//! The preset `sqsd` where something goes wrong: at the worker, at the locker, at SQS; against the fake.

use std::{
    collections::HashMap,
    io::Write as _,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::StatusCode;
use dispatch_sources::sqs::fake::{Fake, FakeServer, Fault, QueueOptions};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::support::{Running, Worker, command, dir, done, until};

async fn served() -> (Fake, FakeServer) {
    let fake = Fake::new();
    fake.create_queue("q", QueueOptions::default());
    let server = fake.serve().await;
    (fake, server)
}

fn preset(dir: &tempfile::TempDir, fake: &Fake, server: &FakeServer, worker: &str) -> std::process::Command {
    let mut command = command(dir.path(), &["sqsd"]);
    command
        .env("QUEUE_URL", fake.queue_url("q"))
        .env("SQS_ENDPOINT_URL", server.url())
        .env("INVOKER_URL", format!("{worker}/work"))
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("MONITORING_PORT", "-1")
        .env("INVOKER_PARALLEL_COUNT", "8")
        .stdin(Stdio::null());
    command
}

/// A worker that does with each body, the first time, what the body says; then it answers 200.
async fn misbehaving(seen: Arc<Mutex<HashMap<String, u32>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&seen)));
        }
    });
    url
}

async fn answer(mut stream: TcpStream, seen: Arc<Mutex<HashMap<String, u32>>>) -> std::io::Result<()> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let body = loop {
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.unwrap_or("0").parse().unwrap() {
                    break body.to_owned();
                }
            }
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        };
        text.clear();
        let times = {
            let mut seen = seen.lock().unwrap();
            let times = seen.entry(body.clone()).or_default();
            *times += 1;
            *times
        };
        match body.as_str() {
            _ if times > 1 => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await?
            }
            "garbage" => stream.write_all(b"\x00\xffthis is no HTTP\r\n\r\n").await?,
            "reset" => return Ok(()),
            "half" => {
                return stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
                    .await;
            }
            "hang" => std::future::pending().await,
            "stream" => {
                stream
                    .write_all(b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n")
                    .await?;
                loop {
                    stream.write_all(b"400\r\n").await?;
                    stream.write_all(&[b'x'; 1024]).await?;
                    stream.write_all(b"\r\n").await?;
                }
            }
            other => unreachable!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_worker_does_no_message_is_lost() {
    let (fake, server) = served().await;
    let seen = Arc::default();
    let worker = misbehaving(Arc::clone(&seen)).await;
    let dir = dir(&[]);
    let all = ["garbage", "reset", "half", "hang", "stream"];
    for body in all {
        fake.send("q", body);
    }

    let mut preset = preset(&dir, &fake, &server, &worker);
    preset
        .env("INVOKER_TIMEOUT", "2s")
        .env("SQSD_ERROR_VISIBILITY_TIMEOUT", "1");
    let mut running = Running::spawn(&mut preset);
    until("all are deleted", async || fake.deleted("q") == all.len()).await;
    running.signal(Signal::TERM);

    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    let seen = seen.lock().unwrap();
    assert!(
        all.iter().all(|body| seen.get(*body).is_some_and(|times| *times >= 2)),
        "{seen:?}"
    );
    assert!(!running.log().iter().any(|line| line.contains("panicked")));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_longer_than_its_visibility_is_posted_once() {
    let (fake, server) = served().await;
    let worker = Worker::start().await;
    (0..8).for_each(|n| drop(fake.send("q", n.to_string())));
    let dir = dir(&[]);
    worker.hold();

    let mut preset = preset(&dir, &fake, &server, &worker.url);
    preset.env("SQSD_VISIBILITY_TIMEOUT", "2");
    let mut running = Running::spawn(&mut preset);
    until("all are at the worker", async || worker.count() == 8).await;
    // Six times extended: six visibilities have passed at half each.
    until("time passes", async || {
        fake.requests("ChangeMessageVisibilityBatch") >= 6
    })
    .await;
    worker.let_go();
    until("all are deleted", async || fake.deleted("q") == 8).await;
    running.signal(Signal::TERM);

    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    assert!(worker.ids().values().all(|times| *times == 1), "{:?}", worker.ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_credentials_and_a_wrong_region_end_the_start_in_clear_words() {
    for (code, words) in [
        ("ExpiredToken", "access denied (ExpiredToken)"),
        ("SignatureDoesNotMatch", "access denied (SignatureDoesNotMatch)"),
        ("QueueDoesNotExist", "does not exist"),
    ] {
        let (fake, server) = served().await;
        fake.fail("*", 1_000, Fault::error(code));
        let dir = dir(&[]);

        let run = done(&mut preset(&dir, &fake, &server, "http://127.0.0.1:1"));

        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.err.contains(words), "{run:?}");
        assert!(!run.err.contains("secret"), "{run:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_has_done_is_deleted_and_not_posted_again() {
    let name = "what_another_process_has_done_is_deleted_and_not_posted_again";
    let Ok(url) = std::env::var("DISPATCH_TEST_REDIS_URL") else {
        assert!(std::env::var_os("CI").is_none(), "DISPATCH_TEST_REDIS_URL is not set");
        drop(writeln!(
            std::io::stderr(),
            "skipped: {name}: DISPATCH_TEST_REDIS_URL is not set"
        ));
        return;
    };
    let host = url.split("://").last().unwrap().rsplit('@').next().unwrap();
    let host = host.split('/').next().unwrap().to_owned();
    let (fake, server) = served().await;
    let worker = Worker::start().await;
    let id = fake.send("q", "x");
    let dir = dir(&[]);
    // The fake counts its ids from 1: those of an earlier run are remembered under another key.
    let key = format!("{name}-{}", dispatch_core::random_id());
    let preset = || {
        let mut preset = preset(&dir, &fake, &server, &worker.url);
        preset.env("REDIS_LOCKER_HOST", &host).env("REDIS_LOCKER_KEYNAME", &key);
        preset
    };
    // The first does it, and cannot say so.
    fake.fail("DeleteMessageBatch", 100_000, Fault::Status(500));
    let mut first = Running::spawn(&mut preset());
    until("it is posted", async || worker.count() == 1).await;
    until("the delete was tried", async || {
        fake.requests("DeleteMessageBatch") >= 1
    })
    .await;
    first.kill();
    drop(first);
    assert_eq!(fake.deleted("q"), 0);
    fake.pardon();

    let asked = fake.requests("ReceiveMessage");
    let mut second = Running::spawn(&mut preset());
    // Not before: the queue could still hand it to the dead one's open receive.
    until("the second asks", async || fake.requests("ReceiveMessage") > asked).await;
    fake.expire("q", &id);
    until("it is deleted", async || fake.deleted("q") == 1).await;
    second.signal(Signal::TERM);

    assert_eq!(second.ends().await, 0, "{:#?}", second.log());
    assert_eq!(worker.ids().values().sum::<u32>(), 1, "posted once");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_the_start_ends_and_says_where_to_put_them() {
    let (fake, server) = served().await;
    let dir = dir(&[]);
    let mut preset = preset(&dir, &fake, &server, "http://127.0.0.1:1");
    preset
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        // No machine of Amazon's is asked for its role.
        .env("AWS_EC2_METADATA_DISABLED", "true");

    let run = done(&mut preset);

    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.err.contains("no AWS credentials for") && run.err.contains("set AWS_ACCESS_KEY_ID"),
        "{run:?}"
    );
    assert_eq!(fake.requests("ReceiveMessage"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_is_that_of_the_variable() {
    for (level, shown, hidden) in [
        ("debug", &["DEBUG", "INFO"][..], &[][..]),
        ("info", &["INFO"], &["DEBUG"]),
        ("error", &[], &["DEBUG", "INFO", "WARN"]),
    ] {
        let (fake, server) = served().await;
        let worker = Worker::start().await;
        let dir = dir(&[]);
        fake.send("q", "x");

        let mut running = Running::spawn(preset(&dir, &fake, &server, &worker.url).env("LOG_LEVEL", level));
        until("it is deleted", async || fake.deleted("q") == 1).await;
        running.signal(Signal::TERM);

        assert_eq!(running.ends().await, 0, "{:#?}", running.log());
        let log = running.log();
        // One JSON object a line.
        let levels: Vec<_> = log
            .iter()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["level"].clone())
            .collect();
        for level in shown {
            assert!(levels.iter().any(|seen| seen == level), "{level}: {log:#?}");
        }
        for level in hidden {
            assert!(!levels.iter().any(|seen| seen == level), "{level}: {log:#?}");
        }
    }
}

/// A worker that asks for 2 s with its first answer; notes when each post came, and with what.
async fn asking_for_time(posts: Arc<Mutex<Vec<(Instant, String)>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let work = async move |body: String| {
        let mut posts = posts.lock().unwrap();
        posts.push((Instant::now(), body));
        match posts.len() {
            1 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]),
            _ => (StatusCode::OK, [("x-worker", "well")]),
        }
    };
    let router = axum::Router::new().fallback(work);
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_is_when_the_message_comes_again_and_holds_back_the_others() {
    let (fake, server) = served().await;
    let posts = Arc::<Mutex<Vec<_>>>::default();
    let worker = asking_for_time(Arc::clone(&posts)).await;
    let dir = dir(&[]);
    let mut preset = preset(&dir, &fake, &server, &worker);
    preset.env("INVOKER_PARALLEL_COUNT", "1");
    for body in ["a", "b", "c"] {
        fake.send("q", body);
    }

    let mut running = Running::spawn(&mut preset);
    until("all are deleted", async || fake.deleted("q") == 3).await;
    running.signal(Signal::TERM);

    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    let posts = posts.lock().unwrap();
    let (asked, first) = &posts[0];
    assert_eq!(posts.len(), 4, "{posts:?}");
    assert_eq!(posts.iter().filter(|(_, body)| body == first).count(), 2, "{posts:?}");
    for (at, body) in &posts[1..] {
        let after = at.duration_since(*asked);
        assert!(after >= Duration::from_millis(1_900), "{body} after {after:?}");
        // Not the 70 s of the visibility.
        assert!(after < Duration::from_secs(20), "{body} after {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_makes_its_messages_visible_and_exits_with_1() {
    let (fake, server) = served().await;
    let worker = Worker::start().await;
    worker.hold();
    (0..12).for_each(|n| drop(fake.send("q", n.to_string())));
    let dir = dir(&[]);
    let mut preset = preset(&dir, &fake, &server, &worker.url);
    preset.args(["--set", "drain_timeout=300ms"]);
    let mut running = Running::spawn(&mut preset);
    until("all workers are busy", async || worker.count() == 8).await;

    running.signal(Signal::TERM);

    assert_eq!(running.ends().await, 1, "{:#?}", running.log());
    // Nothing waits for the 70 s of its visibility.
    assert_eq!((fake.visible("q"), fake.in_flight("q"), fake.deleted("q")), (12, 0, 0));
}
