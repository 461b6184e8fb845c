//! What SQS answers to a ReceiveMessage, in JSON.

use std::{borrow::Cow, collections::BTreeMap, ops::Deref};

use serde::Deserialize;

/// A text that is borrowed where nothing in it is escaped.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// A message, as far as it is used here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Received<'a> {
    #[serde(borrow)]
    pub(super) message_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) receipt_handle: Option<Text<'a>>,
    pub(super) body: Option<String>,
    #[serde(borrow, rename = "MD5OfBody")]
    pub(super) md5: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) attributes: Option<System<'a>>,
    #[serde(default)]
    pub(super) message_attributes: Option<BTreeMap<String, Attribute>>,
}

/// System attributes, as far as there are any.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct System<'a> {
    #[serde(borrow)]
    pub(super) approximate_receive_count: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) approximate_first_receive_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) sent_timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    sender_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) message_group_id: Option<Text<'a>>,
    #[serde(borrow)]
    message_deduplication_id: Option<Text<'a>>,
    #[serde(borrow)]
    sequence_number: Option<Text<'a>>,
    #[serde(borrow, rename = "AWSTraceHeader")]
    aws_trace_header: Option<Text<'a>>,
    #[serde(borrow)]
    dead_letter_queue_source_arn: Option<Text<'a>>,
}

impl System<'_> {
    /// Those that there are, under the names of the metadata that they become.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("sqs_approximate_receive_count", &self.approximate_receive_count),
            (
                "sqs_approximate_first_receive_timestamp",
                &self.approximate_first_receive_timestamp,
            ),
            ("sqs_sent_timestamp", &self.sent_timestamp),
            ("sqs_sender_id", &self.sender_id),
            ("sqs_message_group_id", &self.message_group_id),
            ("sqs_message_deduplication_id", &self.message_deduplication_id),
            ("sqs_sequence_number", &self.sequence_number),
            ("sqs_aws_trace_header", &self.aws_trace_header),
            ("sqs_dead_letter_queue_source_arn", &self.dead_letter_queue_source_arn),
        ]
        .into_iter()
        .filter_map(|(name, text)| Some((name, &**text.as_ref()?)))
    }
}

/// An attribute of the sender's own; binary values are in base64.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attribute {
    #[serde(default)]
    pub(super) data_type: String,
    pub(super) string_value: Option<String>,
    pub(super) binary_value: Option<String>,
}

/// The messages of an answer.
///
/// # Errors
/// It is no such answer.
pub(super) fn messages(body: &[u8]) -> serde_json::Result<Vec<Received<'_>>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        #[serde(borrow)]
        messages: Option<Vec<Received<'a>>>,
    }
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let answer: Answer<'_> = serde_json::from_slice(body)?;
    Ok(answer.messages.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_messages_has_none_and_what_is_no_answer_is_an_error() {
        for empty in ["", "{}", r#"{"Messages":null}"#, r#"{"Messages":[]}"#, r#"{"Other":1}"#] {
            assert!(messages(empty.as_bytes()).unwrap().is_empty(), "{empty}");
        }
        for wrong in [
            "<html>",
            "[]1",
            r#"{"Messages":[{"MessageId":"a"#,
            "{\"Messages\":[{\"Body\":\"\u{1}\"}]}",
        ] {
            assert!(messages(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn texts_are_unescaped_and_what_is_not_known_is_passed_over() {
        let body = br#"{"Messages":[{"MessageId":"m","Body":"\"\u00fc\ud83d\ude00\n\"","MD5OfMessageAttributes":"x",
            "Attributes":{"SenderId":"A\u0042","New":"1"},"MessageAttributes":{"b":{"DataType":"Binary","BinaryValue":"AP8="}}}]}"#;

        let all = messages(body).unwrap();

        let message = &all[0];
        assert_eq!(message.body.as_deref(), Some("\"\u{fc}\u{1f600}\n\""));
        let system: Vec<_> = message.attributes.as_ref().unwrap().all().collect();
        assert_eq!(system, [("sqs_sender_id", "AB")]);
        let attribute = &message.message_attributes.as_ref().unwrap()["b"];
        assert_eq!(attribute.binary_value.as_deref(), Some("AP8="));
        assert!(message.receipt_handle.is_none());
    }
}
