//! From a message to an entry of a batch, checked; pure.

use std::collections::HashMap;

use aws_sdk_sqs::{
    primitives::Blob,
    types::{
        MessageAttributeValue, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
        SendMessageBatchRequestEntry,
    },
};
use base64::Engine as _;
use bytes::Bytes;
use dispatch_core::{
    Error, Message,
    config::Template,
    telemetry::{self, LeftOut},
};
use smol_str::SmolStr;

use super::{Encoding, SqsSinkConfig, SqsSinkError};

/// The most bytes of a message, and of a batch (SendMessageBatch).
pub(super) const LARGEST: usize = 1 << 20;
/// The most attributes of a message.
const ATTRIBUTES: usize = 10;

/// A message in SQS's form.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    body: String,
    pub(super) group: Option<String>,
    dedup: Option<String>,
    delay: Option<i32>,
    trace_header: Option<String>,
    /// Which span this message has, where spans are made.
    pub(super) traceparent: Option<SmolStr>,
    attributes: Vec<(String, String, Bytes)>,
    /// What counts towards the limit.
    pub(super) size: usize,
}

fn unfit(what: impl Into<String>) -> Error {
    SqsSinkError::Unfit(what.into()).into()
}

/// What SQS takes as a character: those of XML 1.0 (SendMessage, "Valid: …").
fn is_legal(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// A group or deduplication id: 1 to 128 letters, digits and punctuation.
fn id(what: &str, text: String) -> Result<String, Error> {
    if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text);
    }
    let shown: String = text.chars().take(40).collect();
    Err(unfit(format!(
        "\"{}\" is no {what}: 1 to 128 letters, digits and punctuation",
        shown.escape_default()
    )))
}

/// An attribute's name: letters, digits, `_`, `-` and single dots inside; not Amazon's own.
fn is_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    (1..=256).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !lower.starts_with("aws.")
        && !lower.starts_with("amazon.")
}

fn is_wanted(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => {
            name.len() >= start.len() && name.as_bytes()[..start.len()].eq_ignore_ascii_case(start.as_bytes())
        }
        None => name.eq_ignore_ascii_case(pattern),
    })
}

impl Entry {
    /// Makes and checks it.
    ///
    /// # Errors
    /// `Permanent` for what SQS never takes: no body, a body that is not text, one too large, an illegal group.
    pub(super) fn of(message: &Message, config: &SqsSinkConfig, fifo: bool, left_out: &LeftOut) -> Result<Self, Error> {
        let body = body(message, config.encoding)?;
        let render = |template: &Template| Ok::<_, Error>(template.render(message)?.into_owned());
        let group = match (&config.group_id, message.key()) {
            (Some(template), _) => Some(render(template)?),
            (None, Some(key)) if fifo => Some(key.to_string()),
            (None, None) if fifo => {
                return Err(unfit(
                    "a FIFO queue wants a group, and the message has no key: set group_id",
                ));
            }
            _ => None,
        };
        let dedup = match &config.deduplication_id {
            Some(template) => Some(render(template)?),
            None => fifo.then(|| message.id().to_string()),
        };
        let group = group.map(|group| id("message group id", group)).transpose()?;
        let dedup = dedup.map(|dedup| id("deduplication id", dedup)).transpose()?;
        let delay = config
            .delay
            .map(|delay| i32::try_from(delay.0.as_secs()).unwrap_or(i32::MAX));
        let trace_header = message.metadata().get("sqs_aws_trace_header").map(str::to_owned);
        let mut entry = Self {
            size: body.len(),
            body,
            group,
            dedup,
            delay,
            trace_header,
            traceparent: telemetry::tracer().and_then(|_| message.headers().get("traceparent").map(Into::into)),
            attributes: Vec::new(),
        };
        entry.take_attributes(message, &config.attributes, left_out);
        if entry.size > LARGEST {
            return Err(unfit(format!(
                "{} bytes with its attributes, SQS takes {LARGEST}",
                entry.size
            )));
        }
        Ok(entry)
    }

    fn take_attributes(&mut self, message: &Message, wanted: &[String], left_out: &LeftOut) {
        for (name, value) in message.headers().iter() {
            if !is_wanted(wanted, name) {
                continue;
            }
            let unfit = if !is_name(name) {
                Some("its name is no attribute's")
            } else if value.is_empty() {
                Some("it is empty")
            } else if self.attributes.iter().any(|(other, ..)| other == name) {
                Some("there is one of this name already")
            } else if self.attributes.len() == ATTRIBUTES {
                Some("a message has ten attributes at most: see attributes")
            } else {
                None
            };
            if let Some(why) = unfit {
                left_out.note(name, why);
                continue;
            }
            let is_text = std::str::from_utf8(value).is_ok_and(|text| text.chars().all(is_legal));
            let noted = message.metadata().get(&format!("sqs_type_{name}"));
            // The type that it came with, where that still fits.
            let data_type = match noted {
                Some(noted) if is_text != noted.starts_with("Binary") => noted,
                _ if is_text => "String",
                _ => "Binary",
            };
            self.size += name.len() + data_type.len() + value.len();
            self.attributes
                .push((name.to_owned(), data_type.to_owned(), value.clone()));
        }
    }

    /// The group, where there is one.
    #[cfg(test)]
    fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// The SDK's form, under a number of its own in the batch.
    pub(super) fn build(self, number: usize) -> Result<SendMessageBatchRequestEntry, Error> {
        let attribute = |(name, data_type, value): (String, String, Bytes)| {
            let built = MessageAttributeValue::builder().data_type(&data_type);
            let built = match std::str::from_utf8(&value) {
                Ok(text) if !data_type.starts_with("Binary") => built.string_value(text),
                _ => built.binary_value(Blob::new(value)),
            };
            Ok((name, built.build().map_err(Error::permanent)?))
        };
        let attributes: Result<HashMap<_, _>, Error> = self.attributes.into_iter().map(attribute).collect();
        let attributes = attributes?;
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id(number.to_string())
            .message_body(self.body)
            .set_delay_seconds(self.delay)
            .set_message_group_id(self.group)
            .set_message_deduplication_id(self.dedup)
            .set_message_attributes((!attributes.is_empty()).then_some(attributes));
        if let Some(header) = self.trace_header {
            let value = MessageSystemAttributeValue::builder()
                .data_type("String")
                .string_value(header)
                .build()
                .map_err(Error::permanent)?;
            entry = entry.message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, value);
        }
        entry.build().map_err(Error::permanent)
    }
}

fn body(message: &Message, encoding: Encoding) -> Result<String, Error> {
    let payload = &message.payload;
    if payload.is_empty() {
        return Err(unfit("the payload is empty"));
    }
    match encoding {
        Encoding::Base64 => Ok(base64::prelude::BASE64_STANDARD.encode(payload)),
        Encoding::Text => {
            let text = std::str::from_utf8(payload).ok();
            let text = text.filter(|text| text.chars().all(is_legal));
            let text = text.ok_or_else(|| unfit("the payload is not text: set encoding = \"base64\""))?;
            Ok(text.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use dispatch_core::{Class, telemetry::Counter, testing::Logs};

    use super::*;

    const STANDARD: &str = "https://sqs.eu-west-1.amazonaws.com/1/q";
    const FIFO: &str = "https://sqs.eu-west-1.amazonaws.com/1/q.fifo";

    fn of(message: &Message, url: &str, change: impl FnOnce(&mut SqsSinkConfig)) -> Result<Entry, Error> {
        let mut config = SqsSinkConfig::new(url);
        change(&mut config);
        Entry::of(message, &config, config.place().is_fifo(), &LeftOut::default())
    }

    #[test]
    fn what_sqs_never_takes_is_permanent() {
        let key = |payload: &'static str| Message::new(payload).with_key("k");
        let table = [
            (Message::new(""), STANDARD, "empty"),
            (Message::new("a\0b"), STANDARD, "not text"),
            (Message::new(&b"\xff"[..]), STANDARD, "not text"),
            (Message::new("\u{ffff}"), STANDARD, "not text"),
            (Message::new(vec![b'x'; LARGEST + 1]), STANDARD, "SQS takes 1048576"),
            (
                Message::new(vec![b'x'; LARGEST - 10]).header("tenant", "a7"),
                STANDARD,
                "SQS takes 1048576",
            ),
            (Message::new("x"), FIFO, "no key"),
            (Message::new("x").with_key("white space"), FIFO, "message group id"),
            (key("x").with_key("k".repeat(129)), FIFO, "message group id"),
        ];
        for (message, url, words) in table {
            let error = of(&message, url, |_| ()).unwrap_err();
            assert_eq!(error.class(), Class::Permanent, "{words}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn the_largest_message_just_fits() {
        let message = Message::new(vec![b'x'; LARGEST - 14]).header("tenant", "a7");

        assert_eq!(of(&message, STANDARD, |_| ()).unwrap().size, LARGEST);
    }

    #[test]
    fn groups_and_ids_are_the_messages_own_or_the_templates() {
        let message = Message::with_id("m1", "x").with_key("k").header("customer", "c7");

        let own = of(&message, FIFO, |_| ()).unwrap();
        let told = of(&message, FIFO, |config| {
            config.group_id = Some("{{ header:customer }}".parse().unwrap());
            config.deduplication_id = Some("{{ id }}-2".parse().unwrap());
        });
        let told = told.unwrap();
        let standard = of(&message, STANDARD, |_| ()).unwrap();

        assert_eq!((own.group(), own.dedup.as_deref()), (Some("k"), Some("m1")));
        assert_eq!((told.group(), told.dedup.as_deref()), (Some("c7"), Some("m1-2")));
        assert_eq!((standard.group(), standard.dedup.as_deref()), (None, None));
    }

    #[test]
    fn headers_become_attributes_where_sqs_allows() {
        let mut message = Message::new("x")
            .header("tenant", "a7")
            .header("n", "12")
            .header("raw", vec![0_u8, 255])
            .header("aws.own", "x")
            .header("a..b", "x")
            .header("sp ace", "x")
            .header("empty", "")
            .header("tenant", "again")
            .meta("sqs_type_n", "Number.int")
            .meta("sqs_type_tenant", "Binary");
        for n in 0..20 {
            message = message.header(format!("x-{n}"), "v");
        }

        let entry = of(&message, STANDARD, |_| ()).unwrap();
        let few = of(&message, STANDARD, |config| {
            config.attributes = vec!["N".to_owned(), "x-1*".to_owned()]
        })
        .unwrap();

        let names = |entry: &Entry| {
            entry
                .attributes
                .iter()
                .map(|(name, ..)| name.clone())
                .collect::<Vec<_>>()
        };
        let types: Vec<_> = entry
            .attributes
            .iter()
            .take(3)
            .map(|(_, data_type, _)| data_type.as_str())
            .collect();
        assert_eq!(
            (names(&entry).len(), &names(&entry)[..3]),
            (10, &["tenant", "n", "raw"].map(str::to_owned)[..])
        );
        assert_eq!(types, ["String", "Number.int", "Binary"]);
        assert_eq!(names(&few)[..3], ["n", "x-1", "x-10"]);
    }

    #[test]
    fn what_is_left_out_is_warned_of_once_by_name_and_counted() {
        let mut message = Message::new("x")
            .header("aws.own", "canary")
            .header("empty", "")
            .header("tenant", "a7")
            .header("tenant", "canary");
        for n in 0..10 {
            message = message.header(format!("x-{n}"), "canary");
        }
        let (logs, _guard) = Logs::gather();
        let counter = Counter::default();
        let left_out = LeftOut::new(counter.clone());

        for _ in 0..3 {
            Entry::of(&message, &SqsSinkConfig::new(STANDARD), false, &left_out).unwrap();
        }

        for (name, why) in [
            ("aws.own", "its name is no attribute's"),
            ("empty", "it is empty"),
            ("tenant", "there is one of this name already"),
            ("x-9", "a message has ten attributes at most: see attributes"),
        ] {
            let part = format!("name={name:?} why={why:?}");
            assert_eq!(logs.count("WARN", &part), 1, "{part}: {logs:?}");
        }
        assert_eq!((counter.get(), logs.count("", "canary")), (12, 0), "{logs:?}");
    }

    #[test]
    fn any_bytes_go_as_base64() {
        let entry = of(&Message::new(&b"\0\xff"[..]), STANDARD, |config| {
            config.encoding = Encoding::Base64
        });

        assert_eq!(entry.unwrap().body, "AP8=");
    }
}
