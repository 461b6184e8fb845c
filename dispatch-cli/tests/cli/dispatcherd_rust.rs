//! Tasks in Rust under the control clients of dispatcherd.

use dispatch_core::{Error, Pipeline, config::Secret};
use dispatch_sinks::tasks::{Task, Tasks};
use dispatch_sources::{
    dispatcherd::Settings,
    pg_notify::{PgNotifySource, PgNotifySourceConfig},
};
use serde::{Deserialize, Serialize};

use crate::{
    dispatcherd::Project,
    support::{command, done},
};

#[derive(Serialize, Deserialize)]
struct Sleep {
    seconds: f64,
}

impl Task for Sleep {
    const NAME: &'static str = "my_tasks.sleep";
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_tasks_are_steered_by_both_clients_as_worker_processes_are() {
    let Some(project) = Project::new("rust_tasks_are_steered_by_both_clients_as_worker_processes_are", "") else {
        return;
    };
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let sleep = move |_: Sleep| {
        let started = started.clone();
        async move {
            started.send(()).unwrap();
            std::future::pending::<Result<(), Error>>().await
        }
    };
    let settings = Settings::from_file(project.path().join("dispatcher.yml")).unwrap();
    let broker = settings.pg_notify().unwrap();
    let dsn = Secret::new(broker.dsn().unwrap().expose());
    let mut config = PgNotifySourceConfig::new(dsn, &broker.channels);
    config.control.node_id = Some("rust".to_owned());
    let source = PgNotifySource::open(config).unwrap();
    let tasks = Tasks::new().handle(sleep).answering(source.commands());
    let service = Pipeline::builder("rust").source(source).sink(tasks).build().unwrap();
    let handle = service.handle();
    let running = tokio::spawn(service.run_until(std::future::pending()));
    let ours = |arguments: &[&str]| {
        let arguments = [&["ctl", "--json"], arguments].concat();
        let answered = done(project.surroundings(&mut command(project.path(), &arguments)));
        assert_eq!(answered.code, 0, "{arguments:?}: {answered:?}");
        answered.json()[0].clone()
    };
    crate::support::until("it listens", async || {
        let alive = done(project.surroundings(&mut command(project.path(), &["ctl", "alive"])));
        alive.code == 0
    })
    .await;

    project.publish("sleep.apply_async(args=[60], uuid='one'); sleep.apply_async(args=[61], uuid='two')");
    for _ in 0..2 {
        let start = tokio::time::timeout(crate::support::LONG, starts.recv()).await;
        start.unwrap().unwrap();
    }

    let theirs = project.ctl(&["running", "--uuid", "one"]);
    assert!(
        theirs.code == 0 && theirs.out.contains("worker-") && theirs.out.contains("uuid: one"),
        "{theirs:?}"
    );
    assert!(!theirs.out.contains("uuid: two"), "{theirs:?}");
    let workers = project.ctl(&["workers"]);
    assert!(
        workers.out.contains("current_task: my_tasks.sleep") && workers.out.contains("current_task_uuid: two"),
        "{workers:?}"
    );
    let main = ours(&["main"]);
    assert_eq!(
        (&main["node_id"], &main["pool"]["active_task_ct"]),
        (&"rust".into(), &2.into())
    );
    for command in ["status", "producers", "aio_tasks", "chunks", "metrics"] {
        assert_eq!(ours(&[command])["node_id"], "rust", "{command}");
    }

    let cancelled = project.ctl(&["cancel", "--uuid", "one"]);
    assert!(
        cancelled.out.contains("uuid: one") && !cancelled.out.contains("uuid: two"),
        "{cancelled:?}"
    );
    let cancelled = ours(&["cancel", "--task", "my_tasks.sleep"]);
    assert!(cancelled.to_string().contains("\"two\""), "{cancelled}");
    crate::support::until("both are dead letters", async || handle.status().dead_lettered == 2).await;
    assert_eq!(ours(&["running"]), serde_json::json!({ "node_id": "rust" }));
    handle.drain();
    running.await.unwrap().unwrap();
}
