//! Makes messages once per start of the process.
//!
//! Each payload is a message with a random id and the metadata `startup_number` (from 1). A failed one is parked in
//! the Store, one that is given back comes again. A process that ends before they are done makes them anew at its next
//! start.
//!
//! # Capabilities
//! In order; no lease. Bounded if `then_end` says so: the pipeline ends when they are done.
//!
//! ```toml
//! [source]
//! type = "startup"
//! payload = '{"job":"warm up"}'      # or payloads = ["…", "…"]
//! headers = { "content-type" = "application/json" }
//! # then_end = true
//! ```
//!
//! ```
//! use dispatch_sources::startup::{StartupSource, StartupSourceConfig};
//!
//! let source = StartupSource::new(&StartupSourceConfig::new(["warm up"]))?;
//! # let _ = source;
//! # Ok::<_, dispatch_core::config::ConfigError>(())
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use dispatch_core::{
    Capabilities, Error, Message, Order, Received, Settler, Source,
    config::{BuildContext, ConfigError, SourceConfig, Stability},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::loans::Loans;

/// What to do at the start.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct StartupSourceConfig {
    /// One message's payload; empty by default.
    pub payload: Option<String>,
    /// Several messages' payloads.
    pub payloads: Vec<String>,
    /// The headers of every message.
    pub headers: BTreeMap<String, String>,
    /// Whether the pipeline ends when they are done; else it idles.
    pub then_end: bool,
}

impl StartupSourceConfig {
    /// One message for each payload.
    pub fn new<P: Into<String>>(payloads: impl IntoIterator<Item = P>) -> Self {
        Self {
            payloads: payloads.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl SourceConfig for StartupSourceConfig {
    const TYPE: &'static str = "startup";
    const SUMMARY: &'static str = "makes messages once per start";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, _: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(StartupSource::new(&self)?))
    }
}

/// Makes messages once per start. The module's page says how.
#[derive(Debug)]
pub struct StartupSource {
    messages: VecDeque<Message>,
    loans: Arc<Loans>,
    then_end: bool,
}

impl StartupSource {
    /// Checks `config` and makes the source.
    ///
    /// # Errors
    /// `payload` and `payloads` together.
    pub fn new(config: &StartupSourceConfig) -> Result<Self, ConfigError> {
        let payloads = match (&config.payload, config.payloads.is_empty()) {
            (Some(_), false) => {
                return Err(
                    ConfigError::at("payload", "payload and payloads are both there").help("move it into payloads")
                );
            }
            (Some(payload), true) => vec![payload.clone()],
            (None, true) => vec![String::new()],
            (None, false) => config.payloads.clone(),
        };
        let message = |(index, payload): (usize, String)| {
            let message = Message::new(payload).meta("startup_number", (index + 1).to_string());
            config.headers.iter().fold(message, |message, (name, value)| {
                message.header(name.as_str(), value.as_str())
            })
        };
        Ok(Self {
            messages: payloads.into_iter().enumerate().map(message).collect(),
            then_end: config.then_end,
            loans: Arc::default(),
        })
    }
}

#[async_trait]
impl Source for StartupSource {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.order = Order::Whole;
        capabilities.bounded = self.then_end;
        capabilities
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.loans.clone()
    }

    async fn receive(&mut self, max: usize) -> Result<Received, Error> {
        loop {
            let again = self.loans.lend_again(max.max(1));
            if !again.is_empty() {
                return Ok(Received::Batch(again));
            }
            let now = self.messages.len().min(max.max(1));
            if now > 0 {
                let batch = self
                    .messages
                    .drain(..now)
                    .map(|message| self.loans.lend(message))
                    .collect();
                return Ok(Received::Batch(batch));
            }
            if self.loans.all_settled().await {
                return match self.then_end {
                    true => Ok(Received::End),
                    false => std::future::pending().await,
                };
            }
        }
    }

    async fn close(&mut self) -> Result<(), Error> {
        self.messages.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dispatch_core::{Disposition, Reply};
    use futures::FutureExt as _;

    use super::*;

    async fn payloads(source: &mut StartupSource, max: usize) -> Vec<String> {
        let Received::Batch(batch) = source.receive(max).await.unwrap() else {
            return Vec::new();
        };
        let mut payloads = Vec::new();
        for delivery in batch {
            payloads.push(String::from_utf8(delivery.message.payload.to_vec()).unwrap());
            delivery.settle(Disposition::Ack(Reply::default())).await.unwrap();
        }
        payloads
    }

    #[tokio::test]
    async fn each_payload_comes_once_and_then_nothing_or_the_end() {
        let mut config = StartupSourceConfig::new(["a", "b", "c"]);
        for then_end in [false, true] {
            config.then_end = then_end;
            let mut source = StartupSource::new(&config).unwrap();

            assert_eq!(payloads(&mut source, 2).await, ["a", "b"]);
            assert_eq!(payloads(&mut source, 2).await, ["c"]);
            assert_eq!(source.receive(1).now_or_never().is_some(), then_end);
            assert_eq!(source.capabilities().bounded, then_end);
        }
    }

    #[tokio::test]
    async fn what_is_given_back_comes_again_before_the_end() {
        let mut config = StartupSourceConfig::new(["a"]);
        config.then_end = true;
        let mut source = StartupSource::new(&config).unwrap();

        let Received::Batch(mut batch) = source.receive(1).await.unwrap() else {
            panic!("there is one")
        };
        assert!(source.receive(1).now_or_never().is_none());
        batch.remove(0).settle(Disposition::Release).await.unwrap();

        assert_eq!(payloads(&mut source, 1).await, ["a"]);
        assert!(matches!(source.receive(1).await.unwrap(), Received::End));
    }

    #[tokio::test]
    async fn headers_go_along_and_a_single_payload_will_do() {
        let config: StartupSourceConfig = toml::from_str("payload = \"x\"\nheaders = { a = \"1\" }").unwrap();
        let mut source = StartupSource::new(&config).unwrap();

        let Received::Batch(batch) = source.receive(9).await.unwrap() else {
            panic!("there is one")
        };
        assert_eq!(batch[0].message.headers().get("a"), Some("1"));

        let both: StartupSourceConfig = toml::from_str("payload = \"x\"\npayloads = [\"y\"]").unwrap();
        assert_eq!(StartupSource::new(&both).unwrap_err().field.as_deref(), Some("payload"));
        assert_eq!(
            payloads(&mut StartupSource::new(&StartupSourceConfig::default()).unwrap(), 9).await,
            [""]
        );
    }
}
