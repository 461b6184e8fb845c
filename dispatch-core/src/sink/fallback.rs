use std::sync::Arc;

use async_trait::async_trait;

use super::Sink;
use crate::{Error, Message, Reply};

/// The first of several sinks that takes the message, asked in order; the last one's error if none does. Health checks
/// of these sinks are not made: one that is ill is what the others are there for.
#[derive(Debug)]
pub struct Fallback(Vec<Arc<dyn Sink>>);

impl Fallback {
    /// These sinks, the first one first.
    #[must_use]
    pub fn new(sinks: Vec<Arc<dyn Sink>>) -> Self {
        Self(sinks)
    }
}

#[async_trait]
impl Sink for Fallback {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let Some((last, first)) = self.0.split_last() else {
            return Ok(Reply::default());
        };
        for sink in first {
            match sink.send(message.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(error) => tracing::debug!(error = error.report(), "falling back"),
            }
        }
        last.send(message).await
    }

    async fn open(&self) -> Result<(), Error> {
        super::open_all(&self.0).await
    }

    async fn probe(&self) -> Result<(), Error> {
        super::probe_all(&self.0).await
    }

    async fn close(&self) -> Result<(), Error> {
        super::close_all(&self.0).await
    }
}
