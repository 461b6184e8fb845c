//! What a message in flight costs beyond its payload, what one costs that waits for a retry, and how often the engine
//! allocates for one.
//!
//! `cargo bench -p dispatch-benches --bench memory` prints bytes and allocations per message.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that meets the unexpected should panic"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use dispatch_core::{
    Backoff, BoxError, Capabilities, Delivery, Error, Jitter, Message, Pipeline, Received, RetryPolicy, SettleError,
    Settlement, Settler, Source, Token, sink_fn, testing::MemorySource,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::sync::Notify;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

const MESSAGES: usize = 100_000;

/// Makes its messages when it is asked for them, and remembers nothing: what is measured is the engine alone.
struct Numbers {
    left: usize,
    payload: Bytes,
}

struct Nothing;

#[async_trait]
impl Settler for Nothing {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        batch.iter().map(|_| Ok(())).collect()
    }
}

#[async_trait]
impl Source for Numbers {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Nothing)
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        if self.left == 0 {
            return std::future::pending().await;
        }
        let (count, settler) = (max.min(self.left).min(1_000), self.settler());
        let numbers = self.left - count..self.left;
        self.left -= count;
        let message = |n: usize| Message::with_id(n.to_string(), self.payload.clone());
        let deliver = |n| Delivery::new(message(n), Token::new(n as u64, 0), Arc::clone(&settler));
        Ok(Received::Batch(numbers.map(deliver).collect()))
    }
}

/// Bytes held with every message in the state that `fail` leads to, beyond what they were before.
async fn held(name: &str, limit: usize, fail: bool) {
    let payload = Bytes::from(vec![b'x'; 1_024]);
    let source = Numbers {
        left: MESSAGES,
        payload,
    };
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
        .prefetch(0)
        .retry(policy)
        .stack(|stack| stack.breaker = None)
        .drain_timeout(Duration::ZERO)
        .timeout(Duration::from_secs(3_600))
        .build()
        .unwrap();
    let handle = pipeline.handle();
    let region = Region::new(ALLOCATOR);
    let run = tokio::spawn(pipeline.run());
    enough.notified().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let change = region.change();
    let bytes = change.bytes_allocated - change.bytes_deallocated;
    println!(
        "{name}: {} bytes a message beyond its payload (at most {limit})",
        bytes / MESSAGES
    );
    handle.stop_now();
    drop(run.await.map_err(BoxError::from));
}

/// Allocations of the whole driver for each message that simply succeeds, with every layer on, as `--bench engine` has it.
async fn allocations() {
    let payload = Bytes::from_static(&[b'x'; 256]);
    let messages = (0..MESSAGES).map(|n| Message::with_id(n.to_string(), payload.clone()));
    let source = MemorySource::ending(messages).poor().without_record();
    let pipeline = Pipeline::builder("allocations")
        .source(source)
        .sink(sink_fn(|_: Message| async { Ok::<_, BoxError>(()) }))
        .concurrency(256)
        .prefetch(0)
        .rate_limit(1_000_000_000, Duration::from_secs(1))
        .timeout(Duration::from_secs(30))
        .deadline(Duration::from_secs(600))
        .build()
        .unwrap();
    let region = Region::new(ALLOCATOR);
    pipeline.run().await.unwrap();
    let each = region.change().allocations as f64 / MESSAGES as f64;
    println!("through every layer: {each:.2} allocations a message (at most 3)");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        held("in flight", 640, false).await;
        held("waiting for a retry", 1_024, true).await;
        allocations().await;
    });
}
