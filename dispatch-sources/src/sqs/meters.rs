//! What the source counts.

use dispatch_core::telemetry::{Counter, Gauge, Meter, Sizes};

/// What one source counts.
#[derive(Debug)]
pub(super) struct Meters {
    pub(super) receives: Counter,
    pub(super) empty_receives: Counter,
    pub(super) delete_requests: Counter,
    pub(super) delete_batch: Sizes,
    pub(super) visibility_requests: Counter,
    pub(super) deleted: Counter,
    pub(super) delete_retried: Counter,
    pub(super) delete_rejected: Counter,
    pub(super) delete_abandoned: Counter,
    pub(super) expired: Counter,
    pub(super) throttled: Counter,
    pub(super) misuse: Counter,
    pub(super) pollers: Gauge,
}

impl Meters {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            receives: meter.counter("dispatch_sqs_receive_requests_total", "ReceiveMessage requests"),
            empty_receives: meter.counter("dispatch_sqs_empty_receives_total", "receives that brought nothing"),
            delete_requests: meter.counter("dispatch_sqs_delete_requests_total", "DeleteMessageBatch requests"),
            delete_batch: meter.sizes(
                "dispatch_sqs_delete_batch_size",
                "entries of a DeleteMessageBatch request",
                &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            ),
            visibility_requests: meter.counter(
                "dispatch_sqs_visibility_requests_total",
                "ChangeMessageVisibilityBatch requests",
            ),
            deleted: meter.counter("dispatch_sqs_deleted_total", "messages whose delete SQS confirmed"),
            delete_retried: meter.counter("dispatch_sqs_delete_retried_total", "deletes that were told again"),
            delete_rejected: meter.counter(
                "dispatch_sqs_delete_rejected_total",
                "deletes that SQS refused for good: a stale or invalid handle",
            ),
            delete_abandoned: meter.counter(
                "dispatch_sqs_delete_abandoned_total",
                "deletes not sent, because the visibility had run out or somebody else had the message",
            ),
            expired: meter.counter(
                "dispatch_sqs_expired_total",
                "messages older than `retention`, deleted untried",
            ),
            throttled: meter.counter(
                "dispatch_sqs_throttled_total",
                "requests that SQS answered with a throttle, or with OverLimit",
            ),
            misuse: meter.counter(
                "dispatch_sqs_misuse_total",
                "requests that SQS refused as malformed: a mistake of ours",
            ),
            pollers: meter.gauge("dispatch_sqs_pollers", "receives under way"),
        }
    }
}
