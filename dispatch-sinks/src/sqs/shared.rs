use std::{fmt, sync::Arc};

use aws_sdk_sqs::config::SharedHttpClient;
use dispatch_core::telemetry::{LeftOut, Meter};
use dispatch_sqs_client::Queue;
use tokio::sync::Mutex;

use super::{SqsError, SqsSinkConfig, SqsSinkError};

/// What the sink and its task share.
pub(super) struct Shared {
    pub(super) config: SqsSinkConfig,
    pub(super) fifo: bool,
    http: Option<SharedHttpClient>,
    queue: Mutex<Option<Arc<Queue>>>,
    pub(super) left_out: LeftOut,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("queue", &self.config.place().label())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(config: SqsSinkConfig, http: Option<SharedHttpClient>, meter: &Meter) -> Self {
        Self {
            fifo: config.place().is_fifo(),
            config,
            http,
            queue: Mutex::default(),
            left_out: LeftOut::new(meter.counter(
                "dispatch_sqs_attributes_left_out_total",
                "headers of messages that could not be attributes",
            )),
        }
    }

    /// The queue, connected at the first call; a call that fails leaves it to the next.
    pub(super) async fn queue(&self) -> Result<Arc<Queue>, SqsError> {
        let mut queue = self.queue.lock().await;
        if let Some(queue) = &*queue {
            return Ok(Arc::clone(queue));
        }
        // Loading asks the disk or the network; its future is a large one.
        let fresh = Arc::new(Box::pin(self.config.place().connect(self.http.clone())).await?);
        *queue = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// After credentials were refused the next call loads them anew: they may have been changed.
    pub(super) async fn heard(&self, error: SqsError) -> SqsSinkError {
        if error.is_about_credentials() {
            self.queue.lock().await.take();
        }
        error.into()
    }
}
