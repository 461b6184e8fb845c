//! One queue.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::Instant};

/// The most messages of a queue that can be out at once (ChangeMessageVisibility, API reference).
const IN_FLIGHT_LIMIT: usize = 120_000;

/// How a queue behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QueueOptions {
    /// The visibility of a receive that says none.
    pub visibility: Duration,
    /// The dead-letter queue's name, and after how many receives a message goes there.
    pub redrive: Option<(String, u32)>,
    /// Whether a FIFO queue takes the body for the deduplication id where there is none.
    pub content_deduplication: bool,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            visibility: Duration::from_secs(30),
            redrive: None,
            content_deduplication: false,
        }
    }
}

impl QueueOptions {
    /// Sends a message to `queue` in the place of its receive number `receives` + 1.
    #[must_use]
    pub fn redrive(mut self, queue: impl Into<String>, receives: u32) -> Self {
        self.redrive = Some((queue.into(), receives));
        self
    }

    /// The visibility of a receive that says none.
    #[must_use]
    pub const fn visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }
}

/// One attribute of a message, as on the wire: binary values in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attribute {
    pub(super) data_type: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) string_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) binary_value: Option<String>,
}

/// A message on its way in, or as it was sent.
#[derive(Debug, Clone, Default)]
pub struct FakeMessage {
    /// The body.
    pub body: String,
    /// The FIFO group; on standard queues the fair-queue group.
    pub group: Option<String>,
    /// The deduplication id.
    pub dedup: Option<String>,
    /// How long it stays hidden.
    pub delay: Duration,
    /// `AWSTraceHeader`.
    pub trace_header: Option<String>,
    pub(super) attributes: BTreeMap<String, Attribute>,
}

impl FakeMessage {
    /// A message without attributes.
    pub fn new(body: impl Into<String>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// Sets the group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Sets the deduplication id.
    #[must_use]
    pub fn dedup(mut self, id: impl Into<String>) -> Self {
        self.dedup = Some(id.into());
        self
    }

    /// Adds an attribute with text in it: of the type `String`, `Number` or a variety of these.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, data_type: &str, value: impl Into<String>) -> Self {
        let attribute = Attribute {
            data_type: data_type.to_owned(),
            string_value: Some(value.into()),
            binary_value: None,
        };
        self.attributes.insert(name.into(), attribute);
        self
    }

    /// Adds an attribute with bytes in it.
    #[must_use]
    pub fn binary(mut self, name: impl Into<String>, value: &[u8]) -> Self {
        use base64::Engine as _;
        let attribute = Attribute {
            data_type: "Binary".to_owned(),
            string_value: None,
            binary_value: Some(base64::prelude::BASE64_STANDARD.encode(value)),
        };
        self.attributes.insert(name.into(), attribute);
        self
    }

    /// An attribute's type and value; binary values in base64.
    #[must_use]
    pub fn attribute_of(&self, name: &str) -> Option<(&str, &str)> {
        let attribute = self.attributes.get(name)?;
        let value = attribute
            .string_value
            .as_deref()
            .or(attribute.binary_value.as_deref())?;
        Some((&attribute.data_type, value))
    }

    /// What counts towards 1 MiB.
    pub(super) fn size(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, attribute)| {
            let value = attribute.string_value.as_deref().map_or(0, str::len)
                + attribute.binary_value.as_deref().map_or(0, |value| value.len() / 4 * 3);
            name.len() + attribute.data_type.len() + value
        });
        self.body.len() + attributes.sum::<usize>()
    }
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) message: FakeMessage,
    pub(super) id: String,
    pub(super) md5: String,
    pub(super) sent: Instant,
    pub(super) first_received: Option<Instant>,
    pub(super) receives: u32,
    /// Until when it is hidden.
    hidden_until: Option<Instant>,
    /// Whether it is hidden because it is out.
    out: bool,
    /// Since when it is, or was last.
    taken: Option<Instant>,
    /// The queue it died in.
    pub(super) died_in: Option<String>,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) options: QueueOptions,
    pub(super) fifo: bool,
    pub(super) changed: Arc<Notify>,
    /// By sequence number: the order that they came in.
    held: HashMap<u64, Held>,
    /// Those of a standard queue that can be received; of a FIFO queue, all that are not out.
    ready: BTreeSet<u64>,
    hidden: BTreeSet<(Instant, u64)>,
    /// How many of a FIFO group are out.
    busy: HashMap<String, usize>,
    /// What was sent in the last 5 minutes: when, and under which id and number.
    recent: HashMap<String, (Instant, String, u64)>,
    out: usize,
    pub(super) most_in_flight: usize,
    /// How many messages are out with consumers that nobody plays.
    pub(super) with_others: usize,
    pub(super) deleted: usize,
}

/// How long a deduplication id is remembered (SQS Developer Guide, "Exactly-once processing").
const DEDUPLICATION: Duration = Duration::from_secs(300);
/// The most a message can be hidden for, from its receive.
pub(super) const LONGEST: Duration = Duration::from_secs(43_200);

pub(super) fn md5_hex(text: &str) -> String {
    let digest = Md5::digest(text.as_bytes());
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

/// Why a handle is of no use.
pub(super) enum Handle {
    /// It never was one.
    Invalid,
    /// Its message was received again, or is gone.
    Stale,
    /// Its message is visible again.
    NotInFlight,
    /// It would be hidden for more than 12 hours from its receive on.
    TooLong,
}

impl Queue {
    pub(super) fn new(name: &str, options: QueueOptions) -> Self {
        Self {
            name: name.to_owned(),
            options,
            fifo: name.ends_with(".fifo"),
            changed: Arc::default(),
            held: HashMap::new(),
            ready: BTreeSet::new(),
            hidden: BTreeSet::new(),
            busy: HashMap::new(),
            recent: HashMap::new(),
            out: 0,
            most_in_flight: 0,
            with_others: 0,
            deleted: 0,
        }
    }

    /// Takes a message in; its id and number, those of the first where it is a repetition.
    pub(super) fn send(&mut self, message: FakeMessage, serial: u64, now: Instant) -> (String, u64) {
        let content = || self.options.content_deduplication.then(|| message.body.clone());
        if let Some(dedup) = message.dedup.clone().or_else(content).filter(|_| self.fifo) {
            self.recent.retain(|_, (at, _, _)| now < *at + DEDUPLICATION);
            if let Some((_, id, number)) = self.recent.get(&dedup) {
                return (id.clone(), *number);
            }
            self.recent.insert(
                dedup,
                (now, format!("{serial:08x}-fake-0000-0000-{serial:012}"), serial),
            );
        }
        let held = Held {
            id: format!("{serial:08x}-fake-0000-0000-{serial:012}"),
            md5: md5_hex(&message.body),
            sent: now,
            first_received: None,
            receives: 0,
            hidden_until: None,
            out: false,
            taken: None,
            died_in: None,
            message,
        };
        let (id, delay) = (held.id.clone(), held.message.delay);
        self.held.insert(serial, held);
        if delay.is_zero() {
            self.ready.insert(serial);
        } else {
            self.hide(serial, now + delay);
        }
        (id, serial)
    }

    /// Takes in what died elsewhere, or comes back from there.
    pub(super) fn adopt(&mut self, serial: u64, mut held: Held, died_in: Option<String>) {
        held.died_in = died_in;
        held.hidden_until = None;
        held.out = false;
        self.held.insert(serial, held);
        self.ready.insert(serial);
        self.changed.notify_waiters();
    }

    /// Takes the first that waits out, with its number.
    pub(super) fn take_first(&mut self) -> Option<(u64, Held)> {
        let serial = self.ready.pop_first()?;
        Some((serial, self.held.remove(&serial)?))
    }

    fn hide(&mut self, serial: u64, until: Instant) {
        self.show(serial);
        self.ready.remove(&serial);
        self.hidden.insert((until, serial));
        if let Some(held) = self.held.get_mut(&serial) {
            held.hidden_until = Some(until);
        }
    }

    /// Ends whatever hides a message.
    fn show(&mut self, serial: u64) {
        if let Some(held) = self.held.get_mut(&serial)
            && let Some(until) = held.hidden_until.take()
        {
            self.hidden.remove(&(until, serial));
            self.ready.insert(serial);
        }
    }

    /// A message that was out no longer is.
    fn back(&mut self, serial: u64) {
        let Some(held) = self.held.get_mut(&serial).filter(|held| held.out) else {
            return;
        };
        held.out = false;
        self.out -= 1;
        if let Some(group) = &held.message.group
            && let Some(busy) = self.busy.get_mut(group)
        {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(group);
            }
        }
    }

    /// Shows what was hidden long enough.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((until, serial)) = self.hidden.first().copied()
            && until <= now
        {
            self.back(serial);
            self.show(serial);
        }
    }

    /// When the next hidden message is to be seen.
    pub(super) fn next(&self) -> Option<Instant> {
        self.hidden.first().map(|(until, _)| *until)
    }

    /// Gives out up to `max`, each with its handle; and what has died of being received too often.
    pub(super) fn receive(
        &mut self,
        max: usize,
        visibility: Duration,
        now: Instant,
    ) -> (Vec<(u64, String)>, Vec<(u64, Held)>) {
        self.tick(now);
        let (mut taken, mut dead) = (Vec::new(), Vec::new());
        let mut blocked: BTreeSet<&str> = BTreeSet::new();
        let mut chosen = Vec::new();
        for serial in &self.ready {
            if chosen.len() >= max {
                break;
            }
            let Some(held) = self.held.get(serial) else { continue };
            if let (true, Some(group)) = (self.fifo, &held.message.group)
                && (self.busy.contains_key(group) || blocked.contains(group.as_str()))
            {
                blocked.insert(group);
                continue;
            }
            chosen.push(*serial);
        }
        for serial in chosen {
            let receives = self.held[&serial].receives;
            if self.options.redrive.as_ref().is_some_and(|(_, most)| receives >= *most) {
                self.ready.remove(&serial);
                dead.extend(self.held.remove(&serial).map(|held| (serial, held)));
                continue;
            }
            self.hide(serial, now + visibility);
            let Some(held) = self.held.get_mut(&serial) else {
                continue;
            };
            held.receives += 1;
            held.first_received.get_or_insert(now);
            held.out = true;
            held.taken = Some(now);
            self.out += 1;
            if let Some(group) = &held.message.group {
                *self.busy.entry(group.clone()).or_default() += 1;
            }
            taken.push((serial, format!("{}/{serial}/{}", self.name, held.receives)));
        }
        self.most_in_flight = self.most_in_flight.max(self.out);
        (taken, dead)
    }

    fn find(&self, handle: &str) -> Result<u64, Handle> {
        let mut parts = handle.rsplitn(3, '/');
        let receive = parts.next().and_then(|part| part.parse::<u32>().ok());
        let serial = parts.next().and_then(|part| part.parse::<u64>().ok());
        let (Some(receive), Some(serial), true) = (receive, serial, parts.next() == Some(self.name.as_str())) else {
            return Err(Handle::Invalid);
        };
        match self.held.get(&serial) {
            None => Err(Handle::Stale),
            Some(held) if held.receives != receive => Err(Handle::Stale),
            Some(held) if !held.out => Err(Handle::NotInFlight),
            Some(_) => Ok(serial),
        }
    }

    /// Deletes by handle. A standard queue says yes to a stale one and keeps the message.
    pub(super) fn delete(&mut self, handle: &str, now: Instant) -> Result<(), Handle> {
        self.tick(now);
        let serial = match self.find(handle) {
            Ok(serial) => serial,
            // Visible again, but not received since: the handle is the newest, and deletes.
            Err(Handle::NotInFlight) if !self.fifo => {
                let serial = handle.rsplit('/').nth(1).and_then(|part| part.parse().ok());
                serial.ok_or(Handle::Invalid)?
            }
            Err(Handle::Stale) if !self.fifo => return Ok(()),
            Err(error) => return Err(error),
        };
        self.back(serial);
        self.show(serial);
        self.ready.remove(&serial);
        self.held.remove(&serial);
        self.deleted += 1;
        Ok(())
    }

    pub(super) fn change(&mut self, handle: &str, visibility: Duration, now: Instant) -> Result<(), Handle> {
        self.tick(now);
        let serial = self.find(handle)?;
        let taken = self.held.get(&serial).and_then(|held| held.taken);
        if taken.is_some_and(|taken| now + visibility > taken + LONGEST) {
            return Err(Handle::TooLong);
        }
        if visibility.is_zero() {
            self.back(serial);
            self.show(serial);
        } else {
            self.hide(serial, now + visibility);
        }
        Ok(())
    }

    pub(super) fn expire(&mut self, id: &str, now: Instant) -> bool {
        self.tick(now);
        let found = self.held.iter().find(|(_, held)| held.id == id && held.out);
        let Some(serial) = found.map(|(serial, _)| *serial) else {
            return false;
        };
        self.back(serial);
        self.show(serial);
        true
    }

    pub(super) fn purge(&mut self) {
        self.held.clear();
        self.ready.clear();
        self.hidden.clear();
        self.busy.clear();
        self.out = 0;
    }

    pub(super) fn held(&self, serial: u64) -> Option<&Held> {
        self.held.get(&serial)
    }

    pub(super) fn visible(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn hidden(&self) -> usize {
        self.hidden.len()
    }

    pub(super) const fn in_flight(&self) -> usize {
        self.out
    }

    /// Whether no more messages are handed out.
    pub(super) const fn is_at_its_limit(&self) -> bool {
        self.out + self.with_others >= IN_FLIGHT_LIMIT
    }

    pub(super) fn bodies(&self) -> Vec<String> {
        let body = |serial: &u64| self.held[serial].message.body.clone();
        self.ready.iter().map(body).collect()
    }

    pub(super) fn messages(&self) -> Vec<FakeMessage> {
        self.ready
            .iter()
            .map(|serial| self.held[serial].message.clone())
            .collect()
    }
}
