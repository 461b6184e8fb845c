use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::Item;
use crate::{Attempt, Error, Headers};

/// Keeps messages that were given up on until a person decides.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Keeps the letters, all or none. A letter of the same message (pipeline, source, id and time of creation) that is
    /// there and not yet replayed gives its place, so that doing this twice leaves one; another message that merely
    /// has the same id is another letter.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; nothing was kept then, and the message must not be acked.
    async fn bury(&self, letters: Vec<DeadLetter>) -> Result<(), Error>;

    /// The letters that match, oldest first, at most `limit`, those after number `after`.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn list(&self, filter: &DeadLetterFilter, after: u64, limit: usize) -> Result<Vec<DeadLetter>, Error>;

    /// How many match.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn count(&self, filter: &DeadLetterFilter) -> Result<u64, Error>;

    /// Puts the letters with these numbers into the queue `queue` as fresh messages (attempts forgotten, history kept)
    /// and marks them replayed, in one transaction; those already marked are passed over. Says how many went.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; nothing was replayed then.
    async fn replay(&self, numbers: &[u64], queue: &str) -> Result<u64, Error>;

    /// Deletes those that match and says how many there were.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, Error>;
}

/// A message given up on, byte for byte, with its error history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number in the Store, ascending; 0 before it is kept.
    pub number: u64,
    /// The pipeline that gave up.
    pub pipeline: SmolStr,
    /// The source it came from: the component's label.
    pub source: SmolStr,
    /// The message's id.
    pub id: SmolStr,
    /// Its bytes.
    #[serde(with = "payload")]
    pub payload: Bytes,
    /// Its headers.
    pub headers: Headers,
    /// What its source knew: coordinates such as file and line, or a broker's own id.
    pub metadata: Headers,
    /// Its partition key.
    pub key: Option<SmolStr>,
    /// Why it was given up on, in one word: `permanent`, `exhausted`, `deadline` or `rejected`.
    pub reason: SmolStr,
    /// Every attempt that is known, oldest first.
    pub attempts: Vec<Attempt>,
    /// The trace it belongs to, from `traceparent`.
    pub trace_id: Option<SmolStr>,
    /// A hash of the pipeline's configuration at that time.
    pub config_hash: SmolStr,
    /// When it was first handed in.
    pub created_at: SystemTime,
    /// When it was given up on.
    pub died_at: SystemTime,
    /// When it was put back to work, if it was.
    pub replayed_at: Option<SystemTime>,
}

impl DeadLetter {
    /// The item that gives this message another life: attempts forgotten, history kept.
    #[must_use]
    pub fn to_item(&self) -> Item {
        Item {
            id: self.id.clone(),
            payload: self.payload.clone(),
            headers: self.headers.clone(),
            metadata: self.metadata.clone(),
            key: self.key.clone(),
            priority: 0,
            run_at: None,
            dedupe: None,
            alone: false,
            created_at: self.created_at,
            deadline: None,
            attempts: 0,
            history: self.attempts.clone(),
        }
    }
}

/// Which dead letters. Empty means all that are not yet replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only these numbers, if any are given.
    pub numbers: Vec<u64>,
    /// Only this pipeline's.
    pub pipeline: Option<SmolStr>,
    /// Only those whose last attempt had this class.
    pub class: Option<SmolStr>,
    /// Only those whose last attempt had this code.
    pub code: Option<SmolStr>,
    /// Only those with this reason.
    pub reason: Option<SmolStr>,
    /// Only those given up on at this time or later.
    pub since: Option<SystemTime>,
    /// Only those given up on before this time.
    pub until: Option<SystemTime>,
    /// Those already replayed as well.
    pub with_replayed: bool,
}

impl DeadLetterFilter {
    /// Whether `letter` matches.
    #[must_use]
    pub fn matches(&self, letter: &DeadLetter) -> bool {
        let last = letter.attempts.last();
        (self.numbers.is_empty() || self.numbers.contains(&letter.number))
            && self
                .pipeline
                .as_ref()
                .is_none_or(|pipeline| *pipeline == letter.pipeline)
            && self
                .class
                .as_ref()
                .is_none_or(|class| last.is_some_and(|last| last.class == *class))
            && self
                .code
                .as_ref()
                .is_none_or(|code| last.is_some_and(|last| last.code.as_ref() == Some(code)))
            && self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
            && self.since.is_none_or(|since| letter.died_at >= since)
            && self.until.is_none_or(|until| letter.died_at < until)
            && (self.with_replayed || letter.replayed_at.is_none())
    }
}

/// Payloads in JSON: text where it is UTF-8, else `{"base64": "…"}`.
mod payload {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Encoded {
        Text(String),
        Binary { base64: String },
    }

    pub(super) fn serialize<S: Serializer>(payload: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(payload) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Encoded::Binary {
                base64: BASE64_STANDARD.encode(payload),
            }
            .serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Encoded::deserialize(deserializer)? {
            Encoded::Text(text) => Ok(text.into()),
            Encoded::Binary { base64 } => BASE64_STANDARD
                .decode(base64)
                .map(Into::into)
                .map_err(serde::de::Error::custom),
        }
    }
}
