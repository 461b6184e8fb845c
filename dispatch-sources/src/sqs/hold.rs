//! Messages that are ours and not handed on yet: their visibility must not run out here.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;

use dispatch_core::{Delivery, SettleError, Settler as _};
use tokio::time::{Instant, timeout};
#[cfg(feature = "sqs-s3")]
use tokio::{sync::Notify, time::sleep_until};

use super::settler::SqsSettler;

/// A message, and since when it is ours for the whole visibility.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) delivery: Delivery,
    pub(super) since: Instant,
    /// Whether somebody else may have it.
    lost: bool,
}

impl Held {
    pub(super) const fn new(delivery: Delivery, since: Instant) -> Self {
        Self {
            delivery,
            since,
            lost: false,
        }
    }

    /// The number of its FIFO group; 0 where it has none.
    pub(super) fn group(&self) -> u64 {
        self.delivery.receipt.token().fence
    }

    pub(super) fn handle(&self) -> &Bytes {
        &self.delivery.receipt.token().handle
    }
}

/// What may be handed on of `ours`, and what is behind a message of its FIFO group that may not. `came` are the groups and
/// handles as they came; none of a standard queue.
pub(super) fn in_order(came: &[(u64, Bytes)], ours: Vec<Held>) -> (Vec<Held>, Vec<Delivery>) {
    if came.is_empty() || came.len() == ours.len() {
        return (ours, Vec::new());
    }
    let there: HashSet<&Bytes> = ours.iter().map(Held::handle).collect();
    let (mut gone, mut behind) = (HashSet::new(), HashSet::new());
    for (group, handle) in came {
        if !there.contains(handle) {
            gone.insert(*group);
        } else if gone.contains(group) {
            behind.insert(handle.clone());
        }
    }
    let (behind, ours) = ours
        .into_iter()
        .partition::<Vec<_>, _>(|held| behind.contains(held.handle()));
    (ours, behind.into_iter().map(|held| held.delivery).collect())
}

/// Makes messages ours for the whole visibility that were so for `moment` only. Those that could not be go back.
pub(super) async fn secure(settler: &SqsSettler, mut held: Vec<Held>, moment: Duration) -> Vec<Held> {
    // With what is left of the moment a late answer would prove nothing.
    let began = Instant::now();
    if timeout(moment * 3 / 4, extend(settler, &mut held)).await.is_err() {
        tracing::warn!(messages = held.len(), "visibility not extended in time");
    }
    held.retain(|held| {
        let ours = held.since >= began;
        if !ours {
            tracing::warn!(id = %held.delivery.message.id(), "not ours for long enough: given back");
        }
        ours
    });
    held
}

/// Extends the visibility of all that may still be ours.
async fn extend(settler: &SqsSettler, held: &mut [Held]) {
    let visibility = settler.shared.config.visibility_timeout.0;
    let mut ours: Vec<_> = held.iter_mut().filter(|held| !held.lost).collect();
    let tokens = ours.iter().map(|held| held.delivery.receipt.token().clone()).collect();
    let at = Instant::now();
    for (held, answer) in ours.iter_mut().zip(settler.extend(tokens, visibility).await) {
        let id = held.delivery.message.id();
        match answer {
            Ok(()) => held.since = at,
            Err(SettleError::Failed(error)) => tracing::warn!(%id, error = error.report(), "visibility not extended"),
            Err(error) => {
                tracing::warn!(%id, %error, "lease lost before the work began");
                held.lost = true;
            }
        }
    }
}

/// Keeps messages ours at each half of their visibility until `over` is rung; then for three quarters of it at least,
/// where SQS lets it.
#[cfg(feature = "sqs-s3")]
pub(super) async fn keep(settler: &SqsSettler, mut held: Vec<Held>, over: &Notify) -> Vec<Held> {
    let visibility = settler.shared.config.visibility_timeout.0;
    let oldest = |held: &[Held]| held.iter().filter(|held| !held.lost).map(|held| held.since).min();
    let mut next = Instant::now();
    while let Some(since) = oldest(&held) {
        tokio::select! {
            biased;
            () = over.notified() => break,
            () = sleep_until(next.max(since + visibility / 2)) => {}
        }
        extend(settler, &mut held).await;
        // After a failure not at once again.
        next = Instant::now() + visibility / 8;
    }
    if oldest(&held).is_some_and(|since| since.elapsed() > visibility / 4) {
        extend(settler, &mut held).await;
    }
    held.retain(|held| !held.lost);
    held
}
