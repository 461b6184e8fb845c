//! Nodes over PostgreSQL: what only a server can do to them, and what only its SQL shows.

use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Store,
    config::{Period, Secret},
    testing::Logs,
};
use sea_orm::TransactionTrait as _;
use tokio::time::Instant;

use crate::{
    next,
    nodes::{
        Place, Process, SHORT, beats, claim, put, settle, what_a_killed_process_held_comes_back_after_its_heartbeat,
        who_starts_again_under_its_name_takes_back_at_once,
    },
    postgres::Server,
};

fn tell(config: &mut dispatch_store::PostgresConfig, process: Process) {
    config.process = Some(process.id.to_owned());
    config.node = process.node.map(str::to_owned);
    config.heartbeat = Period(process.heartbeat);
}

impl Place for Server {
    fn start(&self, process: Process) -> Arc<dyn Store> {
        self.open_with(|config| tell(config, process))
    }
}

/// The same server through a pooler in transaction mode.
struct Pooled<'a>(&'a Server, String);

impl Place for Pooled<'_> {
    fn start(&self, process: Process) -> Arc<dyn Store> {
        self.0.open_with(|config| {
            tell(config, process);
            let pooler = Secret::new(self.1.clone());
            config.listen_url = Some(std::mem::replace(&mut config.url, pooler));
        })
    }
}

/// A server and a pooler before it; none where there is none of both.
async fn behind_a_pooler(test: &str) -> Option<(Server, String)> {
    let server = Server::find(test).await?;
    let Ok(pooler) = std::env::var("DISPATCH_TEST_PGBOUNCER_URL") else {
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "CI must set DISPATCH_TEST_PGBOUNCER_URL"
        );
        let line = format!("skipped: {test}: DISPATCH_TEST_PGBOUNCER_URL is not set\n");
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
        return None;
    };
    Some((server, pooler))
}

#[tokio::test]
async fn behind_a_pooler_a_name_takes_back_at_once() {
    let Some((server, pooler)) = behind_a_pooler("behind_a_pooler_a_name_takes_back_at_once").await else {
        return;
    };

    who_starts_again_under_its_name_takes_back_at_once(&Pooled(&server, pooler)).await;

    server.drop().await;
}

#[tokio::test]
async fn behind_a_pooler_the_dead_are_found() {
    let Some((server, pooler)) = behind_a_pooler("behind_a_pooler_the_dead_are_found").await else {
        return;
    };

    what_a_killed_process_held_comes_back_after_its_heartbeat(&Pooled(&server, pooler)).await;

    server.drop().await;
}

/// The table stands still for three periods, as a server that is stopped does: nobody can beat, and the rows of all are old.
#[tokio::test]
async fn a_database_that_stood_still_makes_nobody_dead() {
    let Some(server) = Server::find("a_database_that_stood_still_makes_nobody_dead").await else {
        return;
    };
    let (alive, killed, watcher) = (
        server.start(Process::new("alive")),
        server.start(Process::new("killed")),
        server.start(Process::new("watcher")),
    );
    put(&alive, &["kept"]).await;
    let kept = claim(&alive).await;
    put(&killed, &["lost"]).await;
    assert_eq!(claim(&killed).await.len(), 1);
    assert!(claim(&watcher).await.is_empty());
    beats(&watcher, "watcher", 1).await;

    let still = server.admin.begin().await.unwrap();
    let lock = format!("LOCK TABLE {}.dispatch_node IN ACCESS EXCLUSIVE MODE", server.schema);
    sea_orm::ConnectionTrait::execute_unprepared(&still, &lock)
        .await
        .unwrap();
    drop(killed);
    tokio::time::sleep(SHORT * 3).await;
    let begun = Instant::now();
    still.rollback().await.unwrap();
    let back = next(&watcher, "q").await;

    let took = begun.elapsed();
    assert!(took >= SHORT * 9 / 10, "found dead {took:?} after the database went on");
    assert_eq!((back.len(), &back[0].item.payload[..]), (1, &b"lost"[..]));
    assert_eq!(settle(&alive, &kept[0]).await, Ok(()), "who lives keeps what it holds");
    alive.close().await.unwrap();
    server.end(watcher).await;
}

/// As after the loss of a server whose standby had not yet heard of the node.
#[tokio::test]
async fn whose_row_is_gone_comes_back_and_keeps_what_it_holds() {
    let Some(server) = Server::find("whose_row_is_gone_comes_back_and_keeps_what_it_holds").await else {
        return;
    };
    let (logs, _guard) = Logs::gather();
    let store = server.start(Process::named("p", "worker-1").beating(SHORT));
    put(&store, &["a"]).await;
    let held = claim(&store).await;

    server
        .run(&format!("DELETE FROM {}.dispatch_node", server.schema))
        .await;
    let back = beats(&store, "p", 1).await;

    assert_eq!((back.name.as_str(), back.held), ("worker-1", 1));
    assert_eq!(logs.count("WARN", "not heard of for so long"), 1);
    assert_eq!(settle(&store, &held[0]).await, Ok(()));
    server.end(store).await;
}

/// A claim that was under way when its process was killed may be done after the process's end was seen.
#[tokio::test]
async fn what_the_dead_had_begun_comes_back_too() {
    let Some(server) = Server::find("what_the_dead_had_begun_comes_back_too").await else {
        return;
    };
    let killed = server.start(Process::named("killed", "worker-1"));
    put(&killed, &["a"]).await;
    assert_eq!(claim(&killed).await.len(), 1);
    drop(killed);
    let schema = &server.schema;
    server
        .run(&format!(
            "CREATE TABLE {schema}.late AS SELECT * FROM {schema}.dispatch_lease"
        ))
        .await;
    // It looks once more after a third of this.
    let again = server.start(Process::named("again", "worker-1").beating(Duration::from_secs(15)));
    assert_eq!(claim(&again).await.len(), 1);

    // The same message, as if it had been another: the one that was taken back is done.
    server
        .run(&format!(
            "DELETE FROM {schema}.dispatch_lease; INSERT INTO {schema}.dispatch_lease OVERRIDING SYSTEM VALUE
             SELECT * FROM {schema}.late; DROP TABLE {schema}.late"
        ))
        .await;

    assert_eq!(next(&again, "q").await.len(), 1);
    server.end(again).await;
}

/// Rows that beat stay in their page, whatever they are.
#[tokio::test]
async fn a_beat_touches_no_index() {
    let Some(server) = Server::find("a_beat_touches_no_index").await else {
        return;
    };
    let store = server.start(Process::new("p"));
    claim(&store).await;
    let schema = &server.schema;
    let check = format!(
        "DO $$ DECLARE hot bigint; BEGIN
            UPDATE {schema}.dispatch_node SET last_seen = last_seen + 1;
            SELECT pg_stat_get_xact_tuples_hot_updated('{schema}.dispatch_node'::regclass) INTO hot;
            ASSERT hot = 1, hot || ' of 1';
        END $$"
    );

    server.run(&check).await;

    server.end(store).await;
}
