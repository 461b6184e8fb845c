//! Tasks in Rust under the control clients of dispatcherd.

use std::sync::Arc;

use dispatch_core::{
    Error, Pipeline,
    config::{StoreConfig as _, StoreContext},
    tasks::OnDuplicate,
};
use dispatch_sinks::{
    queue::{QueueSink, QueueSinkConfig},
    tasks::{Options, Publisher, Task, Tasks},
};
use dispatch_sources::{dispatcherd::Settings, pg_notify::PgNotifySource};
use dispatch_store::PostgresConfig;
use serde::{Deserialize, Serialize};

use crate::{
    dispatcherd::Project,
    postgres::Schema,
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
    let source = PgNotifySource::open(settings.source().unwrap()).unwrap();
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
        (&"node-a".into(), &2.into())
    );
    for command in ["status", "producers", "aio_tasks", "chunks", "metrics"] {
        assert_eq!(ours(&[command])["node_id"], "node-a", "{command}");
    }

    let cancelled = project.ctl(&["cancel", "--uuid", "one"]);
    assert!(
        cancelled.out.contains("uuid: one") && !cancelled.out.contains("uuid: two"),
        "{cancelled:?}"
    );
    let cancelled = ours(&["cancel", "--task", "my_tasks.sleep"]);
    assert!(cancelled.to_string().contains("\"two\""), "{cancelled}");
    crate::support::until("both are dead letters", async || handle.status().dead_lettered == 2).await;
    assert_eq!(ours(&["running"]), serde_json::json!({ "node_id": "node-a" }));
    handle.drain();
    running.await.unwrap().unwrap();
}

#[derive(Serialize, Deserialize)]
struct Add(f64, Option<String>);

impl Task for Add {
    const NAME: &'static str = "my_tasks.add";
}

/// Nothing of the file is copied by hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_rust_service_honours_the_whole_file() {
    let producers = "producers:
  ScheduledProducer:
    task_schedule:
      my_tasks.add: {schedule: 0.3, args: [1, slot]}
  OnStartProducer:
    task_list:
      my_tasks.add: {args: [2, start], timeout: 60}
  ControlProducer: null
publish: {default_broker: pg_notify}
";
    let Some(project) = Project::new("a_rust_service_honours_the_whole_file", producers) else {
        return;
    };
    let file = project.path().join("dispatcher.yml");
    let text = std::fs::read_to_string(&file).unwrap();
    let socket = project.path().join("run.sock");
    let text = text
        .replace(
            "brokers:\n",
            &format!("brokers:\n  socket: {{socket_path: {}}}\n", socket.display()),
        )
        .replace("main_kwargs: {", "main_kwargs: {chunk_message_timeout_seconds: 7, ")
        .replace("    channels:", "    max_connection_idle_seconds: null\n    channels:");
    std::fs::write(&file, text).unwrap();
    let settings = Settings::from_file(&file).unwrap();
    let config = settings.source().unwrap();
    assert_eq!(config.chunk_timeout.0, Some(std::time::Duration::from_secs(7)));
    let source = PgNotifySource::open(config).unwrap();
    let (came, mut comes) = tokio::sync::mpsc::unbounded_channel();
    let add = move |Add(number, word): Add| {
        came.send((number, word)).unwrap();
        async { Ok::<_, Error>(()) }
    };
    let tasks = Tasks::new().handle(add).answering(source.commands());
    let service = Pipeline::builder("rust").source(source).sink(tasks).build().unwrap();
    let handle = service.handle();
    let running = tokio::spawn(service.run_until(std::future::pending()));
    // By the unix socket of the file.
    let socket = socket.display().to_string();
    let ours = |command_: &str| {
        let asked = ["ctl", "--json", "--socket", &socket, command_];
        done(project.surroundings(&mut command(project.path(), &asked)))
    };
    crate::support::until("it answers", async || ours("alive").code == 0).await;
    crate::support::until("it listens", async || {
        let alive = done(project.surroundings(&mut command(
            project.path(),
            &["ctl", "alive", "--channel", project.channel()],
        )));
        alive.code == 0
    })
    .await;

    project.publish("add.delay(3, 'python')");

    let mut wanted = vec!["slot", "start", "python"];
    while !wanted.is_empty() {
        let (number, word) = tokio::time::timeout(crate::support::LONG, comes.recv())
            .await
            .unwrap()
            .unwrap();
        let word = word.unwrap();
        assert_eq!(
            number,
            ["", "slot", "start", "python"]
                .iter()
                .position(|one| **one == word)
                .unwrap() as f64
        );
        wanted.retain(|one| *one != word);
    }
    crate::support::until("all are done", async || handle.status().delivered >= 3).await;
    let producers = ours("producers").json();
    assert_eq!(producers[0]["node_id"], "node-a");
    assert_eq!(
        producers[0]["pg_notify-producer"]["broker_self_check"]["enabled"],
        false
    );
    assert_eq!(producers[0]["on-start-producer"]["produced_count"], 1);
    assert!(
        producers[0]["control-producer"].is_object(),
        "tasks may start tasks: {producers}"
    );
    handle.drain();
    running.await.unwrap().unwrap();
}

/// Whoever publishes first: the other's is its like.
#[tokio::test(flavor = "multi_thread")]
async fn what_python_and_rust_publish_into_a_queue_are_each_others_like() {
    let Some(project) = Project::new("what_python_and_rust_publish_into_a_queue_are_each_others_like", "") else {
        return;
    };
    let url = std::env::var("DISPATCH_TEST_POSTGRES_URL").unwrap();
    let schema = Schema::new(&url).await;
    let file = project.path().join("dispatcher.yml");
    let durable = format!("  dispatch_py.broker:\n    schema: {}\n", schema.name);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("  pg_notify:\n", &durable)).unwrap();
    let config: PostgresConfig = toml::from_str(&format!("url = \"{url}\"\nschema = \"{}\"", schema.name)).unwrap();
    let context = StoreContext {
        base_dir: project.path().into(),
    };
    let store = config.build(&context).unwrap();
    store.probe().await.unwrap();
    let settings = Settings::from_file(&file).unwrap();
    let queue = settings.pg_notify().unwrap().publish_channel().unwrap().to_owned();
    let sink = QueueSink::new(QueueSinkConfig::new(queue.as_str()), Arc::clone(&store)).unwrap();
    let publisher = Publisher::over(sink);
    let waiting = async || {
        let depth = store.queue().depth(&queue).await.unwrap();
        (depth.ready, depth.delayed)
    };
    let mut expected = 0;
    for (number, (policy, word)) in [
        (OnDuplicate::QueueOne, "queue_one"),
        (OnDuplicate::Discard, "discard"),
        (OnDuplicate::Serial, "serial"),
    ]
    .into_iter()
    .enumerate()
    {
        for python_first in [true, false] {
            // Not written alike: Python's text has an int and escapes.
            let text = format!("é \u{1f980} {word} {python_first}");
            let python = || {
                project.publish(&format!(
                    "import json\nfrom dispatcherd.factories import get_publisher_from_settings\n\
                     message = {{'task': 'my_tasks.add', 'args': [{number}, {text:?}], 'on_duplicate': '{word}'}}\n\
                     get_publisher_from_settings().publish_message(channel=CHANNEL, message=json.dumps(message))"
                ));
            };
            let task = Add(number as f64, Some(text.clone()));
            let options = Options::default().on_duplicate(policy);
            if python_first {
                python();
            }
            publisher.apply_async(&task, options).await.unwrap();
            if !python_first {
                python();
            }

            expected += if policy == OnDuplicate::Serial { 2 } else { 1 };
            assert_eq!(waiting().await, (expected, 0), "{word}, Python first: {python_first}");
        }
    }
    let mut keys = store.queue().keys(&queue).await.unwrap();
    keys.sort_by_key(|(_, count)| *count);
    let counts: Vec<_> = keys.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [1, 1, 1, 1, 2, 2]);
    let later = Options::default().delay(std::time::Duration::from_secs(3_600));
    publisher.apply_async(&Add(1.5, None), later).await.unwrap();
    assert_eq!(waiting().await, (expected, 1));
    store.close().await.unwrap();
    schema.drop().await;
}
