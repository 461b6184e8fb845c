use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use smol_str::SmolStr;

use super::{DeadLetter, Look, Page, Place};
use crate::{Attempt, Error, Headers, Message};

/// Durable messages: enqueued once, claimed under a lease, settled under its fence.
///
/// A queue is a name; it exists by being used. Expired leases count as ready at the next claim, so nobody must sweep
/// for a message to be recovered.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Stores the items, all or none, and says for each whether it is new or a duplicate: its dedupe key was already
    /// waiting, or it was to be [`alone`](Item::alone) and is not.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; nothing was stored then.
    async fn enqueue(&self, queue: &str, items: Vec<Item>) -> Result<Vec<Enqueued>, Error>;

    /// Leases ready items: highest priority first, then the longest due, then the oldest. Returns at once, perhaps with none;
    /// one that brings fewer than it asked for says nothing of the rest.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; nothing is leased then.
    async fn claim(&self, queue: &str, claim: Claim) -> Result<Vec<Claimed>, Error>;

    /// Ends leases, in one transaction, and answers for each, in the same order. A stale one changes nothing, and keeps no
    /// letter. Letters are as durable when this returns as those of [`bury`](super::DeadLetters::bury).
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; nothing was settled then.
    async fn settle(&self, queue: &str, batch: Vec<Completion>) -> Result<Vec<Result<(), Stale>>, Error>;

    /// Makes leases last until `by` from now and answers for each, in the same order.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; nothing was extended then.
    async fn extend(&self, queue: &str, leases: Vec<Lease>, by: Duration) -> Result<Vec<Result<(), Stale>>, Error>;

    /// How much waits, and since when.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn depth(&self, queue: &str) -> Result<Depth, Error>;

    /// How many items there are under each key, leased and delayed ones too, in no order. Items without a key are not counted.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn keys(&self, queue: &str) -> Result<Vec<(SmolStr, u64)>, Error>;

    /// Shows items that are not leased, in the order of claims: one part of the queue, so that one of millions needs no
    /// more memory than another. Items come and go meanwhile; one that stays is seen once.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn waiting(&self, queue: &str, look: Look) -> Result<Page, Error>;

    /// Removes the items at these places, as [`waiting`](Self::waiting) showed them, and answers with the rows of those
    /// that it removed. One that somebody has leased, moved or removed meanwhile is not among them, and is left alone.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; nothing was removed then.
    async fn withdraw(&self, queue: &str, places: &[Place]) -> Result<Vec<u64>, Error>;

    /// Removes every item that is not leased and says how many there were.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn purge(&self, queue: &str) -> Result<u64, Error>;

    /// Waits until the queue may have something to claim: a hint came, something fell due or a lease ran out.
    /// May return early; never returns much later than `claim` would have found something.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    async fn changed(&self, queue: &str);
}

/// A durable message before it is leased.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The message's id, stable over deliveries. Not unique: use `dedupe` for that.
    pub id: SmolStr,
    /// Its bytes.
    pub payload: Bytes,
    /// Its headers.
    pub headers: Headers,
    /// What its first source knew.
    pub metadata: Headers,
    /// Its partition key.
    pub key: Option<SmolStr>,
    /// Higher goes first; 0 by default.
    pub priority: i16,
    /// Not before this time; none means at once.
    pub run_at: Option<SystemTime>,
    /// At most one unleased item with the same dedupe key waits in a queue.
    pub dedupe: Option<SmolStr>,
    /// Not stored while another item under its key is in the queue, waiting or leased. Asked on the way in, and kept
    /// nowhere; without a key it means nothing.
    pub alone: bool,
    /// When the message was first handed in.
    pub created_at: SystemTime,
    /// When all its attempts must have ended.
    pub deadline: Option<SystemTime>,
    /// Attempts that count, made so far.
    pub attempts: u32,
    /// The failed attempts, oldest first.
    pub history: Vec<Attempt>,
}

impl Item {
    /// The item that keeps `message`, with no attempt made yet.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        Self {
            id: message.id().clone(),
            payload: message.payload.clone(),
            headers: message.headers().clone(),
            metadata: message.metadata().clone(),
            key: message.key().cloned(),
            priority: 0,
            run_at: None,
            dedupe: None,
            alone: false,
            created_at: message.created_at(),
            deadline: None,
            attempts: 0,
            history: Vec::new(),
        }
    }

    /// Adds failed attempts to the history, and those that count to the number.
    pub fn remember(&mut self, attempts: Vec<Attempt>) {
        let counted = attempts.iter().filter(|attempt| attempt.counts()).count();
        self.attempts = self.attempts.saturating_add(u32::try_from(counted).unwrap_or(u32::MAX));
        self.history.extend(attempts);
        Attempt::shorten(&mut self.history);
    }

    /// The message in this item, about to be attempted once more.
    #[must_use]
    pub fn into_message(self) -> (Message, Vec<Attempt>) {
        let mut message = Message::with_id_at(self.id, self.payload, self.created_at)
            .with_headers(self.headers)
            .with_metadata(self.metadata)
            .with_attempt(self.attempts.saturating_add(1));
        if let Some(key) = self.key {
            message = message.with_key(key);
        }
        message.deadline = self.deadline.map(crate::clock::instant_at);
        (message, self.history)
    }
}

/// What became of one item on its way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// Stored.
    New,
    /// Not stored: an item with its dedupe key waits already, or it was to be the only one under its key and is not.
    Duplicate,
}

/// What to claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// At most so many.
    pub max: usize,
    /// For so long.
    pub lease: Duration,
    /// Whether items under one key go out one at a time, oldest first, a delayed head holding its followers back.
    pub ordered: bool,
    /// Only priorities below this; none means all.
    pub below: Option<i16>,
}

/// The right to settle one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The item's row.
    pub row: u64,
    /// The number of this lease of the row; an older one is stale.
    pub fence: u64,
}

/// An item under lease.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The right to settle it.
    pub lease: Lease,
    /// The item.
    pub item: Item,
}

/// How one lease ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Which lease.
    pub lease: Lease,
    /// How it ends.
    pub outcome: Outcome,
}

/// How a lease ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done: the item is deleted.
    Done,
    /// Given up on: the item is deleted and the letter kept among the dead letters, as by
    /// [`bury`](super::DeadLetters::bury), both or neither.
    Bury(Arc<DeadLetter>),
    /// Not done: claimable again after `delay`. The attempts are added to the item's history, and those that count to
    /// its number.
    Retry {
        /// How long to wait.
        delay: Duration,
        /// What failed under this lease.
        attempts: Vec<Attempt>,
    },
    /// Not tried: claimable again at once, at its old place, nothing counted.
    Release,
}

/// The lease was lost; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stale lease")]
pub struct Stale;

/// How much is in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Depth {
    /// Claimable now.
    pub ready: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// Under a live lease.
    pub leased: u64,
    /// When the oldest claimable item was created.
    pub oldest: Option<SystemTime>,
}
