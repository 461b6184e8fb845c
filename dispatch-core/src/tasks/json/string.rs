use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Visitor};

use super::words::has;

/// A JSON string's own text; lone surrogates become U+FFFD. None if the value is no string.
#[must_use]
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !has(inner, |byte| byte == b'\\') {
        return Some(inner.into());
    }
    let bytes: Wtf8 = serde_json::from_str(raw).ok()?;
    Some(String::from_utf8_lossy(&bytes.0).into_owned().into())
}

/// A string whose lone surrogates are kept, as three bytes each.
pub(super) struct Wtf8(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Wtf8 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Wtf8;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Wtf8, E> {
                Ok(Wtf8(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
