//! Messages that were given up on, from the command line.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Running, Worker, dir, dispatch, file_to, found_within, lines, until};

/// A directory in which a run has left so many dead letters.
async fn with_dead_letters(worker: &Worker, count: usize) -> tempfile::TempDir {
    let dir = dir(&[("in.txt", &lines(count)), ("p.toml", &file_to(worker))]);
    worker.answer(404);
    let done = dispatch(dir.path(), &["run", "p.toml", "--json"]);
    worker.answer(200);
    assert_eq!(done.code, 0, "{done:?}");
    let run = &done.json()["pipelines"][0];
    assert_eq!(
        (&run["received"], &run["dead_lettered"]),
        (&count.into(), &count.into()),
        "{run}"
    );
    dir
}

fn replayed(dir: &tempfile::TempDir) -> u64 {
    let all = dispatch(
        dir.path(),
        &["dlq", "list", "-c", "p.toml", "--all", "--json", "--limit", "100000"],
    )
    .json();
    let letters = all["letters"].as_array().unwrap();
    letters
        .iter()
        .filter(|letter| letter["replayed_at"].is_string())
        .count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_seen_counted_replayed_and_purged() {
    let worker = Worker::start().await;
    let dir = with_dead_letters(&worker, 5).await;
    let dlq = |args: &[&str]| dispatch(dir.path(), &[&["dlq"], args, &["-c", "p.toml", "--json"]].concat());

    let all = dlq(&["list"]).json();
    assert_eq!(all["matched"], 5);
    let number = all["letters"][0]["number"].to_string();
    assert_eq!(
        dlq(&["list", "--code", "404", "--class", "permanent"]).json()["matched"],
        5
    );
    assert_eq!(dlq(&["list", "--code", "500"]).json()["matched"], 0);
    assert_eq!(dlq(&["list", "--since", "1h", "--until", "1m"]).json()["matched"], 0);
    assert_eq!(dlq(&["list", "--id", &number]).json()["matched"], 1);
    let one = dlq(&["show", &number]).json();
    assert_eq!(
        (&one["payload"], &one["attempts"][0]["code"]),
        (&all["letters"][0]["payload"], &"404".into())
    );

    let dry = dlq(&["replay", "--dry-run"]).json();
    assert_eq!((&dry["matched"], &dry["replayed"]), (&5.into(), &0.into()));
    assert_eq!(dlq(&["purge", "--dry-run", "--id", &number]).json()["matched"], 1);
    assert_eq!(dlq(&["purge", "--yes", "--id", &number]).json()["purged"], 1);
    assert_eq!(dlq(&["replay"]).json()["replayed"], 4);
    assert_eq!(dlq(&["list"]).json()["matched"], 0);

    assert_eq!(dispatch(dir.path(), &["run", "p.toml"]).code, 0);
    assert_eq!(
        worker.ids().values().filter(|times| **times == 2).count(),
        4,
        "{:?}",
        worker.ids()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_goes_on_where_it_was() {
    let worker = Worker::start().await;
    let dir = with_dead_letters(&worker, 60).await;

    let mut slow = Running::start(dir.path(), &["dlq", "replay", "-c", "p.toml", "--rate", "10/s"]);
    let some = found_within(Duration::from_secs(20), || {
        Some(replayed(&dir)).filter(|count| *count > 5)
    })
    .await;
    slow.kill();
    let before = replayed(&dir);
    assert!(some.is_some() && before < 60, "{before} were replayed");
    let rest = dispatch(dir.path(), &["dlq", "replay", "-c", "p.toml", "--json"]).json();

    assert_eq!(rest["replayed"].as_u64().unwrap(), 60 - before);
    assert_eq!(dispatch(dir.path(), &["run", "p.toml"]).code, 0);
    let ids = worker.ids();
    assert!(ids.len() == 60 && ids.values().all(|times| *times == 2), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_keeps_every_byte() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &file_to(&worker))]);
    std::fs::write(dir.path().join("in.txt"), b"zero \0 byte\nbad \xff\xfe utf8\n").unwrap();
    worker.answer(400);
    assert_eq!(dispatch(dir.path(), &["run", "p.toml"]).code, 0);

    let done = dispatch(dir.path(), &["dlq", "export", "--store", "sqlite:dispatch.db"]);

    let payload = |line: &str| serde_json::from_str::<Value>(line).unwrap()["payload"].clone();
    let payloads: Vec<_> = done.out.lines().map(payload).collect();
    assert_eq!(payloads.len(), 2);
    assert!(payloads.contains(&"zero \0 byte".into()), "{payloads:?}");
    assert!(
        payloads.contains(&json!({ "base64": "YmFkIP/+IHV0Zjg=" })),
        "{payloads:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_delivery_is_accounted_for() {
    let worker = Worker::start().await;
    let config = file_to(&worker).replace("[layers]\n", "[layers]\nbreaker = \"off\"\nrate_limit = \"500/s\"\n");
    let dir = dir(&[("in.txt", &lines(200)), ("p.toml", &config)]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    for status in [500, 404, 200, 503, 200] {
        let seen = worker.count();
        until("more work", async || worker.count() >= (seen + 20).min(200)).await;
        worker.answer(status);
    }
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());

    let line = running.says("\"summary\"").await;
    let summary: Value = serde_json::from_str(&line).unwrap();
    let count = |name: &str| summary[name].as_u64().unwrap();
    let ends = ["delivered", "dead_lettered", "parked", "nacked", "released"].map(count);
    assert_eq!(count("received"), ends.iter().sum::<u64>(), "{summary}");
    assert_eq!(worker.count(), 200);
}
