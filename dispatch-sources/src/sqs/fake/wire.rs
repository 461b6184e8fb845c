//! What goes over the wire: requests, answers and errors.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::queue::Attribute;

/// What goes back over the wire.
#[derive(Debug)]
pub(super) enum Answer {
    Http {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// The connection ends.
    Reset,
}

/// An error of the service.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(code: &str, text: impl Into<String>) -> Self {
        Self {
            status: 400,
            code: code.to_owned(),
            text: text.into(),
        }
    }

    pub(super) fn no_queue() -> Self {
        Self::new("QueueDoesNotExist", "The specified queue does not exist.")
    }
}

/// The code of the old query protocol, which the SDKs match on.
pub(super) fn query_code(code: &str) -> String {
    match code {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue".to_owned(),
        "MessageNotInflight"
        | "BatchEntryIdsNotDistinct"
        | "TooManyEntriesInBatchRequest"
        | "EmptyBatchRequest"
        | "BatchRequestTooLong"
        | "InvalidBatchEntryId"
        | "UnsupportedOperation"
        | "PurgeQueueInProgress"
        | "QueueDeletedRecently" => format!("AWS.SimpleQueueService.{code}"),
        code => code.to_owned(),
    }
}

pub(super) type Result<T = Value> = std::result::Result<T, Refusal>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfQueue {
    pub(super) queue_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Named {
    pub(super) queue_name: String,
    #[serde(default)]
    pub(super) attributes: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Receive {
    pub(super) queue_url: String,
    pub(super) max_number_of_messages: Option<usize>,
    pub(super) visibility_timeout: Option<u64>,
    pub(super) wait_time_seconds: Option<u64>,
    #[serde(default)]
    pub(super) message_system_attribute_names: Vec<String>,
    #[serde(default)]
    pub(super) message_attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Send {
    pub(super) message_body: String,
    #[serde(default)]
    pub(super) delay_seconds: u64,
    #[serde(default)]
    pub(super) message_attributes: BTreeMap<String, Attribute>,
    #[serde(default)]
    pub(super) message_system_attributes: BTreeMap<String, Attribute>,
    pub(super) message_group_id: Option<String>,
    pub(super) message_deduplication_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Batch<E> {
    pub(super) queue_url: String,
    pub(super) entries: Vec<WithId<E>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WithId<E> {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) entry: E,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfHandle {
    pub(super) receipt_handle: String,
    #[serde(default)]
    pub(super) visibility_timeout: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StartMove {
    pub(super) source_arn: String,
    pub(super) destination_arn: Option<String>,
    pub(super) max_number_of_messages_per_second: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListMoves {
    pub(super) source_arn: String,
    pub(super) max_results: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CancelMove {
    pub(super) task_handle: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Received<'a> {
    pub(super) message_id: &'a str,
    pub(super) receipt_handle: &'a str,
    pub(super) body: &'a str,
    #[serde(rename = "MD5OfBody")]
    pub(super) md5: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attributes: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message_attributes: Option<&'a BTreeMap<String, Attribute>>,
}
