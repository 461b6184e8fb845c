//! The SDK, set up for receives of one queue.

use std::time::Duration;

use aws_sdk_sqs::config::SharedHttpClient;
use bytes::Bytes;
use dispatch_sqs_client::{Queue, SqsError};

use super::{SqsSourceConfig, config::IDLE_WAIT, wire::Origin};

/// The queue, and clients for receives.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) queue: Queue,
    /// For receives while there is work, and while there is none: their waits differ, and so do their limits.
    busy: aws_sdk_sqs::Client,
    idle: aws_sdk_sqs::Client,
    /// The queue as each message names it.
    pub(super) origin: Origin,
}

impl Client {
    pub(super) const fn receiver(&self, wait: Duration) -> &aws_sdk_sqs::Client {
        if wait.as_secs() == IDLE_WAIT.as_secs() {
            &self.idle
        } else {
            &self.busy
        }
    }

    /// Loads credentials and region and finds the queue. `http`: a client of the caller's own.
    pub(super) async fn connect(config: &SqsSourceConfig, http: Option<SharedHttpClient>) -> Result<Self, SqsError> {
        let queue = config.place().connect(http).await?;
        Ok(Self {
            busy: queue.receiver(config.wait()),
            idle: queue.receiver(IDLE_WAIT),
            origin: Origin {
                url: Bytes::copy_from_slice(queue.url.as_bytes()),
                name: Bytes::copy_from_slice(queue.name().as_bytes()),
                fifo: config.place().is_fifo(),
            },
            queue,
        })
    }
}
