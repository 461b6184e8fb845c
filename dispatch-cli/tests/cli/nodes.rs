//! Processes with names, killed by kill -9 under leases far longer than any test: what they held comes back at once under
//! the name, and after a heartbeat without one.

use std::{path::Path, sync::Arc, time::Duration};

use dispatch_core::{
    Message, Store,
    config::{StoreConfig, StoreContext},
    store::Item,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::{
    kill::{next, settled},
    support::{Running, Worker, dir, dispatch, get, tell, until},
};

const MESSAGES: usize = 4_000;
const KILLS: usize = 8;
const CONCURRENCY: usize = 32;
const PREFETCH: usize = 32;
const SEED: u64 = 0x5eed;
/// For a machine that is busy with other things.
const LATE: Duration = Duration::from_secs(10);

fn config(worker: &Worker, store: &str) -> String {
    format!(
        "name = \"p\"\nprefetch = {PREFETCH}\n[source]\ntype = \"queue\"\nqueue = \"work\"\nlease = \"10m\"\n\
         [layers]\nconcurrency = {CONCURRENCY}\n[sink]\ntype = \"http\"\nurl = \"{}/\"\n[store]\n{store}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n",
        worker.url
    )
}

async fn filled(dir: &Path, config: impl StoreConfig, count: usize) -> Arc<dyn Store> {
    let store = config.build(&StoreContext { base_dir: dir.into() }).unwrap();
    store.probe().await.unwrap();
    let item = |n: usize| Item::of(&Message::with_id(format!("m{n}"), format!("payload {n}")));
    store
        .queue()
        .enqueue("work", (0..count).map(item).collect())
        .await
        .unwrap();
    store
}

fn start(dir: &Path, more: &[&str]) -> Running {
    Running::start(dir, &[&["run", "p.toml"], more].concat())
}

async fn ends(mut running: Running) {
    running.signal(Signal::TERM);
    assert_eq!(running.ends().await, 0, "{:#?}", running.log());
}

/// Kills one process again and again somewhere in its work; each time it is started again under its name.
async fn kills_under_one_name_lose_nothing(name: &str, table: &str, config_of_store: impl StoreConfig) {
    let worker = Worker::counting().await;
    let dir = dir(&[("p.toml", &config(&worker, &format!("{table}\nnode = \"worker-1\"")))]);
    let store = filled(dir.path(), config_of_store, MESSAGES).await;
    let (mut state, mut slowest, mut running) = (SEED, Duration::ZERO, start(dir.path(), &[]));

    for kill in 0..KILLS {
        let part = MESSAGES / (KILLS + 1);
        let reached = part * kill + 1 + next(&mut state) % part;
        until("the next moment", async || worker.count() >= reached).await;
        // In full flight, so that each time there is something to be taken back.
        worker.hold();
        until("all at work", async || worker.open() == CONCURRENCY).await;
        sleep(Duration::from_micros(next(&mut state) as u64 % 20_000)).await;
        running.kill();
        until("the killed one's requests ended", async || worker.open() == 0).await;
        let again = || worker.ids().values().map(|times| times - 1).sum::<u32>();
        let (before, begun) = (again() as usize, Instant::now());
        worker.let_go();
        running = start(dir.path(), &[]);
        until("what it held", async || again() as usize >= before + CONCURRENCY).await;
        slowest = slowest.max(begun.elapsed());
    }
    settled(&store).await;
    ends(running).await;
    store.close().await.unwrap();

    let ids = worker.ids();
    let lost = (0..MESSAGES).filter(|n| !ids.contains_key(&format!("m{n}"))).count();
    let duplicated: u32 = ids.values().map(|times| times - 1).sum();
    tell(&format!(
        "kill -9 under one name over {name}, leases of 10 min: kills={KILLS} lost={lost} duplicated={duplicated} \
         recover_ms_max={}",
        slowest.as_millis()
    ));
    assert_eq!(lost, 0);
    assert!(
        duplicated as usize <= (CONCURRENCY + PREFETCH) * KILLS,
        "{duplicated} came twice"
    );
    assert!(slowest <= LATE, "what was held came back only after {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_one_name_over_sqlite_lose_nothing() {
    let config = dispatch_store::SqliteConfig::default();
    kills_under_one_name_lose_nothing("sqlite", "type = \"sqlite\"", config).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn kills_under_one_name_over_postgres_lose_nothing() {
    let Some(url) = crate::postgres::url("kills_under_one_name_over_postgres_lose_nothing") else {
        return;
    };
    let schema = crate::postgres::Schema::new(&url).await;
    let table = format!("type = \"postgres\"\nurl = \"{url}\"\nschema = \"{}\"", schema.name);
    let settings = serde_json::json!({ "url": url, "schema": schema.name });
    let config: dispatch_store::PostgresConfig = serde_json::from_value(settings).unwrap();
    kills_under_one_name_lose_nothing("postgres", &table, config).await;
    schema.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_name_what_a_killed_process_held_comes_back_after_its_heartbeat() {
    let worker = Worker::counting().await;
    let dir = dir(&[("p.toml", &config(&worker, "type = \"sqlite\"\nheartbeat = \"2s\""))]);
    let store = filled(dir.path(), dispatch_store::SqliteConfig::default(), CONCURRENCY).await;
    worker.hold();
    let mut first = start(dir.path(), &[]);
    until("all at work", async || worker.open() == CONCURRENCY).await;
    let second = start(dir.path(), &[]);
    let admin = second.ready().await;
    let nodes = || dispatch(dir.path(), &["nodes", "-c", "p.toml", "--json"]).json();
    until("both claim", async || nodes()["nodes"].as_array().unwrap().len() == 2).await;
    let listed = dispatch(dir.path(), &["nodes", "-c", "p.toml"]);

    first.kill();
    let begun = Instant::now();
    worker.let_go();
    settled(&store).await;

    let took = begun.elapsed();
    tell(&format!(
        "kill -9 without a name, a heartbeat of 2 s: recover_ms={}",
        took.as_millis()
    ));
    assert!(took <= Duration::from_secs(2) + LATE, "came back only after {took:?}");
    second.says("a node is dead: what it held is ready again").await;
    assert!(listed.code == 0 && listed.out.starts_with("node "), "{listed:?}");
    assert_eq!(listed.out.lines().count(), 3, "{listed:?}");
    let left = nodes();
    let node = &left["nodes"][0];
    assert_eq!(
        (left["nodes"].as_array().unwrap().len(), &node["alive"], &node["holds"]),
        (1, &true.into(), &0.into())
    );
    let metrics = get(&format!("{admin}/metrics")).await.1;
    assert!(metrics.contains("dispatch_store_nodes{"), "{metrics}");
    ends(second).await;
    let none = dispatch(dir.path(), &["nodes", "-c", "p.toml"]);
    assert_eq!((none.code, none.out.trim()), (0, "nobody claims"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_under_one_name_the_older_says_what_to_do() {
    let worker = Worker::counting().await;
    let store = "type = \"sqlite\"\nheartbeat = \"1s\"\nnode = \"worker-1\"";
    let dir = dir(&[("p.toml", &config(&worker, store))]);
    let older = start(dir.path(), &[]);
    older.ready().await;
    let nodes = || dispatch(dir.path(), &["nodes", "-c", "p.toml", "--json"]).json();
    until("it claims", async || nodes()["nodes"].as_array().unwrap().len() == 1).await;

    let younger = start(dir.path(), &[]);
    younger.ready().await;

    let line = older.says("give each process its own `node` in [store]").await;
    assert!(line.contains("ERROR") && line.contains("worker-1"), "{line}");
    ends(older).await;
    ends(younger).await;
}
