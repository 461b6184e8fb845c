//! Where messages come from, and where their outcomes go back to.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{Attempt, Capabilities, Delivery, Error, Reply, Store, Token, store::DeadLetter, telemetry::Origin};

/// Something messages can be pulled from.
///
/// A source is held back by not being asked: the driver calls [`receive`](Self::receive) only for what its window has
/// free, and not at all while its gate is closed.
#[async_trait]
pub trait Source: Send + 'static {
    /// What this source can do; asked once, before the first `receive`.
    fn capabilities(&self) -> Capabilities;

    /// How the spans of its messages name it; the label is the pipeline's to set. By default they name the pipeline.
    fn origin(&self) -> Option<Origin> {
        None
    }

    /// Whether the messages wait in `store` itself, so that their dead letters are kept there in the step that ends the
    /// delivery: the driver then says [`Disposition::Bury`] and writes no letter of its own. Asked once, before the first
    /// `receive`; by default the driver writes the letter, and settles then.
    fn keeps_letters_in(&self, store: &Arc<dyn Store>) -> bool {
        let _ = store;
        false
    }

    /// Who settles this source's deliveries; it works on after [`close`](Self::close).
    fn settler(&self) -> Arc<dyn Settler>;

    /// Called once when a run begins, before anything else: what no waiting can mend, such as a queue that does not
    /// exist, is said here and ends the run. What may pass is not an error here; the run goes on and tries for ever.
    ///
    /// # Errors
    /// In words for a person; the run ends with them.
    async fn open(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Told once, before the first `receive`, where a `prefetch` is set: the pipeline holds at most `most` deliveries. A
    /// source that fetches more than it is asked for, to be quick, then does not; all others need not listen.
    fn hold_at_most(&mut self, most: usize) {
        let _ = most;
    }

    /// Waits for at least one delivery and returns at most `max`.
    ///
    /// A lost broker is an `Err`; the driver waits (jittered, growing backoff) and calls again, for ever. The source
    /// connects anew and declares what it needs on that call.
    ///
    /// # Errors
    /// Any class; the driver logs it, turns readiness red and calls again. A panic counts as an error of class `Unavailable`.
    ///
    /// # Cancel safety
    /// Dropping the future loses no delivery, and asking again with another `max` is cheap. A source with calls of its
    /// own under way keeps them in its own tasks and counts what they may bring against `max`.
    async fn receive(&mut self, max: usize) -> Result<Received, Error>;

    /// Called when the gate closes: tell a broker that pushes to stop. The next `receive` resumes.
    ///
    /// # Errors
    /// As `receive`.
    async fn hold(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Connects, and says what is wrong if that fails; `dispatch check` calls it. Receives nothing.
    ///
    /// # Errors
    /// Any class, in words for a person; a panic counts as in [`receive`](Self::receive).
    async fn probe(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Stops receiving for good. Settling still works.
    ///
    /// # Errors
    /// As `receive`; the driver logs it and goes on draining.
    async fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// How many inputs this source has itself given up on and kept as dead letters, since it was made: what could not
    /// even become a message. The driver counts them as received and dead-lettered.
    fn rejected(&self) -> u64 {
        0
    }

    /// How many inputs this source has itself put into the Store for a later run, since it was made: what it had read and
    /// nobody had asked for when it closed. The driver counts them as received and parked.
    fn parked(&self) -> u64 {
        0
    }

    /// How far a bounded source has come; for progress bars.
    fn progress(&self) -> Option<Progress> {
        None
    }
}

/// What `receive` brought.
#[derive(Debug)]
pub enum Received {
    /// One delivery or more.
    Batch(Vec<Delivery>),
    /// The input has ended; `receive` is not called again.
    End,
    /// Nothing new, but how the source is: an error where it has lost its broker and goes on delivering what it holds
    /// while it connects anew by itself; none once it is well again.
    Health(Option<Error>),
}

/// How far a bounded source has come, in a unit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Read so far.
    pub done: u64,
    /// In all, as far as is known now.
    pub total: u64,
}

/// Takes outcomes back to a source, in batches.
#[async_trait]
pub trait Settler: Send + Sync + 'static {
    /// Settles each entry and answers for each, in the same order.
    ///
    /// # Cancel safety
    /// The driver never drops this future; a settler need not survive it.
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>>;

    /// Makes each lease last until `by` from now and answers for each, in the same order.
    /// Called only where [`Capabilities::extends`] says so.
    async fn extend(&self, batch: Vec<Token>, by: Duration) -> Vec<Result<(), SettleError>> {
        let _ = by;
        batch.into_iter().map(|_| Ok(())).collect()
    }
}

/// One delivery's outcome on its way back.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// Which delivery.
    pub token: Token,
    /// What became of it.
    pub disposition: Disposition,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Disposition {
    /// Done: forget it. Carries the sink's answer where [`Capabilities::wants_reply`] says so, else an empty one.
    Ack(Reply),
    /// Given up on and kept as a dead letter: forget it. Carries the attempts where somebody waits for the outcome.
    DeadLetter(Vec<Attempt>),
    /// Given up on: keep this letter and forget the message, both or neither. Told only where
    /// [`Source::keeps_letters_in`] says so.
    Bury(Arc<DeadLetter>),
    /// Kept in the Store for a later attempt: forget it.
    Parked,
    /// Not done: give it again after `delay`, or when the source sees fit if there is none.
    Nack {
        /// How long to wait first.
        delay: Option<Duration>,
        /// The attempts failed under this delivery, to be remembered with the message where the source can.
        attempts: Vec<Attempt>,
    },
    /// Not tried: give it to anybody, now. No attempt is counted.
    Release,
}

impl Disposition {
    /// Whether the source may forget the message: acked, kept as a dead letter (by itself, too) or parked.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Ack(_) | Self::DeadLetter(_) | Self::Bury(_) | Self::Parked)
    }
}

/// Why a settlement did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The lease was lost: somebody else has the message now. Nothing was changed.
    #[error("stale: the lease was lost before the settlement")]
    Stale,
    /// The source has taken the message back, as an answer to an extension: its attempt is dropped and given back, whatever
    /// becomes of attempts whose lease is lost.
    #[error("withdrawn: the source has taken the message back")]
    Withdrawn,
    /// The source could not be told; the message will come again.
    #[error("settlement failed: {0}")]
    Failed(#[source] Error),
}
