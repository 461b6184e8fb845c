use std::sync::Arc;

use async_trait::async_trait;

use super::Sink;
use crate::{Error, Message, Reply};

/// The first of several sinks that takes the message, asked in order; if none does, the last one's error, which then also
/// tells what the others said. Health checks of these sinks are not made: one that is ill is what the others are there for.
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
        let mut before = Vec::new();
        for sink in first {
            match sink.send(message.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    let report = error.report();
                    tracing::debug!(error = report, "falling back");
                    before.push(report);
                }
            }
        }
        last.send(message).await.map_err(|error| told(error, &before))
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

/// The last error, with what was said before it: who reads a dead letter wants to know why the first refused.
fn told(mut error: Error, before: &[String]) -> Error {
    if before.is_empty() {
        return error;
    }
    let attempts = error.take_attempts();
    let text = format!("{}; before it: {}", error.report(), before.join("; "));
    let told = Error::new(error.class(), text).with_attempts(attempts);
    let told = match error.code() {
        Some(code) => told.with_code(code.clone()),
        None => told,
    };
    match error.later() {
        Some(later) => told.with_later(later),
        None => told,
    }
}
