//! The driver between a memory source, a memory sink and a memory store, on a paused clock.

mod ack_order;
mod breaker;
mod buried;
mod combined_sinks;
mod dedupe;
mod drain;
mod gone;
mod keeping;
mod lanes;
mod leases;
mod ordered_queue;
mod parked_keys;
mod paused;
mod priority;
mod read_ahead;
mod slow_claims;
mod source_panics;
mod sources;
mod stacked;
mod store_gauges;
mod traced;
mod waiting;
mod watched;
mod window;
mod withdrawn;

use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Backoff, Error, Jitter, MemoryStore, Message, Pipeline, RetryPolicy,
    pipeline::{PipelineBuilder, Summary},
    store::{DeadLetter, DeadLetterFilter, Store},
    testing::{MemorySink, MemorySource},
};

fn numbered(count: usize) -> Vec<Message> {
    (0..count)
        .map(|n| Message::with_id(format!("m{n}"), n.to_string()))
        .collect()
}

fn pipeline(source: MemorySource, sink: &MemorySink) -> PipelineBuilder {
    Pipeline::builder("test").source(source).sink(sink.clone())
}

/// Waits of exactly so long, so that tests can count on them.
fn every(wait: Duration) -> RetryPolicy {
    RetryPolicy {
        backoff: Backoff::constant(wait).jitter(Jitter::None),
        ..RetryPolicy::default()
    }
}

async fn letters(store: &Arc<MemoryStore>) -> Vec<DeadLetter> {
    store
        .dead_letters()
        .list(&DeadLetterFilter::default(), 0, 1_000)
        .await
        .unwrap()
}

/// E42: what was received is delivered, kept, given back or still here.
fn assert_balanced(summary: &Summary) {
    let accounted = summary.delivered + summary.dead_lettered + summary.parked + summary.nacked + summary.released;
    assert_eq!(summary.received, accounted, "{summary:?}");
}

fn no(text: &'static str) -> Result<(), Error> {
    Err(Error::retry(text))
}
