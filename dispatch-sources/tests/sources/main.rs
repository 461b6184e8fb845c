//! How each source behaves against the real thing.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected should panic")]

mod documentation;
mod file;
mod http;
mod letters;
mod pg_notify;
mod pg_notify_outage;
mod pg_notify_panics;
mod pg_notify_pieces;
mod pg_notify_spill;
mod schedule;
mod schedule_cancel;
mod sqs;
mod sqsd_cron;
mod startup;
mod stdin;

use std::{path::Path, sync::Arc};

use dispatch_core::{
    Delivery, Disposition, MemoryStore, Message, Received, Reply, Source, Store, config::BuildContext,
};

/// What a source is built with: the pipeline `p`, the component `source`.
fn context(base_dir: &Path, store: Arc<dyn Store>) -> BuildContext {
    BuildContext {
        pipeline: "p".into(),
        component: "source".into(),
        store,
        base_dir: base_dir.to_owned(),
        concurrency: 8,
        meter: dispatch_core::telemetry::Meter::default(),
        commands: dispatch_core::Commands::default(),
    }
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new())
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message.payload).unwrap()
}

/// Receives `count` deliveries, which must be there or come.
async fn receive(source: &mut dyn Source, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        match source.receive(count - all.len()).await.unwrap() {
            Received::Batch(batch) => all.extend(batch),
            Received::End => panic!("the input ended after {} of {count}", all.len()),
            Received::Health(_) => {}
        }
    }
    all
}

async fn ack(delivery: Delivery) {
    delivery.settle(Disposition::Ack(Reply::default())).await.unwrap();
}

/// Receives and acks everything until the end; the messages in their order.
async fn all(source: &mut dyn Source) -> Vec<Message> {
    let mut all = Vec::new();
    while let Received::Batch(batch) = source.receive(100).await.unwrap() {
        for delivery in batch {
            all.push(delivery.message.clone());
            ack(delivery).await;
        }
    }
    all
}

/// The payloads of messages that are text.
fn texts(messages: &[Message]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| std::str::from_utf8(&message.payload).unwrap())
        .collect()
}
