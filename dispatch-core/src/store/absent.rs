//! The roles that a store does not play.

use std::time::Duration;

use async_trait::async_trait;
use smol_str::SmolStr;

use super::{
    Claim, Claimed, Completion, DeadLetter, DeadLetterFilter, DeadLetters, Depth, Enqueued, Item, Lease, Look, Page,
    Place, Queue, Stale,
};
use crate::Error;

/// Stands in a [`Store`](super::Store) for a role that it does not play, and refuses every call with `Permanent`, naming
/// the store. Its configuration says so by [`StoreConfig::WHOLE`](crate::config::StoreConfig::WHOLE), so that no file
/// gets this far.
#[derive(Debug, Clone, Copy)]
pub struct Absent(&'static str);

impl Absent {
    /// `store`: the store's `type`.
    #[must_use]
    pub const fn of(store: &'static str) -> Self {
        Self(store)
    }

    fn refuse<T>(self, role: &str) -> Result<T, Error> {
        Err(Error::permanent(format!(
            "the store `{}` keeps no {role}: name another one under [store]",
            self.0
        )))
    }
}

#[async_trait]
impl DeadLetters for Absent {
    async fn bury(&self, _: Vec<DeadLetter>) -> Result<(), Error> {
        self.refuse("dead letters")
    }
    async fn list(&self, _: &DeadLetterFilter, _: u64, _: usize) -> Result<Vec<DeadLetter>, Error> {
        self.refuse("dead letters")
    }
    async fn count(&self, _: &DeadLetterFilter) -> Result<u64, Error> {
        self.refuse("dead letters")
    }
    async fn replay(&self, _: &[u64], _: &str) -> Result<u64, Error> {
        self.refuse("dead letters")
    }
    async fn purge(&self, _: &DeadLetterFilter) -> Result<u64, Error> {
        self.refuse("dead letters")
    }
}

#[async_trait]
impl Queue for Absent {
    async fn enqueue(&self, _: &str, _: Vec<Item>) -> Result<Vec<Enqueued>, Error> {
        self.refuse("queue")
    }
    async fn claim(&self, _: &str, _: Claim) -> Result<Vec<Claimed>, Error> {
        self.refuse("queue")
    }
    async fn settle(&self, _: &str, _: Vec<Completion>) -> Result<Vec<Result<(), Stale>>, Error> {
        self.refuse("queue")
    }
    async fn extend(&self, _: &str, _: Vec<Lease>, _: Duration) -> Result<Vec<Result<(), Stale>>, Error> {
        self.refuse("queue")
    }
    async fn depth(&self, _: &str) -> Result<Depth, Error> {
        self.refuse("queue")
    }
    async fn keys(&self, _: &str) -> Result<Vec<(SmolStr, u64)>, Error> {
        self.refuse("queue")
    }
    async fn waiting(&self, _: &str, _: Look) -> Result<Page, Error> {
        self.refuse("queue")
    }
    async fn withdraw(&self, _: &str, _: &[Place]) -> Result<Vec<u64>, Error> {
        self.refuse("queue")
    }
    async fn purge(&self, _: &str) -> Result<u64, Error> {
        self.refuse("queue")
    }
    async fn changed(&self, _: &str) {
        std::future::pending().await
    }
}
