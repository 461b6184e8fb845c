use std::time::Duration;

use dispatch_core::{
    Source,
    config::{BuildContext, ConfigError, Period, Secret, SourceConfig, Stability},
};
use dispatch_sqs_client::Place;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SqsSource;

/// Which queue to read, and how.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SqsSourceConfig {
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
    /// How long a receive waits for messages while there is work, whole seconds, `0s` to `20s`. After 30 s without
    /// messages it waits 20 s. By default 20 s, and 2 s right after messages: a longer wait asks for a lease of 5 s,
    /// which costs a request more for each batch that comes.
    pub wait_time: Option<Period>,
    /// How long a message is ours unless that is extended, whole seconds, `1s` to `12h`.
    pub visibility_timeout: Period,
    /// The most receives at once, 1 to 100; they grow while there is much to do.
    pub pollers: usize,
    /// The most messages of one receive, 1 to 10.
    pub receive_batch: usize,
    /// Whether the visibility of messages is extended while they are here.
    pub heartbeat: bool,
    /// When extending ends, from the receive on, up to `12h`.
    pub max_extension: Period,
    /// When a message comes again whose failure says nothing of that, whole seconds, up to `12h`; by default when its
    /// visibility ends.
    pub error_visibility_timeout: Option<Period>,
    /// Messages first received longer ago are deleted without being worked on; by default none.
    pub retention: Option<Period>,
    /// Whether a start waits for a queue or credentials that are not there yet, instead of ending.
    pub wait_for_aws: bool,
    /// Whether the body is checked against the MD5 that came with it.
    pub verify_md5: bool,
    /// How to get payloads that lie in S3; by default a pointer is the payload.
    #[cfg(feature = "sqs-s3")]
    pub s3_payload: Option<super::S3PayloadConfig>,
}

impl Default for SqsSourceConfig {
    fn default() -> Self {
        Self {
            queue_url: None,
            queue_name: None,
            region: None,
            endpoint_url: None,
            access_key_id: None,
            secret_access_key: None,
            wait_time: None,
            visibility_timeout: Period(Duration::from_secs(30)),
            pollers: 1,
            receive_batch: 10,
            heartbeat: true,
            max_extension: Period(LONGEST),
            error_visibility_timeout: None,
            retention: None,
            wait_for_aws: false,
            verify_md5: false,
            #[cfg(feature = "sqs-s3")]
            s3_payload: None,
        }
    }
}

/// The longest wait of a receive (ReceiveMessage, `WaitTimeSeconds`).
pub(super) const IDLE_WAIT: Duration = Duration::from_secs(20);
/// The longest that a message can be hidden from its receive on (SQS Developer Guide, "Visibility timeout").
pub(super) const LONGEST: Duration = Duration::from_secs(43_200);

impl SourceConfig for SqsSourceConfig {
    const TYPE: &'static str = "sqs";
    const SUMMARY: &'static str = "takes messages from Amazon SQS";
    const STABILITY: Stability = Stability::Beta;

    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError> {
        Ok(Box::new(SqsSource::metered(self, &context.meter)?))
    }
}

impl SqsSourceConfig {
    /// Reads the queue with this URL.
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

    /// The longest wait of a receive while there is work.
    pub(super) fn wait(&self) -> Duration {
        self.wait_time.map_or(IDLE_WAIT, |period| period.0)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.place().check()?;
        #[cfg(feature = "sqs-s3")]
        if let Some(url) = self.s3_payload.as_ref().and_then(|s3| s3.endpoint_url.as_ref()) {
            dispatch_sqs_client::check_url("s3_payload.endpoint_url", url)?;
        }
        let second = Duration::from_secs(1);
        seconds("wait_time", self.wait_time, Duration::ZERO, IDLE_WAIT)?;
        seconds("visibility_timeout", Some(self.visibility_timeout), second, LONGEST)?;
        seconds(
            "error_visibility_timeout",
            self.error_visibility_timeout,
            Duration::ZERO,
            LONGEST,
        )?;
        between(
            "max_extension",
            self.max_extension.0 >= second && self.max_extension.0 <= LONGEST,
            "\"1s\" to \"12h\"",
        )?;
        between("pollers", (1..=100).contains(&self.pollers), "1 to 100")?;
        between("receive_batch", (1..=10).contains(&self.receive_batch), "1 to 10")?;
        if self.heartbeat && self.visibility_timeout.0 < 2 * second {
            return Err(
                ConfigError::at("visibility_timeout", "1s is too short to be extended in time")
                    .help("write \"2s\" or more, or heartbeat = false"),
            );
        }
        Ok(())
    }
}

fn between(field: &str, is: bool, range: &str) -> Result<(), ConfigError> {
    if is {
        Ok(())
    } else {
        Err(ConfigError::at(field, format!("`{field}` is out of range")).help(format!("write {range}")))
    }
}

fn seconds(field: &str, period: Option<Period>, least: Duration, most: Duration) -> Result<(), ConfigError> {
    let Some(Period(period)) = period else { return Ok(()) };
    let range = format!("whole seconds from \"{}\" to \"{}\"", Period(least), Period(most));
    between(
        field,
        period.subsec_nanos() == 0 && (least..=most).contains(&period),
        &range,
    )
}
