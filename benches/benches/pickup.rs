//! How soon a message that is put into the durable queue is at the sink: at a steady 100 a second, and the first one
//! after a minute in which nothing happened.
//!
//! `cargo bench -p dispatch-benches --bench pickup` prints both for SQLite, and for PostgreSQL where
//! `DISPATCH_TEST_POSTGRES_URL` names one; `PICKUP_IDLE_SECONDS` makes the minute shorter or longer.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{sync::Arc, time::Duration};

use dispatch_core::{
    BoxError, Message, Pipeline, Store,
    config::{StoreConfig, StoreContext},
    sink_fn,
    store::{Item, QueueSource},
};
use dispatch_store::{PostgresConfig, SqliteConfig};
use tokio::{sync::mpsc, time::Instant};

const STEADY: usize = 500;
const QUEUE: &str = "pickup";

/// Puts one message in and waits until it is at the sink.
async fn pick_up(store: &Arc<dyn Store>, arrived: &mut mpsc::UnboundedReceiver<Instant>) -> Duration {
    let began = Instant::now();
    store
        .queue()
        .enqueue(QUEUE, vec![Item::of(&Message::new(vec![b'x'; 1_024]))])
        .await
        .unwrap();
    arrived.recv().await.unwrap() - began
}

async fn measure(name: &str, store: Arc<dyn Store>, idle: Duration) {
    store.probe().await.unwrap();
    store.queue().purge(QUEUE).await.unwrap();
    let (arrive, mut arrived) = mpsc::unbounded_channel();
    let pipeline = Pipeline::builder("pickup")
        .source(QueueSource::new(Arc::clone(&store), QUEUE))
        .sink(sink_fn(move |_: Message| {
            let sent = arrive.send(Instant::now());
            async move { sent.map_err(BoxError::from) }
        }))
        .store(Arc::clone(&store))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let run = tokio::spawn(pipeline.run());

    let mut steady = Vec::with_capacity(STEADY);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..STEADY {
        tick.tick().await;
        steady.push(pick_up(&store, &mut arrived).await);
    }
    steady.sort_unstable();
    let p50 = steady[STEADY / 2];
    let mut after = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(idle).await;
        after.push(pick_up(&store, &mut arrived).await);
    }
    after.sort_unstable();
    println!(
        "{name}: p50 {p50:?}, p99 {:?} at 100/s; first after {idle:?} of nothing {:?} (median of 3), ratio {:.2}",
        steady[STEADY * 99 / 100],
        after[1],
        after[1].as_secs_f64() / p50.as_secs_f64(),
    );
    handle.drain();
    run.await.unwrap().unwrap();
}

#[tokio::main]
async fn main() {
    let idle = std::env::var("PICKUP_IDLE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let idle = Duration::from_secs(idle);
    let directory = tempfile::tempdir().unwrap();
    let context = StoreContext {
        base_dir: directory.path().to_owned(),
    };
    let sqlite: SqliteConfig = serde_json::from_value(serde_json::json!({})).unwrap();
    measure("sqlite", sqlite.build(&context).unwrap(), idle).await;
    match std::env::var("DISPATCH_TEST_POSTGRES_URL") {
        Ok(url) => {
            let postgres: PostgresConfig = serde_json::from_value(serde_json::json!({ "url": url })).unwrap();
            measure("postgres", postgres.build(&context).unwrap(), idle).await;
        }
        Err(_) => println!("skipped: postgres, DISPATCH_TEST_POSTGRES_URL is not set"),
    }
}
