//! What the pool counts.

use dispatch_core::telemetry::{Counter, Gauge, Meter};

use super::pool::State;
use super::worker::Status;

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

    /// Takes over what the pool's state knows.
    pub(super) fn show(&self, state: &State) {
        let count = |these: &dyn Fn(Status) -> bool| {
            let count = state.workers.iter().filter(|worker| these(worker.status)).count();
            i64::try_from(count).unwrap_or(i64::MAX)
        };
        self.records.set(count(&|_| true));
        self.starting
            .set(count(&|status| matches!(status, Status::Spawned | Status::Starting)));
        self.ready.set(count(&|status| status == Status::Ready));
        self.stopping
            .set(count(&|status| matches!(status, Status::Stopping | Status::Exited)));
        let busy = state.workers.iter().filter(|worker| !worker.tasks.is_empty()).count();
        self.busy.set(i64::try_from(busy).unwrap_or(i64::MAX));
        self.waiting.set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
        for (counter, total) in [
            (&self.finished, state.finished),
            (&self.cancelled, state.cancelled),
            (&self.retired, state.retired),
        ] {
            counter.add(total.saturating_sub(counter.get()));
        }
    }
}
