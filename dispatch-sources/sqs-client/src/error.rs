use std::{error::Error as StdError, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use dispatch_core::{BoxError, Class, Classify};
use rand::RngExt as _;
use smol_str::SmolStr;

use crate::code::{Kind, bare, is_about_content, kind};

/// Why SQS did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqsError {
    /// No connection: refused, unknown host, TLS failed.
    #[error("{operation} on {queue}: cannot reach SQS")]
    Unreachable {
        /// What was asked.
        operation: &'static str,
        /// Of which queue.
        queue: String,
        /// What the system says.
        #[source]
        source: BoxError,
    },
    /// No answer in time.
    #[error("{operation} on {queue}: no answer in time")]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// Of which queue.
        queue: String,
    },
    /// The server failed: an HTTP status from 500, or an answer that is none.
    #[error("{operation} on {queue}: SQS failed ({code})")]
    Server {
        /// What was asked.
        operation: &'static str,
        /// Of which queue.
        queue: String,
        /// The code, or the status.
        code: String,
    },
    /// Too many requests, or too many messages in flight.
    #[error("{operation} on {queue}: SQS asks for time ({code})")]
    Throttled {
        /// What was asked.
        operation: &'static str,
        /// Of which queue.
        queue: String,
        /// The code: `OverLimit` is too many messages in flight.
        code: String,
        /// For how long, if it says so.
        after: Option<Duration>,
    },
    /// There is no such queue in this account and region.
    #[error("queue {queue} does not exist: check the name, the account and the region")]
    NoQueue {
        /// Which queue.
        queue: String,
    },
    /// No credentials were found.
    #[error(
        "no AWS credentials for {queue}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, a role, or access_key_id in the file"
    )]
    NoCredentials {
        /// For which queue.
        queue: String,
        /// What the chain of providers says.
        #[source]
        source: BoxError,
    },
    /// The credentials are not accepted, or may not do this.
    #[error("{operation} on {queue}: access denied ({code}): {message}")]
    Denied {
        /// What was asked.
        operation: &'static str,
        /// Of which queue.
        queue: String,
        /// The code.
        code: String,
        /// What SQS says.
        message: String,
    },
    /// The queue or its key cannot be used so.
    #[error("{operation} on {queue}: refused ({code}): {message}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Of which queue.
        queue: String,
        /// The code.
        code: String,
        /// What SQS says.
        message: String,
    },
    /// The receipt handle is of no use any more: somebody else has the message, or it is gone.
    #[error("receipt handle refused ({code}): {message}")]
    Handle {
        /// The code.
        code: String,
        /// What SQS says.
        message: String,
    },
    /// A request that should never have been made.
    #[error("{operation} on {queue}: our own mistake ({code}): {message}")]
    Misuse {
        /// What was asked.
        operation: &'static str,
        /// Of which queue.
        queue: String,
        /// The code.
        code: String,
        /// What SQS says.
        message: String,
    },
    /// The set-up cannot work.
    #[error("SQS cannot be set up for {queue}: {message}")]
    Setup {
        /// For which queue.
        queue: String,
        /// What is wrong.
        message: String,
    },
}

impl Classify for SqsError {
    fn class(&self) -> Class {
        match self {
            Self::Server { .. } => Class::Retry,
            Self::Throttled { after, .. } => Class::Throttled(*after),
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::NoQueue { .. }
            | Self::NoCredentials { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Setup { .. } => Class::Unavailable,
            Self::Handle { .. } | Self::Misuse { .. } => Class::Permanent,
        }
    }

    fn code(&self) -> Option<SmolStr> {
        Some(match self {
            Self::Unreachable { .. } => "connect".into(),
            Self::Timeout { .. } => "timeout".into(),
            Self::NoQueue { .. } => "QueueDoesNotExist".into(),
            Self::NoCredentials { .. } => "credentials".into(),
            Self::Setup { .. } => "setup".into(),
            Self::Server { code, .. }
            | Self::Throttled { code, .. }
            | Self::Denied { code, .. }
            | Self::Refused { code, .. }
            | Self::Handle { code, .. }
            | Self::Misuse { code, .. } => code.into(),
        })
    }
}

impl SqsError {
    /// What went wrong with one entry of a batch. What is not the sender's fault is the server's.
    #[must_use]
    pub fn of_entry(
        operation: &'static str,
        queue: &str,
        code: &str,
        message: Option<&str>,
        sender_fault: bool,
    ) -> Self {
        let status = if sender_fault { 400 } else { 500 };
        Self::of_code(operation, queue.to_owned(), code, status, message, None)
    }

    fn of_code(
        operation: &'static str,
        queue: String,
        code: &str,
        status: u16,
        message: Option<&str>,
        after: Option<Duration>,
    ) -> Self {
        let kind = kind(code, status);
        let message = message.unwrap_or("no words").to_owned();
        let code = bare(code).to_owned();
        match kind {
            Kind::Server => Self::Server { operation, queue, code },
            Kind::Throttled => Self::Throttled {
                operation,
                queue,
                code,
                after,
            },
            Kind::NoQueue => Self::NoQueue { queue },
            Kind::Denied => Self::Denied {
                operation,
                queue,
                code,
                message,
            },
            Kind::Refused => Self::Refused {
                operation,
                queue,
                code,
                message,
            },
            Kind::Handle => Self::Handle { code, message },
            Kind::Misuse => Self::Misuse {
                operation,
                queue,
                code,
                message,
            },
        }
    }

    /// Whether the same request may do better in a moment.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Server { .. } | Self::Throttled { .. }
        )
    }

    /// Whether the credentials were not found or not accepted: they may have been changed, and are to be loaded anew.
    #[must_use]
    pub const fn is_about_credentials(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::NoCredentials { .. })
    }

    /// Whether what was sent is at fault, and not the queue, its key or who asks.
    #[must_use]
    pub fn is_about_content(&self) -> bool {
        matches!(self, Self::Refused { code, .. } | Self::Misuse { code, .. } if is_about_content(code))
    }

    /// How long to leave SQS alone, jittered. The driver's own backoff comes on top.
    #[must_use]
    pub fn rest(&self) -> Duration {
        let between = |least: u64, most: u64| Duration::from_millis(rand::rng().random_range(least..=most));
        match self {
            Self::Throttled { code, .. } if code == "OverLimit" => between(1_000, 5_000),
            Self::Throttled { after, .. } => after.unwrap_or(Duration::ZERO).max(between(500, 2_000)),
            Self::NoQueue { .. } | Self::NoCredentials { .. } | Self::Denied { .. } => between(10_000, 60_000),
            Self::Refused { .. } | Self::Setup { .. } | Self::Handle { .. } | Self::Misuse { .. } => {
                between(50_000, 70_000)
            }
            // The driver's backoff grows.
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Server { .. } => Duration::ZERO,
        }
    }
}

/// Reads what has gone wrong with `operation` on `queue`.
pub fn judge<E>(operation: &'static str, queue: &str, error: SdkError<E, HttpResponse>) -> SqsError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let queue = queue.to_owned();
    let (code, message) = (error.code().map(str::to_owned), error.message().map(str::to_owned));
    match error {
        SdkError::ServiceError(failure) => {
            let raw = failure.raw();
            let status = raw.status().as_u16();
            let after = raw
                .headers()
                .get("x-amz-retry-after")
                .and_then(|value| value.parse().ok());
            let code = code.unwrap_or_else(|| status.to_string());
            let after = after.map(Duration::from_millis);
            SqsError::of_code(operation, queue, &code, status, message.as_deref(), after)
        }
        SdkError::TimeoutError(_) => SqsError::Timeout { operation, queue },
        SdkError::DispatchFailure(failure) if failure.is_timeout() => SqsError::Timeout { operation, queue },
        SdkError::ResponseError(failure) => {
            let status = failure.raw().status().as_u16();
            SqsError::Server {
                operation,
                queue,
                code: status.to_string(),
            }
        }
        other => {
            let no_credentials = {
                let mut cause: Option<&(dyn StdError + 'static)> = Some(&other);
                std::iter::from_fn(|| {
                    let this = cause?;
                    cause = this.source();
                    Some(this)
                })
                .any(|cause| cause.is::<CredentialsError>())
            };
            let source = other.into_source().unwrap_or_else(|error| Box::new(error));
            if no_credentials {
                SqsError::NoCredentials { queue, source }
            } else {
                SqsError::Unreachable {
                    operation,
                    queue,
                    source,
                }
            }
        }
    }
}
