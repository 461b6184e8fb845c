use async_trait::async_trait;

use crate::Error;

/// How far a bounded input has been worked off, under a name, as a number of the source's own.
#[async_trait]
pub trait Positions: Send + Sync {
    /// The saved position.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn load(&self, name: &str) -> Result<Option<u64>, Error>;

    /// Saves a position, or forgets it.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn save(&self, name: &str, position: Option<u64>) -> Result<(), Error>;
}
