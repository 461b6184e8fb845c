//! The convention of sqsd and of Elastic Beanstalk's worker tier: what a worker is told in headers, and periodic tasks.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use dispatch_core::{
    Message,
    config::{ByteSize, ConfigError, Period},
    telemetry::LeftOut,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, Entry, USER_AGENT},
};
use jiff::{Timestamp, civil, tz::TimeZone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Verdict, iso};

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
/// How each header counts beyond its name and value: a colon, a space and the line's end.
const AROUND: usize = 4;

/// Speak to the worker as sqsd and Elastic Beanstalk do: `X-Aws-Sqsd-*` headers, periodic tasks, and a success or a
/// failure that the queue's own redrive policy judges.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SqsdConfig {
    /// The `Content-Type` of every request.
    pub content_type: String,
    /// Whose idea of success is followed; by default 2xx is one and everything else is a failure.
    pub compat: Option<Compat>,
    /// What becomes of binary attributes.
    pub binary_attributes: BinaryAttributes,
    /// How many bytes all headers of a request may have; attributes beyond that stay behind.
    pub max_header_bytes: ByteSize,
    /// Send the receipt handle, so that the worker can extend or delete the message itself. It is a key to the message.
    pub receipt_handle: bool,
    /// Where the payload is an envelope of SNS, send what is in it.
    pub via_sns: bool,
    /// Send several messages in one request, as Lambda's event source does.
    pub batch: Option<BatchConfig>,
}

impl Default for SqsdConfig {
    fn default() -> Self {
        Self {
            content_type: "application/json".to_owned(),
            compat: None,
            binary_attributes: BinaryAttributes::default(),
            max_header_bytes: ByteSize(16 << 10),
            receipt_handle: false,
            via_sns: false,
            batch: None,
        }
    }
}

/// Whose idea of success is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// Every status below 500, redirects and refusals too, as taiyoh/sqsd.
    Taiyoh,
    /// 200 alone, as Elastic Beanstalk.
    Beanstalk,
}

/// What becomes of binary attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BinaryAttributes {
    /// They stay behind.
    #[default]
    Skip,
    /// They go along in base64.
    Base64,
}

/// How messages are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// The most messages in a request; 10.
    #[schemars(range(min = 1, max = 10_000))]
    pub size: usize,
    /// How long the first one waits for company; 50 ms.
    pub linger: Period,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            size: 10,
            linger: Period(Duration::from_millis(50)),
        }
    }
}

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
        let mut page = Page {
            left: self.max_header_bytes.saturating_sub(size(headers)),
            headers,
            left_out,
        };
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

/// The headers of one request, within their bound.
struct Page<'a> {
    headers: &'a mut HeaderMap,
    left: usize,
    left_out: &'a LeftOut,
}

impl Page<'_> {
    fn maybe(&mut self, name: &HeaderName, value: Option<Bytes>) {
        if let Some(value) = value {
            self.put(name.clone(), value);
        }
    }

    /// Adds a header, unless it is none, is there already or is too much.
    fn put(&mut self, name: HeaderName, value: Bytes) {
        let Ok(value) = HeaderValue::from_maybe_shared(value) else {
            self.left_out.note(name.as_str(), "its value is none of HTTP's");
            return;
        };
        let size = name.as_str().len() + value.len() + AROUND;
        if size > self.left {
            self.left_out
                .note(name.as_str(), "the request's headers are full: see max_header_bytes");
            return;
        }
        match self.headers.entry(name) {
            Entry::Vacant(place) => {
                self.left -= size;
                place.insert(value);
            }
            Entry::Occupied(there) => self
                .left_out
                .note(there.key().as_str(), "there is one of this name already"),
        }
    }
}

fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + AROUND)
        .sum()
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

/// `2026-11-22T07:00:00Z` for a count of milliseconds since 1970.
fn iso_of_millis(millis: &[u8]) -> Option<Bytes> {
    let millis: i64 = std::str::from_utf8(millis).ok()?.parse().ok()?;
    let seconds = millis.div_euclid(1_000);
    // Every message has two of them.
    if let Some(text) = iso::of_seconds(seconds) {
        return Some(Bytes::copy_from_slice(&text));
    }
    Some(Timestamp::from_second(seconds).ok()?.to_string().into())
}

/// The same for `2026-11-22 07:00:00 UTC` and whatever looks like RFC 3339; without an offset it is UTC.
fn iso_of_text(text: &str) -> Option<String> {
    let text = text.trim();
    let bare = ["UTC", "GMT", "utc"]
        .iter()
        .find_map(|zone| text.strip_suffix(zone))
        .unwrap_or(text)
        .trim_end();
    let time = match bare.parse::<Timestamp>() {
        Ok(time) => time,
        Err(_) => bare
            .parse::<civil::DateTime>()
            .ok()?
            .to_zoned(TimeZone::UTC)
            .ok()?
            .timestamp(),
    };
    Some(Timestamp::from_second(time.as_second()).ok()?.to_string())
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

#[cfg(test)]
mod tests {
    use dispatch_core::{telemetry::Counter, testing::Logs};

    use super::*;

    fn described(change: impl FnOnce(&mut SqsdConfig), message: &Message) -> HeaderMap {
        let mut config = SqsdConfig::default();
        change(&mut config);
        let convention = Convention::new(&config).unwrap();
        let mut headers = HeaderMap::new();
        convention.defaults(&mut headers);
        convention.describe(&mut headers, message, &LeftOut::default());
        headers
    }

    fn counted() -> (LeftOut, Counter) {
        let counter = Counter::default();
        (LeftOut::new(counter.clone()), counter)
    }

    fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn a_message_is_described_as_the_daemon_does() {
        let message = Message::with_id("m-1", "{}")
            .meta("sqs_message_id", "m-1")
            .meta("sqs_queue_name", "jobs")
            .meta("sqs_approximate_first_receive_timestamp", "1763800000999")
            .meta("sqs_sent_timestamp", "1763799999000")
            .meta("sqs_approximate_receive_count", "3")
            .meta("sqs_sender_id", "AIDA")
            .meta("sqs_message_group_id", "g")
            .meta("sqs_message_deduplication_id", "d")
            .meta("sqs_sequence_number", "18")
            .meta("sqs_aws_trace_header", "Root=1-2-3")
            .meta("sqs_receipt_handle", "secret-handle")
            .header("beanstalk.sqsd.path", "/reports");

        let headers = described(|_| (), &message);

        for (name, expected) in [
            ("user-agent", Some(concat!("aws-sqsd/", env!("CARGO_PKG_VERSION")))),
            ("content-type", Some("application/json")),
            ("x-aws-sqsd-msgid", Some("m-1")),
            ("x-aws-sqsd-queue", Some("jobs")),
            ("x-aws-sqsd-first-received-at", Some("2025-11-22T08:26:40Z")),
            ("x-aws-sqsd-sent-at", Some("2025-11-22T08:26:39Z")),
            ("x-aws-sqsd-receive-count", Some("3")),
            ("x-aws-sqsd-sender-id", Some("AIDA")),
            ("x-aws-sqsd-message-group-id", Some("g")),
            ("x-aws-sqsd-message-deduplication-id", Some("d")),
            ("x-aws-sqsd-sequence-number", Some("18")),
            ("x-amzn-trace-id", Some("Root=1-2-3")),
            // It only reports: nothing says that this is a task.
            ("x-aws-sqsd-path", Some("/reports")),
            ("x-aws-sqsd-taskname", None),
            ("x-aws-sqsd-attr-beanstalk.sqsd.path", None),
            ("x-aws-sqsd-receipt-handle", None),
        ] {
            assert_eq!(text(&headers, name), expected, "{name}");
        }
        assert_eq!(task(&message), None);
        let handed = described(|config| config.receipt_handle = true, &message);
        assert_eq!(text(&handed, "x-aws-sqsd-receipt-handle"), Some("secret-handle"));
    }

    #[test]
    fn attributes_that_a_header_can_carry_go_along() {
        let message = Message::new("x")
            .header("Plain", "a b")
            .header("Count", "7")
            .meta("sqs_type_Count", "Number.int")
            .header("Label", "ü")
            .meta("sqs_type_Label", "String.label")
            .header("Blob", vec![0xff, 0])
            .meta("sqs_type_Blob", "Binary.png")
            .header("plain", "the second of its name")
            .header("split", "a\r\nx-evil: 1")
            .header("nul", "a\0b")
            .header("no header", "x")
            .header("", "an empty name ends in a dash")
            .header("Beanstalk.SQSD.other", "reserved");

        let headers = described(|_| (), &message);

        let attributes: Vec<_> = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().strip_prefix("x-aws-sqsd-attr-")?, value.as_bytes())))
            .collect();
        let expected: [(&str, &[u8]); 4] = [
            ("plain", b"a b"),
            ("count", b"7"),
            ("label", "ü".as_bytes()),
            ("", b"an empty name ends in a dash"),
        ];
        assert_eq!(attributes, expected);
        assert!(!headers.contains_key("x-evil"));
        let encoded = described(|config| config.binary_attributes = BinaryAttributes::Base64, &message);
        assert_eq!(text(&encoded, "x-aws-sqsd-attr-blob"), Some("/wA="));
    }

    #[test]
    fn headers_stay_within_their_bound() {
        let mut message = Message::new("x");
        for number in 0..100 {
            message = message.header(format!("a{number}"), "v".repeat(100));
        }

        for bound in [256, 1024, 16 << 10] {
            let headers = described(|config| config.max_header_bytes = ByteSize(bound), &message);

            assert!(size(&headers) as u64 <= bound, "{bound}: {}", size(&headers));
            assert_eq!(bound == 16 << 10, headers.len() > 100, "{bound}");
        }
    }

    #[test]
    fn what_stays_behind_is_logged_with_its_name_and_without_its_value() {
        let message = Message::new("x")
            .header("Blob", vec![0xff, 0])
            .meta("sqs_type_Blob", "Binary")
            .header("no header", "canary-1")
            .header("split", "canary-2\r\nx-evil: 1")
            .header("Twice", "first")
            .header("twice", "canary-3")
            .header("long", "canary-4".repeat(100));
        let (logs, _guard) = Logs::gather();

        let config = SqsdConfig {
            max_header_bytes: ByteSize(600),
            ..SqsdConfig::default()
        };
        let convention = Convention::new(&config).unwrap();
        let (left_out, counter) = counted();
        let mut headers = HeaderMap::new();
        for _ in 0..3 {
            headers.clear();
            convention.describe(&mut headers, &message, &left_out);
        }

        assert_eq!(text(&headers, "x-aws-sqsd-attr-twice"), Some("first"));
        for (name, why) in [
            ("Blob", "it is no text: see binary_attributes"),
            ("no header", "its name is no HTTP header's"),
            ("x-aws-sqsd-attr-split", "its value is none of HTTP's"),
            ("x-aws-sqsd-attr-twice", "there is one of this name already"),
            (
                "x-aws-sqsd-attr-long",
                "the request's headers are full: see max_header_bytes",
            ),
        ] {
            let part = format!("name={name:?} why={why:?}");
            let said = (logs.count("WARN", &part), logs.count("DEBUG", &part));
            assert_eq!(said, (1, 2), "{part}: {logs:?}");
        }
        assert_eq!(counter.get(), 15);
        assert_eq!(logs.count("", "canary"), 0, "{logs:?}");
    }

    #[test]
    fn a_scheduled_time_makes_a_task() {
        for (time, expected) in [
            ("2026-11-22 07:30:00 UTC", "2026-11-22T07:30:00Z"),
            ("2026-11-22T07:30:00Z", "2026-11-22T07:30:00Z"),
            ("2026-11-22T07:30:00.250+09:00", "2026-11-21T22:30:00Z"),
            ("2026-11-22 07:30:00", "2026-11-22T07:30:00Z"),
            ("2026-11-22T07:30", "2026-11-22T07:30:00Z"),
            ("whenever", "whenever"),
        ] {
            let message = Message::new("elasticbeanstalk scheduled job")
                .header("beanstalk.sqsd.path", "/backup")
                .header("beanstalk.sqsd.task_name", "backup-job")
                .header("beanstalk.sqsd.scheduled_time", time);

            let headers = described(|_| (), &message);

            assert_eq!(task(&message), Some(Task { path: Some("/backup") }));
            assert_eq!(text(&headers, "x-aws-sqsd-taskname"), Some("backup-job"));
            assert_eq!(text(&headers, "x-aws-sqsd-scheduled-at"), Some(expected), "{time}");
            assert!(
                Convention::new(&SqsdConfig::default())
                    .unwrap()
                    .body(&message)
                    .is_empty()
            );
        }
    }

    #[test]
    fn statuses_follow_their_family() {
        for number in 100..=599 {
            let status = StatusCode::from_u16(number).unwrap();
            for (compat, success) in [
                (None, (200..300).contains(&number)),
                (Some(Compat::Taiyoh), number < 500),
                (Some(Compat::Beanstalk), number == 200),
            ] {
                let (plain, asked) = (verdict(compat, status, false), verdict(compat, status, true));

                let failure = if matches!(number, 429 | 503) {
                    Verdict::Throttled
                } else {
                    Verdict::Retry
                };
                let expected = if success {
                    (Verdict::Success, Verdict::Success)
                } else {
                    (Verdict::Retry, failure)
                };
                assert_eq!((plain, asked), expected, "{compat:?} {number}");
            }
        }
    }

    #[test]
    fn an_envelope_is_opened_where_that_is_wanted() {
        let envelope = r#"{"Type":"Notification","MessageId":"1","TopicArn":"t","Message":"{\"a\":1}"}"#;
        let open = Convention::new(&SqsdConfig {
            via_sns: true,
            ..Default::default()
        })
        .unwrap();
        let closed = Convention::new(&SqsdConfig::default()).unwrap();

        for (payload, expected) in [
            (envelope, r#"{"a":1}"#),
            (r#"{"Type":"Other","Message":"x"}"#, r#"{"Type":"Other","Message":"x"}"#),
            ("not JSON", "not JSON"),
        ] {
            assert_eq!(open.body(&Message::new(payload)), expected);
            assert_eq!(closed.body(&Message::new(payload)), payload);
        }
    }
}
