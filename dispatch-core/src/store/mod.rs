//! What must outlive the process: dead letters, reservations, schedule slots, the durable queue and read positions; and
//! rates that processes share.
//!
//! One [`Store`] handle, one small trait a role. Every method is one round trip or one transaction and answers per entry
//! where entries can differ. Enqueues, dead letters, reservations, slots and positions have happened durably when it
//! returns `Ok`; a claim or a completion may yet be undone by a crash, and then happens again.

mod absent;
mod bloat;
mod dead_letters;
mod memory;
mod nodes;
mod positions;
mod queue;
mod rates;
mod reservations;
mod slots;
mod source;
mod turns;
mod waiting;

use std::fmt;

use async_trait::async_trait;

pub use absent::Absent;
pub use bloat::Bloat;
pub use dead_letters::{DeadLetter, DeadLetterFilter, DeadLetters};
pub use memory::MemoryStore;
pub use nodes::Node;
pub use positions::Positions;
pub use queue::{Claim, Claimed, Completion, Depth, Enqueued, Item, Lease, Outcome, Queue, Stale};
pub use rates::{Rates, Taken};
pub use reservations::{Reservation, Reservations};
pub use slots::Slots;
pub use source::QueueSource;
pub use waiting::{Look, Page, Place, Waiting};

use crate::Error;

/// One durable place, seen through its six roles.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Messages given up on, with all that is known about why.
    fn dead_letters(&self) -> &dyn DeadLetters;
    /// Who is working on what, and what is already done.
    fn reservations(&self) -> &dyn Reservations;
    /// Which schedule slots have fired.
    fn slots(&self) -> &dyn Slots;
    /// Durable messages and parked retries.
    fn queue(&self) -> &dyn Queue;
    /// How far bounded inputs have been read.
    fn positions(&self) -> &dyn Positions;
    /// Rates that many processes share.
    fn rates(&self) -> &dyn Rates;

    /// Connects, migrates and says what is wrong if that fails.
    ///
    /// # Errors
    /// `Unavailable` while the place cannot be reached; `Permanent` where a person must act (corrupt, newer schema).
    async fn probe(&self) -> Result<(), Error>;

    /// What the server has yet to clear away; none where there is no such thing, and then nobody asks again.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn bloat(&self) -> Result<Option<Bloat>, Error> {
        Ok(None)
    }

    /// Who claims from its queues, oldest first; none where nobody is told apart, and then nobody asks again.
    ///
    /// # Errors
    /// `Unavailable` or `Retry`.
    async fn nodes(&self) -> Result<Option<Vec<Node>>, Error> {
        Ok(None)
    }

    /// Writes out what is buffered and closes. What is leased stays leased.
    ///
    /// # Errors
    /// As `probe`.
    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
