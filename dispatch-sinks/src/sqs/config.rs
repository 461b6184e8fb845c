use std::{sync::Arc, time::Duration};

use dispatch_core::{
    Sink,
    config::{BuildContext, ConfigError, Period, Secret, SinkConfig, Stability, Template},
};
use dispatch_sqs_client::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SqsSink;

/// Which queue to fill, and how.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SqsSinkConfig {
    /// The queue's URL; this or `queue_name`.
    pub queue_url: Option<String>,
    /// The queue's name, in the account of the credentials.
    pub queue_name: Option<String>,
    /// The region; by default that of the environment or the profile, else that of the queue's URL.
    pub region: Option<String>,
    /// Another server than Amazon's; by default the host of the queue's URL where that is not Amazon's.
    pub endpoint_url: Option<String>,
    /// An access key, where the default chain of credentials is not meant.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<Secret>,
    /// The message group; on FIFO queues the message's key by default.
    pub group_id: Option<Template>,
    /// The deduplication id; on FIFO queues the message's id by default.
    pub deduplication_id: Option<Template>,
    /// How long messages stay hidden, whole seconds up to `15m`; not on FIFO queues.
    pub delay: Option<Period>,
    /// Which headers become attributes, at most 10 of them; a name may end with `*`.
    pub attributes: Vec<String>,
    /// How the payload becomes the body.
    pub encoding: Encoding,
    /// How long a message waits for company, up to `1s`.
    pub linger: Period,
}

/// How a payload becomes a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As it is; what is not text is refused.
    #[default]
    Text,
    /// As base64.
    Base64,
}

impl Default for SqsSinkConfig {
    fn default() -> Self {
        Self {
            queue_url: None,
            queue_name: None,
            region: None,
            endpoint_url: None,
            access_key_id: None,
            secret_access_key: None,
            group_id: None,
            deduplication_id: None,
            delay: None,
            attributes: vec!["*".to_owned()],
            encoding: Encoding::Text,
            linger: Period(Duration::from_millis(5)),
        }
    }
}

impl SinkConfig for SqsSinkConfig {
    const TYPE: &'static str = "sqs";
    const SUMMARY: &'static str = "sends each message to Amazon SQS";
    const STABILITY: Stability = Stability::Beta;

    fn build(self, context: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError> {
        Ok(Arc::new(SqsSink::metered(self, &context.meter)?))
    }
}

impl SqsSinkConfig {
    /// Fills the queue with this URL.
    pub fn new(queue_url: impl Into<String>) -> Self {
        Self {
            queue_url: Some(queue_url.into()),
            ..Self::default()
        }
    }

    /// Which queue, and who asks.
    pub(super) fn place(&self) -> Place<'_> {
        Place {
            queue_url: self.queue_url.as_deref(),
            queue_name: self.queue_name.as_deref(),
            region: self.region.as_deref(),
            endpoint_url: self.endpoint_url.as_deref(),
            access_key_id: self.access_key_id.as_deref(),
            secret_access_key: self.secret_access_key.as_ref(),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.place().check()?;
        let fifo = self.place().is_fifo();
        if let Some(Period(delay)) = self.delay {
            if fifo {
                return Err(
                    ConfigError::at("delay", "a FIFO queue knows no delay of single messages")
                        .help("leave delay out, or set the queue's own DelaySeconds"),
                );
            }
            if delay.subsec_nanos() != 0 || delay > Duration::from_secs(900) {
                return Err(ConfigError::at("delay", "`delay` is out of range")
                    .help("write whole seconds from \"0s\" to \"15m\""));
            }
        }
        if self.linger.0 > Duration::from_secs(1) {
            return Err(ConfigError::at("linger", "`linger` is out of range").help("write up to \"1s\""));
        }
        if !fifo && self.deduplication_id.is_some() {
            return Err(ConfigError::at(
                "deduplication_id",
                "only a FIFO queue, whose name ends with .fifo, knows deduplication",
            ));
        }
        Ok(())
    }
}
