//! Turns for lower priorities, made of claims.

use std::num::NonZeroU32;

use super::{Claim, Claimed, Queue};
use crate::Error;

/// Claims so that one message in `every` is of a lower priority than the highest that waits, if there is one.
///
/// The lower priorities take turns, downwards and then from the top again: each that has something to claim is served
/// once in as many turns as there are of them. What is claimed is in the order in which it is to be handed out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turns {
    every: usize,
    /// How many were claimed since the last turn.
    since: usize,
    /// The lowest priority that the last claim from the top came to.
    top: i16,
    /// The priority that had the last turn.
    last: i16,
}

impl Turns {
    pub(super) fn new(every: NonZeroU32) -> Self {
        Self {
            every: usize::try_from(every.get()).unwrap_or(usize::MAX).max(2),
            since: 0,
            top: i16::MAX,
            last: i16::MIN,
        }
    }

    /// Claims up to the next turn, and that turn if there is room for it; at most `claim.max` in all.
    pub(super) async fn claim(&mut self, queue: &dyn Queue, name: &str, claim: Claim) -> Result<Vec<Claimed>, Error> {
        let ahead = self.every - 1 - self.since.min(self.every - 1);
        let highest = claim.max.min(ahead);
        let mut claimed = match highest {
            0 => Vec::new(),
            max => queue.claim(name, Claim { max, ..claim }).await?,
        };
        if let Some(top) = claimed.iter().map(|claimed| claimed.item.priority).min() {
            self.top = top;
        }
        self.since += claimed.len();
        // Where there was no more to claim, nobody waits.
        if claimed.len() == highest && highest == ahead && claim.max > highest {
            match self.turn(queue, name, Claim { max: 1, ..claim }).await {
                Ok(lower) => claimed.extend(lower),
                // What is leased already is given out; the turn comes with the next claim.
                Err(error) if !claimed.is_empty() => tracing::debug!(%error, "turn of a lower priority put off"),
                Err(error) => return Err(error),
            }
        }
        Ok(claimed)
    }

    /// One of the next lower priority after the last that had its turn, else of the next below the top, else any.
    async fn turn(&mut self, queue: &dyn Queue, name: &str, claim: Claim) -> Result<Vec<Claimed>, Error> {
        let next = (self.last < self.top).then_some(self.last);
        for below in [next, Some(self.top)].into_iter().flatten() {
            let below = Some(below);
            let claimed = queue.claim(name, Claim { below, ..claim }).await?;
            if let Some(lower) = claimed.first() {
                (self.last, self.since) = (lower.item.priority, 0);
                return Ok(claimed);
            }
        }
        let claimed = queue.claim(name, claim).await?;
        if let Some(top) = claimed.first() {
            (self.top, self.since) = (top.item.priority, 0);
        }
        Ok(claimed)
    }
}
