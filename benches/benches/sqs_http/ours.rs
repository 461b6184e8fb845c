//! The pipeline.

use std::{sync::Arc, time::Duration};

use cpu_time::ThreadTime;
use dispatch_core::{
    MemoryStore, Pipeline, Store,
    config::{Period, Secret},
    layer::DedupeLayer,
};
use dispatch_sinks::http::{HttpSink, HttpSinkConfig, SqsdConfig};
use dispatch_sources::sqs::{SqsSource, SqsSourceConfig};

use crate::{
    measured::{Took, measured, told},
    place::{Place, one_thread},
};

/// What the pipeline does beside one POST a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Nothing, as the bare loop.
    Nothing,
    /// sqsd's headers, as `dispatch sqsd` has them.
    Headers,
    /// These, and the locker.
    Locker,
}

pub(crate) fn ours(place: &Place, count: usize, pollers: usize, concurrency: usize, beside: Beside) -> Took {
    with_visibility(place, count, pollers, concurrency, beside, 30)
}

pub(crate) fn with_visibility(
    place: &Place,
    count: usize,
    pollers: usize,
    concurrency: usize,
    beside: Beside,
    visibility: u64,
) -> Took {
    let mut source = SqsSourceConfig::new(place.fake.queue_url("q"));
    source.endpoint_url = Some(place.endpoint.clone());
    source.region = Some("us-east-1".to_owned());
    source.access_key_id = Some("key".to_owned());
    source.secret_access_key = Some(Secret::new("secret"));
    source.pollers = pollers;
    source.visibility_timeout = Period(Duration::from_secs(visibility));
    source.wait_time = Some(Period(Duration::from_secs(1)));
    let mut sink = HttpSinkConfig::new(place.url().parse().unwrap());
    sink.sqsd = (beside != Beside::Nothing).then(SqsdConfig::default);
    sink.idempotency_header = "off".into();
    measured(place, count, |ended| {
        std::thread::spawn(move || {
            let cpu = ThreadTime::now();
            one_thread().block_on(async {
                let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
                let mut pipeline = Pipeline::builder("bench")
                    .source(SqsSource::new(source).unwrap())
                    .sink(HttpSink::new(&sink, ".".as_ref()).unwrap())
                    .concurrency(concurrency)
                    .prefetch(0)
                    .timeout(Duration::from_secs(60))
                    .stack(|stack| stack.retry = None)
                    .store(Arc::clone(&store));
                if beside == Beside::Locker {
                    pipeline = pipeline.dedupe(DedupeLayer::new(store, "q"));
                }
                let pipeline = pipeline.build().unwrap();
                // In a task, as the fetchers of the bare loop are and as the binary has it.
                let run = tokio::spawn(pipeline.run_until(told(ended)));
                assert!(run.await.unwrap().unwrap().finished);
            });
            cpu.elapsed()
        })
    })
}
