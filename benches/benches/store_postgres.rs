//! The queue on PostgreSQL beside bare tokio-postgres: four connections that lock 100 rows and delete them by id.
//!
//! Needs `DISPATCH_TEST_POSTGRES_URL`. The rows are the same (900 bytes); the bare loop finds them in a prepared table,
//! ours is measured on a prepared queue and over the whole cycle with the enqueue.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use criterion::{Criterion, SamplingMode, Throughput};
use dispatch_core::{
    Message, Store,
    config::{StoreConfig, StoreContext},
    random_id,
    store::{Claim, Completion, Item, Outcome},
};
use dispatch_store::PostgresConfig;
use futures::future::join_all;
use tokio::{runtime::Runtime, time::Instant};
use tokio_postgres::{Client, NoTls};

const TASKS: usize = 4;
const ROWS: usize = 40_000;

fn payload() -> Vec<u8> {
    random_id().bytes().cycle().take(900).collect()
}

fn items(count: usize) -> Vec<Item> {
    (0..count).map(|_| Item::of(&Message::new(payload()))).collect()
}

async fn connect(url: &str, schema: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    // Its one index, as ours has its own: a plan by old statistics reads and sorts the whole table, forty times slower.
    let settings = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off";
    client
        .batch_execute(&format!("SET search_path = {schema}; {settings}"))
        .await
        .unwrap();
    client
}

const FILL: &str = "INSERT INTO bare (payload) SELECT payload FROM unnest($1::bytea[]) AS payload";

fn payloads(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| payload()).collect()
}

async fn fill(client: &Client, payloads: &Vec<Vec<u8>>) {
    client.execute(FILL, &[payloads]).await.unwrap();
}

/// Locks and deletes, 100 at a time, until nothing is left or `most` are done.
async fn empty(client: &Client, mut most: usize) {
    let lock =
        "SELECT id, payload FROM bare WHERE run_at <= now() ORDER BY run_at, id LIMIT 100 FOR UPDATE SKIP LOCKED";
    let lock = client.prepare(lock).await.unwrap();
    let delete = client.prepare("DELETE FROM bare WHERE id = ANY($1)").await.unwrap();
    while most > 0 {
        client.batch_execute("BEGIN").await.unwrap();
        let rows = client.query(&lock, &[]).await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        client.execute(&delete, &[&ids]).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        most = most.saturating_sub(ids.len());
        if ids.is_empty() {
            break;
        }
    }
}

/// Fills the bare table and empties it again with four connections; counts the emptying alone.
async fn bare(clients: &[Client]) -> Duration {
    for _ in 0..ROWS / 1000 {
        fill(&clients[0], &payloads(1000)).await;
    }
    let begin = Instant::now();
    join_all(clients.iter().map(|client| empty(client, usize::MAX))).await;
    begin.elapsed()
}

/// As [`bare`], with each connection filling as it goes.
async fn bare_whole(clients: &[Client]) -> Duration {
    let made = |_| -> Vec<_> { (0..ROWS / TASKS / 500).map(|_| payloads(500)).collect() };
    let made: Vec<_> = (0..TASKS).map(made).collect();
    let begin = Instant::now();
    join_all(clients.iter().zip(made).map(|(client, batches)| async move {
        for payloads in &batches {
            fill(client, payloads).await;
            empty(client, 500).await;
        }
        empty(client, usize::MAX).await;
    }))
    .await;
    begin.elapsed()
}

/// Claims and settles what is in the queue, `batch` at a time.
async fn work(store: &Arc<dyn Store>, queue: &str, batch: usize, mut most: usize) -> usize {
    let claim = Claim {
        max: batch,
        lease: Duration::from_secs(60),
        ordered: false,
        below: None,
    };
    let mut done = 0;
    while most > 0 {
        let claimed = store.queue().claim(queue, claim).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        most = most.saturating_sub(claimed.len());
        done += claimed.len();
        let outcome = || Outcome::Done;
        let batch = claimed.iter().map(|claimed| Completion {
            lease: claimed.lease,
            outcome: outcome(),
        });
        assert!(
            store
                .queue()
                .settle(queue, batch.collect())
                .await
                .unwrap()
                .iter()
                .all(Result::is_ok)
        );
    }
    done
}

/// Enqueues, claims and settles in four tasks; counts the enqueue only if `whole`.
async fn ours(store: &Arc<dyn Store>, batch: usize, whole: bool) -> Duration {
    let queue = random_id();
    let fill = async |count: usize| {
        let batches: Vec<_> = (0..count / batch).map(|_| items(batch)).collect();
        let begin = Instant::now();
        for items in batches {
            store.queue().enqueue(&queue, items).await.unwrap();
        }
        begin
    };
    if !whole {
        fill(ROWS).await;
    }
    // Made beforehand: their making is no part of what is compared.
    let made = |_| -> Vec<_> {
        (0..ROWS / TASKS / batch)
            .filter(|_| whole)
            .map(|_| items(batch))
            .collect()
    };
    let made: Vec<_> = (0..TASKS).map(made).collect();
    let begin = Instant::now();
    let done = join_all(made.into_iter().map(|batches| {
        let (store, queue) = (Arc::clone(store), queue.clone());
        async move {
            if whole {
                for items in batches {
                    store.queue().enqueue(&queue, items).await.unwrap();
                    work(&store, &queue, batch, batch).await;
                }
            }
            work(&store, &queue, batch, usize::MAX).await
        }
    }))
    .await;
    let elapsed = begin.elapsed();
    assert!(
        whole || done.iter().sum::<usize>() == ROWS / batch * batch,
        "every row is worked once"
    );
    elapsed
}

/// The whole cycle while `backlog` items stand in the queue.
async fn beside(store: &Arc<dyn Store>, backlog: usize) -> Duration {
    let queue = random_id();
    for _ in 0..backlog / 500 {
        store.queue().enqueue(&queue, items(500)).await.unwrap();
    }
    let begin = Instant::now();
    join_all((0..TASKS).map(|_| async {
        for _ in 0..ROWS / TASKS / 100 {
            store.queue().enqueue(&queue, items(100)).await.unwrap();
            work(store, &queue, 100, 100).await;
        }
    }))
    .await;
    let elapsed = begin.elapsed();
    store.queue().purge(&queue).await.unwrap();
    elapsed
}

/// What is measured, and how long one round of it took.
type Case<'a> = (&'static str, Box<dyn Fn() -> Duration + 'a>);

fn main() {
    let Ok(url) = std::env::var("DISPATCH_TEST_POSTGRES_URL") else {
        eprintln!("skipped: store_postgres: DISPATCH_TEST_POSTGRES_URL is not set");
        return;
    };
    let runtime = Runtime::new().unwrap();
    let schema = format!("b_{}", random_id().replace('-', "_").to_lowercase());
    let config = serde_json::json!({ "url": url, "schema": schema });
    let config: PostgresConfig = serde_json::from_value(config).unwrap();
    let store = config.build(&StoreContext { base_dir: ".".into() }).unwrap();
    runtime.block_on(store.probe()).unwrap();
    let clients: Vec<Client> = runtime.block_on(join_all((0..TASKS).map(|_| connect(&url, &schema))));
    let table = "CREATE TABLE bare (id bigserial PRIMARY KEY, run_at timestamptz NOT NULL DEFAULT now(), payload bytea NOT NULL);
        CREATE INDEX ON bare (run_at, id)";
    runtime.block_on(clients[0].batch_execute(table)).unwrap();

    let cases: Vec<Case<'_>> = vec![
        ("bare lock+delete 100", Box::new(|| runtime.block_on(bare(&clients)))),
        (
            "claim+settle 100",
            Box::new(|| runtime.block_on(ours(&store, 100, false))),
        ),
        (
            "claim+settle 500",
            Box::new(|| runtime.block_on(ours(&store, 500, false))),
        ),
        (
            "bare whole cycle 500",
            Box::new(|| runtime.block_on(bare_whole(&clients))),
        ),
        (
            "whole cycle 500",
            Box::new(|| runtime.block_on(ours(&store, 500, true))),
        ),
        ("beside 1000", Box::new(|| runtime.block_on(beside(&store, 1_000)))),
        ("beside 100000", Box::new(|| runtime.block_on(beside(&store, 100_000)))),
    ];
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("store_postgres");
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sampling_mode(SamplingMode::Flat);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(5));
    for (name, run) in &cases {
        group.bench_function(*name, |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| run()).sum())
        });
    }
    group.finish();

    // Side by side, round by round, so that what else the machine does meets all alike.
    let rounds: Vec<BTreeMap<&str, f64>> = (0..7)
        .map(|_| {
            cases
                .iter()
                .map(|(name, run)| (*name, ROWS as f64 / run().as_secs_f64()))
                .collect()
        })
        .collect();
    let median = |value: &dyn Fn(&BTreeMap<&str, f64>) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for (ours, base) in [
        ("claim+settle 100", "bare lock+delete 100"),
        ("claim+settle 500", "bare lock+delete 100"),
        ("whole cycle 500", "bare lock+delete 100"),
        ("whole cycle 500", "bare whole cycle 500"),
        ("beside 100000", "beside 1000"),
    ] {
        let ratio = median(&|round| round[ours] / round[base]);
        println!(
            "{ours}: {:.0}/s, {ratio:.2} of {base} ({:.0}/s)",
            median(&|round| round[ours]),
            median(&|round| round[base])
        );
    }
    drop(cases);
    runtime.block_on(async {
        store.close().await.unwrap();
        clients[0]
            .batch_execute(&format!("DROP SCHEMA {schema} CASCADE"))
            .await
            .unwrap();
    });
}
