use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::Error;

/// Idempotency in three states: absent, in progress under a lease, done until it expires.
///
/// Reserve, do the work, commit. A worker that dies between the two leaves a lease that runs out; a worker that fails
/// cancels. A failed message is never locked out.
#[async_trait]
pub trait Reservations: Send + Sync {
    /// Takes `key` for `owner` for as long as `lease`, unless somebody else holds it or it is done.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; nothing is reserved then.
    async fn reserve(&self, key: &str, owner: &str, lease: Duration) -> Result<Reservation, Error>;

    /// Marks `key` done for as long as `keep`, if `owner` still holds it; says whether it did.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn commit(&self, key: &str, owner: &str, keep: Duration) -> Result<bool, Error>;

    /// Gives `key` back, if `owner` holds it and it is not done.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn cancel(&self, key: &str, owner: &str) -> Result<(), Error>;

    /// Forgets what has expired and says how many there were.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn expire(&self) -> Result<u64, Error>;
}

/// What `reserve` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    /// It is ours now.
    Reserved,
    /// Somebody else works on it, until this time at the latest.
    InProgress(SystemTime),
    /// It is done, and remembered until this time.
    Done(SystemTime),
}
