//! Ordered message headers.

use std::fmt;

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeSeq};
use smol_str::SmolStr;

/// Name and value pairs that travel with a message, in order, names compared without ASCII case.
///
/// Values are bytes, because not every broker promises text; [`Headers::get`] reads the usual case.
/// Cloning counts references for values and for names longer than 22 bytes.
///
/// ```
/// use dispatch_core::Headers;
///
/// let mut headers = Headers::new();
/// headers.insert("Content-Type", "application/json");
/// headers.append("x-tag", "a");
/// assert_eq!(headers.get("content-type"), Some("application/json"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(SmolStr, Bytes)>);

impl Headers {
    /// An empty set; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// An empty set with room for so many pairs.
    #[must_use]
    pub fn with_capacity(pairs: usize) -> Self {
        Self(Vec::with_capacity(pairs))
    }

    /// The first value under `name`, if there is one and it is UTF-8.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The first value under `name`, byte for byte.
    #[must_use]
    pub fn get_bytes(&self, name: &str) -> Option<&Bytes> {
        self.0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Sets `name` to one value, in the place of all it had.
    pub fn insert(&mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) {
        let name = name.into();
        self.remove(&name);
        self.append(name, value);
    }

    /// Adds a value and keeps those that `name` has.
    pub fn append(&mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) {
        self.0.push((name.into(), value.into().0));
    }

    /// Takes every value of `name` away.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// All pairs, in the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bytes of one header value; made from strings and byte buffers alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderValue(pub Bytes);

impl From<&str> for HeaderValue {
    fn from(value: &str) -> Self {
        Self(Bytes::copy_from_slice(value.as_bytes()))
    }
}
impl From<String> for HeaderValue {
    fn from(value: String) -> Self {
        Self(value.into())
    }
}
impl From<Bytes> for HeaderValue {
    fn from(value: Bytes) -> Self {
        Self(value)
    }
}
impl From<Vec<u8>> for HeaderValue {
    fn from(value: Vec<u8>) -> Self {
        Self(value.into())
    }
}

impl<N: Into<SmolStr>, V: Into<HeaderValue>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into().0))
                .collect(),
        )
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.0
                    .iter()
                    .map(|(name, value)| (name, String::from_utf8_lossy(value))),
            )
            .finish()
    }
}

/// A value as JSON: text where it is UTF-8, else `{"base64": "…"}`; nothing is lost either way.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Encoded<'a> {
    Text(std::borrow::Cow<'a, str>),
    Binary { base64: String },
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pairs = serializer.serialize_seq(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            let value = match std::str::from_utf8(value) {
                Ok(text) => Encoded::Text(text.into()),
                Err(_) => Encoded::Binary {
                    base64: base64::prelude::BASE64_STANDARD.encode(value),
                },
            };
            pairs.serialize_element(&(name, value))?;
        }
        pairs.end()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(SmolStr, Encoded<'_>)>::deserialize(deserializer)?;
        pairs
            .into_iter()
            .map(|(name, value)| match value {
                Encoded::Text(text) => Ok((name, Bytes::from(text.into_owned()))),
                Encoded::Binary { base64 } => base64::prelude::BASE64_STANDARD
                    .decode(base64)
                    .map(|bytes| (name, bytes.into()))
                    .map_err(serde::de::Error::custom),
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_survive_json() {
        let headers: Headers = [
            ("plain", Bytes::from_static(b"text")),
            ("raw", Bytes::from_static(b"\xff\x00")),
        ]
        .into_iter()
        .collect();

        let json = serde_json::to_string(&headers).unwrap();
        let back: Headers = serde_json::from_str(&json).unwrap();

        assert_eq!(json, r#"[["plain","text"],["raw",{"base64":"/wA="}]]"#);
        assert_eq!(back, headers);
    }

    #[test]
    fn insert_replaces_whatever_the_case() {
        let mut headers = Headers::new();
        headers.append("A", "1");
        headers.append("a", "2");

        headers.insert("a", "3");

        assert_eq!(headers.iter().count(), 1);
        assert_eq!(headers.get("A"), Some("3"));
    }
}
