//! `/debug/` of the admin server.

use serde_json::Value;

use crate::support::{Running, Worker, ask, command, dir, file_to, get, until};

const PATHS: [&str; 3] = ["/debug/in-flight", "/debug/config", "/debug/tasks"];

/// Stands for every secret, and in the payload.
const CANARY: &str = "canary-7d20";

#[tokio::test(flavor = "multi_thread")]
async fn debugging_is_off_unless_it_is_asked_for() {
    let worker = Worker::start().await;
    worker.hold();
    let dir = dir(&[("in.txt", "x\n"), ("p.toml", &file_to(&worker))]);
    let running = Running::start(dir.path(), &["run", "p.toml"]);
    let admin = running.ready().await;

    let described: Value = serde_json::from_str(&get(&format!("{admin}/v1/openapi.json")).await.1).unwrap();
    for path in PATHS {
        assert_eq!(get(&format!("{admin}{path}")).await.0, 404, "{path}");
        let words = &described["paths"][path]["get"]["summary"];
        assert!(words.as_str().unwrap().contains("debug = true"), "{path}: {words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debugging_shows_work_and_settings_and_no_secret() {
    let worker = Worker::start().await;
    worker.hold();
    let config = file_to(&worker).replace(
        "[admin]",
        "auth = { bearer = \"${file:secret.txt}\" }\nheaders = { x-key = \"${KEY}\" }\n[admin]\ndebug = true",
    );
    let dir = dir(&[
        ("in.txt", &format!("{CANARY}\n")),
        ("secret.txt", CANARY),
        ("p.toml", &config),
    ]);
    let token = format!("admin.token={CANARY}");
    let mut run = command(
        dir.path(),
        &[
            "run",
            "p.toml",
            "--threads",
            "2",
            "--set",
            &token,
            "--set",
            "drain_timeout=7s",
        ],
    );
    run.env("KEY", CANARY);
    let running = Running::spawn(&mut run);
    let admin = running.ready().await;
    until("work in flight", async || worker.count() == 1).await;

    let bearer = format!("Bearer {CANARY}");
    let mut answers = Vec::new();
    for path in PATHS {
        assert_eq!(get(&format!("{admin}{path}")).await.0, 401, "{path}");
        let (status, text) = ask("GET", &format!("{admin}{path}"), &[("authorization", &bearer)]).await;
        assert_eq!(status, 200, "{path}: {text}");
        assert!(!text.contains(CANARY), "{path}: {text}");
        answers.push(serde_json::from_str::<Value>(&text).unwrap());
    }
    let work = &answers[0]["pipelines"][0];
    assert_eq!((&work["name"], &work["in_flight"]), (&"p".into(), &1.into()));
    let work = &work["in_progress"][0];
    assert!(work["id"].as_str().unwrap().ends_with("in.txt:0"), "{work}");
    assert_eq!((&work["source"], &work["attempt"]), (&"source".into(), &1.into()));
    assert!(
        work["since"].as_str().unwrap().ends_with('Z') && work["seconds"].is_f64(),
        "{work}"
    );

    let pipeline = &answers[1]["pipelines"][0];
    assert_eq!((&pipeline["name"], &pipeline["file"]), (&"p".into(), &"p.toml".into()));
    let config = &pipeline["config"];
    for (place, expected) in [
        ("/sink/auth/bearer", "***"),
        ("/sink/headers/x-key", "${KEY}"),
        ("/admin/token", "***"),
        ("/drain_timeout", "7s"),
        ("/store/path", "dispatch.db"),
    ] {
        assert_eq!(
            config.pointer(place).and_then(Value::as_str),
            Some(expected),
            "{config}"
        );
    }

    let workers = answers[2]["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2, "{workers:?}");
    assert!(answers[2]["alive_tasks"].as_u64().is_some_and(|tasks| tasks > 0));
    assert!(
        workers
            .iter()
            .all(|one| one["busy_seconds"].is_f64() && one["parked"].is_boolean())
    );
    let other = format!("{admin}/debug/config?pipeline=q");
    assert_eq!(ask("GET", &other, &[("authorization", &bearer)]).await.0, 404);
}
