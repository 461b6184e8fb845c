//! `dispatch_enqueue`, the way into the queue for whoever speaks SQL; and a pooler between.

use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Message, Store,
    config::Secret,
    store::{Claimed, Enqueued, Item},
    testing::store::store_battery,
};
use futures::future::join_all;
use sea_orm::{ConnectionTrait, DatabaseConnection, TransactionTrait};
use tokio::time::{Instant, sleep};

use crate::{claim, next, postgres::Server};

async fn enqueue(connection: &impl ConnectionTrait, schema: &str, arguments: &str) -> Option<String> {
    let sql = format!("SELECT \"{schema}\".dispatch_enqueue({arguments}) AS id");
    let row = connection.query_one_raw(sea_orm::Statement::from_string(sea_orm::DatabaseBackend::Postgres, sql));
    row.await.unwrap().unwrap().try_get("", "id").unwrap()
}

async fn all(store: &Arc<dyn Store>, queue: &str) -> Vec<Claimed> {
    store.queue().claim(queue, claim(100)).await.unwrap()
}

#[tokio::test]
async fn what_sql_enqueues_comes_with_its_commit_and_vanishes_with_its_rollback() {
    let Some(server) = Server::find("what_sql_enqueues_comes_with_its_commit_and_vanishes_with_its_rollback").await
    else {
        return;
    };
    let store = server.open();
    store.probe().await.unwrap();
    let (admin, schema): (&DatabaseConnection, _) = (&server.admin, &server.schema);

    let transaction = admin.begin().await.unwrap();
    let gone = enqueue(&transaction, schema, "'q', 'never'").await;
    transaction.rollback().await.unwrap();
    let transaction = admin.begin().await.unwrap();
    let kept = enqueue(
        &transaction,
        schema,
        r#"'q', '{"task": "a.b", "args": [NaN]}', 'mine', priority => 5::smallint"#,
    )
    .await;
    let before_commit = all(&store, "q").await;
    transaction.commit().await.unwrap();

    assert!(gone.is_some() && before_commit.is_empty());
    let claimed = all(&store, "q").await;
    assert_eq!((claimed.len(), kept.as_deref()), (1, Some("mine")));
    let item = &claimed[0].item;
    assert_eq!(
        (&item.payload[..], item.id.as_str(), item.priority),
        (&br#"{"task": "a.b", "args": [NaN]}"#[..], "mine", 5)
    );
    server.end(store).await;
}

#[tokio::test]
async fn duplicates_are_dropped_or_wait_as_they_are_told_to() {
    let Some(server) = Server::find("duplicates_are_dropped_or_wait_as_they_are_told_to").await else {
        return;
    };
    let store = server.open();
    store.probe().await.unwrap();
    for (policy, kept) in [("parallel", 4), ("serial", 4), ("queue_one", 1), ("discard", 1)] {
        let mut ids = Vec::new();
        for _ in 0..4 {
            let arguments = format!("'{policy}', 'x', identity => 'same', on_duplicate => '{policy}'");
            ids.extend(enqueue(&server.admin, &server.schema, &arguments).await);
        }
        assert_eq!(ids.len(), kept, "{policy}");
    }
    // While one is at work, another may wait, but not two; and none where one at work is reason enough.
    assert_eq!(
        all(&store, "queue_one").await.len() + all(&store, "discard").await.len(),
        2
    );
    let more = async |policy: &str| {
        enqueue(
            &server.admin,
            &server.schema,
            &format!("'{policy}', 'x', identity => 'same', on_duplicate => '{policy}'"),
        )
        .await
    };
    assert!(more("queue_one").await.is_some() && more("queue_one").await.is_none());
    assert!(more("discard").await.is_none());
    server.end(store).await;
}

/// Whether SQL or Rust says so, and however many at once.
#[tokio::test]
async fn of_many_that_are_to_be_alone_one_is() {
    let Some(server) = Server::find("of_many_that_are_to_be_alone_one_is").await else {
        return;
    };
    let store = server.open();
    store.probe().await.unwrap();
    for round in 0..5 {
        let key = format!("key {round}");
        let by_rust = (0..10).map(|number| {
            let mut item = Item::of(&Message::new(number.to_string()));
            (item.key, item.alone) = (Some(key.as_str().into()), true);
            store.queue().enqueue("q", vec![item])
        });
        let arguments = format!("'q', 'x', identity => '{key}', on_duplicate => 'discard'");
        let by_sql = (0..10).map(|_| enqueue(&server.admin, &server.schema, &arguments));

        let (by_rust, by_sql) = tokio::join!(join_all(by_rust), join_all(by_sql));

        let by_rust = by_rust
            .into_iter()
            .filter(|answer| *answer.as_ref().unwrap() == [Enqueued::New]);
        let kept = by_rust.count() + by_sql.into_iter().flatten().count();
        assert_eq!(kept, 1, "round {round}");
    }
    assert_eq!(all(&store, "q").await.len(), 5);
    server.end(store).await;
}

#[tokio::test]
async fn who_waits_is_woken_by_what_sql_enqueues() {
    let Some(server) = Server::find("who_waits_is_woken_by_what_sql_enqueues").await else {
        return;
    };
    let store = server.open();
    // As long as a channel's name can hold, one byte longer, and what an SQL statement must quote.
    let names = ["q", &"é".repeat(27), &"x".repeat(55), "Two Words, \"quoted\"; --"];
    join_all(names.map(|queue| woken_by_hints(&server, &store, queue))).await;
    server.end(store).await;
}

async fn woken_by_hints(server: &Server, store: &Arc<dyn Store>, queue: &str) {
    enqueue_after_probe(server, store, queue).await;
    for options in ["", ", identity => 'i', on_duplicate => 'serial'"] {
        let mut quick = 0;
        for _ in 0..3 {
            let waiting = async {
                let claimed = next(store, queue).await;
                (claimed, Instant::now())
            };
            let sending = async {
                // Who waits looks by itself ever more seldom: by now only each second.
                sleep(Duration::from_millis(1_100)).await;
                enqueue(&server.admin, &server.schema, &format!("'{queue}', 'x'{options}")).await;
                Instant::now()
            };
            let ((claimed, woken), sent) = tokio::join!(waiting, sending);
            assert_eq!(claimed.len(), 1);
            quick += u32::from(woken.saturating_duration_since(sent) < Duration::from_millis(500));
        }
        assert!(quick >= 2, "hints woke {quick} of 3: {queue}{options}");
    }
}

/// Who enqueues beside something that waits announces nothing; by the commit it may be taken.
#[tokio::test]
async fn what_nobody_announces_is_found_soon() {
    let Some(server) = Server::find("what_nobody_announces_is_found_soon").await else {
        return;
    };
    let store = server.open();
    enqueue_after_probe(&server, &store, "q").await;
    let mut quick = 0;
    for _ in 0..5 {
        enqueue(&server.admin, &server.schema, "'q', 'waits'").await;
        let transaction = server.admin.begin().await.unwrap();
        enqueue(&transaction, &server.schema, "'q', 'unannounced'").await;
        assert_eq!(next(&store, "q").await.len(), 1);
        let waiting = async {
            let claimed = next(&store, "q").await;
            (claimed, Instant::now())
        };
        let committing = async {
            // The caller's transaction goes on for a while: who waits has looked, and looked in vain.
            sleep(Duration::from_millis(50)).await;
            transaction.commit().await.unwrap();
            Instant::now()
        };

        let ((claimed, woken), committed) = tokio::join!(waiting, committing);

        assert_eq!(claimed[0].item.payload, "unannounced");
        quick += u32::from(woken.saturating_duration_since(committed) < Duration::from_millis(500));
    }

    assert!(quick >= 3, "it waited for the poll of 2 s: only {quick} of 5 did not");
    server.end(store).await;
}

/// Once through everything, so that the listener listens.
async fn enqueue_after_probe(server: &Server, store: &Arc<dyn Store>, queue: &str) {
    store.probe().await.unwrap();
    enqueue(&server.admin, &server.schema, &format!("'{queue}', 'first'")).await;
    next(store, queue).await;
}

/// However it is called and whatever waits already: a publisher of many in one transaction, on tables that were empty when
/// they were last analysed, while nothing is vacuumed.
#[tokio::test]
async fn the_last_of_many_costs_what_the_first_did() {
    let Some(server) = Server::find("the_last_of_many_costs_what_the_first_did").await else {
        return;
    };
    let store = server.open();
    store.probe().await.unwrap();
    let schema = &server.schema;
    for table in ["dispatch_item", "dispatch_ready"] {
        server.run(&format!("VACUUM ANALYZE {schema}.{table}")).await;
    }
    let identity = "identity => 'k' || number, on_duplicate";
    for (name, options) in [
        ("plain", String::new()),
        ("delayed", "delay => 3600".to_owned()),
        (
            "at once below delayed",
            "delay => 3600 * (number % 2), priority => (number % 2)::smallint".to_owned(),
        ),
        ("serial", format!("{identity} => 'serial'")),
        ("serial, delayed", format!("{identity} => 'serial', delay => 3600")),
        ("queue_one", format!("{identity} => 'queue_one'")),
        ("discard", format!("{identity} => 'discard'")),
        ("discard, delayed", format!("{identity} => 'discard', delay => 3600")),
        (
            "one identity",
            "identity => 'same', on_duplicate => 'serial'".to_owned(),
        ),
    ] {
        let comma = if options.is_empty() { "" } else { ", " };
        let call = format!("PERFORM {schema}.dispatch_enqueue('{name}', 'x'{comma}{options});");

        let [first, last] = server.cost_of_many(&call).await;

        assert!(
            last <= first * 5.0,
            "{name}: {first} ms for 100 at first, {last} ms at last"
        );
    }
    server.end(store).await;
}

/// To be told is to find nothing else that is due, of its priority.
#[tokio::test]
async fn one_of_many_is_announced() {
    let Some(server) = Server::find("one_of_many_is_announced").await else {
        return;
    };
    let store = server.open();
    store.probe().await.unwrap();
    let mut listener = sea_orm::sqlx::postgres::PgListener::connect(&server.url).await.unwrap();
    // A channel is the whole database's: a name that no other test has.
    let queue = &server.schema;
    listener.listen(&format!("dispatch_{queue}")).await.unwrap();
    listener.listen(&format!("end_{queue}")).await.unwrap();
    let many = |priority: i16, options: &str| {
        format!("dispatch_enqueue('{queue}', n::text, priority => {priority}::smallint {options})")
    };
    let serial = ", identity => 'i', on_duplicate => 'serial'";

    for (call, expected) in [
        (many(0, ", delay => 3600"), 0),
        (many(0, &format!(", delay => 3600 {serial}")), 0),
        (many(0, ""), 1),
        (many(0, serial), 0),
        (many(1, serial), 1),
        (many(2, ""), 1),
    ] {
        // Each in a transaction of its own: in one, the server tells of the same once.
        for n in 1..=3 {
            let call = call.replace("n::text", &format!("'{n}'"));
            server.run(&format!("SELECT {}.{call}", server.schema)).await;
        }
        server.run(&format!("NOTIFY end_{queue}")).await;
        let mut heard = 0;
        while listener.recv().await.unwrap().channel() != format!("end_{queue}") {
            heard += 1;
        }
        assert_eq!(heard, expected, "{call}");
    }
    server.end(store).await;
}

#[tokio::test]
async fn postgres_behind_a_pooler_passes_the_battery() {
    let Some(server) = Server::find("postgres_behind_a_pooler_passes_the_battery").await else {
        return;
    };
    let Ok(pooler) = std::env::var("DISPATCH_TEST_PGBOUNCER_URL") else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "CI must set DISPATCH_TEST_PGBOUNCER_URL"
        );
        let line = "skipped: postgres_behind_a_pooler_passes_the_battery: DISPATCH_TEST_PGBOUNCER_URL is not set\n";
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
        return;
    };
    let store = server.open_with(|config| {
        config.listen_url = Some(std::mem::replace(&mut config.url, Secret::new(pooler)));
    });

    store_battery(Arc::clone(&store)).await;

    server.end(store).await;
}
