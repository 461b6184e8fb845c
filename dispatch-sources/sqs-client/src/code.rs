//! What the codes of SQS are about: the one table of them.

/// What an error code is about; both spellings, the old protocol's and the new one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Server,
    Throttled,
    NoQueue,
    Denied,
    Refused,
    Handle,
    Misuse,
}

/// The code without what the old protocol puts before it.
pub(crate) fn bare(code: &str) -> &str {
    match code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code) {
        "NonExistentQueue" => "QueueDoesNotExist",
        code => code,
    }
}

pub(crate) fn kind(code: &str, status: u16) -> Kind {
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

/// Whether a code is about what was sent: the text, the attributes, the size.
pub(crate) fn is_about_content(code: &str) -> bool {
    matches!(
        bare(code),
        "InvalidMessageContents"
            | "InvalidParameterValue"
            | "InvalidParameterValueException"
            | "MissingParameter"
            | "MissingRequiredParameterException"
            | "BatchRequestTooLong"
    )
}

/// Whether an entry's code, or a call's, says that its handle is of no use.
#[must_use]
pub fn is_stale(code: &str, message: &str) -> bool {
    kind(code, 400) == Kind::Handle
        // So a message that is gone, or whose handle has expired, is refused in practice.
        || (bare(code) == "InvalidParameterValue"
            && ["receipt handle", "does not exist", "expired"].iter().any(|words| message.contains(words)))
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
            ("AWS.SimpleQueueService.QueueDeletedRecently", 400, Kind::NoQueue),
            ("RequestThrottled", 400, Kind::Throttled),
            ("ThrottlingException", 400, Kind::Throttled),
            ("Throttling", 400, Kind::Throttled),
            ("RequestLimitExceeded", 503, Kind::Throttled),
            ("SlowDown", 503, Kind::Throttled),
            ("KmsThrottled", 400, Kind::Throttled),
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
            ("InvalidAttributeValue", 400, Kind::Refused),
            ("KMS.NotFoundException", 400, Kind::Refused),
            ("KMS.InvalidStateException", 400, Kind::Refused),
            ("KMS.OptInRequired", 400, Kind::Refused),
            ("KmsDisabled", 400, Kind::Refused),
            ("KmsNotFound", 400, Kind::Refused),
            ("KmsInvalidState", 400, Kind::Refused),
            ("KmsOptInRequired", 400, Kind::Refused),
            ("KmsAccessDenied", 400, Kind::Refused),
            ("ReceiptHandleIsInvalid", 400, Kind::Handle),
            ("InvalidIdFormat", 400, Kind::Handle),
            ("AWS.SimpleQueueService.MessageNotInflight", 400, Kind::Handle),
            ("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", 400, Kind::Misuse),
            ("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", 400, Kind::Misuse),
            ("EmptyBatchRequest", 400, Kind::Misuse),
            ("InvalidBatchEntryId", 400, Kind::Misuse),
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
