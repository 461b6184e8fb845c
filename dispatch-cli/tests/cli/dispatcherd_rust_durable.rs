//! Tasks in Rust over a durable queue, under the control clients of dispatcherd.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dispatch_core::{
    Error, Pipeline,
    config::{StoreConfig as _, StoreContext},
    store::{Depth, QueueSource},
    tasks::OnDuplicate,
    telemetry::Meter,
};
use dispatch_sinks::{
    queue::{QueueSink, QueueSinkConfig},
    tasks::{Options, Publisher, Task, TaskId, Tasks},
};
use dispatch_sources::{dispatcherd::Settings, pg_notify::PgNotifySource};
use dispatch_store::PostgresConfig;
use serde::{Deserialize, Serialize};

use crate::{
    dispatcherd::Project,
    postgres::Schema,
    support::{LONG, command, done, until},
};

#[derive(Serialize, Deserialize)]
struct Sleep {
    number: u32,
}

impl Task for Sleep {
    const NAME: &'static str = "my_tasks.sleep";
}

/// How many an answer shows, by the first part of their keys.
fn places(answer: &serde_json::Value) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for key in answer.as_object().unwrap().keys() {
        if let Some((place, _)) = key.rsplit_once('-') {
            *places.entry(place.to_owned()).or_default() += 1;
        }
    }
    places
}

fn of(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected
        .iter()
        .map(|(place, count)| ((*place).to_owned(), *count))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_tasks_in_rust_are_shown_and_cancelled_at_work_and_while_they_wait() {
    let test = "durable_tasks_in_rust_are_shown_and_cancelled_at_work_and_while_they_wait";
    let Some(project) = Project::new(test, "") else {
        return;
    };
    let url = std::env::var("DISPATCH_TEST_POSTGRES_URL").unwrap();
    let schema = Schema::new(&url).await;
    let config: PostgresConfig = toml::from_str(&format!("url = \"{url}\"\nschema = \"{}\"", schema.name)).unwrap();
    let base_dir = project.path().into();
    let store = config.build(&StoreContext { base_dir }).unwrap();
    let settings = Settings::from_file(project.path().join("dispatcher.yml")).unwrap();
    let source = PgNotifySource::open(settings.source().unwrap()).unwrap();
    let commands = source.commands().clone();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let sleep = move |_: Sleep, TaskId(id): TaskId| {
        started.send(id.to_string()).unwrap();
        std::future::pending::<Result<(), Error>>()
    };
    let queue = QueueSource::new(Arc::clone(&store), "durable").ordered(true);
    let service = Pipeline::builder("rust")
        .commands(commands.clone())
        .source(source)
        .source(queue.answering(&commands, &Meter::default()))
        .sink(Tasks::new().handle(sleep).answering(&commands))
        .store(Arc::clone(&store))
        .concurrency(2)
        .timeout(Duration::from_secs(3_600))
        .build()
        .unwrap();
    let handle = service.handle();
    let running = tokio::spawn(service.run_until(std::future::pending()));
    let ours = |arguments: &[&str]| {
        let arguments = [&["ctl", "--json"], arguments].concat();
        let answered = done(project.surroundings(&mut command(project.path(), &arguments)));
        assert_eq!(answered.code, 0, "{arguments:?}: {answered:?}");
        answered.json()[0].clone()
    };
    until("it listens", async || {
        done(project.surroundings(&mut command(project.path(), &["ctl", "alive"]))).code == 0
    })
    .await;

    let sink = QueueSink::new(QueueSinkConfig::new("durable"), Arc::clone(&store)).unwrap();
    let publisher = Publisher::over(sink);
    let publish = async |number: u32, options: Options| {
        publisher.apply_async(&Sleep { number }, options).await.unwrap();
    };
    for number in 0..2 {
        publish(number, Options::default()).await;
    }
    let mut at_work = Vec::new();
    for _ in 0..2 {
        at_work.push(tokio::time::timeout(LONG, starts.recv()).await.unwrap().unwrap());
    }
    for number in 2..7 {
        publish(number, Options::default()).await;
    }
    for _ in 0..3 {
        publish(1_000, Options::default().on_duplicate(OnDuplicate::Serial)).await;
    }
    publish(2_000, Options::default().delay(Duration::from_secs(3_600))).await;

    // In the table, claimed or in the window: each is shown once. Of those of one like, one waits for its turn.
    let wanted = of(&[("worker", 2), ("queued", 6), ("blocked", 2), ("delayed", 1)]);
    until("all are shown", async || places(&ours(&["running"])) == wanted).await;
    let all = ours(&["running"]);
    let waits = all["queued-5"]["uuid"].as_str().unwrap().to_owned();
    let later = all["delayed-0"]["uuid"].as_str().unwrap().to_owned();
    assert!(!at_work.contains(&waits) && !at_work.contains(&later), "{all}");

    for (uuid, place) in [(&waits, "queued"), (&later, "delayed"), (&at_work[0], "worker")] {
        let cancelled = ours(&["cancel", "--uuid", uuid]);
        assert_eq!(places(&cancelled), of(&[(place, 1)]), "{cancelled}");
        assert!(cancelled.to_string().contains(uuid.as_str()), "{cancelled}");
    }
    // One that waited takes the free place.
    let next = tokio::time::timeout(LONG, starts.recv()).await.unwrap().unwrap();
    assert!(next != waits && next != later);
    let theirs = project.ctl(&["cancel", "--task", "my_tasks.sleep"]);
    assert_eq!(
        (theirs.code, theirs.out.matches("uuid: ").count()),
        (0, 8),
        "{theirs:?}"
    );
    let empty = async || store.queue().depth("durable").await.unwrap() == Depth::default();
    until("nothing is left", empty).await;

    assert_eq!(ours(&["running"]), serde_json::json!({ "node_id": "node-a" }));
    // Those at work failed as cancelled; those that waited were removed, and never began.
    until("three are dead letters", async || handle.status().dead_lettered == 3).await;
    assert!(starts.try_recv().is_err());
    handle.drain();
    running.await.unwrap().unwrap();
    store.close().await.unwrap();
    schema.drop().await;
}
