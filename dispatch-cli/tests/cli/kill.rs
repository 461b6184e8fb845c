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

use crate::support::{Running, Worker, dir, tell, until};

const MESSAGES: usize = 50_000;
const KILLS: usize = 20;
const CONCURRENCY: usize = 64;
const PREFETCH: usize = 64;
const SEED: u64 = 0x5eed;
const LEASE: Duration = Duration::from_secs(2);
/// How long the source looks away from an idle queue whose other processes send no hint.
const LOOK: Duration = Duration::from_millis(500);
/// For a machine that is busy with other things.
const LATE: Duration = Duration::from_secs(10);

/// The next number of a sequence that is the same in every run (xorshift).
pub(crate) fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).unwrap()
}

async fn filled(dir: &Path, count: usize) -> Arc<dyn Store> {
    let config = dispatch_store::SqliteConfig::default();
    let store = config.build(&StoreContext { base_dir: dir.into() }).unwrap();
    store.probe().await.unwrap();
    let now = SystemTime::now();
    for batch in (0..count).collect::<Vec<_>>().chunks(2_000) {
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

fn config(worker: &Worker) -> String {
    format!(
        "name = \"p\"\nprefetch = {PREFETCH}\n[source]\ntype = \"queue\"\nqueue = \"work\"\nlease = \"{}s\"\n\
         [layers]\nconcurrency = {CONCURRENCY}\nretry = {{ stay = \"30ms\", backoff = {{ base = \"60ms\" }} }}\n[sink]\ntype = \"http\"\nurl = \"{}/\"\n[admin]\nlisten = \"off\"\n",
        LEASE.as_secs(),
        worker.url
    )
}

/// Waits until the queue is empty, for as long as it goes down: a busy machine is slow, and not stuck.
pub(crate) async fn settled(store: &Arc<dyn Store>) {
    let left = async || {
        let depth = store.queue().depth("work").await.unwrap();
        depth.ready + depth.delayed + depth.leased
    };
    let mut least = left().await;
    while least > 0 {
        until("fewer in the queue", async || left().await < least).await;
        least = left().await.min(least - 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_takes_over_what_another_of_its_name_left() {
    const COUNT: usize = 20;
    let worker = Worker::counting().await;
    let dir = dir(&[("p.toml", &config(&worker))]);
    let store = filled(dir.path(), COUNT).await;
    let run = || Running::start(dir.path(), &["run", "p.toml"]);
    worker.hold();
    let mut first = run();
    until("all in flight", async || worker.count() == COUNT).await;
    let mut second = run();
    second.says("Running").await;

    first.kill();
    worker.let_go();
    let begun = Instant::now();
    settled(&store).await;

    let took = begun.elapsed();
    assert!(took <= LEASE + LOOK + LATE, "taken over only after {took:?}");
    let ids = worker.ids();
    assert!(ids.len() == COUNT && ids.values().all(|times| *times == 2), "{ids:?}");
    second.signal(Signal::TERM);
    assert_eq!(second.ends().await, 0, "{:#?}", second.log());
}

/// E1: a tenth fails at first, and is tried again here or, after a longer wait, from the queue.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_nothing() {
    let worker = Worker::refusing_a_tenth().await;
    let dir = dir(&[("p.toml", &config(&worker))]);
    let store = filled(dir.path(), MESSAGES).await;
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
    settled(&store).await;
    last.signal(Signal::TERM);
    assert_eq!(last.ends().await, 0, "{:#?}", last.log());

    let ids = worker.ids();
    let lost = (0..MESSAGES).filter(|n| !ids.contains_key(&format!("m{n}"))).count();
    let duplicated: u32 = ids.values().map(|times| times - 1).sum();
    tell(&format!(
        "lost={lost} duplicated={duplicated} recover_ms_max={}",
        slowest.as_millis()
    ));
    assert_eq!(lost, 0);
    assert!(
        slowest <= LEASE + LOOK + LATE,
        "work went on only {slowest:?} after a kill"
    );
    assert!(
        duplicated as usize <= (CONCURRENCY + PREFETCH) * KILLS,
        "{duplicated} came twice"
    );
}
