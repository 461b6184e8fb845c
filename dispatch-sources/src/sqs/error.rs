use std::{error::Error as StdError, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use dispatch_core::{BoxError, Class, Classify};
use rand::RngExt as _;
use smol_str::SmolStr;

/// Why SQS did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqsSourceError {
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
    #[error("queue {queue} does not exist{hint}")]
    NoQueue {
        /// Which queue.
        queue: String,
        /// What may be wrong, after a colon.
        hint: String,
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

impl Classify for SqsSourceError {
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

impl SqsSourceError {
    /// Whether the same request may do better in a moment.
    pub(super) const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Server { .. } | Self::Throttled { .. }
        )
    }

    /// Whether no waiting mends it, as far as a start is concerned.
    pub(super) const fn is_final_at_start(&self) -> bool {
        !self.may_pass()
    }

    /// How long to leave SQS alone, jittered. The driver's own backoff comes on top.
    pub(super) fn rest(&self) -> Duration {
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

/// What an error code is about; both spellings, the old protocol's and the new one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Server,
    Throttled,
    NoQueue,
    Denied,
    Refused,
    Handle,
    Misuse,
}

/// The code without what the old protocol puts before it.
pub(super) fn bare(code: &str) -> &str {
    match code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code) {
        "NonExistentQueue" => "QueueDoesNotExist",
        code => code,
    }
}

pub(super) fn kind(code: &str, status: u16) -> Kind {
    match bare(code) {
        "RequestThrottled"
        | "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "RequestThrottledException"
        | "SlowDown"
        | "TooManyRequestsException"
        | "KMS.ThrottlingException"
        | "KmsThrottled"
        | "OverLimit" => Kind::Throttled,
        "QueueDoesNotExist" | "QueueDeletedRecently" => Kind::NoQueue,
        "InvalidSecurity"
        | "InvalidClientTokenId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "SignatureDoesNotMatch"
        | "UnrecognizedClientException"
        | "MissingAuthenticationToken"
        | "IncompleteSignature"
        | "InvalidAccessKeyId"
        | "NotAuthorized"
        | "OptInRequired"
        | "RequestExpired" => Kind::Denied,
        code if code.starts_with("AccessDenied") => Kind::Denied,
        "ReceiptHandleIsInvalid" | "InvalidIdFormat" | "MessageNotInflight" => Kind::Handle,
        "BatchEntryIdsNotDistinct"
        | "TooManyEntriesInBatchRequest"
        | "EmptyBatchRequest"
        | "InvalidBatchEntryId"
        | "BatchRequestTooLong" => Kind::Misuse,
        "InternalError" | "InternalFailure" | "ServiceUnavailable" => Kind::Server,
        _ if status >= 500 => Kind::Server,
        _ if status == 429 => Kind::Throttled,
        _ => Kind::Refused,
    }
}

/// Whether an entry's code, or a call's, says that its handle is of no use.
pub(super) fn is_stale(code: &str, message: &str) -> bool {
    kind(code, 400) == Kind::Handle
        // So a message that is gone, or whose handle has expired, is refused in practice.
        || (bare(code) == "InvalidParameterValue"
            && ["receipt handle", "does not exist", "expired"].iter().any(|words| message.contains(words)))
}

/// What has gone wrong with `operation` on `queue`.
pub(super) fn judge<E>(operation: &'static str, queue: &str, error: SdkError<E, HttpResponse>) -> SqsSourceError
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let queue = queue.to_owned();
    let (code, message) = (error.code().map(str::to_owned), error.message().map(str::to_owned));
    match error {
        SdkError::ServiceError(failure) => {
            let raw = failure.raw();
            let status = raw.status().as_u16();
            let code = code.unwrap_or_else(|| status.to_string());
            let message = message.unwrap_or_else(|| "no words".to_owned());
            let after = raw
                .headers()
                .get("x-amz-retry-after")
                .and_then(|value| value.parse().ok());
            let short = bare(&code).to_owned();
            match kind(&code, status) {
                Kind::Server => SqsSourceError::Server {
                    operation,
                    queue,
                    code: short,
                },
                Kind::Throttled => SqsSourceError::Throttled {
                    operation,
                    queue,
                    code: short,
                    after: after.map(Duration::from_millis),
                },
                Kind::NoQueue => SqsSourceError::NoQueue {
                    queue,
                    hint: ": check the name, the account and the region".to_owned(),
                },
                Kind::Denied => SqsSourceError::Denied {
                    operation,
                    queue,
                    code: short,
                    message,
                },
                Kind::Refused => SqsSourceError::Refused {
                    operation,
                    queue,
                    code: short,
                    message,
                },
                Kind::Handle => SqsSourceError::Handle { code: short, message },
                Kind::Misuse => SqsSourceError::Misuse {
                    operation,
                    queue,
                    code: short,
                    message,
                },
            }
        }
        SdkError::TimeoutError(_) => SqsSourceError::Timeout { operation, queue },
        SdkError::DispatchFailure(failure) if failure.is_timeout() => SqsSourceError::Timeout { operation, queue },
        SdkError::ResponseError(failure) => {
            let status = failure.raw().status().as_u16();
            SqsSourceError::Server {
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
                SqsSourceError::NoCredentials { queue, source }
            } else {
                SqsSourceError::Unreachable {
                    operation,
                    queue,
                    source,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_known_in_both_spellings() {
        let table = [
            ("AWS.SimpleQueueService.NonExistentQueue", 400, Kind::NoQueue),
            ("QueueDoesNotExist", 400, Kind::NoQueue),
            ("QueueDeletedRecently", 400, Kind::NoQueue),
            ("RequestThrottled", 400, Kind::Throttled),
            ("ThrottlingException", 400, Kind::Throttled),
            ("KMS.ThrottlingException", 400, Kind::Throttled),
            ("OverLimit", 403, Kind::Throttled),
            ("TooManyRequestsException", 429, Kind::Throttled),
            ("InvalidSecurity", 403, Kind::Denied),
            ("AccessDenied", 403, Kind::Denied),
            ("AccessDeniedException", 403, Kind::Denied),
            ("InvalidClientTokenId", 403, Kind::Denied),
            ("ExpiredToken", 403, Kind::Denied),
            ("SignatureDoesNotMatch", 403, Kind::Denied),
            ("InvalidAddress", 404, Kind::Refused),
            ("AWS.SimpleQueueService.UnsupportedOperation", 400, Kind::Refused),
            ("InvalidAttributeName", 400, Kind::Refused),
            ("KMS.DisabledException", 400, Kind::Refused),
            ("KMS.AccessDeniedException", 400, Kind::Refused),
            ("ReceiptHandleIsInvalid", 400, Kind::Handle),
            ("InvalidIdFormat", 400, Kind::Handle),
            ("AWS.SimpleQueueService.MessageNotInflight", 400, Kind::Handle),
            ("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", 400, Kind::Misuse),
            ("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", 400, Kind::Misuse),
            ("EmptyBatchRequest", 400, Kind::Misuse),
            ("BatchRequestTooLong", 400, Kind::Misuse),
            ("InternalError", 500, Kind::Server),
            ("ServiceUnavailable", 503, Kind::Server),
            ("502", 502, Kind::Server),
            ("SomethingNew", 400, Kind::Refused),
        ];
        for (code, status, expected) in table {
            assert_eq!(kind(code, status), expected, "{code}");
        }
    }

    #[test]
    fn a_message_that_is_gone_is_a_stale_handle() {
        let gone = "Value x for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change.";

        assert!(is_stale("InvalidParameterValue", gone) && is_stale("ReceiptHandleIsInvalid", ""));
        assert!(
            !is_stale("InvalidParameterValue", "VisibilityTimeout is out of range") && !is_stale("InternalError", "")
        );
    }
}
