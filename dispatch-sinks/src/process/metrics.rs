//! What the pool counts.

use dispatch_core::telemetry::{Counter, Gauge, Meter};

/// The pool's instruments.
pub(super) struct Metrics {
    records: Gauge,
    starting: Gauge,
    ready: Gauge,
    busy: Gauge,
    stopping: Gauge,
    waiting: Gauge,
    pub(super) starts: Counter,
    pub(super) start_failures: Counter,
    pub(super) crashes: Counter,
    finished: Counter,
    cancelled: Counter,
    retired: Counter,
}

/// What is to be seen of a pool: how many workers there are and in which state, how many tasks wait, and what came of them so far.
pub(super) struct Seen {
    pub(super) records: usize,
    pub(super) starting: usize,
    pub(super) ready: usize,
    pub(super) stopping: usize,
    pub(super) busy: usize,
    pub(super) waiting: usize,
    pub(super) finished: u64,
    pub(super) cancelled: u64,
    pub(super) retired: u64,
}

impl Metrics {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            records: meter.gauge(
                "dispatch_process_workers",
                "worker records, the dead ones not yet removed included",
            ),
            starting: meter.gauge("dispatch_process_workers_starting", "workers that are not ready yet"),
            ready: meter.gauge(
                "dispatch_process_workers_ready",
                "workers that take tasks, the busy ones included",
            ),
            busy: meter.gauge("dispatch_process_workers_busy", "workers with a task at work"),
            stopping: meter.gauge("dispatch_process_workers_stopping", "workers that were told to end"),
            waiting: meter.gauge("dispatch_process_waiting", "tasks at the sink that no worker has"),
            starts: meter.counter("dispatch_process_starts_total", "workers started"),
            start_failures: meter.counter(
                "dispatch_process_start_failures_total",
                "workers that never became ready",
            ),
            crashes: meter.counter(
                "dispatch_process_crashes_total",
                "workers that died without having been told to",
            ),
            finished: meter.counter("dispatch_process_finished_total", "tasks done, failed ones included"),
            cancelled: meter.counter("dispatch_process_cancelled_total", "tasks cancelled"),
            retired: meter.counter(
                "dispatch_process_retirements_total",
                "workers replaced because of their age",
            ),
        }
    }

    /// Shows the pool as it is.
    pub(super) fn show(&self, seen: &Seen) {
        for (gauge, count) in [
            (&self.records, seen.records),
            (&self.starting, seen.starting),
            (&self.ready, seen.ready),
            (&self.stopping, seen.stopping),
            (&self.busy, seen.busy),
            (&self.waiting, seen.waiting),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (counter, total) in [
            (&self.finished, seen.finished),
            (&self.cancelled, seen.cancelled),
            (&self.retired, seen.retired),
        ] {
            counter.add(total.saturating_sub(counter.get()));
        }
    }
}
