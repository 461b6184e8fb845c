//! Sends each message to Amazon SQS.
//!
//! Messages that are sent at the same time share a request: up to 10 of them and 1 MiB. The payload is the body, so it
//! must be text as SQS allows it, or go as base64. Headers become message attributes, up to 10 of those with a legal
//! name: text as `String` (or the type that the source `sqs` has noted), other bytes as `Binary`. On a FIFO queue the
//! group is the message's key and the deduplication id its id, unless templates say otherwise; so a message that is sent
//! again within 5 minutes is there once.
//!
//! The reply's headers are `sqs-message-id` and, from FIFO queues, `sqs-sequence-number`.
//!
//! # Guarantees
//! A message is done when SQS has taken it. What SQS could not take, or only a part of a batch, fails for those messages
//! alone. Sizes and texts are checked before the call.
//!
//! # Configuration
//! ```toml
//! [sink]
//! type = "sqs"
//! queue_url = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo"
//! group_id = "{{ header:customer }}"
//! deduplication_id = "{{ id }}"
//! # attributes = ["tenant", "x-*"]     # by default all headers
//! # encoding = "base64"
//! # linger = "5ms"                     # how long a message waits for company
//! # region = "eu-west-1"
//! # endpoint_url = "http://127.0.0.1:9324"
//! # access_key_id = "AKIA…"            # absent: the environment, profiles, roles
//! # secret_access_key = "${file:/run/secrets/aws}"
//! ```
//!
//! From Rust:
//! ```
//! use dispatch_sinks::sqs::{SqsSink, SqsSinkConfig};
//!
//! let sink = SqsSink::new(SqsSinkConfig::new("https://sqs.eu-west-1.amazonaws.com/123456789012/orders"))?;
//! # let _ = sink;
//! # Ok::<_, dispatch_core::config::ConfigError>(())
//! ```

mod batch;
mod config;
mod entry;
mod error;
mod shared;
mod sink;

pub use config::{Encoding, SqsSinkConfig};
pub use dispatch_sqs_client::SqsError;
pub use error::SqsSinkError;
pub use sink::SqsSink;
