//! SQS from the command line: a pipeline, sends, and dead-letter queues; against the fake.

use std::process::Stdio;

use dispatch_sources::sqs::fake::{Fake, FakeMessage, FakeServer, QueueOptions};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Done, Running, Worker, command, dir, dispatch, done, until};

async fn served(queues: &[&str]) -> (Fake, FakeServer) {
    let fake = Fake::new();
    for queue in queues {
        let options = QueueOptions::default();
        let options = if *queue == "q" {
            options.redrive("dead", 2)
        } else {
            options
        };
        fake.create_queue(queue, options);
    }
    let server = fake.serve().await;
    (fake, server)
}

fn file(fake: &Fake, server: &FakeServer, queue: &str, worker: &str) -> TempDir {
    let text = format!(
        "name = \"p\"\n[source]\ntype = \"sqs\"\nqueue_url = \"{}\"\nendpoint_url = \"{}\"\nregion = \"us-east-1\"\n\
         access_key_id = \"key\"\nsecret_access_key = \"canary-9\"\npollers = 4\n[layers]\nconcurrency = 32\n\
         [sink]\ntype = \"http\"\nurl = \"{worker}/work\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        fake.queue_url(queue),
        server.url(),
    );
    dir(&[("p.toml", &text)])
}

/// A verb on a dead-letter queue; the key comes from the environment.
fn dlq(dir: &TempDir, fake: &Fake, server: &FakeServer, args: &[&str]) -> Done {
    let (url, endpoint) = (fake.queue_url("dead"), server.url());
    let place = ["--queue", &url, "--endpoint-url", &endpoint, "--json"];
    let mut command = command(dir.path(), &[&["dlq"], args, &place].concat());
    command
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    done(command.stdin(Stdio::null()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_under_load_leaves_no_message_to_its_visibility() {
    let worker = Worker::start().await;
    let (fake, server) = served(&["q", "dead"]).await;
    (0..3_000).for_each(|n| drop(fake.send("q", n.to_string())));
    let dir = file(&fake, &server, "q", &worker.url);

    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    until("some work", async || worker.count() > 300).await;
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());

    let worked = worker.ids();
    assert_eq!(fake.in_flight("q"), 0);
    assert_eq!(
        (fake.deleted("q"), fake.visible("q")),
        (worked.len(), 3_000 - worked.len())
    );
    assert!(worked.values().all(|times| *times == 1));
    assert!(!running.log().iter().any(|line| line.contains("canary-9")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_under_load_loses_nothing() {
    let worker = Worker::start().await;
    let (fake, server) = served(&["q", "dead"]).await;
    (0..2_000).for_each(|n| drop(fake.send("q", n.to_string())));
    let dir = file(&fake, &server, "q", &worker.url);
    for kill in 1..=3 {
        let mut running = Running::start(dir.path(), &["run", "p.toml"]);
        let before = worker.count();
        until("some work", async || worker.count() > before + 100).await;
        if kill < 3 {
            running.kill();
            // What was out comes again when its visibility ends.
            fake.advance(std::time::Duration::from_secs(31));
            continue;
        }
        until("all is done", async || {
            fake.deleted("q") == 2_000 || fake.visible("dead") > 0
        })
        .await;
        running.signal(Signal::TERM);
        assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    }

    let ids = worker.ids();
    let again = ids.values().filter(|times| **times > 1).count();
    assert_eq!(
        (ids.len(), fake.visible("dead")),
        (2_000, 0),
        "lost: {}",
        2_000 - ids.len()
    );
    assert!(again <= 2 * 32, "{again} repeated by two kills with 32 in flight");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_queue_ends_the_start_in_clear_words() {
    let (fake, server) = served(&[]).await;
    let dir = file(&fake, &server, "gone", "http://127.0.0.1:1");

    let run = dispatch(dir.path(), &["run", "p.toml"]);
    let check = dispatch(dir.path(), &["check", "p.toml"]);

    assert_eq!((run.code, check.code), (1, 1));
    for text in [run.err, check.out] {
        assert!(
            text.contains("/gone does not exist") || text.contains("queue gone does not exist"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_sent_into_the_queue_of_a_files_source() {
    let (fake, server) = served(&["q.fifo", "s"]).await;
    let standard = file(&fake, &server, "s", "http://127.0.0.1:1");
    let fifo = file(&fake, &server, "q.fifo", "http://127.0.0.1:1");

    let args = [
        "send",
        "p.toml",
        "--payload",
        "one",
        "--payload",
        "two",
        "-H",
        "tenant=a7",
        "--json",
    ];
    let two = dispatch(standard.path(), &args);
    let later = dispatch(standard.path(), &["send", "p.toml", "--payload", "x", "--delay", "1m"]);
    let grouped = dispatch(
        fifo.path(),
        &["send", "p.toml", "--payload", "x", "--key", "g", "--id", "m1"],
    );
    let groupless = dispatch(fifo.path(), &["send", "p.toml", "--payload", "x"]);
    let ranked = dispatch(
        standard.path(),
        &["send", "p.toml", "--payload", "x", "--priority", "3"],
    );
    let empty = dispatch(standard.path(), &["send", "p.toml", "--payload", ""]);

    assert_eq!((two.code, two.json()["sent"].as_u64()), (0, Some(2)), "{two:?}");
    assert_eq!(fake.bodies("s"), ["one", "two"]);
    assert_eq!(fake.messages("s")[0].attribute_of("tenant"), Some(("String", "a7")));
    assert_eq!((later.code, fake.hidden("s")), (0, 1), "{later:?}");
    let message: FakeMessage = fake.messages("q.fifo").remove(0);
    assert_eq!(
        (message.group.as_deref(), message.dedup.as_deref()),
        (Some("g"), Some("m1"))
    );
    assert_eq!((grouped.code, groupless.code, ranked.code, empty.code), (0, 2, 2, 1));
    assert!(
        groupless.err.contains("--key") && empty.err.contains("the payload is empty"),
        "{groupless:?} {empty:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_sqs_are_listed_moved_back_and_a_move_is_ended() {
    let (fake, server) = served(&["q", "dead"]).await;
    let dir = dir(&[]);
    (0..30).for_each(|n| drop(fake.send("dead", n.to_string())));

    let before = dlq(&dir, &fake, &server, &["list"]).json();
    let started = dlq(
        &dir,
        &fake,
        &server,
        &[
            "redrive",
            "--to",
            "arn:aws:sqs:us-east-1:000000000000:q",
            "--rate",
            "5/s",
        ],
    );
    fake.advance(std::time::Duration::from_secs(3));
    let second = dlq(&dir, &fake, &server, &["redrive"]);
    let during = dlq(&dir, &fake, &server, &["list"]).json();
    let ended = dlq(&dir, &fake, &server, &["cancel"]);
    let none = dlq(&dir, &fake, &server, &["cancel"]);
    let wrong = dlq(&dir, &fake, &server, &["redrive", "--rate", "501/s"]);

    assert_eq!(
        (&before["waiting"], &before["moves"]),
        (&30.into(), &serde_json::json!([]))
    );
    assert_eq!(started.code, 0, "{started:?}");
    assert_eq!(
        (second.code, none.code, wrong.code),
        (1, 1, 2),
        "{second:?} {none:?} {wrong:?}"
    );
    assert_eq!(
        (&during["moves"][0]["status"], &during["moves"][0]["task"]),
        (&"RUNNING".into(), &started.json()["task"])
    );
    assert!(ended.json()["moved"].as_u64() >= Some(15), "{ended:?}");
    assert!(fake.visible("q") >= 15 && fake.visible("dead") > 0);
    assert_eq!(fake.visible("q") + fake.visible("dead"), 30);
}
