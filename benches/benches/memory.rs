//! What a message in flight costs beyond its payload, and what one costs that waits for a retry.
//!
//! `cargo bench -p dispatch-benches --bench memory` prints bytes per message.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that meets the unexpected should panic")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use dispatch_core::{
    Backoff, BoxError, Error, Jitter, Message, Pipeline, RetryPolicy, sink_fn, testing::MemorySource,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::sync::Notify;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

const MESSAGES: usize = 100_000;

/// Bytes held with every message in the state that `fail` leads to, beyond what they were before.
async fn held(name: &str, limit: usize, fail: bool) {
    let payload = Bytes::from(vec![b'x'; 1_024]);
    let source = MemorySource::new().poor().without_record();
    let queue = source.queue();
    let (called, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let sink = sink_fn({
        let (called, enough) = (Arc::clone(&called), Arc::clone(&enough));
        move |_: Message| {
            let (called, enough) = (Arc::clone(&called), Arc::clone(&enough));
            async move {
                if called.fetch_add(1, SeqCst) + 1 == MESSAGES {
                    enough.notify_one();
                }
                if fail {
                    return Err(Error::retry("not yet"));
                }
                std::future::pending::<Result<(), Error>>().await
            }
        }
    });
    let policy = RetryPolicy {
        backoff: Backoff::constant(Duration::from_secs(3_600)).jitter(Jitter::None),
        stay: Duration::from_secs(7_200),
        ..RetryPolicy::default()
    };
    let pipeline = Pipeline::builder("memory")
        .source(source)
        .sink(sink)
        .concurrency(MESSAGES)
        .prefetch(MESSAGES)
        .retry(policy)
        .stack(|stack| stack.breaker = None)
        .drain_timeout(Duration::ZERO)
        .timeout(Duration::from_secs(3_600))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let region = Region::new(ALLOCATOR);
    for n in 0..MESSAGES {
        queue.push(Message::with_id(n.to_string(), payload.clone()));
    }
    let run = tokio::spawn(pipeline.run());
    enough.notified().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let change = region.change();
    let bytes = change.bytes_allocated - change.bytes_deallocated;
    println!("{name}: {} bytes a message beyond its payload (at most {limit})", bytes / MESSAGES);
    handle.stop_now();
    drop(run.await.map_err(BoxError::from));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        held("in flight", 640, false).await;
        held("waiting for a retry", 1_024, true).await;
    });
}
