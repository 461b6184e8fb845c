//! The convention of sqsd and of Elastic Beanstalk's worker tier: what a worker is told in headers, and periodic tasks.

mod config;
mod page;
#[cfg(test)]
mod tests;
mod times;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use dispatch_core::{Message, config::ConfigError, telemetry::LeftOut};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, USER_AGENT},
};
use serde::Deserialize;

use self::{
    page::Page,
    times::{iso_of_millis, iso_of_text},
};
use super::Verdict;
pub use config::{BatchConfig, BinaryAttributes, Compat, SqsdConfig};

/// What the daemon's own attributes begin with; they never become `X-Aws-Sqsd-Attr-` headers.
const RESERVED: &str = "beanstalk.sqsd.";
const PATH: &str = "beanstalk.sqsd.path";
const TASK_NAME: &str = "beanstalk.sqsd.task_name";
const SCHEDULED_TIME: &str = "beanstalk.sqsd.scheduled_time";
const AGENT: HeaderValue = HeaderValue::from_static(concat!("aws-sqsd/", env!("CARGO_PKG_VERSION")));
// Made once: a message has about ten of them.
const MSGID: HeaderName = HeaderName::from_static("x-aws-sqsd-msgid");
const QUEUE: HeaderName = HeaderName::from_static("x-aws-sqsd-queue");
const FIRST_RECEIVED_AT: HeaderName = HeaderName::from_static("x-aws-sqsd-first-received-at");
const RECEIVE_COUNT: HeaderName = HeaderName::from_static("x-aws-sqsd-receive-count");
const SENDER_ID: HeaderName = HeaderName::from_static("x-aws-sqsd-sender-id");
const SENT_AT: HeaderName = HeaderName::from_static("x-aws-sqsd-sent-at");
const MESSAGE_GROUP_ID: HeaderName = HeaderName::from_static("x-aws-sqsd-message-group-id");
const MESSAGE_DEDUPLICATION_ID: HeaderName = HeaderName::from_static("x-aws-sqsd-message-deduplication-id");
const SEQUENCE_NUMBER: HeaderName = HeaderName::from_static("x-aws-sqsd-sequence-number");
const TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");
const RECEIPT_HANDLE: HeaderName = HeaderName::from_static("x-aws-sqsd-receipt-handle");
const PATH_HEADER: HeaderName = HeaderName::from_static("x-aws-sqsd-path");
const TASKNAME: HeaderName = HeaderName::from_static("x-aws-sqsd-taskname");
const SCHEDULED_AT: HeaderName = HeaderName::from_static("x-aws-sqsd-scheduled-at");
/// What the source says of a message, and what tells it to the worker; [`Convention::describe`] knows them by their places.
static TOLD: [(&str, HeaderName); 11] = [
    ("sqs_message_id", MSGID),
    ("sqs_queue_name", QUEUE),
    ("sqs_approximate_first_receive_timestamp", FIRST_RECEIVED_AT),
    ("sqs_approximate_receive_count", RECEIVE_COUNT),
    ("sqs_sender_id", SENDER_ID),
    ("sqs_sent_timestamp", SENT_AT),
    ("sqs_message_group_id", MESSAGE_GROUP_ID),
    ("sqs_message_deduplication_id", MESSAGE_DEDUPLICATION_ID),
    ("sqs_sequence_number", SEQUENCE_NUMBER),
    ("sqs_aws_trace_header", TRACE_ID),
    ("sqs_receipt_handle", RECEIPT_HANDLE),
];

/// Where in [`TOLD`] a name stands.
fn place_of(name: &str) -> Option<usize> {
    let by = |is_it: &dyn Fn(&str) -> bool| TOLD.iter().position(|(known, _)| is_it(known));
    by(&|known| known == name).or_else(|| by(&|known| known.eq_ignore_ascii_case(name)))
}

/// How many headers the convention adds to a message without attributes, at most.
pub(super) const HEADERS: usize = 12;
/// The convention, checked.
#[derive(Debug)]
pub(super) struct Convention {
    content_type: HeaderValue,
    base64: bool,
    max_header_bytes: usize,
    receipt_handle: bool,
    via_sns: bool,
}

/// A periodic task that a message asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Task<'a> {
    /// Where to, instead of the sink's own path.
    pub(super) path: Option<&'a str>,
}

impl Convention {
    pub(super) fn new(config: &SqsdConfig) -> Result<Self, ConfigError> {
        let content_type = HeaderValue::from_str(&config.content_type).map_err(|_| {
            ConfigError::at(
                "sqsd.content_type",
                "a header's value is one line of visible characters",
            )
            .help("write a media type such as \"application/json\"")
        })?;
        if config.batch.is_some_and(|batch| batch.size == 0) {
            return Err(ConfigError::at("sqsd.batch.size", "a batch has at least one message").help("write 10"));
        }
        Ok(Self {
            content_type,
            base64: config.binary_attributes == BinaryAttributes::Base64,
            max_header_bytes: config.max_header_bytes.as_usize(),
            receipt_handle: config.receipt_handle,
            via_sns: config.via_sns,
        })
    }

    /// What every request starts from.
    pub(super) fn defaults(&self, headers: &mut HeaderMap) {
        headers.insert(USER_AGENT, AGENT);
        headers.insert(CONTENT_TYPE, self.content_type.clone());
    }

    /// What is sent of the message: nothing for a periodic task, the inner text of an envelope, else the payload.
    pub(super) fn body(&self, message: &Message) -> Bytes {
        if task(message).is_some() {
            return Bytes::new();
        }
        match self.via_sns.then(|| sns_text(&message.payload)).flatten() {
            Some(inner) => inner.into(),
            None => message.payload.clone(),
        }
    }

    /// Adds what the worker is told of one message. What no header can carry stays behind.
    pub(super) fn describe(&self, headers: &mut HeaderMap, message: &Message, left_out: &LeftOut) {
        let mut page = Page::new(headers, self.max_header_bytes, left_out);
        let attributes = message.headers();
        // By one walk: a look-up for each would compare ten names ten times.
        let mut said = [const { None }; TOLD.len()];
        for (name, value) in message.metadata().iter() {
            if let Some(place) = place_of(name) {
                said[place].get_or_insert_with(|| value.clone());
            }
        }
        let [id, _, first_received, count, _, sent, .., handle] = &mut said;
        id.get_or_insert_with(|| Bytes::copy_from_slice(message.id().as_bytes()));
        count.get_or_insert_with(|| Bytes::from(message.attempt.to_string()));
        for time in [first_received, sent] {
            *time = time.take().and_then(|millis| iso_of_millis(&millis));
        }
        handle.take_if(|_| !self.receipt_handle);
        for ((_, name), value) in TOLD.iter().zip(said) {
            page.maybe(name, value);
        }
        if attributes.is_empty() {
            return;
        }
        page.maybe(&PATH_HEADER, attributes.get_bytes(PATH).cloned());
        if task(message).is_some() {
            page.maybe(&TASKNAME, attributes.get_bytes(TASK_NAME).cloned());
            let scheduled = attributes.get(SCHEDULED_TIME).unwrap_or_default();
            let at = iso_of_text(scheduled).unwrap_or_else(|| scheduled.to_owned());
            page.put(SCHEDULED_AT, Bytes::from(at));
        }
        self.attributes(&mut page, message);
    }

    /// One header for each attribute that a header can carry.
    fn attributes(&self, page: &mut Page<'_>, message: &Message) {
        for (name, value) in message.headers().iter() {
            if name
                .get(..RESERVED.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
            {
                continue;
            }
            let kind = message.metadata().get(&format!("sqs_type_{name}")).unwrap_or("String");
            let value = if kind.starts_with("String") || kind.starts_with("Number") {
                value.clone()
            } else if self.base64 && kind.starts_with("Binary") {
                Bytes::from(BASE64_STANDARD.encode(value))
            } else {
                page.left_out.note(name, "it is no text: see binary_attributes");
                continue;
            };
            // Names are checked here, and values below: nothing can end a line and begin another.
            match HeaderName::from_bytes(format!("x-aws-sqsd-attr-{name}").as_bytes()) {
                Ok(header) => page.put(header, value),
                Err(_) => page.left_out.note(name, "its name is no HTTP header's"),
            }
        }
    }
}

/// The periodic task that a message asks for, if it does; anybody may send one.
pub(super) fn task(message: &Message) -> Option<Task<'_>> {
    let headers = message.headers();
    headers.get_bytes(SCHEDULED_TIME)?;
    Some(Task {
        path: headers.get(PATH),
    })
}

/// What `status` means by this convention. `asked`: the answer says when to come again.
pub(super) fn verdict(compat: Option<Compat>, status: StatusCode, asked: bool) -> Verdict {
    let number = status.as_u16();
    let success = match compat {
        None => (200..300).contains(&number),
        Some(Compat::Taiyoh) => number < 500,
        Some(Compat::Beanstalk) => number == 200,
    };
    match (success, number) {
        (true, _) => Verdict::Success,
        (false, 429 | 503) if asked => Verdict::Throttled,
        (false, _) => Verdict::Retry,
    }
}

/// What is in an envelope of SNS.
fn sns_text(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Envelope {
        #[serde(rename = "Type")]
        kind: String,
        message: String,
    }
    let envelope: Envelope = serde_json::from_slice(payload).ok()?;
    (envelope.kind == "Notification").then_some(envelope.message)
}
