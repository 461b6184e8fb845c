use std::time::Duration;

use async_trait::async_trait;

use crate::Error;

/// Rates that many processes share: under each name a line of time, of which everybody takes pieces one after the other.
///
/// Whoever takes a piece spreads its attempts over it; so all together keep the rate, whoever asks.
#[async_trait]
pub trait Rates: Send + Sync {
    /// Takes the next `span` of the time under `name`, and says when it begins. By the store's clock: it begins where
    /// the last one ended, but at the earliest `burst` ago, as what nobody took is lost.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`; if only the answer was lost, that time is lost, too.
    async fn take(&self, name: &str, span: Duration, burst: Duration) -> Result<Taken, Error>;
}

/// When a piece of a shared rate's time begins, seen from the moment of the answer, whatever the clocks of the processes
/// say. One of the two is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// So long from now.
    pub wait: Duration,
    /// So long ago.
    pub late: Duration,
}

impl Taken {
    /// From microseconds from now, negative ones ago.
    #[must_use]
    pub const fn in_micros(micros: i64) -> Self {
        let length = Duration::from_micros(micros.unsigned_abs());
        if micros < 0 {
            Self {
                wait: Duration::ZERO,
                late: length,
            }
        } else {
            Self {
                wait: length,
                late: Duration::ZERO,
            }
        }
    }
}
