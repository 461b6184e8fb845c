//! `/metrics`: every counter of every pipeline, as OpenMetrics text.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use dispatch_core::{
    pipeline::Handle,
    telemetry::{BOUNDS, HistogramSnapshot, Measured, Stats, names},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use super::refuse;
use crate::run::Board;

/// The content type of what [`encode`] writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(State(board): State<Board>) -> Response {
    let handles = board.members().iter().map(|member| member.handle.clone()).collect();
    match text(handles) {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written"),
    }
}

/// The same text, for another port.
#[cfg(feature = "dispatcherd")]
pub(crate) fn metrics_text(board: &Board) -> String {
    let handles = board.members().iter().map(|member| member.handle.clone()).collect();
    text(handles).unwrap_or_default()
}

fn text(handles: Vec<Handle>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Pipelines(handles)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Reads the counters when asked, so that counting costs nothing more.
#[derive(Debug)]
struct Pipelines(Vec<Handle>);

type Read<T> = fn(&Stats) -> T;

const COUNTERS: [(&str, &str, Read<u64>); 13] = [
    (names::RECEIVED, "Deliveries taken from sources", |stats| {
        stats.received.load(Relaxed)
    }),
    (names::DELIVERED, "Messages that a sink took", |stats| {
        stats.delivered.load(Relaxed)
    }),
    (names::RETRIED, "Attempts made again within the stack", |stats| {
        stats.retried.load(Relaxed)
    }),
    (
        names::PARKED,
        "Messages put into the store for a later attempt",
        |stats| stats.parked.load(Relaxed),
    ),
    (
        names::NACKED,
        "Messages given back to their source with a delay",
        |stats| stats.nacked.load(Relaxed),
    ),
    (
        names::RELEASED,
        "Messages given back to their source untried",
        |stats| stats.released.load(Relaxed),
    ),
    (names::DEAD_LETTERED, "Messages given up on and kept", |stats| {
        stats.dead_lettered.load(Relaxed)
    }),
    (
        names::DUPLICATES,
        "Deliveries of messages whose work was done already, acked without any",
        |stats| stats.duplicates.load(Relaxed),
    ),
    (
        names::SETTLE_FAILED,
        "Settlements that did not reach the source",
        |stats| stats.settle_failed.load(Relaxed),
    ),
    (
        names::SETTLE_RETRIED,
        "Settlements that were told to the source again",
        |stats| stats.settle_retried.load(Relaxed),
    ),
    (names::LEASE_EXTENDED, "Leases made longer", |stats| {
        stats.lease_extended.load(Relaxed)
    }),
    (names::LEASE_LOST, "Leases lost before the settlement", |stats| {
        stats.lease_lost.load(Relaxed)
    }),
    (names::SOURCE_ERRORS, "Calls to sources that failed", |stats| {
        stats.source_errors.load(Relaxed)
    }),
];

const GAUGES: [(&str, &str, Read<f64>); 4] = [
    (names::IN_FLIGHT, "Deliveries received and not yet settled", |stats| {
        stats.in_flight.load(Relaxed) as f64
    }),
    (
        names::STUCK,
        "Messages that were started `stuck_after` ago or earlier and are not done",
        |stats| stats.stuck.load(Relaxed) as f64,
    ),
    (
        names::BREAKER_STATE,
        "The breaker: 0 closed, 1 half open, 2 open",
        |stats| stats.breaker_state.load(Relaxed) as f64,
    ),
    (
        names::QUEUE_LAG,
        "From creation to receipt, for the latest receipt",
        |stats| stats.queue_lag_millis.load(Relaxed) as f64 / 1_000.0,
    ),
];

const STAGES: [(&str, Read<HistogramSnapshot>); 4] = [
    ("queue", |stats| stats.queue.snapshot()),
    ("sink", |stats| stats.sink.snapshot()),
    ("total", |stats| stats.total.snapshot()),
    ("ack", |stats| stats.ack.snapshot()),
];

/// A counter's name without the ending that the encoder adds.
fn stem(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

impl Pipelines {
    /// What components count for themselves, each name once with a line for each of them.
    fn encode_own(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut readings: Vec<_> = self
            .0
            .iter()
            .flat_map(|handle| {
                handle
                    .meter()
                    .read()
                    .into_iter()
                    .map(|reading| (handle.name(), reading))
            })
            .collect();
        readings.sort_by_key(|(_, reading)| reading.name);
        for family in readings.chunk_by(|(_, one), (_, next)| one.name == next.name) {
            let (_, first) = &family[0];
            let (name, kind) = match first.measured {
                Measured::Counter(_) => (stem(first.name), MetricType::Counter),
                Measured::Sizes { .. } => (first.name, MetricType::Histogram),
                _ => (first.name, MetricType::Gauge),
            };
            let mut metric = encoder.encode_descriptor(name, first.help, None, kind)?;
            for (pipeline, reading) in family {
                let labels = [
                    ("pipeline", pipeline.as_str()),
                    ("component", reading.component.as_str()),
                ];
                let mut metric = metric.encode_family(&labels)?;
                match &reading.measured {
                    Measured::Counter(count) => metric.encode_counter::<NoLabelSet, _, f64>(count, None)?,
                    Measured::Gauge(level) => metric.encode_gauge(level)?,
                    Measured::Sizes { buckets, sum } => {
                        let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64);
                        let buckets: Vec<_> = buckets.iter().map(|(most, count)| (bound(*most), *count)).collect();
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        metric.encode_histogram::<NoLabelSet>(*sum as f64, count, &buckets, None)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Collector for Pipelines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, read) in COUNTERS {
            let mut metric = encoder.encode_descriptor(stem(name), help, None, MetricType::Counter)?;
            for handle in &self.0 {
                count(
                    &mut metric,
                    &[("pipeline", handle.name().as_str())],
                    read(handle.stats()),
                )?;
            }
        }
        let help = "Attempts that failed, by class";
        let mut metric = encoder.encode_descriptor(stem(names::FAILED), help, None, MetricType::Counter)?;
        for handle in &self.0 {
            for (class, failed) in handle.stats().failed.get() {
                count(
                    &mut metric,
                    &[("pipeline", handle.name().as_str()), ("class", class)],
                    failed,
                )?;
            }
        }
        for (name, help, read) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for handle in &self.0 {
                let labels = [("pipeline", handle.name().as_str())];
                metric.encode_family(&labels)?.encode_gauge(&read(handle.stats()))?;
            }
        }
        let help = "Seconds waited for a rate limit";
        let mut metric = encoder.encode_descriptor(names::RATE_LIMITED_WAIT, help, None, MetricType::Histogram)?;
        for handle in &self.0 {
            let labels = [("pipeline", handle.name().as_str())];
            histogram(&mut metric, &labels, &handle.stats().rate_limited_wait.snapshot())?;
        }
        let help = "Seconds by stage: queue (creation to receipt), sink (one attempt), total (receipt to outcome), ack (one settling call)";
        let mut metric = encoder.encode_descriptor(names::STAGE, help, None, MetricType::Histogram)?;
        for handle in &self.0 {
            for (stage, read) in STAGES {
                let labels = [("pipeline", handle.name().as_str()), ("stage", stage)];
                histogram(&mut metric, &labels, &read(handle.stats()))?;
            }
        }
        self.encode_own(encoder)
    }
}

fn count<const N: usize>(metric: &mut MetricEncoder<'_>, labels: &[(&str, &str); N], count: u64) -> fmt::Result {
    metric
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, _, f64>(&count, None)
}

fn histogram<const N: usize>(
    metric: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    counts: &HistogramSnapshot,
) -> fmt::Result {
    let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(counts.buckets).collect();
    metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(
        counts.sum.as_secs_f64(),
        counts.count(),
        &buckets,
        None,
    )
}

#[cfg(test)]
mod tests {
    use dispatch_core::{BoxError, Message, Pipeline, sink_fn, telemetry::Meter, testing::MemorySource};

    use super::*;

    #[test]
    fn names_and_labels_are_frozen() {
        let meter = Meter::default();
        meter.of("source").counter("dispatch_own_calls_total", "calls").add(3);
        meter.of("sink").counter("dispatch_own_calls_total", "calls").add(4);
        meter.of("sink").gauge("dispatch_own_workers", "workers").set(2);
        let sizes = meter.of("sink").sizes("dispatch_own_batch_size", "batches", &[1, 5]);
        [1, 4, 9].into_iter().for_each(|size| sizes.record(size));
        let pipeline = Pipeline::builder("p")
            .source(MemorySource::ending([Message::new("a")]))
            .sink(sink_fn(|_: Message| async { Ok::<_, BoxError>(()) }))
            .meter(meter)
            .build()
            .unwrap();

        let text = text(vec![pipeline.handle()]).unwrap();

        let series: Vec<_> = text
            .lines()
            // The last bucket stands for all.
            .filter(|line| !line.starts_with("# HELP"))
            .filter(|line| !line.contains("le=\"") || line.contains("le=\"+Inf\""))
            .collect();
        insta::assert_snapshot!(series.join("\n"));
    }
}
