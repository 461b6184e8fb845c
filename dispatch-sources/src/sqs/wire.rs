//! From a message of SQS to ours; pure.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use dispatch_core::{Headers, Message, Token};
use md5::{Digest as _, Md5};
use smol_str::SmolStr;

use super::answer::Received;

/// What a message is turned into.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) message: Message,
    pub(super) token: Token,
    /// When it was first received, as SQS knows it.
    pub(super) first_received: Option<SystemTime>,
}

/// The queue that messages come from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) url: Bytes,
    pub(super) name: Bytes,
    pub(super) fifo: bool,
}

/// Reads a message. `received`: milliseconds on the source's own clock. `earlier`: what is to be added to the receive
/// count for the attempt's number. None without an id or a handle, which SQS always gives.
pub(super) fn take(
    message: Received<'_>,
    origin: &Origin,
    received: u64,
    earlier: impl FnOnce(&str) -> i32,
) -> Option<Taken> {
    let (id, handle) = (&*message.message_id?, &*message.receipt_handle?);
    let system = message.attributes.unwrap_or_default();
    let count = system.approximate_receive_count.as_deref();
    let count: i32 = count.and_then(|count| count.parse().ok()).unwrap_or(1);
    let attempt = count.saturating_add(earlier(id));
    let sent = time(system.sent_timestamp.as_deref()).unwrap_or_else(SystemTime::now);
    let first_received = time(system.approximate_first_receive_timestamp.as_deref());
    let group = system.message_group_id.as_deref();

    // Made for every message: all texts in one piece of memory, for one count of references.
    let (mut length, mut count) = (id.len() + 1 + handle.len(), 4);
    for (_, text) in system.all() {
        length += text.len();
        count += 1;
    }
    let mut texts = String::with_capacity(length);
    for text in [id, "\n", handle].into_iter().chain(system.all().map(|(_, text)| text)) {
        texts.push_str(text);
    }
    let texts = Bytes::from(texts);
    let both = texts.slice(..id.len() + 1 + handle.len());
    let attributes = message.message_attributes.unwrap_or_default();
    let mut metadata = Headers::with_capacity(count + attributes.len());
    metadata.append(SmolStr::new_static("sqs_message_id"), both.slice(..id.len()));
    metadata.append(SmolStr::new_static("sqs_queue_url"), origin.url.clone());
    metadata.append(SmolStr::new_static("sqs_queue_name"), origin.name.clone());
    metadata.append(SmolStr::new_static("sqs_receipt_handle"), both.slice(id.len() + 1..));
    let mut at = both.len();
    for (name, text) in system.all() {
        let end = at + text.len();
        metadata.append(SmolStr::new_static(name), texts.slice(at..end));
        at = end;
    }
    let mut headers = Headers::with_capacity(attributes.len());
    for (name, value) in attributes {
        if value.data_type != "String" {
            metadata.append(format!("sqs_type_{name}"), value.data_type.as_str());
        }
        match (value.string_value, value.binary_value) {
            (Some(text), _) => headers.append(name, text),
            (None, Some(text)) => match BASE64_STANDARD.decode(&text) {
                Ok(bytes) => headers.append(name, bytes),
                Err(error) => tracing::error!(id, name, %error, "a binary attribute is not base64: left out"),
            },
            (None, None) => {}
        }
    }
    let token = Token {
        number: received,
        fence: group.filter(|_| origin.fifo).map_or(0, fence),
        handle: both,
    };
    let group = group.map(SmolStr::new);
    let mut taken = Message::with_id_at(id, message.body.unwrap_or_default(), sent)
        .with_attempt(u32::try_from(attempt).unwrap_or(1))
        .with_headers(headers)
        .with_metadata(metadata);
    if let Some(group) = group {
        taken = taken.with_key(group);
    }
    Some(Taken {
        message: taken,
        token,
        first_received,
    })
}

/// A group in one number; 0 is no group.
fn fence(group: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    group.hash(&mut hasher);
    hasher.finish().max(1)
}

fn time(millis: Option<&str>) -> Option<SystemTime> {
    let millis = millis?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// A token's message id and receipt handle; none for one that is not of this source.
pub(super) fn parts(token: &Token) -> Option<(&str, &str)> {
    std::str::from_utf8(&token.handle).ok()?.split_once('\n')
}

/// Whether the body is the one that was sent; true where nothing is known.
pub(super) fn is_intact(message: &Received<'_>) -> bool {
    let (Some(body), Some(md5)) = (&message.body, &message.md5) else {
        return true;
    };
    let digest = Md5::digest(body.as_bytes());
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let hex = |digit: u8| char::from_digit(digit.into(), 16);
    digits.filter_map(hex).eq(md5.chars().map(|c| c.to_ascii_lowercase()))
}

/// How much the attempts of a message differ from its receives, while this process lives: a release counts no attempt,
/// and one receive may be worth several. Forgets the oldest of too many.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    of: std::collections::HashMap<SmolStr, i32>,
    order: std::collections::VecDeque<SmolStr>,
}

impl Offsets {
    const MOST: usize = 20_000;

    pub(super) fn get(&self, id: &str) -> i32 {
        if self.of.is_empty() {
            return 0;
        }
        self.of.get(id).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, id: &str, more: i32) {
        if more == 0 {
            return;
        }
        if let Some(offset) = self.of.get_mut(id) {
            *offset = offset.saturating_add(more);
            return;
        }
        self.of.insert(id.into(), more);
        self.order.push_back(id.into());
        while self.order.len() > Self::MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.of.remove(&oldest);
            }
        }
    }

    /// The message is done. Its place in the order stays until its turn, which costs an id.
    pub(super) fn remove(&mut self, id: &str) {
        // Mostly there are none, and looking for one would hash.
        if !self.of.is_empty() {
            self.of.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{super::answer::messages, *};

    fn origin(fifo: bool) -> Origin {
        Origin {
            url: Bytes::from_static(b"https://sqs.eu-west-1.amazonaws.com/1/orders"),
            name: Bytes::from_static(b"orders"),
            fifo,
        }
    }

    /// Of an answer with this message in it.
    fn of<T>(message: &Value, read: impl FnOnce(Received<'_>) -> T) -> T {
        let answer = json!({ "Messages": [message] }).to_string();
        read(messages(answer.as_bytes()).unwrap().pop().unwrap())
    }

    fn message() -> Value {
        json!({
            "MessageId": "m1",
            "ReceiptHandle": "h\n1",
            "Body": "hello",
            "Attributes": {
                "ApproximateReceiveCount": "3",
                "SentTimestamp": "1700000000123",
                "ApproximateFirstReceiveTimestamp": "1700000001000",
                "MessageGroupId": "g",
                "AWSTraceHeader": "Root=1",
            },
            "MessageAttributes": {
                "b": { "DataType": "Binary", "BinaryValue": "AP8=" },
                "n": { "DataType": "Number.int", "StringValue": "7" },
                "s": { "DataType": "String", "StringValue": "text" },
                "w": { "DataType": "Binary", "BinaryValue": "?" },
            },
        })
    }

    fn taken(message: &Value, fifo: bool, received: u64, earlier: i32) -> Taken {
        of(message, |message| {
            take(message, &origin(fifo), received, |_| earlier).unwrap()
        })
    }

    #[test]
    fn everything_that_sqs_says_is_in_the_message() {
        let taken = taken(&message(), true, 42, 0);
        let message = &taken.message;

        assert_eq!((message.id().as_str(), &message.payload[..]), ("m1", &b"hello"[..]));
        assert_eq!((message.attempt, message.key().map(SmolStr::as_str)), (3, Some("g")));
        assert_eq!(
            message.created_at(),
            UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
        );
        assert_eq!(
            (message.headers().get("s"), message.headers().get("n")),
            (Some("text"), Some("7"))
        );
        assert_eq!(
            message.headers().get_bytes("b").map(|bytes| &bytes[..]),
            Some(&[0, 255][..])
        );
        for (name, value) in [
            ("sqs_message_id", "m1"),
            ("sqs_queue_name", "orders"),
            ("sqs_receipt_handle", "h\n1"),
            ("sqs_approximate_receive_count", "3"),
            ("sqs_sent_timestamp", "1700000000123"),
            ("sqs_message_group_id", "g"),
            ("sqs_aws_trace_header", "Root=1"),
            ("sqs_type_n", "Number.int"),
            ("sqs_type_b", "Binary"),
        ] {
            assert_eq!(message.metadata().get(name), Some(value), "{name}");
        }
        assert_eq!(
            (
                message.metadata().get("sqs_type_s"),
                message.metadata().get("sqs_sender_id")
            ),
            (None, None)
        );
        assert_eq!(message.headers().get("sqs_aws_trace_header"), None);
        assert_eq!(message.headers().get_bytes("w"), None, "it is not base64");
        assert_eq!(parts(&taken.token), Some(("m1", "h\n1")));
        assert_eq!(taken.token.number, 42);
    }

    #[test]
    fn only_a_fifo_group_is_a_fence_and_uncounted_receives_count_no_attempt() {
        let fair = taken(&message(), false, 0, -2);
        let less = taken(&message(), true, 0, -9);

        assert_eq!(
            (fair.token.fence, fair.message.attempt, less.message.attempt),
            (0, 1, 1)
        );
        assert_ne!(less.token.fence, 0);
    }

    #[test]
    fn a_body_is_checked_against_its_md5() {
        let with = |md5| {
            of(&json!({ "Body": "hello", "MD5OfBody": md5 }), |message| {
                is_intact(&message)
            })
        };

        assert!(with(Some("5d41402abc4b2a76b9719d911017c592")) && with(None));
        assert!(!with(Some("5d41402abc4b2a76b9719d911017c593")) && !with(Some("")));
    }

    #[test]
    fn offsets_are_bounded() {
        let mut offsets = Offsets::default();
        (0..Offsets::MOST + 5).for_each(|n| offsets.add(&n.to_string(), -1));
        offsets.add("9", 3);

        assert_eq!((offsets.get("4"), offsets.get("5"), offsets.get("9")), (0, -1, 2));
        offsets.remove("9");
        assert_eq!(offsets.get("9"), 0);
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(id in ".*", handle in ".*", body in ".*", count in ".*", name in ".*", earlier: i32) {
            let message = json!({
                "MessageId": id,
                "ReceiptHandle": handle,
                "Body": body,
                "Attributes": { "ApproximateReceiveCount": count, "SentTimestamp": count },
                "MessageAttributes": { name: { "DataType": "String", "StringValue": "x" } },
            });

            let taken = taken(&message, true, 0, earlier);

            prop_assert_eq!(&taken.message.payload[..], body.as_bytes());
            prop_assert!(taken.message.attempt >= 1);
            if !id.contains('\n') {
                prop_assert_eq!(parts(&taken.token), Some((id.as_str(), handle.as_str())));
            }
        }
    }
}
