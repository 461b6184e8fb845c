//! What a file says of the convention.

use std::time::Duration;

use dispatch_core::config::{ByteSize, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Speak to the worker as sqsd and Elastic Beanstalk do: `X-Aws-Sqsd-*` headers, periodic tasks, and a success or a
/// failure that the queue's own redrive policy judges.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SqsdConfig {
    /// The `Content-Type` of every request.
    pub content_type: String,
    /// Whose idea of success is followed; by default 2xx is one and everything else is a failure.
    pub compat: Option<Compat>,
    /// What becomes of binary attributes.
    pub binary_attributes: BinaryAttributes,
    /// How many bytes all headers of a request may have; attributes beyond that stay behind.
    pub max_header_bytes: ByteSize,
    /// Send the receipt handle, so that the worker can extend or delete the message itself. It is a key to the message.
    pub receipt_handle: bool,
    /// Where the payload is an envelope of SNS, send what is in it.
    pub via_sns: bool,
    /// Send several messages in one request, as Lambda's event source does.
    pub batch: Option<BatchConfig>,
}

impl Default for SqsdConfig {
    fn default() -> Self {
        Self {
            content_type: "application/json".to_owned(),
            compat: None,
            binary_attributes: BinaryAttributes::default(),
            max_header_bytes: ByteSize(16 << 10),
            receipt_handle: false,
            via_sns: false,
            batch: None,
        }
    }
}

/// Whose idea of success is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// Every status below 500, redirects and refusals too, as taiyoh/sqsd.
    Taiyoh,
    /// 200 alone, as Elastic Beanstalk.
    Beanstalk,
}

/// What becomes of binary attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BinaryAttributes {
    /// They stay behind.
    #[default]
    Skip,
    /// They go along in base64.
    Base64,
}

/// How messages are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// The most messages in a request; 10.
    #[schemars(range(min = 1, max = 10_000))]
    pub size: usize,
    /// How long the first one waits for company; 50 ms.
    pub linger: Period,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            size: 10,
            linger: Period(Duration::from_millis(50)),
        }
    }
}
