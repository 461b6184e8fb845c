use std::{error::Error as StdError, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use dispatch_core::{BoxError, Class, Classify};
use smol_str::SmolStr;

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqsSinkError {
    /// SQS does not take such a message; nothing was asked.
    #[error("not for SQS: {0}")]
    Unfit(String),
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
    /// No answer in time; the message may be there.
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
    /// Too many requests.
    #[error("{operation} on {queue}: SQS asks for time ({code})")]
    Throttled {
        /// What was asked.
        operation: &'static str,
        /// Of which queue.
        queue: String,
        /// The code.
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
    /// The credentials, the queue or its key cannot be used so.
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
    /// SQS refuses this message.
    #[error("{queue} does not take the message ({code}): {message}")]
    Message {
        /// Which queue.
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

impl Classify for SqsSinkError {
    fn class(&self) -> Class {
        match self {
            Self::Unfit(_) | Self::Message { .. } => Class::Permanent,
            Self::Server { .. } | Self::Timeout { .. } => Class::Retry,
            Self::Throttled { after, .. } => Class::Throttled(*after),
            Self::Unreachable { .. }
            | Self::NoQueue { .. }
            | Self::NoCredentials { .. }
            | Self::Refused { .. }
            | Self::Setup { .. } => Class::Unavailable,
        }
    }

    fn code(&self) -> Option<SmolStr> {
        Some(match self {
            Self::Unfit(_) => "unfit".into(),
            Self::Unreachable { .. } => "connect".into(),
            Self::Timeout { .. } => "timeout".into(),
            Self::NoQueue { .. } => "QueueDoesNotExist".into(),
            Self::NoCredentials { .. } => "credentials".into(),
            Self::Setup { .. } => "setup".into(),
            Self::Server { code, .. }
            | Self::Throttled { code, .. }
            | Self::Refused { code, .. }
            | Self::Message { code, .. } => code.into(),
        })
    }
}

/// What a code is about, in both spellings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Throttled,
    NoQueue,
    Refused,
    Message,
}

/// The code without what the old protocol puts before it.
fn bare(code: &str) -> &str {
    match code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code) {
        "NonExistentQueue" => "QueueDoesNotExist",
        code => code,
    }
}

fn kind(code: &str, status: u16) -> Kind {
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
        "InvalidMessageContents"
        | "InvalidParameterValue"
        | "MissingParameter"
        | "BatchRequestTooLong"
        | "InvalidParameterValueException"
        | "MissingRequiredParameterException" => Kind::Message,
        "InternalError" | "InternalFailure" | "ServiceUnavailable" => Kind::Server,
        _ if status >= 500 => Kind::Server,
        _ if status == 429 => Kind::Throttled,
        _ => Kind::Refused,
    }
}

/// What went wrong with one entry of a batch.
pub(super) fn of_entry(queue: &str, code: &str, message: Option<&str>, sender_fault: bool) -> SqsSinkError {
    let (operation, queue, short) = ("SendMessageBatch", queue.to_owned(), bare(code).to_owned());
    let message = message.unwrap_or("no words").to_owned();
    match kind(code, if sender_fault { 400 } else { 500 }) {
        Kind::Throttled => SqsSinkError::Throttled {
            operation,
            queue,
            code: short,
            after: None,
        },
        Kind::Server => SqsSinkError::Server {
            operation,
            queue,
            code: short,
        },
        Kind::NoQueue => SqsSinkError::NoQueue { queue },
        Kind::Refused | Kind::Message => SqsSinkError::Message {
            queue,
            code: short,
            message,
        },
    }
}

/// What has gone wrong with `operation` on `queue`.
pub(super) fn judge<E>(operation: &'static str, queue: &str, error: SdkError<E, HttpResponse>) -> SqsSinkError
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
                Kind::Server => SqsSinkError::Server {
                    operation,
                    queue,
                    code: short,
                },
                Kind::Throttled => SqsSinkError::Throttled {
                    operation,
                    queue,
                    code: short,
                    after: after.map(Duration::from_millis),
                },
                Kind::NoQueue => SqsSinkError::NoQueue { queue },
                Kind::Message => SqsSinkError::Message {
                    queue,
                    code: short,
                    message,
                },
                Kind::Refused => SqsSinkError::Refused {
                    operation,
                    queue,
                    code: short,
                    message,
                },
            }
        }
        SdkError::TimeoutError(_) => SqsSinkError::Timeout { operation, queue },
        SdkError::DispatchFailure(failure) if failure.is_timeout() => SqsSinkError::Timeout { operation, queue },
        SdkError::ResponseError(failure) => {
            let code = failure.raw().status().as_u16().to_string();
            SqsSinkError::Server { operation, queue, code }
        }
        other => {
            let mut cause: Option<&(dyn StdError + 'static)> = Some(&other);
            let mut no_credentials = false;
            while let Some(this) = cause {
                no_credentials |= this.is::<CredentialsError>();
                cause = this.source();
            }
            let source = other.into_source().unwrap_or_else(|error| Box::new(error));
            if no_credentials {
                SqsSinkError::NoCredentials { queue, source }
            } else {
                SqsSinkError::Unreachable {
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
    fn an_entry_of_a_batch_has_its_class() {
        let table = [
            ("InvalidMessageContents", true, Class::Permanent),
            ("InvalidParameterValue", true, Class::Permanent),
            ("SomethingNew", true, Class::Permanent),
            ("InternalError", false, Class::Retry),
            ("SomethingNew", false, Class::Retry),
            ("RequestThrottled", true, Class::Throttled(None)),
            ("KMS.ThrottlingException", true, Class::Throttled(None)),
            ("AWS.SimpleQueueService.NonExistentQueue", true, Class::Unavailable),
        ];
        for (code, sender_fault, class) in table {
            assert_eq!(of_entry("q", code, None, sender_fault).class(), class, "{code}");
        }
    }
}
