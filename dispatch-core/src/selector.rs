//! Names one field of a message: `header:tenant`, `meta:action`, `payload:/a/b`, `key`, `id`.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use smol_str::{SmolStr, ToSmolStr};

use crate::Message;

/// What may stand in a selector, for error messages.
pub(crate) const FORMS: &str = "id, attempt, key, header:NAME, meta:NAME, payload or payload:/json/pointer";

/// Names one field of a message, as `key = "header:tenant"` does.
///
/// | written | means |
/// |---|---|
/// | `id` | the message's id |
/// | `attempt` | which attempt this is, from 1 |
/// | `key` | its partition key |
/// | `header:NAME` | a header, in any ASCII case |
/// | `meta:NAME` | a piece of the source's metadata |
/// | `payload` | the payload, if it is UTF-8 |
/// | `payload:/a/b` | the place in a JSON payload that this JSON Pointer (RFC 6901) names |
///
/// A selector that has the message's field in text form costs one small copy; one into the payload parses the payload.
///
/// ```
/// use dispatch_core::{Message, Selector};
///
/// let tenant: Selector = "payload:/tenant/id".parse().unwrap();
/// let message = Message::new(r#"{"tenant":{"id":7}}"#);
/// assert_eq!(tenant.select(&message).as_deref(), Some("7"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector(Field);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Field {
    Id,
    Attempt,
    Key,
    Header(SmolStr),
    Meta(SmolStr),
    Payload,
    Pointer(SmolStr),
}

impl Selector {
    /// The field's text: none where the message has no such field, it is not UTF-8, or it is JSON `null`.
    ///
    /// JSON strings come without their quotes; numbers, booleans, arrays and objects as compact JSON.
    #[must_use]
    pub fn select(&self, message: &Message) -> Option<SmolStr> {
        match &self.0 {
            Field::Id => Some(message.id().clone()),
            Field::Key => message.key().cloned(),
            _ => self.read(message).map(SmolStr::new),
        }
    }

    /// As [`select`](Self::select), borrowed from the message where that can be.
    #[must_use]
    pub fn read<'m>(&self, message: &'m Message) -> Option<Cow<'m, str>> {
        match &self.0 {
            Field::Id => Some(message.id().as_str().into()),
            Field::Attempt => Some(message.attempt.to_string().into()),
            Field::Key => message.key().map(|key| key.as_str().into()),
            Field::Header(name) => message.headers().get(name).map(Cow::Borrowed),
            Field::Meta(name) => message.metadata().get(name).map(Cow::Borrowed),
            Field::Payload => std::str::from_utf8(&message.payload).ok().map(Cow::Borrowed),
            Field::Pointer(pointer) => {
                let json: serde_json::Value = serde_json::from_slice(&message.payload).ok()?;
                match json.pointer(pointer)? {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(text) => Some(text.clone().into()),
                    other => Some(other.to_string().into()),
                }
            }
        }
    }
}

/// A text that names no field of a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// No field is called so.
    #[error("\"{0}\" names no field of a message: write one of {FORMS}")]
    Unknown(String),
    /// `header:` or `meta:` without a name.
    #[error("\"{0}\" lacks the name after the colon, as in \"{0}tenant\"")]
    Nameless(String),
    /// A JSON Pointer that does not begin with a slash.
    #[error("\"payload:{0}\" is not a JSON Pointer: write \"payload:/{0}\"")]
    Pointer(String),
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        let field = match text.split_once(':') {
            None => match text {
                "id" => Field::Id,
                "attempt" => Field::Attempt,
                "key" => Field::Key,
                "payload" => Field::Payload,
                _ => return Err(SelectorError::Unknown(text.to_owned())),
            },
            Some(("header" | "meta", "")) => return Err(SelectorError::Nameless(text.to_owned())),
            Some(("header", name)) => Field::Header(name.to_smolstr()),
            Some(("meta", name)) => Field::Meta(name.to_smolstr()),
            Some(("payload", "")) => Field::Payload,
            Some(("payload", pointer)) if pointer.starts_with('/') => Field::Pointer(pointer.to_smolstr()),
            Some(("payload", pointer)) => return Err(SelectorError::Pointer(pointer.to_owned())),
            Some(_) => return Err(SelectorError::Unknown(text.to_owned())),
        };
        Ok(Self(field))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Field::Id => f.write_str("id"),
            Field::Attempt => f.write_str("attempt"),
            Field::Key => f.write_str("key"),
            Field::Header(name) => write!(f, "header:{name}"),
            Field::Meta(name) => write!(f, "meta:{name}"),
            Field::Payload => f.write_str("payload"),
            Field::Pointer(pointer) => write!(f, "payload:{pointer}"),
        }
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Selector;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field of the message, such as \"header:tenant\" or \"payload:/customer/id\"")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Selector, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_its_field_and_prints_as_it_was_written() {
        let mut message = Message::with_id("m1", r#"{"a":{"b":"x","n":7,"t":true,"l":[1,2],"z":null}}"#)
            .header("Tenant", "a7")
            .meta("action", "load")
            .with_key("k");
        message.attempt = 3;

        for (selector, expected) in [
            ("id", Some("m1")),
            ("attempt", Some("3")),
            ("key", Some("k")),
            ("header:tenant", Some("a7")),
            ("header:none", None),
            ("meta:action", Some("load")),
            ("payload:/a/b", Some("x")),
            ("payload:/a/n", Some("7")),
            ("payload:/a/t", Some("true")),
            ("payload:/a/l", Some("[1,2]")),
            ("payload:/a/z", None),
            ("payload:/a/none", None),
        ] {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.select(&message).as_deref(), expected, "{selector}");
            assert_eq!(parsed.to_string(), selector);
        }
    }

    #[test]
    fn fields_that_are_not_text_are_absent() {
        let message = Message::new(&b"\xff"[..]).header("raw", vec![0xff]);

        for selector in ["payload", "payload:/a", "header:raw", "key"] {
            assert_eq!(
                selector.parse::<Selector>().unwrap().select(&message),
                None,
                "{selector}"
            );
        }
    }

    #[test]
    fn mistakes_say_what_to_write_instead() {
        for (text, hint) in [
            ("tenant", "header:NAME"),
            ("headers:tenant", "header:NAME"),
            ("header:", "header:tenant"),
            ("payload:a", "payload:/a"),
        ] {
            let error = text.parse::<Selector>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
