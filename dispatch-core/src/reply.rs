//! What a sink answered.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use crate::Headers;

/// A sink's answer: bytes and headers, both often empty. One word, so that it goes through the layers in a register; an
/// empty one allocates nothing.
///
/// It goes back to a source that waits for it (HTTP in `sync` mode) or feeds the next sink (`then`). What an [`Answer`] holds
/// is read and set through it:
///
/// ```
/// use dispatch_core::Reply;
///
/// let mut reply = Reply::new("done");
/// reply.headers.insert("status", "200");
/// assert_eq!((&reply.payload[..], reply.headers.get("status")), (&b"done"[..], Some("200")));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Reply(Option<Box<Answer>>);

/// What a [`Reply`] holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The answer's bytes.
    pub payload: Bytes,
    /// What came with them.
    pub headers: Headers,
}

static NOTHING: Answer = Answer {
    payload: Bytes::new(),
    headers: Headers::new(),
};

impl Deref for Reply {
    type Target = Answer;
    fn deref(&self) -> &Answer {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Reply {
    fn deref_mut(&mut self) -> &mut Answer {
        self.0.get_or_insert_default()
    }
}

impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
impl Eq for Reply {}

impl Reply {
    /// An answer without headers.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self::with_headers(payload, Headers::new())
    }

    /// An answer with headers.
    pub fn with_headers(payload: impl Into<Bytes>, headers: Headers) -> Self {
        let payload = payload.into();
        if payload.is_empty() && headers.is_empty() {
            return Self::default();
        }
        Self(Some(Box::new(Answer { payload, headers })))
    }

    /// What it holds, taken out.
    #[must_use]
    pub fn into_answer(self) -> Answer {
        self.0.map(|answer| *answer).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_answer_is_one_word_and_equal_to_any_other() {
        assert_eq!(size_of::<Result<Reply, crate::Error>>(), 2 * size_of::<usize>());
        let mut touched = Reply::default();
        touched.headers.clone_from(&Headers::new());

        assert_eq!(touched, Reply::new(""));
        assert_ne!(touched, Reply::new("x"));
        assert_eq!(Reply::new("x").into_answer().payload, "x");
        assert!(Reply::from(()).payload.is_empty());
    }
}
