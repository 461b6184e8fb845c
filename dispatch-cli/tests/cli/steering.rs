//! Steering a running process: over HTTP, by verbs and by signals, under load.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Running, Worker, ask, dir, dispatch, fed, get, post, queue_to, until};

fn json((status, body): (u16, String)) -> Value {
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Puts so many messages into the queue `work`, each a line.
fn send(dir: &tempfile::TempDir, count: usize) {
    let messages: String = (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let sent = fed(dir.path(), &["send", "p.toml", "--ndjson"], messages.as_bytes());
    assert_eq!(sent.code, 0, "{sent:?}");
}

/// The only pipeline of an answer.
fn only(answer: &Value) -> &Value {
    assert_eq!(answer["pipelines"].as_array().map(Vec::len), Some(1), "{answer}");
    &answer["pipelines"][0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_what_waits_and_lets_what_is_started_go_on() {
    let worker = Worker::start().await;
    worker.hold();
    let dir = dir(&[("p.toml", &queue_to(&worker))]);
    send(&dir, 3);
    for by_signal in [false, true] {
        let mut running = Running::start(dir.path(), &["run", "p.toml"]);
        let admin = running.ready().await;
        let status = async || json(get(&format!("{admin}/v1/status")).await);
        let before = worker.count();
        until("work in flight", async || only(&status().await)["in_flight"] == 3).await;

        if by_signal {
            running.signal(Signal::TSTP);
            until("paused", async || only(&status().await)["paused"] == true).await;
        } else {
            let answer = json(post(&format!("{admin}/v1/pause?pipeline=p")).await);
            assert_eq!(only(&answer)["paused"], true);
        }
        running.says("gate closed").await;
        send(&dir, 3);
        worker.let_go();
        // It is delivered before the source has confirmed its end.
        until("the started work done", async || {
            let now = status().await;
            only(&now)["delivered"] == 3 && only(&now)["in_flight"] == 0
        })
        .await;

        assert_eq!(only(&status().await)["received"], 3);
        assert!(worker.count() <= before + 3, "nothing else was begun");
        worker.hold();
        let answer = json(post(&format!("{admin}/v1/resume")).await);
        assert_eq!(only(&answer)["paused"], false);
        until("the rest received", async || only(&status().await)["received"] == 6).await;
        worker.let_go();
        until("the rest done", async || only(&status().await)["delivered"] == 6).await;

        worker.hold();
        send(&dir, 3);
        until("more in flight", async || only(&status().await)["in_flight"] == 3).await;
        let answer = json(post(&format!("{admin}/v1/drain")).await);
        assert_eq!(only(&answer)["name"], "p");
        worker.let_go();
        assert_eq!(running.ends().await, 0, "{:#?}", running.log());
        worker.hold();
        send(&dir, 3);
    }
    assert!(worker.ids().values().all(|times| *times == 1), "{:?}", worker.ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_steer_and_answer_in_json_or_for_people() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &queue_to(&worker))]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;
    let verb = |args: &[&str]| dispatch(dir.path(), &[args, &["--url", &admin]].concat());

    for (args, paused) in [
        (&["pause", "--json"][..], true),
        (&["status", "--json"], true),
        (&["resume", "p", "--json"], false),
        (&["pause", "p", "--json"], true),
        (&["resume", "--json"], false),
    ] {
        let done = verb(args);
        assert_eq!(done.code, 0, "{args:?}: {done:?}");
        let answer = done.json();
        assert_eq!(
            (&only(&answer)["name"], &only(&answer)["paused"]),
            (&"p".into(), &paused.into()),
            "{args:?}"
        );
    }
    let people = verb(&["pause"]);
    assert!(people.code == 0 && people.out.contains("running, paused"), "{people:?}");
    assert_eq!(verb(&["resume"]).code, 0);
    for word in ["pause", "resume", "drain"] {
        let unknown = verb(&[word, "q"]);
        assert!(
            unknown.code == 1 && unknown.err.contains("no such pipeline"),
            "{unknown:?}"
        );
    }

    let drained = verb(&["drain", "--json"]);
    assert_eq!(only(&drained.json())["name"], "p");
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    let nobody = verb(&["pause", "--json"]);
    assert_eq!(nobody.code, 1, "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_and_purged_over_http() {
    let worker = Worker::start().await;
    worker.answer(404);
    let dir = dir(&[("p.toml", &queue_to(&worker))]);
    send(&dir, 5);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;
    let list = async |more: &str| json(get(&format!("{admin}/v1/dlq{more}")).await);
    let act = async |what: &str| json(post(&format!("{admin}/v1/dlq/{what}")).await);
    until("five dead letters", async || list("").await["matched"] == 5).await;
    worker.answer(200);

    for refused in ["replay?clas=x", "purge?since=yesterday", "replay?rate=often"] {
        assert_eq!(post(&format!("{admin}/v1/dlq/{refused}")).await.0, 400, "{refused}");
    }
    for verb in ["replay", "purge"] {
        assert_eq!(get(&format!("{admin}/v1/dlq/{verb}")).await.0, 405, "{verb}");
        let dry = act(&format!("{verb}?dry_run=true&code=404")).await;
        let done = &dry[if verb == "replay" { "replayed" } else { "purged" }];
        assert_eq!(
            (&dry["matched"], done, &dry["dry_run"]),
            (&5.into(), &0.into(), &true.into())
        );
        assert_eq!(act(&format!("{verb}?code=500")).await["matched"], 0);
    }
    assert_eq!(list("").await["matched"], 5, "nothing was done yet");

    let first = list("?limit=1").await["letters"][0]["number"].to_string();
    assert_eq!(act(&format!("purge?id={first}")).await["purged"], 1);
    assert_eq!(get(&format!("{admin}/v1/dlq/{first}")).await.0, 404);
    let replayed = act("replay?rate=100/s&pipeline=p").await;
    assert_eq!((&replayed["matched"], &replayed["replayed"]), (&4.into(), &4.into()));
    assert_eq!(act("replay").await["replayed"], 0, "each goes once");
    until("the replayed ones", async || {
        worker.ids().values().filter(|times| **times == 2).count() == 4
    })
    .await;

    assert_eq!(
        (
            list("").await["matched"].clone(),
            list("?replayed=true").await["matched"].clone()
        ),
        (0.into(), 4.into())
    );
    let page = [("origin", "https://evil.example")];
    assert_eq!(ask("POST", &format!("{admin}/v1/dlq/purge"), &page).await.0, 403);
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn hangups_under_load_lose_nothing_and_repeat_nothing() {
    const COUNT: usize = 2_000;
    let worker = Worker::counting().await;
    let config = queue_to(&worker).replace("[layers]\n", "[layers]\nconcurrency = 16\nrate_limit = \"600/s\"\n");
    let dir = dir(&[("p.toml", &config)]);
    send(&dir, COUNT);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    running.ready().await;

    let mut hangups = 0;
    while worker.count() < COUNT * 3 / 4 {
        let reached = worker.count() + COUNT / 10;
        until("more work", async || worker.count() >= reached).await;
        running.signal(Signal::HUP);
        hangups += 1;
        let reloads = || {
            running
                .log()
                .iter()
                .filter(|line| line.contains("\"reloaded\""))
                .count()
        };
        until("a reload", async || reloads() == hangups).await;
    }
    until("all work", async || worker.count() == COUNT).await;
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());

    assert!(hangups >= 5, "{hangups} reloads");
    let repeated: Vec<_> = worker.ids().into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(repeated.is_empty(), "repeated: {repeated:?}");
    assert_eq!(worker.count(), COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_from_the_terminal_pauses_and_asking_for_input_prints_the_status() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &queue_to(&worker))]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;

    running.signal(Signal::TSTP);
    until("paused", async || {
        only(&json(get(&format!("{admin}/v1/status")).await))["paused"] == true
    })
    .await;
    running.signal(Signal::TTIN);
    let line = running.says("\"in_flight\"").await;

    let dump: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&dump[0]["name"], &dump[0]["paused"]), (&"p".into(), &true.into()));
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}
