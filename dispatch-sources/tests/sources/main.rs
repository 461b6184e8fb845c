//! How each source behaves against the real thing.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected should panic")]

mod file;
mod http;
mod schedule;
mod stdin;

use std::{path::Path, sync::Arc};

use dispatch_core::{Delivery, MemoryStore, Received, Source, Store, config::BuildContext};

/// What a source is built with: the pipeline `p`, the component `source`.
fn context(base_dir: &Path, store: Arc<dyn Store>) -> BuildContext {
    BuildContext {
        pipeline: "p".into(),
        component: "source".into(),
        store,
        base_dir: base_dir.to_owned(),
        concurrency: 8,
    }
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new())
}

/// Receives until there is nothing more or `max` deliveries are there.
async fn receive(source: &mut dyn Source, max: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < max {
        match source.receive(max - all.len()).await.unwrap() {
            Received::Batch(batch) => all.extend(batch),
            Received::End => break,
        }
    }
    all
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message.payload).unwrap()
}
