//! Three instances restarted one after the other while work comes in: nothing is lost, nothing comes twice.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use dispatch_core::{
    Message, Store,
    config::{StoreConfig, StoreContext},
    store::Item,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::{
    kill::settled,
    support::{Running, Worker, dir, tell, until},
};

const INSTANCES: usize = 3;
const ROUNDS: usize = 2;
/// Waits already when the first instance starts, so that all have a full window.
const BEFORE: usize = 2_000;
/// What is enqueued at once, and how often: some 1,000 a second.
const BATCH: usize = 20;
const PAUSE: Duration = Duration::from_millis(20);
/// From the signal to the first work of the instance that takes the place, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(10);

async fn enqueue(store: &dyn Store, numbers: Range<usize>) {
    let item = |n: usize| Item::of(&Message::with_id(format!("m{n}"), format!("payload {n}")));
    store
        .queue()
        .enqueue("work", numbers.map(item).collect())
        .await
        .unwrap();
}

/// Each instance posts to a path of its own, so that it can be told who works.
fn start(dir: &Path, worker: &Worker, instance: &str) -> Running {
    let url = format!("sink.url={}/{instance}", worker.url);
    Running::start(dir, &["run", "p.toml", "-q", "--set", &url])
}

async fn at_work(worker: &Worker, instance: &str) {
    let path = format!("/{instance}");
    until("work at the instance", async || worker.paths().contains(&path)).await;
}

/// The same over each store; `store` is its table.
async fn a_rolling_restart_loses_nothing(name: &str, table: &str, config: impl StoreConfig) {
    let worker = Worker::start().await;
    let text = format!(
        "name = \"p\"\nprefetch = 64\n[source]\ntype = \"queue\"\nqueue = \"work\"\n[layers]\nconcurrency = 16\n\
         rate_limit = \"400/s\"\n[sink]\ntype = \"http\"\nurl = \"{}/\"\n[store]\n{table}\n[admin]\nlisten = \"off\"\n",
        worker.url
    );
    let dir = dir(&[("p.toml", &text)]);
    let context = StoreContext {
        base_dir: dir.path().into(),
    };
    let store: Arc<dyn Store> = config.build(&context).unwrap();
    store.probe().await.unwrap();
    enqueue(&*store, 0..BEFORE).await;
    let mut instances = Vec::new();
    for number in 0..INSTANCES {
        let instance = format!("{number}-0");
        instances.push(start(dir.path(), &worker, &instance));
    }
    for number in 0..INSTANCES {
        at_work(&worker, &format!("{number}-0")).await;
    }
    let enough = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (store, enough) = (store.clone(), enough.clone());
        async move {
            let mut count = BEFORE;
            while !enough.load(SeqCst) {
                enqueue(&*store, count..count + BATCH).await;
                count += BATCH;
                sleep(PAUSE).await;
            }
            count
        }
    });

    let mut slowest = Duration::ZERO;
    for round in 1..=ROUNDS {
        for (number, running) in instances.iter_mut().enumerate() {
            let (instance, begun) = (format!("{number}-{round}"), Instant::now());
            running.signal(Signal::TERM);
            assert_eq!(running.ends().await, 0, "{:#?}", running.log());
            *running = start(dir.path(), &worker, &instance);
            at_work(&worker, &instance).await;
            slowest = slowest.max(begun.elapsed());
        }
    }
    enough.store(true, SeqCst);
    let count = load.await.unwrap();
    settled(&store).await;
    for running in &mut instances {
        running.signal(Signal::TERM);
        assert_eq!(running.ends().await, 0, "{:#?}", running.log());
    }
    store.close().await.unwrap();

    let ids = worker.ids();
    let lost = (0..count).filter(|n| !ids.contains_key(&format!("m{n}"))).count();
    let duplicated: u32 = ids.values().map(|times| times - 1).sum();
    tell(&format!(
        "rolling restart over {name}: restarts={} messages={count} lost={lost} duplicated={duplicated} recover_ms_max={}",
        INSTANCES * ROUNDS,
        slowest.as_millis()
    ));
    assert_eq!((lost, duplicated), (0, 0));
    assert!(slowest <= PATIENCE, "an instance was away for {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_over_sqlite_loses_nothing() {
    let config = dispatch_store::SqliteConfig::default();
    a_rolling_restart_loses_nothing("sqlite", "type = \"sqlite\"", config).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_over_postgres_loses_nothing() {
    let Some(url) = crate::postgres::url("a_rolling_restart_over_postgres_loses_nothing") else {
        return;
    };
    let schema = crate::postgres::Schema::new(&url).await;
    let table = format!("type = \"postgres\"\nurl = \"{url}\"\nschema = \"{}\"", schema.name);
    let settings = serde_json::json!({ "url": url, "schema": schema.name });
    let config: dispatch_store::PostgresConfig = serde_json::from_value(settings).unwrap();
    a_rolling_restart_loses_nothing("postgres", &table, config).await;
    schema.drop().await;
}
