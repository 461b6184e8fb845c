//! What signals do, to the process and to messages.

use std::{io::Write as _, process::Stdio, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::support::{LONG, Running, Worker, command, dir, dispatch, file_to, get, lines, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_loses_nothing_and_repeats_nothing() {
    let worker = Worker::start().await;
    let config = file_to(&worker).replace("[layers]\n", "[layers]\nconcurrency = 8\nrate_limit = \"400/s\"\n");
    let dir = dir(&[("in.txt", &lines(1_500)), ("p.toml", &config)]);

    let mut first = Running::start(dir.path(), &["run", "p.toml"]);
    until("some work", async || worker.count() > 50).await;
    first.signal(Signal::TERM);
    assert_eq!(first.ends().await, 0, "{:#?}", first.log());
    let before = worker.count();
    assert!(before < 1_500, "drained only after the end");
    let done = dispatch(dir.path(), &["run", "p.toml"]);

    assert_eq!(done.code, 0, "{done:?}");
    let ids = worker.ids();
    assert_eq!(ids.len(), 1_500);
    assert!(ids.values().all(|times| *times == 1), "repeated: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_signal_ends_at_once() {
    for (first, second, code) in [
        (Some(Signal::TERM), Signal::TERM, 143),
        (Some(Signal::TERM), Signal::INT, 130),
        (Some(Signal::INT), Signal::INT, 130),
        (None, Signal::QUIT, 131),
    ] {
        // A machine that is busy with other things may be late once, not thrice.
        let mut fastest = Duration::MAX;
        for _ in 0..3 {
            let worker = Worker::start().await;
            worker.hold();
            let dir = dir(&[("in.txt", &lines(100)), ("p.toml", &file_to(&worker))]);
            let mut running = Running::start(dir.path(), &["run", "p.toml"]);
            until("work in flight", async || worker.count() > 0).await;
            if let Some(first) = first {
                running.signal(first);
                running.says("draining").await;
            }

            let begun = Instant::now();
            running.signal(second);
            assert_eq!(running.ends().await, code, "{:#?}", running.log());

            fastest = fastest.min(begun.elapsed());
            if fastest <= Duration::from_millis(200) {
                break;
            }
        }
        assert!(
            fastest <= Duration::from_millis(200),
            "{first:?} {second:?} took {fastest:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_takes_too_long_gives_back_and_exits_1() {
    let worker = Worker::start().await;
    worker.hold();
    let config = format!("drain_timeout = \"200ms\"\n{}", file_to(&worker));
    let dir = dir(&[("in.txt", &lines(3)), ("p.toml", &config)]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    until("work in flight", async || worker.count() == 3).await;

    running.signal(Signal::TERM);

    assert_eq!(running.ends().await, 1, "{:#?}", running.log());
    worker.let_go();
    assert_eq!(dispatch(dir.path(), &["run", "p.toml"]).code, 0);
    assert!(worker.ids().values().all(|times| *times == 2), "{:?}", worker.ids());
}

/// A pipeline that makes a message every second.
fn ticking(worker: &Worker, path: &str) -> String {
    format!(
        "name = \"p\"\n[source]\ntype = \"schedule\"\nevery = \"1s\"\n[sink]\ntype = \"http\"\nurl = \"{}{path}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n",
        worker.url
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_files_that_are_right_and_keeps_what_runs_otherwise() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &ticking(&worker, "/old"))]);
    let file = dir.path().join("p.toml");
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    until("the old path", async || worker.paths().contains(&"/old".to_owned())).await;

    std::fs::write(&file, "name = 3").unwrap();
    running.signal(Signal::HUP);
    running.says("not reloaded").await;
    let seen = worker.paths().len();
    until("going on", async || worker.paths().len() > seen).await;

    std::fs::write(&file, ticking(&worker, "/new")).unwrap();
    running.signal(Signal::HUP);
    until("the new path", async || worker.paths().contains(&"/new".to_owned())).await;

    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_in_the_midst_of_a_line_of_stdin_loses_nothing() {
    let worker = Worker::start().await;
    let text = format!(
        "name = \"p\"\n[source]\ntype = \"stdin\"\n[sink]\ntype = \"http\"\nurl = \"{}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n",
        worker.url
    );
    let dir = dir(&[("p.toml", &text)]);
    let mut command = command(dir.path(), &["run", "p.toml"]);
    let mut running = Running::spawn(command.stdin(Stdio::piped()));
    let mut input = running.input();
    let mut expected = Vec::new();
    for round in 0..5 {
        for line in 0..20 {
            writeln!(input, "{round}/{line}").unwrap();
            expected.push(format!("{round}/{line}"));
        }
        write!(input, "{round}/ha").unwrap();
        until("all whole lines", async || worker.count() >= expected.len()).await;
        running.signal(Signal::HUP);
        // The end of the line, and the next one, come while it reloads or after it.
        writeln!(input, "lf\n{round}/next").unwrap();
        expected.extend([format!("{round}/half"), format!("{round}/next")]);
        until("reloaded", async || {
            running.log().iter().filter(|line| line.contains("reloaded")).count() > round
        })
        .await;
    }

    drop(input);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());

    let mut seen: Vec<_> = worker
        .bodies()
        .iter()
        .map(|body| String::from_utf8_lossy(body).into_owned())
        .collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    let letters = dispatch(dir.path(), &["dlq", "list", "-c", "p.toml", "--all", "--json"]);
    assert_eq!(letters.json()["matched"], 0, "{letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_watched_are_read_again_when_they_change() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &ticking(&worker, "/old"))]);
    let file = dir.path().join("p.toml");
    let mut running = Running::start(dir.path(), &["run", "--watch", "p.toml"]);
    until("the old path", async || worker.paths().contains(&"/old".to_owned())).await;

    std::fs::write(&file, "name = 3").unwrap();
    running.says("not reloaded").await;
    let seen = worker.paths().len();
    until("going on", async || worker.paths().len() > seen).await;

    std::fs::write(&file, ticking(&worker, "/new")).unwrap();
    until("the new path", async || worker.paths().contains(&"/new".to_owned())).await;

    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_stops_receiving_until_resumed_and_the_status_can_be_printed() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &ticking(&worker, "/"))]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;
    let status = async || -> Value { serde_json::from_str(&get(&format!("{admin}/v1/status")).await.1).unwrap() };

    running.signal(Signal::USR1);
    until("paused", async || status().await["pipelines"][0]["paused"] == true).await;
    assert_eq!(dispatch(dir.path(), &["resume", "--url", &admin]).code, 0);
    assert_eq!(status().await["pipelines"][0]["paused"], false);
    let seen = worker.count();
    until("going on", async || worker.count() > seen).await;

    running.signal(Signal::USR2);
    let line = running.says("\"in_flight\"").await;
    let dump: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&dump[0]["name"], &dump[0]["phase"]), (&"p".into(), &"running".into()));

    running.signal(Signal::INT);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_says_what_is_at_the_sink_and_for_how_long() {
    let worker = Worker::start().await;
    worker.hold();
    let dir = dir(&[("in.txt", &lines(1)), ("p.toml", &file_to(&worker))]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    until("the request", async || worker.count() == 1).await;

    running.signal(Signal::USR2);

    let line = running.says("\"in_progress\"").await;
    let dump: Value = serde_json::from_str(&line).unwrap();
    let work = &dump[0]["in_progress"][0];
    assert!(work["id"].as_str().unwrap().ends_with("in.txt:0"), "{line}");
    assert_eq!((&work["attempt"], &work["source"]), (&1.into(), &"source".into()));
    assert!(work["since"].as_str().unwrap().ends_with('Z'), "{line}");
    assert!(work["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{line}");
    worker.let_go();
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stays_over_a_reload() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &ticking(&worker, "/"))]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;
    let paused = async || -> Value {
        let status: Value = serde_json::from_str(&get(&format!("{admin}/v1/status")).await.1).unwrap();
        status["pipelines"][0]["paused"].clone()
    };
    running.signal(Signal::USR1);
    until("paused", async || paused().await == true).await;

    running.signal(Signal::HUP);
    running.says("reloaded").await;

    assert_eq!(paused().await, true);
    let seen = worker.count();
    assert_eq!(dispatch(dir.path(), &["resume", "--url", &admin]).code, 0);
    until("going on", async || worker.count() > seen).await;
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_of_each_step() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &ticking(&worker, "/"))]);
    let path = dir.path().join("notify.sock");
    let ear = tokio::net::UnixDatagram::bind(&path).unwrap();
    let told = async |part: &str| {
        let heard = async {
            let mut words = [0; 512];
            loop {
                let length = ear.recv(&mut words).await.unwrap();
                if String::from_utf8_lossy(&words[..length]).contains(part) {
                    return;
                }
            }
        };
        assert!(tokio::time::timeout(LONG, heard).await.is_ok(), "never told {part}");
    };
    let mut command = command(dir.path(), &["run", "p.toml"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let mut running = Running::spawn(&mut command);

    told("READY=1").await;
    told("WATCHDOG=1").await;
    told("STATUS=delivered").await;
    running.signal(Signal::HUP);
    told("RELOADING=1\nMONOTONIC_USEC=").await;
    told("READY=1").await;
    running.signal(Signal::TERM);
    told("STOPPING=1").await;

    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}
