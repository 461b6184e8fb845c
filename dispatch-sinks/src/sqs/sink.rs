use std::{fmt, sync::Arc};

use async_trait::async_trait;
use aws_sdk_sqs::config::SharedHttpClient;
use dispatch_core::{
    Error, Message, Reply, Sink,
    config::ConfigError,
    telemetry::{LeftOut, Meter},
};
use dispatch_sqs_client::Queue;
use tokio::sync::{Mutex, oneshot};

use super::{SqsError, SqsSinkConfig, SqsSinkError, batch::Batcher, entry::Entry};

/// Sends each message to one queue of Amazon SQS. The module's page says how.
#[derive(Debug)]
pub struct SqsSink {
    shared: Arc<Shared>,
    batcher: Batcher,
}

/// What the sink and its task share.
pub(super) struct Shared {
    pub(super) config: SqsSinkConfig,
    pub(super) fifo: bool,
    http: Option<SharedHttpClient>,
    queue: Mutex<Option<Arc<Queue>>>,
    left_out: LeftOut,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("queue", &self.config.place().label())
            .finish_non_exhaustive()
    }
}

impl Shared {
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

impl SqsSink {
    /// Checks `config` and makes the sink; connects to nothing yet.
    ///
    /// # Errors
    /// Names the field that is wrong: no queue or two names for it, a URL that is none, a number out of its range.
    pub fn new(config: SqsSinkConfig) -> Result<Self, ConfigError> {
        Self::build(config, None, &Meter::default())
    }

    /// As [`new`](Self::new), over an HTTP client of the caller's own; for tests without a socket.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_http_client(config: SqsSinkConfig, http: SharedHttpClient) -> Result<Self, ConfigError> {
        Self::build(config, Some(http), &Meter::default())
    }

    /// As [`new`](Self::new), counting in `meter`; a file's sink does.
    ///
    /// # Errors
    /// As `new`.
    pub fn metered(config: SqsSinkConfig, meter: &Meter) -> Result<Self, ConfigError> {
        Self::build(config, None, meter)
    }

    fn build(config: SqsSinkConfig, http: Option<SharedHttpClient>, meter: &Meter) -> Result<Self, ConfigError> {
        config.check()?;
        let shared = Arc::new(Shared {
            fifo: config.place().is_fifo(),
            config,
            http,
            queue: Mutex::default(),
            left_out: LeftOut::new(meter.counter(
                "dispatch_sqs_attributes_left_out_total",
                "headers of messages that could not be attributes",
            )),
        });
        Ok(Self {
            batcher: Batcher::new(Arc::clone(&shared)),
            shared,
        })
    }

    fn entry(&self, message: &Message) -> Result<Entry, Error> {
        Entry::of(message, &self.shared.config, self.shared.fifo, &self.shared.left_out)
    }
}

async fn outcome(answer: oneshot::Receiver<Result<Reply, Error>>) -> Result<Reply, Error> {
    // The task answers everything it takes, unless its runtime ends.
    answer
        .await
        .unwrap_or_else(|_| Err(Error::retry("the batch was given up on: its runtime has ended")))
}

#[async_trait]
impl Sink for SqsSink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let entry = self.entry(&message)?;
        match self.batcher.put([entry]).pop() {
            Some(answer) => outcome(answer).await,
            None => Err(Error::retry("nothing was sent")),
        }
    }

    async fn send_batch(&self, messages: Vec<Message>) -> Vec<Result<Reply, Error>> {
        let entries: Vec<_> = messages.iter().map(|message| self.entry(message)).collect();
        let (mut good, mut results) = (Vec::new(), Vec::with_capacity(entries.len()));
        for entry in entries {
            results.push(match entry {
                Ok(entry) => {
                    good.push(entry);
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        let answers = futures::future::join_all(self.batcher.put(good).into_iter().map(outcome)).await;
        let mut answers = answers.into_iter();
        results
            .into_iter()
            .map(|result| result.or_else(|| answers.next()))
            .map(|result| result.unwrap_or_else(|| Err(Error::retry("nothing was sent"))))
            .collect()
    }

    /// Asks for the queue's attributes. A key that may not read them may send all the same.
    async fn probe(&self) -> Result<(), Error> {
        let queue = self.shared.queue().await.map_err(SqsSinkError::from)?;
        match queue.ask().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.shared.heard(error).await.into()),
        }
    }
}
