//! From a message of SQS to ours; pure.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_sdk_sqs::types::{Message as SqsMessage, MessageSystemAttributeName as System};
use bytes::Bytes;
use dispatch_core::{Headers, Message, Token};
use md5::{Digest as _, Md5};
use smol_str::SmolStr;

/// What a message is turned into.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) message: Message,
    pub(super) token: Token,
    /// When it was first received, as SQS knows it.
    pub(super) first_received: Option<SystemTime>,
}

/// Metadata that come from system attributes, under their names here; [`take`] knows the first five by their places.
const METADATA: [(System, &str); 9] = [
    (System::ApproximateReceiveCount, "sqs_approximate_receive_count"),
    (
        System::ApproximateFirstReceiveTimestamp,
        "sqs_approximate_first_receive_timestamp",
    ),
    (System::SentTimestamp, "sqs_sent_timestamp"),
    (System::SenderId, "sqs_sender_id"),
    (System::MessageGroupId, "sqs_message_group_id"),
    (System::MessageDeduplicationId, "sqs_message_deduplication_id"),
    (System::SequenceNumber, "sqs_sequence_number"),
    (System::AwsTraceHeader, "sqs_aws_trace_header"),
    (System::DeadLetterQueueSourceArn, "sqs_dead_letter_queue_source_arn"),
];

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
    message: SqsMessage,
    origin: &Origin,
    received: u64,
    earlier: impl FnOnce(&str) -> i32,
) -> Option<Taken> {
    let (id, handle) = (message.message_id?, message.receipt_handle?);
    // Into their places by one walk: each look-up in the map would hash.
    let mut system: [Option<String>; METADATA.len()] = Default::default();
    for (attribute, value) in message.attributes.unwrap_or_default() {
        if let Some(place) = METADATA.iter().position(|(own, _)| *own == attribute) {
            system[place] = Some(value);
        }
    }
    let [count, first_received, sent, _, group, ..] = &system;
    let count: i32 = count.as_ref().and_then(|count| count.parse().ok()).unwrap_or(1);
    let attempt = count.saturating_add(earlier(&id));
    let sent = time(sent.as_ref()).unwrap_or_else(SystemTime::now);
    let first_received = time(first_received.as_ref());
    let group = group.as_ref().map(SmolStr::new);

    // Made for every message: what can be shared or moved is.
    let both = Bytes::from([&*id, "\n", &*handle].concat());
    let attributes = message.message_attributes.unwrap_or_default();
    let mut metadata = Headers::with_capacity(4 + METADATA.len() + attributes.len());
    metadata.append("sqs_message_id", both.slice(..id.len()));
    metadata.append("sqs_queue_url", origin.url.clone());
    metadata.append("sqs_queue_name", origin.name.clone());
    metadata.append("sqs_receipt_handle", both.slice(id.len() + 1..));
    for ((_, name), value) in METADATA.iter().zip(system) {
        if let Some(value) = value {
            metadata.append(SmolStr::new_static(name), value);
        }
    }
    let mut attributes: Vec<_> = attributes.into_iter().collect();
    attributes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let mut headers = Headers::with_capacity(attributes.len());
    for (name, value) in attributes {
        if value.data_type != "String" {
            metadata.append(format!("sqs_type_{name}"), value.data_type.as_str());
        }
        match (value.string_value, value.binary_value) {
            (Some(text), _) => headers.append(name, text),
            (None, Some(blob)) => headers.append(name, blob.into_inner()),
            (None, None) => {}
        }
    }
    let token = Token {
        number: received,
        fence: group.as_deref().filter(|_| origin.fifo).map_or(0, fence),
        handle: both,
    };
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

fn time(millis: Option<&String>) -> Option<SystemTime> {
    let millis = millis?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// A token's message id and receipt handle; none for one that is not of this source.
pub(super) fn parts(token: &Token) -> Option<(&str, &str)> {
    std::str::from_utf8(&token.handle).ok()?.split_once('\n')
}

/// Whether the body is the one that was sent; true where nothing is known.
pub(super) fn is_intact(message: &SqsMessage) -> bool {
    let (Some(body), Some(md5)) = (&message.body, &message.md5_of_body) else {
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
        // Mostly there are none, and an id is not hashed for that.
        if !self.of.is_empty() {
            self.of.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::{primitives::Blob, types::MessageAttributeValue};
    use proptest::prelude::*;

    use super::*;

    fn origin(fifo: bool) -> Origin {
        Origin {
            url: Bytes::from_static(b"https://sqs.eu-west-1.amazonaws.com/1/orders"),
            name: Bytes::from_static(b"orders"),
            fifo,
        }
    }

    fn attribute(data_type: &str, text: Option<&str>, bytes: Option<&[u8]>) -> MessageAttributeValue {
        MessageAttributeValue::builder()
            .data_type(data_type)
            .set_string_value(text.map(str::to_owned))
            .set_binary_value(bytes.map(Blob::new))
            .build()
            .unwrap()
    }

    fn message() -> SqsMessage {
        SqsMessage::builder()
            .message_id("m1")
            .receipt_handle("h\n1")
            .body("hello")
            .attributes(System::ApproximateReceiveCount, "3")
            .attributes(System::SentTimestamp, "1700000000123")
            .attributes(System::ApproximateFirstReceiveTimestamp, "1700000001000")
            .attributes(System::MessageGroupId, "g")
            .attributes(System::AwsTraceHeader, "Root=1")
            .message_attributes("b", attribute("Binary", None, Some(&[0, 255])))
            .message_attributes("n", attribute("Number.int", Some("7"), None))
            .message_attributes("s", attribute("String", Some("text"), None))
            .build()
    }

    #[test]
    fn everything_that_sqs_says_is_in_the_message() {
        let taken = take(message(), &origin(true), 42, |_| 0).unwrap();
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
        assert_eq!(parts(&taken.token), Some(("m1", "h\n1")));
        assert_eq!(taken.token.number, 42);
    }

    #[test]
    fn only_a_fifo_group_is_a_fence_and_uncounted_receives_count_no_attempt() {
        let fair = take(message(), &origin(false), 0, |_| -2).unwrap();
        let less = take(message(), &origin(true), 0, |_| -9).unwrap();

        assert_eq!(
            (fair.token.fence, fair.message.attempt, less.message.attempt),
            (0, 1, 1)
        );
        assert_ne!(less.token.fence, 0);
    }

    #[test]
    fn a_body_is_checked_against_its_md5() {
        let with = |md5: &str| SqsMessage::builder().body("hello").md5_of_body(md5).build();

        assert!(is_intact(&with("5d41402abc4b2a76b9719d911017c592")));
        assert!(!is_intact(&with("5d41402abc4b2a76b9719d911017c593")) && !is_intact(&with("")));
        assert!(is_intact(&SqsMessage::builder().body("hello").build()));
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
            let message = SqsMessage::builder()
                .message_id(id.clone())
                .receipt_handle(handle.clone())
                .body(body)
                .attributes(System::ApproximateReceiveCount, count.clone())
                .attributes(System::SentTimestamp, count)
                .message_attributes(name, attribute("String", Some("x"), None))
                .build();

            let taken = take(message, &origin(true), 0, |_| earlier).unwrap();

            prop_assert!(taken.message.attempt >= 1);
            if !id.contains('\n') {
                prop_assert_eq!(parts(&taken.token), Some((id.as_str(), handle.as_str())));
            }
        }
    }
}
