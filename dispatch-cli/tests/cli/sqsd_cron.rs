//! Periodic tasks of the preset, with several processes on one store.

use std::{
    collections::HashMap,
    process::Stdio,
    time::{Duration, SystemTime},
};

use dispatch_core::config::{StoreConfig as _, StoreContext};
use dispatch_sources::sqs::fake::{Fake, QueueOptions};
use dispatch_store::PostgresConfig;
use rustix::process::Signal;

use crate::{
    postgres::{Schema, url},
    support::{Running, Worker, command, dir, until},
};

/// So many tasks are due at once, whose slots all processes want to fire.
const TASKS: usize = 30;

/// Nobody has run for two hours: at the start the last slot of every task is due, in every process at once.
async fn fired_two_hours_ago(url: &str, schema: &str) {
    let config: PostgresConfig = serde_json::from_value(serde_json::json!({ "url": url, "schema": schema })).unwrap();
    let store = config.build(&StoreContext { base_dir: ".".into() }).unwrap();
    let then = SystemTime::now() - Duration::from_secs(7_200);
    for task in 0..TASKS {
        let schedule = format!("sqsd_q:source.cron:task{task}");
        assert!(store.slots().take(&schedule, then).await.unwrap());
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_slot_is_fired_once_by_two_processes_on_one_postgres() {
    let Some(url) = url("each_slot_is_fired_once_by_two_processes_on_one_postgres") else {
        return;
    };
    let schema = Schema::new(&url).await;
    fired_two_hours_ago(&url, &schema.name).await;
    let worker = Worker::start().await;
    let fake = Fake::new();
    fake.create_queue("q", QueueOptions::default());
    let server = fake.serve().await;
    let tasks: String = (0..TASKS)
        .map(|task| format!("  - {{name: task{task}, url: /task{task}, schedule: \"* * * * *\"}}\n"))
        .collect();
    let dir = dir(&[("cron.yaml", &format!("version: 1\ncron:\n{tasks}"))]);
    let start = || {
        let mut preset = command(dir.path(), &["sqsd", "--set", &format!("store.schema={}", schema.name)]);
        preset
            .env("QUEUE_URL", fake.queue_url("q"))
            .env("SQS_ENDPOINT_URL", server.url())
            .env("INVOKER_URL", &worker.url)
            .env("INVOKER_PARALLEL_COUNT", "4")
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .env("SQSD_CRON_FILE", "cron.yaml")
            .env("SQSD_STORE", &url)
            .env("MONITORING_PORT", "-1")
            .env("LOG_LEVEL", "debug")
            .stdin(Stdio::null());
        Running::spawn(&mut preset)
    };

    let mut both = [start(), start()];
    until("every task was posted", async || worker.count() >= TASKS).await;
    for process in &both {
        let begun = || {
            process
                .log()
                .iter()
                .filter(|line| line.contains("\"periodic task\""))
                .count()
        };
        until("both have all tasks", async || begun() == TASKS).await;
        process.signal(Signal::TERM);
    }
    for process in &mut both {
        assert_eq!(process.ends().await, 0, "{:#?}", process.log());
    }

    // Which slots were fired, by both together: each once, though a minute may have passed meanwhile.
    let mut fired = HashMap::<String, u32>::new();
    for process in &both {
        for line in process.log().iter().filter(|line| line.contains("\"slot fired\"")) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            *fired.entry(line["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(
        fired.len() >= TASKS && fired.values().all(|times| *times == 1),
        "{fired:#?}"
    );
    let posted = worker.ids();
    assert!(posted.values().all(|times| *times == 1), "{posted:#?}");
    assert!(posted.keys().all(|id| fired.contains_key(id)), "{posted:#?} {fired:#?}");
    let paths: std::collections::BTreeSet<_> = worker.paths().into_iter().collect();
    assert_eq!(paths.len(), TASKS, "each at its own path");
    assert!(worker.bodies().iter().all(bytes::Bytes::is_empty));
    schema.drop().await;
}
