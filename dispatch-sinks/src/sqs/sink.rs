use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sqs::config::SharedHttpClient;
use dispatch_core::{Error, Message, Reply, Sink, config::ConfigError, telemetry::Meter};
use tokio::sync::oneshot;

use super::{SqsSinkConfig, SqsSinkError, batch::Batcher, entry::Entry, shared::Shared};

/// Sends each message to one queue of Amazon SQS. The module's page says how.
#[derive(Debug)]
pub struct SqsSink {
    shared: Arc<Shared>,
    batcher: Batcher,
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
        let shared = Arc::new(Shared::new(config, http, meter));
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
