//! kill -9 in the middle of the work, again and again: nothing is lost.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use dispatch_core::{
    Store,
    config::{StoreConfig as _, StoreContext},
    store::Item,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::support::{Running, Worker, dir, until};

const MESSAGES: usize = 50_000;
const KILLS: usize = 20;
const CONCURRENCY: usize = 64;
const PREFETCH: usize = 64;
const SEED: u64 = 0x5eed;

/// The next number of a sequence that is the same in every run (xorshift).
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).unwrap()
}

async fn filled(dir: &Path) -> Arc<dyn Store> {
    let config = dispatch_store::SqliteConfig::default();
    let store = config.build(&StoreContext { base_dir: dir.into() }).unwrap();
    store.probe().await.unwrap();
    let now = SystemTime::now();
    for batch in (0..MESSAGES).collect::<Vec<_>>().chunks(2_000) {
        let item = |n: &usize| {
            let id = format!("m{n}");
            let message = dispatch_core::Message::with_id_at(id, Bytes::from(format!("payload {n}")), now);
            Item::of(&message)
        };
        store
            .queue()
            .enqueue("work", batch.iter().map(item).collect())
            .await
            .unwrap();
    }
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_nothing() {
    let worker = Worker::counting().await;
    let config = format!(
        "name = \"p\"\nprefetch = {PREFETCH}\n[source]\ntype = \"queue\"\nqueue = \"work\"\nlease = \"2s\"\n\
         [layers]\nconcurrency = {CONCURRENCY}\n[sink]\ntype = \"http\"\nurl = \"{}/\"\n[admin]\nlisten = \"off\"\n",
        worker.url
    );
    let dir = dir(&[("p.toml", &config)]);
    let store = filled(dir.path()).await;
    let run = || Running::start(dir.path(), &["run", "p.toml", "-q"]);
    let (mut state, mut slowest) = (SEED, Duration::ZERO);

    for kill in 0..KILLS {
        // Somewhere in the middle of each twenty-first part of the work, and then a few milliseconds.
        let part = MESSAGES / (KILLS + 1);
        let reached = part * kill + next(&mut state) % part;
        let later = Duration::from_micros(next(&mut state) as u64 % 20_000);
        let (before, begun) = (worker.count(), Instant::now());
        let mut running = run();
        until("work after a kill", async || worker.count() > before).await;
        slowest = slowest.max(begun.elapsed());
        until("the next moment", async || worker.count() >= reached).await;
        sleep(later).await;
        running.kill();
    }
    let (before, begun) = (worker.count(), Instant::now());
    let mut last = run();
    until("work after the last kill", async || worker.count() > before).await;
    slowest = slowest.max(begun.elapsed());
    until("everything settled", async || {
        let depth = store.queue().depth("work").await.unwrap();
        depth.ready + depth.delayed + depth.leased == 0
    })
    .await;
    last.signal(Signal::TERM);
    assert_eq!(last.ends().await, 0, "{:#?}", last.log());

    let ids = worker.ids();
    let lost = (0..MESSAGES).filter(|n| !ids.contains_key(&format!("m{n}"))).count();
    let duplicated: u32 = ids.values().map(|times| times - 1).sum();
    // Past the harness, which keeps what passing tests print to itself.
    let figures = format!(
        "lost={lost} duplicated={duplicated} recover_ms_max={}
",
        slowest.as_millis()
    );
    std::io::Write::write_all(&mut std::io::stderr(), figures.as_bytes()).unwrap();
    assert_eq!(lost, 0);
    assert!(
        duplicated as usize <= (CONCURRENCY + PREFETCH) * KILLS,
        "{duplicated} came twice"
    );
}
