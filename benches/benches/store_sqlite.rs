//! The queue on SQLite beside a bare loop that inserts 100 rows in one transaction and deletes them in the next.
//!
//! Both wait for the disk (`synchronous = FULL`, WAL) and run in tasks of the same runtime, as pipelines do; 1 KiB
//! payloads, one task and four. The bare loop runs outside of the runtime's threads as well, where it is faster.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use criterion::{Criterion, SamplingMode, Throughput};
use dispatch_core::{
    Message, Store,
    config::{StoreConfig, StoreContext},
    store::{Claim, Completion, Item, Outcome},
};
use dispatch_store::SqliteConfig;
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use sea_orm::sqlx::{
    self, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::{runtime::Runtime, sync::Mutex, time::Instant};

const BATCH: usize = 100;
const ROWS: usize = 20_000;

async fn open_bare(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(directory.join("bare.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let table = "CREATE TABLE bare (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)";
    sqlx::query(table).execute(&mut connection).await.unwrap();
    connection
}

async fn bare(connection: Arc<Mutex<SqliteConnection>>) -> Duration {
    let mut connection = connection.lock().await;
    let insert = format!(
        "INSERT INTO bare (id, payload) VALUES (?, ?){}",
        ", (?, ?)".repeat(BATCH - 1)
    );
    let begin = Instant::now();
    for _ in 0..ROWS / BATCH {
        let mut transaction = connection.begin().await.unwrap();
        let mut query = sqlx::query(sqlx::AssertSqlSafe(insert.as_str()));
        for id in 0..BATCH as i64 {
            query = query.bind(id).bind(vec![7_u8; 1024]);
        }
        query.execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let ids: Vec<i64> = (0..BATCH as i64).collect();
        let ids = serde_json::to_string(&ids).unwrap();
        let mut transaction = connection.begin().await.unwrap();
        let delete = sqlx::query("DELETE FROM bare WHERE id IN (SELECT value FROM json_each(?))").bind(ids);
        delete.execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    }
    begin.elapsed()
}

async fn ours(store: Arc<dyn Store>, tasks: usize) -> Duration {
    let claim = Claim {
        max: BATCH,
        lease: Duration::from_secs(60),
        ordered: false,
        below: None,
    };
    let begin = Instant::now();
    let workers = (0..tasks).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..ROWS / BATCH / tasks {
                let items = (0..BATCH).map(|_| Item::of(&Message::new(vec![7_u8; 1024]))).collect();
                store.queue().enqueue("bench", items).await.unwrap();
                let claimed = store.queue().claim("bench", claim).await.unwrap();
                let done = claimed.iter().map(|claimed| Completion {
                    lease: claimed.lease,
                    outcome: Outcome::Done,
                });
                let settled = store.queue().settle("bench", done.collect()).await.unwrap();
                assert!(settled.iter().all(Result::is_ok));
            }
        })
    });
    join_all(workers).await.into_iter().for_each(Result::unwrap);
    begin.elapsed()
}

/// What is measured, and how long one round of it took.
type Case<'a> = (&'static str, Box<dyn Fn() -> Duration + 'a>);

fn main() {
    let runtime = Runtime::new().unwrap();
    // Beside the build, where the disk is a real one; the system's directory may be memory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let context = StoreContext {
        base_dir: directory.path().to_owned(),
    };
    let store = SqliteConfig::default().build(&context).unwrap();
    runtime.block_on(store.probe()).unwrap();
    let connection = Arc::new(Mutex::new(runtime.block_on(open_bare(directory.path()))));

    let run = |case: BoxFuture<'static, Duration>| runtime.block_on(runtime.spawn(case)).unwrap();
    let cases: Vec<Case<'_>> = vec![
        (
            "bare insert+delete",
            Box::new(|| run(bare(Arc::clone(&connection)).boxed())),
        ),
        (
            "bare, no task",
            Box::new(|| runtime.block_on(bare(Arc::clone(&connection)))),
        ),
        ("cycle, 1 task", Box::new(|| run(ours(Arc::clone(&store), 1).boxed()))),
        ("cycle, 4 tasks", Box::new(|| run(ours(Arc::clone(&store), 4).boxed()))),
    ];
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("store_sqlite");
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
    let rounds: Vec<BTreeMap<&str, f64>> = (0..9)
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
    for ours in ["cycle, 1 task", "cycle, 4 tasks"] {
        for bare in ["bare insert+delete", "bare, no task"] {
            let ratio = median(&|round| round[ours] / round[bare]);
            println!(
                "{ours}: {:.0}/s, {ratio:.2} of {bare} ({:.0}/s)",
                median(&|round| round[ours]),
                median(&|round| round[bare])
            );
        }
    }
    drop(cases);
    runtime.block_on(store.close()).unwrap();
}
