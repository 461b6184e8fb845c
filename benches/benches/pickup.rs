//! How soon a message that is in the durable queue is at the sink: at a steady 100 a second, and the first one after a
//! minute in which nothing happened. The pickup begins when the queue has answered that the message is durable; what the
//! enqueue takes before that, which is the disk's time above all, is in the second figure.
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

/// How long one message took, once it was durable and with its enqueue.
struct Took {
    pickup: Duration,
    whole: Duration,
}

/// Puts one message in and waits until it is at the sink.
async fn pick_up(store: &Arc<dyn Store>, arrived: &mut mpsc::UnboundedReceiver<Instant>) -> Took {
    let began = Instant::now();
    store
        .queue()
        .enqueue(QUEUE, vec![Item::of(&Message::new(vec![b'x'; 1_024]))])
        .await
        .unwrap();
    let durable = Instant::now();
    let arrived = arrived.recv().await.unwrap();
    Took {
        pickup: arrived.saturating_duration_since(durable),
        whole: arrived - began,
    }
}

/// The value that so many of a hundred are below.
fn percentile(all: &[Took], percent: usize, of: impl Fn(&Took) -> Duration) -> Duration {
    let mut values: Vec<_> = all.iter().map(of).collect();
    values.sort_unstable();
    values[(values.len() - 1) * percent / 100]
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
    let mut after = Vec::new();
    for _ in 0..5 {
        tokio::time::sleep(idle).await;
        after.push(pick_up(&store, &mut arrived).await);
    }
    for (what, of) in [
        ("pickup", (|took: &Took| took.pickup) as fn(&Took) -> Duration),
        ("with the enqueue", |took| took.whole),
    ] {
        let (p50, p99) = (percentile(&steady, 50, of), percentile(&steady, 99, of));
        let first = percentile(&after, 50, of);
        println!(
            "{name}, {what}: p50 {p50:?}, p99 {p99:?} at 100/s; first after {idle:?} of nothing {first:?} (median of 5), \
             ratio {:.2}",
            first.as_secs_f64() / p50.as_secs_f64(),
        );
    }
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
