//! The durable queue: the source `queue` over the store `postgres`, both as they are by default, into a sink that does
//! nothing; against the bare loop, and against peers.
//!
//! Everybody's queue is filled first; the clock runs over the emptying, the deletion of the last job included.
//! `QUEUE_ROWS` is how many jobs, `QUEUE_ROUNDS` how often.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dispatch_core::{
    BoxError, Message, Pipeline, Store, random_id, sink_fn,
    store::{Item, QueueSource},
};
use tokio::{runtime::Runtime, sync::Notify, time::Instant};

use crate::{
    bare::Bare,
    peers::Peer,
    server::{Database, Meter, median, number},
};

/// Of those that stand before a backlog, so many are timed.
const FIRST: usize = 20_000;

fn payload() -> String {
    serde_json::json!({ "id": 1, "text": "x".repeat(880) }).to_string()
}

async fn fill(store: &Arc<dyn Store>, queue: &str, rows: usize) {
    for _ in 0..rows / 1_000 {
        let items = (0..1_000).map(|_| Item::of(&Message::new(payload()))).collect();
        store.queue().enqueue(queue, items).await.unwrap();
    }
}

/// Runs a pipeline until `most` jobs are done; whatever is left goes back.
async fn work(store: &Arc<dyn Store>, queue: &str, most: usize) -> Duration {
    let (count, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let told = Arc::clone(&all);
    let pipeline = Pipeline::builder("queue")
        .source(QueueSource::new(Arc::clone(store), queue))
        .sink(sink_fn(move |_: Message| {
            if count.fetch_add(1, Relaxed) + 1 == most {
                told.notify_one();
            }
            async { Ok::<_, BoxError>(()) }
        }))
        .store(Arc::clone(store))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let began = Instant::now();
    let run = tokio::spawn(pipeline.run());
    all.notified().await;
    handle.drain();
    let summary = run.await.unwrap().unwrap();
    let elapsed = began.elapsed();
    assert!(summary.finished && summary.delivered >= most as u64, "{summary:?}");
    elapsed
}

/// The rate at which the first are done with `behind` more behind them.
async fn beside(store: &Arc<dyn Store>, behind: usize, meter: &Meter) -> f64 {
    let queue = random_id();
    fill(store, &queue, FIRST + behind).await;
    meter.flush().await;
    let took = work(store, &queue, FIRST).await;
    store.queue().purge(&queue).await.unwrap();
    FIRST as f64 / took.as_secs_f64()
}

type Used = (Duration, Duration);

fn add(sum: &mut Used, before: Used, after: Used) {
    sum.0 += after.0 - before.0;
    sum.1 += after.1.saturating_sub(before.1);
}

pub(crate) fn run(url: &str) {
    let (rows, rounds) = (number("QUEUE_ROWS", 40_000), number("QUEUE_ROUNDS", 5));
    let database = Database::create(url);
    let peers = Peer::all();
    let runtime = Runtime::new().unwrap();
    let (store, bare) = runtime.block_on(async { (database.store().await, Bare::open(&database.url).await) });
    let meter = runtime.block_on(Meter::open(&database.url));
    let text = payload();

    // The bare loop, ours, each peer, and ours at two backlogs; round by round, so that what else the machine does
    // meets all alike.
    let mut used = [(Duration::ZERO, Duration::ZERO); 2];
    let done = rows * rounds;
    let rounds: Vec<Vec<f64>> = (0..rounds)
        .map(|_| {
            let mut rates = Vec::new();
            runtime.block_on(bare.fill(rows, text.as_bytes()));
            runtime.block_on(meter.flush());
            let before = runtime.block_on(meter.read());
            let took = runtime.block_on(bare.empty(rows));
            add(&mut used[0], before, runtime.block_on(meter.read()));
            rates.push(rows as f64 / took.as_secs_f64());
            let queue = random_id();
            runtime.block_on(fill(&store, &queue, rows));
            runtime.block_on(meter.flush());
            let before = runtime.block_on(meter.read());
            let took = runtime.block_on(work(&store, &queue, rows));
            add(&mut used[1], before, runtime.block_on(meter.read()));
            rates.push(rows as f64 / took.as_secs_f64());
            rates.extend(peers.iter().map(|peer| peer.rate(&database.url, rows, &text)));
            for behind in [1_000, 100_000] {
                rates.push(runtime.block_on(beside(&store, behind, &meter)));
            }
            rates
        })
        .collect();
    let rate = |at: usize| median(rounds.iter().map(|round| round[at]).collect());
    let ratio = |one: usize, other: usize| median(rounds.iter().map(|round| round[one] / round[other]).collect());
    println!("  {:<44} {:>9} {:>8} {:>7}", "", "jobs/s", "ours is", "bound");
    println!("  {:<44} {:>9.0}", "source `queue`", rate(1));
    println!(
        "  {:<44} {:>9.0} {:>8.2} {:>7}",
        "bare loop, 4 connections, 100 at a time",
        rate(0),
        ratio(1, 0),
        "0.8"
    );
    for (name, (client, server)) in ["ours", "bare loop"].into_iter().zip([used[1], used[0]]) {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / done as f64;
        println!(
            "  {name}, each job: {:.2} us here and {:.2} us of the server",
            each(client),
            each(server)
        );
    }
    for (at, peer) in peers.iter().enumerate() {
        let bound = peer.bound.map_or(String::new(), |bound| bound.to_string());
        println!(
            "  {:<44} {:>9.0} {:>8.2} {bound:>7}",
            peer.name,
            rate(at + 2),
            ratio(1, at + 2)
        );
    }
    let backlog = peers.len() + 2;
    println!("  {:<44} {:>9.0}", "source `queue`, 1 000 behind", rate(backlog));
    println!(
        "  {:<44} {:>9.0} {:>8.2} {:>7}",
        "source `queue`, 100 000 behind, against that",
        rate(backlog + 1),
        ratio(backlog + 1, backlog),
        "0.95"
    );
    runtime.block_on(async { store.close().await.unwrap() });
    drop((bare, store, meter));
    drop(runtime);
}
