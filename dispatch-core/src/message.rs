//! What travels through the layers.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use smol_str::SmolStr;
use tokio::time::Instant;

use crate::{
    Headers, Outline,
    headers::HeaderValue,
    id::{Id, random_id},
};

/// One piece of work: an id, bytes, and what is known about them.
///
/// Cloning counts one reference, so an attempt costs no copy. Only messages enter the layers; the right to settle stays
/// with the driver, in the [`Delivery`](crate::Delivery).
///
/// ```
/// use dispatch_core::Message;
///
/// let message = Message::new("hello").header("tenant", "a7").with_key("a7");
/// assert_eq!((&message.payload[..], message.attempt), (&b"hello"[..], 1));
/// ```
#[derive(Debug, Clone)]
pub struct Message(Arc<Envelope>);

/// What a [`Message`] holds: its fields are read through the message. Setting one copies the envelope first if a clone
/// of the message still lives.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The bytes to be worked on, shared and never copied.
    pub payload: Bytes,
    /// Which attempt this is, counted from 1 over every delivery of the message.
    pub attempt: u32,
    /// When all attempts must have ended; none means never.
    pub deadline: Option<Instant>,
    /// Made when somebody asks, where the outline says what it is.
    id: Id,
    /// What a bare message has none of; shared by those that were made alike.
    details: Option<Arc<Details>>,
    created_at: Wall,
    /// Of the payload as it is.
    outline: Option<Outline>,
}

/// A point of wall time in half the room: nanoseconds since 1970, of the years 1677 to 2262.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wall(i64);

impl From<SystemTime> for Wall {
    fn from(time: SystemTime) -> Self {
        let nanos = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => nanos(since),
            Err(before) => -nanos(before.duration()),
        })
    }
}

impl From<Wall> for SystemTime {
    fn from(Wall(nanos): Wall) -> Self {
        let span = Duration::from_nanos(nanos.unsigned_abs());
        if nanos < 0 {
            UNIX_EPOCH - span
        } else {
            UNIX_EPOCH + span
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Details {
    key: Option<SmolStr>,
    headers: Headers,
    metadata: Headers,
}

impl Envelope {
    fn id(&self) -> &SmolStr {
        self.id.get(|| {
            let known = self.outline.as_ref().and_then(|outline| outline.id(&self.payload));
            known.map_or_else(random_id, SmolStr::new)
        })
    }
}

static NO_HEADERS: Headers = Headers::new();

impl Deref for Message {
    type Target = Envelope;
    fn deref(&self) -> &Envelope {
        &self.0
    }
}

impl DerefMut for Message {
    fn deref_mut(&mut self) -> &mut Envelope {
        let envelope = Arc::make_mut(&mut self.0);
        // The payload may be about to change, and the id may stand in it.
        if envelope.outline.is_some() {
            envelope.id();
            envelope.outline = None;
        }
        envelope
    }
}

impl Message {
    /// A message with a fresh random id.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self::with_id(random_id(), payload)
    }

    /// A message under the id its source gave it.
    pub fn with_id(id: impl Into<SmolStr>, payload: impl Into<Bytes>) -> Self {
        Self::with_id_at(id, payload, SystemTime::now())
    }

    /// A message with its id and the time it was first handed in; for sources that know it.
    pub fn with_id_at(id: impl Into<SmolStr>, payload: impl Into<Bytes>, created_at: SystemTime) -> Self {
        Self(Arc::new(Envelope {
            payload: payload.into(),
            attempt: 1,
            deadline: None,
            id: Id::Given(id.into()),
            details: None,
            created_at: created_at.into(),
            outline: None,
        }))
    }

    /// Another message with the same headers, metadata and key: they are shared, and copied when one of the two changes
    /// them. `outline` is of its `payload`; without an `id` it has the one that stands there.
    #[must_use]
    pub fn alike(
        &self,
        id: Option<SmolStr>,
        payload: impl Into<Bytes>,
        created_at: SystemTime,
        outline: Option<Outline>,
    ) -> Self {
        Self(Arc::new(Envelope {
            payload: payload.into(),
            attempt: 1,
            deadline: None,
            id: id.map_or_else(Id::later, Id::Given),
            details: self.0.details.clone(),
            created_at: created_at.into(),
            outline,
        }))
    }

    /// Where the parts of a named task stand in the payload, if its source has said so and nothing was changed since.
    #[must_use]
    pub fn outline(&self) -> Option<Outline> {
        self.0.outline
    }

    /// Sets the partition key, or takes it away.
    pub(crate) fn set_key(&mut self, key: Option<SmolStr>) {
        self.details_mut().key = key;
    }

    /// Sets the deadline; the payload stays as it is.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        Arc::make_mut(&mut self.0).deadline = Some(deadline);
    }

    /// Sets the deadline, unless there is an earlier one.
    pub(crate) fn end_by(&mut self, deadline: Instant) {
        if self.deadline.is_none_or(|own| deadline < own) {
            self.set_deadline(deadline);
        }
    }

    /// The id: stable over redeliveries where the source keeps it so.
    #[must_use]
    pub fn id(&self) -> &SmolStr {
        self.0.id()
    }

    /// The partition key, if the source gave one; `key = "header:…"` selectors look further.
    #[must_use]
    pub fn key(&self) -> Option<&SmolStr> {
        self.0.details.as_ref()?.key.as_ref()
    }

    /// What the sender said about the payload; handed on to the sink.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.0.details.as_ref().map_or(&NO_HEADERS, |details| &details.headers)
    }

    /// What the source knows, under the source's own names (`sqs_message_id`, `file_line`, …).
    #[must_use]
    pub fn metadata(&self) -> &Headers {
        self.0.details.as_ref().map_or(&NO_HEADERS, |details| &details.metadata)
    }

    /// When the message was first handed in, as far as its source knows.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        self.0.created_at.into()
    }

    /// How old it is at this wall time, in nanoseconds.
    pub(crate) fn age_at(&self, wall: Wall) -> u64 {
        u64::try_from(wall.0.saturating_sub(self.0.created_at.0)).unwrap_or_default()
    }

    /// The headers, to change; copies them first if a clone of the message still lives.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.details_mut().headers
    }

    /// The metadata, to change; copies it first if a clone of the message still lives.
    pub fn metadata_mut(&mut self) -> &mut Headers {
        &mut self.details_mut().metadata
    }

    fn details_mut(&mut self) -> &mut Details {
        Arc::make_mut(Arc::make_mut(&mut self.0).details.get_or_insert_default())
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) -> Self {
        self.headers_mut().append(name, value);
        self
    }

    /// Adds a piece of metadata.
    #[must_use]
    pub fn meta(mut self, name: impl Into<SmolStr>, value: impl Into<HeaderValue>) -> Self {
        self.metadata_mut().append(name, value);
        self
    }

    /// Replaces all headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        if !(headers.is_empty() && self.headers().is_empty()) {
            *self.headers_mut() = headers;
        }
        self
    }

    /// Replaces all metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Headers) -> Self {
        if !(metadata.is_empty() && self.metadata().is_empty()) {
            *self.metadata_mut() = metadata;
        }
        self
    }

    /// Sets the partition key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<SmolStr>) -> Self {
        self.details_mut().key = Some(key.into());
        self
    }

    /// Says which attempt this is, from 1.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt.max(1);
        self
    }

    /// The same message with other bytes in it; how one sink's reply becomes the next one's input.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_creation_survives_to_the_nanosecond() {
        for seconds in [0, 1, 1_795_314_018, 9_000_000_000] {
            let span = Duration::new(seconds, 123_456_789);
            for time in [UNIX_EPOCH + span, UNIX_EPOCH - span] {
                assert_eq!(Message::with_id_at("a", "x", time).created_at(), time);
            }
        }
    }

    #[test]
    fn messages_that_are_alike_part_when_one_changes() {
        let pattern = Message::new("").meta("task", "a.b").header("tenant", "a");

        let mut other = pattern.alike(Some("1".into()), "x", SystemTime::now(), None);
        other.metadata_mut().insert("task", "c.d");

        assert_eq!(
            (other.metadata().get("task"), other.headers().get("tenant")),
            (Some("c.d"), Some("a"))
        );
        assert_eq!(pattern.metadata().get("task"), Some("a.b"));
    }

    #[test]
    fn an_outline_goes_with_any_change_of_the_payload_and_the_id_stays() {
        let text = r#"{"task": "a.b", "uuid": "x"}"#;
        let outline = Outline::of(text, &text[10..13], Some(&text[25..26]), None);
        let message = Message::new("").alike(None, text, SystemTime::now(), outline);

        let mut later = message.clone();
        later.set_deadline(Instant::now());
        let with_header = later.clone().header("a", "b");
        let mut changed = message.clone();
        changed.payload = "{}".into();
        let replaced = with_header.clone().with_payload("{}");

        assert!(outline.is_some());
        assert_eq!(
            (message.outline(), later.outline(), with_header.outline()),
            (outline, outline, outline)
        );
        assert_eq!((changed.outline(), replaced.outline()), (None, None));
        for one in [message, later, with_header, changed, replaced] {
            assert_eq!(one.id(), "x");
        }
    }
}
