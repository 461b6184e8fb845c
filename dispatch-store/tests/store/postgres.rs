use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Class, Error, Store,
    config::{Secret, StoreConfig, StoreContext},
    random_id,
    store::{Completion, Outcome},
    testing::store::store_battery,
};
use dispatch_store::{PostgresConfig, Wakeup};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, TransactionTrait};

use crate::{claim, item, next};

/// A schema of its own on the test server, dropped at the end.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) schema: String,
    pub(crate) admin: DatabaseConnection,
}

impl Server {
    /// None where there is no server; in CI that is a failure.
    pub(crate) async fn find(test: &str) -> Option<Self> {
        let Ok(url) = std::env::var("DISPATCH_TEST_POSTGRES_URL") else {
            assert_ne!(
                std::env::var("CI").as_deref(),
                Ok("true"),
                "{test}: CI must set DISPATCH_TEST_POSTGRES_URL"
            );
            let line = format!("skipped: {test}: DISPATCH_TEST_POSTGRES_URL is not set\n");
            // Not `eprintln`, which the harness keeps to itself when a test passes.
            std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
            return None;
        };
        let admin = Database::connect(&url).await.expect("the test server answers");
        let schema = format!("t_{}", random_id().replace('-', "_").to_lowercase());
        Some(Self { url, schema, admin })
    }

    pub(crate) fn open(&self) -> Arc<dyn Store> {
        self.open_with(|_| {})
    }

    pub(crate) fn open_with(&self, change: impl FnOnce(&mut PostgresConfig)) -> Arc<dyn Store> {
        let mut config: PostgresConfig = serde_json::from_value(serde_json::json!({ "url": self.url })).unwrap();
        config.schema = Some(self.schema.clone());
        change(&mut config);
        config.build(&StoreContext { base_dir: ".".into() }).unwrap()
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.admin.execute_unprepared(sql).await.expect("the test server obeys");
    }

    /// Milliseconds for 100 runs of an SQL statement, when it is first run and after 19000 times, in one transaction. Each is the
    /// best of ten, so that nobody else's work is measured.
    pub(crate) async fn cost_of_many(&self, statement: &str) -> [f64; 2] {
        let transaction = self.admin.begin().await.unwrap();
        let many = format!(
            "DO $$ DECLARE began timestamptz; spans interval[]; BEGIN
                FOR part IN 0..199 LOOP
                    began := clock_timestamp();
                    FOR number IN part * 100 + 1..part * 100 + 100 LOOP {statement} END LOOP;
                    spans[part] := clock_timestamp() - began;
                END LOOP;
                CREATE TEMPORARY TABLE cost ON COMMIT DROP AS
                    SELECT extract(epoch FROM (SELECT min(span) FROM unnest(spans[0:9]) AS span))::float8 * 1000 AS first,
                        extract(epoch FROM (SELECT min(span) FROM unnest(spans[190:199]) AS span))::float8 * 1000 AS last;
            END $$"
        );
        transaction.execute_unprepared(&many).await.unwrap();
        let backend = sea_orm::DatabaseBackend::Postgres;
        let cost = sea_orm::Statement::from_string(backend, "SELECT first, last FROM cost");
        let row = transaction.query_one_raw(cost).await.unwrap().unwrap();
        transaction.commit().await.unwrap();
        ["first", "last"].map(|column| row.try_get("", column).unwrap())
    }

    pub(crate) async fn end(self, store: Arc<dyn Store>) {
        store.close().await.unwrap();
        self.drop().await;
    }

    pub(crate) async fn drop(self) {
        self.run(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema))
            .await;
    }
}

#[tokio::test]
async fn postgres_passes_the_battery() {
    let Some(server) = Server::find("postgres_passes_the_battery").await else {
        return;
    };
    let store = server.open();

    store_battery(Arc::clone(&store)).await;

    server.end(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn four_handles_may_start_at_once() {
    let Some(server) = Server::find("four_handles_may_start_at_once").await else {
        return;
    };
    let stores: Vec<_> = (0..4).map(|_| server.open()).collect();

    let started = futures::future::join_all(stores.iter().map(|store| store.probe())).await;

    assert!(started.iter().all(Result::is_ok), "{started:?}");
    for store in &stores[1..] {
        store.close().await.unwrap();
    }
    server.end(Arc::clone(&stores[0])).await;
}

#[tokio::test]
async fn another_process_wakes_by_a_hint() {
    let Some(server) = Server::find("another_process_wakes_by_a_hint").await else {
        return;
    };
    let (here, there) = (server.open(), server.open());
    // Once through everything, so that the listener listens.
    here.queue().enqueue("q", vec![item("first")]).await.unwrap();
    next(&there, "q").await;

    let mut quick = 0;
    for _ in 0..5 {
        let waiting = async {
            next(&there, "q").await;
            tokio::time::Instant::now()
        };
        let sending = async {
            here.queue().enqueue("q", vec![item("a")]).await.unwrap();
            tokio::time::Instant::now()
        };
        let (woken, sent) = tokio::join!(waiting, sending);
        quick += u32::from(woken.saturating_duration_since(sent) < Duration::from_millis(500));
    }

    assert!(
        quick >= 3,
        "hints wake faster than the poll of 2 s, yet only {quick} of 5 did"
    );
    there.close().await.unwrap();
    server.end(here).await;
}

/// Each connection whose last word was LISTEN, of those that call themselves so.
async fn listeners(server: &Server, name: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = '{name}' AND query LIKE 'LISTEN%'"
    );
    let counting = sea_orm::Statement::from_string(sea_orm::DatabaseBackend::Postgres, sql);
    let row = server.admin.query_one_raw(counting).await.unwrap().unwrap();
    row.try_get("", "n").unwrap()
}

#[tokio::test]
async fn who_polls_has_no_connection_that_listens_and_finds_what_others_put_there() {
    let Some(server) = Server::find("who_polls_has_no_connection_that_listens_and_finds_what_others_put_there").await
    else {
        return;
    };
    for (wakeup, expected) in [(Wakeup::Poll, 0), (Wakeup::Notify, 1)] {
        let name = random_id();
        let (there, here) = (
            server.open(),
            server.open_with(|config| {
                config.wakeup = wakeup;
                name_connections(config, &name);
            }),
        );
        for _ in 0..3 {
            let waiting = next(&here, "q");
            let sending = async {
                // It waits by now.
                tokio::time::sleep(Duration::from_millis(300)).await;
                there.queue().enqueue("q", vec![item("by another")]).await.unwrap();
            };
            let (claimed, ()) = tokio::join!(waiting, sending);
            assert_eq!(claimed.len(), 1);
            // By itself, too: its own news need nobody.
            here.queue().enqueue("q", vec![item("its own")]).await.unwrap();
            assert_eq!(next(&here, "q").await.len(), 1);
        }

        assert_eq!(listeners(&server, &name).await, expected, "{wakeup:?}");
        there.close().await.unwrap();
        here.close().await.unwrap();
    }
    let store = server.open();
    server.end(store).await;
}

pub(crate) fn name_connections(config: &mut PostgresConfig, name: &str) {
    let mark = if config.url.expose().contains('?') { '&' } else { '?' };
    config.url = Secret::new(format!("{}{mark}application_name={name}", config.url.expose()));
}

#[tokio::test]
async fn a_transaction_that_stays_open_shows_in_what_is_dead() {
    let Some(server) = Server::find("a_transaction_that_stays_open_shows_in_what_is_dead").await else {
        return;
    };
    let store = server.open();
    store.probe().await.unwrap();
    assert!(store.bloat().await.unwrap().is_some());
    let open = server.admin.begin().await.unwrap();
    open.execute_unprepared("SELECT pg_current_xact_id()").await.unwrap();
    let began = tokio::time::Instant::now();

    // The server counts what is dead a moment late.
    let mut seen = Default::default();
    while began.elapsed() < Duration::from_secs(60) {
        let items = (0..100).map(|_| item("x")).collect();
        store.queue().enqueue("q", items).await.unwrap();
        store.queue().purge("q").await.unwrap();
        seen = store.bloat().await.unwrap().unwrap();
        if seen.dead_rows >= 200 && seen.oldest_transaction.as_secs() >= 2 && seen.held_transactions >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let waited = began.elapsed();
    open.rollback().await.unwrap();

    assert!(waited < Duration::from_secs(60), "{seen:?}");
    server.end(store).await;
}

/// Vacuum came when the queue was nearly empty: by its statistics, to walk the whole table for each item is cheap.
#[tokio::test]
async fn old_statistics_make_nothing_quadratic() {
    const MANY: usize = 30_000;
    let Some(server) = Server::find("old_statistics_make_nothing_quadratic").await else {
        return;
    };
    let store = server.open();
    let fill = async |count: usize| {
        for _ in 0..count / 1_000 {
            let items = (0..1_000).map(|_| item("x")).collect();
            store.queue().enqueue("q", items).await.unwrap();
        }
    };
    fill(MANY).await;
    store.queue().purge("q").await.unwrap();
    // The last page is in use, so that the table keeps its size.
    store.queue().enqueue("other", vec![item("last")]).await.unwrap();
    for table in ["dispatch_item", "dispatch_ready"] {
        server.run(&format!("VACUUM ANALYZE {}.{table}", server.schema)).await;
    }
    fill(MANY).await;

    // Quadratic, it takes minutes; this is no more than a way out.
    let purged = tokio::time::timeout(Duration::from_secs(30), store.queue().purge("q")).await;

    assert_eq!(purged.expect("it ends").unwrap(), MANY as u64);
    server.end(store).await;
}

#[tokio::test]
async fn a_killed_backend_is_replaced() {
    let Some(server) = Server::find("a_killed_backend_is_replaced").await else {
        return;
    };
    let name = random_id();
    let store = server.open_with(|config| name_connections(config, &name));
    let items = (0..50).map(|number| item(&number.to_string())).collect();
    store.queue().enqueue("q", items).await.unwrap();
    let claimed = store.queue().claim("q", claim(10)).await.unwrap();

    let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
    server.run(&kill).await;
    let batch = || {
        claimed.iter().map(|claimed| Completion {
            lease: claimed.lease,
            outcome: Outcome::Done,
        })
    };
    let settled = until_it_works(|| store.queue().settle("q", batch().collect())).await;
    let rest = until_it_works(|| store.queue().claim("q", claim(100))).await;

    assert!(settled.iter().all(Result::is_ok), "leases outlive connections");
    assert_eq!(rest.len(), 40, "nothing is lost and nothing doubled");
    server.end(store).await;
}

/// Whoever held a dead connection is told so; nobody has to repair anything.
async fn until_it_works<T, F: Future<Output = Result<T, Error>>>(call: impl Fn() -> F) -> T {
    for _ in 0..20 {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert_eq!(error.class(), Class::Unavailable, "{}", error.report()),
        }
    }
    panic!("the pool recovers within 20 calls");
}

#[tokio::test]
async fn of_several_servers_the_first_that_answers_is_used() {
    let Some(server) = Server::find("of_several_servers_the_first_that_answers_is_used").await else {
        return;
    };
    let store = server.open_with(|config| {
        let (front, database) = server.url.rsplit_once('/').unwrap();
        let (front, host) = front.rsplit_once('@').unwrap_or(("postgres://", front));
        let several = format!("{front}@127.0.0.1:1,{host}/{database}");
        config.url = Secret::new(several);
    });

    store.queue().enqueue("q", vec![item("x")]).await.unwrap();

    assert_eq!(next(&store, "q").await.len(), 1);
    server.end(store).await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_in_words() {
    let Some(server) = Server::find("a_newer_schema_is_refused_in_words").await else {
        return;
    };
    let store = server.open();
    store.probe().await.unwrap();
    server
        .run(&format!(
            "INSERT INTO {}.dispatch_migration VALUES (99, 0)",
            server.schema
        ))
        .await;

    let error = server.open().probe().await.expect_err("a newer schema is refused");

    assert_eq!(error.class(), Class::Permanent);
    assert!(error.report().contains("schema version 99"), "{}", error.report());
    server.end(store).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_its_password_is_not_printed() {
    let config = serde_json::json!({ "url": "postgres://me:hunter2@127.0.0.1:1/db", "connect_timeout": "2s" });
    let config: PostgresConfig = serde_json::from_value(config).unwrap();
    let debug = format!("{config:?}");
    let store = config.build(&StoreContext { base_dir: ".".into() }).unwrap();

    let error = store.probe().await.expect_err("nobody listens on port 1");

    assert_eq!(error.class(), Class::Unavailable);
    let report = error.report();
    assert!(
        report.contains("127.0.0.1:1/db") && report.contains("refused"),
        "{report}"
    );
    assert!(
        ![debug, format!("{store:?}"), report, format!("{error:?}")]
            .concat()
            .contains("hunter2")
    );
}
