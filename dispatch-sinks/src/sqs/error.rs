use dispatch_core::{Class, Classify};
use dispatch_sqs_client::SqsError;
use smol_str::SmolStr;

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqsSinkError {
    /// SQS does not take such a message; nothing was asked.
    #[error("not for SQS: {0}")]
    Unfit(String),
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
    /// The message is not at fault.
    #[error(transparent)]
    Sqs(SqsError),
}

impl Classify for SqsSinkError {
    fn class(&self) -> Class {
        match self {
            Self::Unfit(_) | Self::Message { .. } => Class::Permanent,
            // It may have been sent, and SQS may be well.
            Self::Sqs(SqsError::Timeout { .. }) => Class::Retry,
            // A mistake of ours, which no message is to pay for.
            Self::Sqs(SqsError::Misuse { .. } | SqsError::Handle { .. }) => Class::Unavailable,
            Self::Sqs(error) => error.class(),
        }
    }

    fn code(&self) -> Option<SmolStr> {
        match self {
            Self::Unfit(_) => Some("unfit".into()),
            Self::Message { code, .. } => Some(code.into()),
            Self::Sqs(error) => error.code(),
        }
    }
}

/// What went wrong with a whole request.
impl From<SqsError> for SqsSinkError {
    fn from(error: SqsError) -> Self {
        let about_content = error.is_about_content();
        match error {
            SqsError::Refused {
                queue, code, message, ..
            }
            | SqsError::Misuse {
                queue, code, message, ..
            } if about_content => Self::Message { queue, code, message },
            error => Self::Sqs(error),
        }
    }
}

/// What went wrong with one entry of a batch: what is refused there, the others were not, is the message, unless it is the
/// queue's key.
pub(super) fn of_entry(queue: &str, code: &str, message: Option<&str>, sender_fault: bool) -> SqsSinkError {
    match SqsError::of_entry("SendMessageBatch", queue, code, message, sender_fault) {
        SqsError::Refused {
            queue, code, message, ..
        } if !code.starts_with("KMS.") && !code.starts_with("Kms") => SqsSinkError::Message { queue, code, message },
        error => error.into(),
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
            ("KMS.DisabledException", true, Class::Unavailable),
            ("AccessDenied", true, Class::Unavailable),
            ("InvalidBatchEntryId", true, Class::Unavailable),
            ("AWS.SimpleQueueService.NonExistentQueue", true, Class::Unavailable),
        ];
        for (code, sender_fault, class) in table {
            assert_eq!(of_entry("q", code, None, sender_fault).class(), class, "{code}");
        }
    }
}
