//! The source `sqs` between the fake and the engine, and against real servers.

mod errors;
mod fifo;
mod figures;
mod leases;
mod limits;
mod receiving;
mod refusals;
mod s3;
mod servers;
mod settling;
mod wire;

use std::time::Duration;

use dispatch_core::{
    Backoff, Jitter, Pipeline, RetryPolicy, Source,
    config::{Period, Secret},
    pipeline::PipelineBuilder,
    telemetry::{Measured, Meter},
    testing::MemorySink,
};
use dispatch_sources::sqs::{
    SqsSource, SqsSourceConfig,
    fake::{Fake, QueueOptions},
};

const SECOND: Duration = Duration::from_secs(1);

/// A fake with an empty queue `q`.
fn fake() -> Fake {
    let fake = Fake::new();
    fake.create_queue("q", QueueOptions::default());
    fake
}

fn config(fake: &Fake, queue: &str) -> SqsSourceConfig {
    let mut config = SqsSourceConfig::new(fake.queue_url(queue));
    config.region = Some("us-east-1".to_owned());
    config.access_key_id = Some("key".to_owned());
    config.secret_access_key = Some(Secret::new("secret"));
    config
}

/// A source that reaches the fake without a socket, so that a paused clock pauses both.
fn source(fake: &Fake, change: impl FnOnce(&mut SqsSourceConfig)) -> SqsSource {
    source_of(fake, "q", change)
}

fn source_of(fake: &Fake, queue: &str, change: impl FnOnce(&mut SqsSourceConfig)) -> SqsSource {
    let mut config = config(fake, queue);
    change(&mut config);
    SqsSource::with_http_client(config, fake.http_client()).unwrap()
}

fn pipeline(source: impl Source, sink: &MemorySink) -> PipelineBuilder {
    Pipeline::builder("p")
        .source(source)
        .sink(sink.clone())
        .timeout(Duration::from_secs(3_600))
        .stack(|stack| stack.breaker = None)
}

fn every(wait: Duration) -> RetryPolicy {
    RetryPolicy {
        backoff: Backoff::constant(wait).jitter(Jitter::None),
        ..RetryPolicy::default()
    }
}

fn period(seconds: u64) -> Period {
    Period(Duration::from_secs(seconds))
}

/// What a counter or a gauge of this name says.
fn read(meter: &Meter, name: &str) -> u64 {
    match measured(meter, name) {
        Measured::Counter(count) => count,
        Measured::Gauge(level) => level.try_into().unwrap(),
        other => panic!("{name} is {other:?}"),
    }
}

fn measured(meter: &Meter, name: &str) -> Measured {
    let reading = meter.read().into_iter().find(|reading| reading.name == name);
    reading.unwrap_or_else(|| panic!("{name} is counted")).measured
}

/// Waits until `reached` holds, looking each 10 ms of the clock; the clock must reach it within an hour.
async fn until(what: &str, reached: impl Fn() -> bool) {
    let look = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(3_600), look).await;
    assert!(within.is_ok(), "{what}: not within an hour");
}
