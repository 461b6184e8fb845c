use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use dispatch_core::{Error, HealthCheck, Message, Reply, Sink, config::ConfigError, telemetry::Meter};

use super::{HttpSinkConfig, batch::Batcher, caller::Caller, sqsd};

/// Sends each message to a URL and reads the answer's status. The module's page says what each answer means.
#[derive(Debug)]
pub struct HttpSink {
    caller: Arc<Caller>,
    batcher: Option<Batcher>,
    health: Option<HealthCheck>,
}

impl HttpSink {
    /// Checks `config` and makes the sink; connects to nothing. Relative paths start at `base_dir`.
    ///
    /// # Errors
    /// Names the field that is wrong: the URL, a header, a status, a secret, a certificate file.
    pub fn new(config: &HttpSinkConfig, base_dir: &Path) -> Result<Self, ConfigError> {
        Self::metered(config, base_dir, &Meter::default())
    }

    /// As [`new`](Self::new), counting in `meter`; a file's sink does.
    ///
    /// # Errors
    /// As `new`.
    pub fn metered(config: &HttpSinkConfig, base_dir: &Path, meter: &Meter) -> Result<Self, ConfigError> {
        let caller = Arc::new(Caller::new(config, base_dir, meter)?);
        let batch = config.sqsd.as_ref().and_then(|sqsd| sqsd.batch);
        let health = config.health.as_ref().map(|health| health.check(config, base_dir));
        Ok(Self {
            batcher: batch.map(|batch| Batcher::new(caller.clone(), batch)),
            caller,
            health: health.transpose()?,
        })
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        match &self.batcher {
            // A periodic task has a place and a form of its own.
            Some(batcher) if sqsd::task(&message).is_none() => Box::pin(batcher.send(message)).await,
            _ => {
                let called = self.caller.call_one(&message).await;
                called.map_err(|error| self.caller.left_to_the_queue(error))
            }
        }
    }

    fn health(&self) -> Vec<HealthCheck> {
        self.health.iter().cloned().collect()
    }

    /// Connects, with TLS where the URL says so. A host that each message names cannot be probed.
    async fn probe(&self) -> Result<(), Error> {
        self.caller.probe().await
    }
}
