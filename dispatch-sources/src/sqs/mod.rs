//! Takes messages from Amazon SQS.
//!
//! Standard and FIFO queues. A message keeps its id; the body is the payload; each message attribute is a header
//! (`String` and `Number` as their text, `Binary` as its bytes); the FIFO group is the key; the attempt is the receive
//! count, less the receives that were given back untried. Metadata: `sqs_message_id`, `sqs_queue_url`,
//! `sqs_queue_name`, `sqs_receipt_handle`, `sqs_approximate_receive_count`, `sqs_approximate_first_receive_timestamp`,
//! `sqs_sent_timestamp`, `sqs_sender_id`, `sqs_message_group_id`, `sqs_message_deduplication_id`,
//! `sqs_sequence_number`, `sqs_aws_trace_header`, `sqs_dead_letter_queue_source_arn`, and `sqs_type_<attribute>` for
//! every attribute that is not a plain `String`.
//!
//! # Guarantees
//! At least once. A message is deleted after its outcome is known, in batches, and its visibility is extended at half
//! until the delete is confirmed. No more is asked for than the window has free, and nothing while the gate is closed.
//! What is given back at a drain is visible at once. In a FIFO group one message is worked on at a time; behind a failed
//! one nothing of its group is worked on or deleted before it. Receives never stop: what fails is asked again, after a
//! pause that suits the failure.
//!
//! # Capabilities
//! Nack with a delay of up to 11 h, leases that are extended, settlements in batches of 10 after up to 50 ms, order by
//! key on FIFO queues, attempts counted.
//!
//! # Configuration
//! ```toml
//! [source]
//! type = "sqs"
//! queue_url = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"
//! visibility_timeout = "1m"
//! pollers = 4                          # receives at once, while there is much to do
//! # wait_time = "20s"
//! # receive_batch = 10
//! # heartbeat = true
//! # max_extension = "12h"
//! # error_visibility_timeout = "2s"    # when a failed message comes again; absent: when its visibility ends
//! # retention = "4d"                   # older messages are deleted untried
//! # region = "eu-west-1"
//! # endpoint_url = "http://127.0.0.1:9324"
//! # access_key_id = "AKIA…"            # absent: the environment, profiles, roles
//! # secret_access_key = "${file:/run/secrets/aws}"
//! # wait_for_aws = true
//! # verify_md5 = true
//! ```
//!
//! From Rust:
//! ```
//! use dispatch_sources::sqs::{SqsSource, SqsSourceConfig};
//!
//! let mut config = SqsSourceConfig::new("https://sqs.eu-west-1.amazonaws.com/123456789012/orders");
//! config.pollers = 4;
//! let source = SqsSource::new(config)?;
//! # let _ = source;
//! # Ok::<_, dispatch_core::config::ConfigError>(())
//! ```

mod client;
mod config;
#[cfg(feature = "testing")]
pub mod fake;
mod hold;
mod meters;
mod pace;
mod poll;
pub mod redrive;
mod requests;
#[cfg(feature = "sqs-s3")]
mod s3;
mod settler;
mod shared;
mod source;
mod wire;

pub use config::SqsSourceConfig;
pub use dispatch_sqs_client::SqsError;
#[cfg(feature = "sqs-s3")]
pub use s3::S3PayloadConfig;
pub use source::SqsSource;
