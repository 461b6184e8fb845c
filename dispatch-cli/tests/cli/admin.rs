//! The admin server.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Running, Worker, ask, dir, dispatch, fed, file_to, get, lines, post, queue_to, until};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_answers() {
    let worker = Worker::start().await;
    worker.hold();
    let dir = dir(&[("in.txt", &lines(3)), ("p.toml", &file_to(&worker))]);
    let running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;
    until("work in flight", async || worker.count() == 3).await;

    for (path, part) in [
        ("/livez", "ok"),
        ("/ping", "pong"),
        ("/ready", "ready"),
        ("/version", env!("CARGO_PKG_VERSION")),
        ("/health", "\"label\":\"source\""),
        ("/metrics", "dispatch_received_total{pipeline=\"p\"} 3"),
        ("/metrics", "dispatch_in_flight{pipeline=\"p\"} 3"),
        (
            "/metrics",
            "dispatch_source_received_total{pipeline=\"p\",component=\"source\"} 3",
        ),
        ("/v1/status", "\"in_flight\":3"),
        ("/v1/status?pipeline=p", "\"progress\":{\"done\":"),
        ("/v1/dlq", "\"matched\":0"),
        ("/v1/openapi.json", "\"openapi\":\"3.1.0\""),
    ] {
        let (status, body) = get(&format!("{admin}{path}")).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
    }
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/status?pipeline=q", 404),
        ("GET", "/v1/dlq/9", 404),
        ("GET", "/v1/dlq?since=yesterday", 400),
        ("GET", "/v1/dlq?clas=x", 400),
        ("GET", "/v1/pause", 405),
    ] {
        assert_eq!(ask(method, &format!("{admin}{path}"), &[]).await.0, status, "{path}");
    }
    let page = [("origin", "https://evil.example")];
    assert_eq!(ask("POST", &format!("{admin}/v1/drain"), &page).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_ends_when_a_drain_begins() {
    let worker = Worker::start().await;
    worker.hold();
    let dir = dir(&[("in.txt", &lines(3)), ("p.toml", &file_to(&worker))]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;
    until("work in flight", async || worker.count() == 3).await;
    assert_eq!(dispatch(dir.path(), &["healthcheck", &admin]).code, 0);

    assert_eq!(post(&format!("{admin}/v1/drain")).await.0, 200);

    assert_eq!(get(&format!("{admin}/readyz")).await.0, 503);
    assert_eq!(get(&format!("{admin}/livez")).await.0, 200);
    assert_eq!(dispatch(dir.path(), &["healthcheck", &admin]).code, 1);
    worker.let_go();
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    assert!(worker.ids().values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_names_the_component_that_is_not_there() {
    let worker = Worker::start().await;
    let waits = file_to(&worker).replace("paths =", "missing = \"wait\"\npaths =");
    let dir = dir(&[("p.toml", &waits)]);
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.admin().await;

    let source = async || {
        let health = json(&get(&format!("{admin}/healthz")).await.1);
        let parts = health["pipelines"][0]["components"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        parts.into_iter().find(|part| part["label"] == "source")
    };
    until("an error", async || {
        source().await.is_some_and(|source| source["error"].is_string())
    })
    .await;

    assert_eq!(get(&format!("{admin}/readyz")).await.0, 503);
    assert!(source().await.unwrap()["error"].as_str().unwrap().contains("in.txt"));
    std::fs::write(dir.path().join("in.txt"), lines(1)).unwrap();
    until("the work", async || worker.count() == 1).await;
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_guards_all_but_the_probes() {
    let worker = Worker::start().await;
    worker.hold();
    let config = format!("{}token = \"${{TOKEN}}\"\n", file_to(&worker));
    let dir = dir(&[
        ("in.txt", &lines(1)),
        ("p.toml", &config),
        ("p.env", "TOKEN=open-sesame\n"),
    ]);
    let mut running = Running::start(dir.path(), &["run", "p.toml", "-e", "p.env"]);
    let admin = running.ready().await;

    for (path, expected) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/ping", 200),
        ("/metrics", 401),
        ("/v1/status", 401),
    ] {
        assert_eq!(get(&format!("{admin}{path}")).await.0, expected, "{path}");
    }
    let token = [("authorization", "Bearer open-sesame")];
    assert_eq!(ask("GET", &format!("{admin}/metrics"), &token).await.0, 200);
    let refused = dispatch(dir.path(), &["status", "--url", &admin]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("DISPATCH_TOKEN"), "{refused:?}");
    let shown = dispatch(
        dir.path(),
        &["status", "--json", "--url", &admin, "--token", "open-sesame"],
    );
    assert_eq!(shown.json()["pipelines"][0]["name"], "p");

    worker.let_go();
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_files_share_one_process() {
    let worker = Worker::start().await;
    let one = file_to(&worker);
    let two = one
        .replace("name = \"p\"", "name = \"q\"")
        .replace("in.txt", "more.txt");
    let two = two.split("[admin]").next().unwrap().to_owned();
    let dir = dir(&[
        ("in.txt", &lines(3)),
        ("more.txt", &lines(4)),
        ("p.toml", &one),
        ("q.toml", &two),
    ]);

    let done = dispatch(dir.path(), &["run", "p.toml", "q.toml", "--json"]);

    assert_eq!(done.code, 0, "{done:?}");
    let mut counts: Vec<_> = done.json()["pipelines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["name"].as_str().unwrap().to_owned(),
                one["delivered"].as_u64().unwrap(),
            )
        })
        .collect();
    counts.sort();
    assert_eq!(counts, [("p".to_owned(), 3), ("q".to_owned(), 4)]);
}

/// E42: what was received is delivered, kept, given back or still here.
#[tokio::test(flavor = "multi_thread")]
async fn the_counters_add_up_when_all_is_quiet() {
    // Every id that ends in 0 is refused once and comes again.
    let worker = Worker::refusing_a_tenth().await;
    let config = queue_to(&worker).replace("retry = {", "retry = { stay = \"1ms\",");
    let dir = dir(&[("p.toml", &config)]);
    let messages: String = (0..60).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let sent = fed(dir.path(), &["send", "p.toml", "--ndjson"], messages.as_bytes());
    assert_eq!(sent.code, 0, "{sent:?}");
    let mut running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;

    until("all are done", async || worker.count() == 60).await;
    let read = async || {
        let text = get(&format!("{admin}/metrics")).await.1;
        move |name: &str| -> f64 {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("dispatch_{name}{{")));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
                .unwrap_or_else(|| panic!("{name}: {text}"))
        }
    };
    until("nothing in flight", async || read().await("in_flight") == 0.0).await;

    let value = read().await;
    let ended: f64 = [
        "delivered_total",
        "dead_lettered_total",
        "parked_total",
        "nacked_total",
        "released_total",
    ]
    .iter()
    .map(|name| value(name))
    .sum();
    assert_eq!((value("received_total"), value("delivered_total")), (ended, 60.0));
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}
