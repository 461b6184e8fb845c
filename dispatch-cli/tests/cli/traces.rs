//! What leaves the process besides messages: traces on their way on, and logs that keep payloads to themselves.

use serde_json::Value;

use crate::support::{Done, Running, Worker, ask, dir, dispatch, file_to, queue_to, until};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread")]
async fn a_traceparent_goes_through_a_queue_to_the_worker() {
    let worker = Worker::start().await;
    let dir = dir(&[("p.toml", &queue_to(&worker))]);
    let header = format!("traceparent={PARENT}");
    let sent = dispatch(dir.path(), &["send", "p.toml", "-p", "traced", "-H", &header]);
    assert_eq!(sent.code, 0, "{sent:?}");
    assert_eq!(dispatch(dir.path(), &["send", "p.toml", "-p", "plain"]).code, 0);
    // Its first attempt fails, so that there are two.
    worker.answer(500);

    let _running = Running::start(dir.path(), &["run", "p.toml"]);
    until("first attempts", async || worker.count() == 2).await;
    worker.answer(200);

    let of = |payload: &str| -> Vec<Option<String>> {
        let all = worker.bodies().into_iter().zip(worker.headers());
        all.filter(|(body, _)| body == payload)
            .map(|(_, headers)| Some(headers.get("traceparent")?.to_str().unwrap().to_owned()))
            .collect()
    };
    until("second attempts", async || {
        of("traced").len() >= 2 && of("plain").len() >= 2
    })
    .await;
    for traceparent in of("traced") {
        let traceparent = traceparent.expect("each attempt carries it on");
        assert_eq!(
            (&traceparent[..36], &traceparent[52..]),
            (&PARENT[..36], &PARENT[52..]),
            "the same trace and flags"
        );
        assert_ne!(traceparent, PARENT, "under a span of our own");
    }
    assert!(of("plain").iter().all(Option::is_none), "none is made up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_s_traceparent_goes_to_the_worker() {
    let worker = Worker::start().await;
    let config = file_to(&worker).replace(
        "type = \"file\"\npaths = [\"in.txt\"]",
        "type = \"http\"\nlisten = \"127.0.0.1:0\"",
    );
    let dir = dir(&[("p.toml", &config)]);
    let running = Running::start(dir.path(), &["run", "p.toml"]);
    running.ready().await;
    let line: Value = serde_json::from_str(&running.says("\"listening\"").await).unwrap();
    let url = format!("http://{}/", line["address"].as_str().unwrap());

    let (status, _) = ask("POST", &url, &[("traceparent", PARENT), ("tracestate", "vendor=1")]).await;

    assert!((200..300).contains(&status), "{status}");
    until("the message", async || worker.count() == 1).await;
    let headers = worker.headers().remove(0);
    assert!(
        headers["traceparent"].to_str().unwrap().starts_with(&PARENT[..36]),
        "{headers:?}"
    );
    assert_eq!(headers["tracestate"], "vendor=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_not_logged_at_info_or_above() {
    const CANARY: &str = "canary-81c4";
    for (status, flags) in [
        (200, &["--log-format", "json"][..]),
        (404, &["--log-format", "json"]),
        (500, &["--log-format", "text"]),
        (404, &["--log-format", "text", "--log-level", "warn"]),
        (503, &["--json"]),
    ] {
        let worker = Worker::start().await;
        worker.answer(status);
        let config = file_to(&worker).replace("max_attempts = 2", "max_attempts = 1");
        let config = match status {
            503 => format!("drain_timeout = \"100ms\"\n{config}").replace(
                "backoff = { base = \"10ms\" }",
                "max_elapsed = \"1ms\", backoff = { base = \"10ms\" }",
            ),
            _ => config,
        };
        let line = format!("{{\"secret\":\"{CANARY}\"}}\n{CANARY} no json\n");
        let dir = dir(&[
            ("in.txt", &line),
            (
                "p.toml",
                &config.replace("[\"in.txt\"]", "[\"in.txt\"]\nformat = \"ndjson\""),
            ),
        ]);

        let Done { out, err, .. } = dispatch(dir.path(), &[&["run", "p.toml"], flags].concat());

        assert!(worker.count() > 0, "{flags:?}: {out}{err}");
        assert!(
            !out.contains(CANARY) && !err.contains(CANARY),
            "{status} {flags:?}: {out}{err}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_the_level_and_the_form_that_were_asked_for() {
    let worker = Worker::start().await;
    worker.answer(404);
    let run = |flags: &[&str]| {
        let dir = dir(&[("in.txt", "one\n"), ("p.toml", &file_to(&worker))]);
        let done = dispatch(dir.path(), &[&["run", "p.toml"], flags].concat());
        assert_eq!(done.code, 0, "{done:?}");
        done.err.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let levels = |lines: &[String]| {
        let level = |line: &String| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            line["level"].as_str().unwrap().to_owned()
        };
        lines.iter().map(level).collect::<std::collections::BTreeSet<_>>()
    };

    // A dead letter is a warning; what happens to a message is for debugging.
    for (flags, has, has_not) in [
        (
            &["--log-level", "debug"][..],
            &["DEBUG", "INFO", "WARN"][..],
            &["TRACE"][..],
        ),
        (&[], &["INFO", "WARN"], &["DEBUG"]),
        (&["--log-level", "warn"], &["WARN"], &["INFO", "DEBUG"]),
        (&["-q"], &["WARN"], &["INFO", "DEBUG"]),
        (&["--log-level", "error"], &[], &["WARN", "INFO", "DEBUG"]),
    ] {
        let levels = levels(&run(&[&["--log-format", "json"], flags].concat()));
        assert!(has.iter().all(|level| levels.contains(*level)), "{flags:?}: {levels:?}");
        assert!(
            !has_not.iter().any(|level| levels.contains(*level)),
            "{flags:?}: {levels:?}"
        );
    }
    let text = run(&["--log-format", "text"]);
    assert!(
        text.iter().all(|line| serde_json::from_str::<Value>(line).is_err()),
        "{text:?}"
    );
    assert!(
        text.iter()
            .any(|line| line.contains("WARN") && line.contains("dead letter")),
        "{text:?}"
    );
}
