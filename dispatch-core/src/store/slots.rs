use std::time::SystemTime;

use async_trait::async_trait;

use crate::Error;

/// Makes each schedule slot fire once, however many processes run the schedule.
#[async_trait]
pub trait Slots: Send + Sync {
    /// Takes the slot `at` of `schedule`; true for exactly one caller, ever.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; the slot is not taken then.
    async fn take(&self, schedule: &str, at: SystemTime) -> Result<bool, Error>;

    /// The latest slot of `schedule` that was taken; what was missed lies after it.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn last(&self, schedule: &str) -> Result<Option<SystemTime>, Error>;

    /// Forgets slots before `before`, but for the latest of each schedule.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn prune(&self, before: SystemTime) -> Result<u64, Error>;
}
