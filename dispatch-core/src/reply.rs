//! What a sink answered.

use bytes::Bytes;

use crate::Headers;

/// A sink's answer: bytes and headers, both often empty.
///
/// It goes back to a source that waits for it (HTTP in `sync` mode) or feeds the next sink (`then`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The answer's bytes.
    pub payload: Bytes,
    /// What came with them.
    pub headers: Headers,
}

impl Reply {
    /// An answer without headers.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            headers: Headers::new(),
        }
    }
}

impl From<()> for Reply {
    fn from((): ()) -> Self {
        Self::default()
    }
}
impl From<Bytes> for Reply {
    fn from(payload: Bytes) -> Self {
        Self::new(payload)
    }
}
impl From<String> for Reply {
    fn from(payload: String) -> Self {
        Self::new(payload)
    }
}
impl From<&'static str> for Reply {
    fn from(payload: &'static str) -> Self {
        Self::new(payload)
    }
}
impl From<Vec<u8>> for Reply {
    fn from(payload: Vec<u8>) -> Self {
        Self::new(payload)
    }
}
