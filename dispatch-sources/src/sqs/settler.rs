//! Outcomes on their way back: deletes and visibilities, in batches.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use dispatch_core::{Delivery, Disposition, Error, Reply, SettleError, Settlement, Settler, Token};
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use super::{
    config::LONGEST,
    requests::{Answer, Entry},
    shared::Shared,
    wire::{Offsets, parts},
};

/// What fails without the sender's fault is tried again for so long here; then the driver does so.
const PATIENCE: Duration = Duration::from_secs(10);

/// SQS counts its 12 hours from when it hands a message out, and we know only when it came.
const MARGIN: Duration = Duration::from_secs(2);

/// Settles what was received from one queue.
#[derive(Debug)]
pub(super) struct SqsSettler {
    pub(super) shared: Arc<Shared>,
    pub(super) state: std::sync::Mutex<State>,
    /// Rung when an extension has come back.
    extended: Notify,
    /// In a FIFO queue one settling goes after the other.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// How many extensions of a handle are under way.
    extending: HashMap<Bytes, usize>,
    /// Handles that somebody else's have replaced.
    lost: HashSet<Bytes>,
    /// FIFO groups with a message that is done and could not be deleted: which, and until when it is ours. What is
    /// behind it must not be deleted before it.
    blocked: HashMap<u64, (Bytes, Instant)>,
}

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Delete,
    /// Visible again after so long.
    Change(Duration),
    /// Its visibility decides.
    Leave,
}

impl State {
    /// Whether somebody else has this message; says so once.
    fn is_lost(&mut self, token: &Token) -> bool {
        // Mostly none is lost, and a handle is long to hash.
        !self.lost.is_empty() && self.lost.remove(&token.handle)
    }
}

/// Notes what an outcome means for the number of the next attempt.
fn count(offsets: &mut Offsets, id: &str, disposition: &Disposition) {
    match disposition {
        Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Parked => offsets.remove(id),
        Disposition::Release | Disposition::Bury(_) => offsets.add(id, -1),
        Disposition::Nack { attempts, .. } => {
            let counted = attempts.iter().filter(|attempt| attempt.counts()).count();
            offsets.add(id, i32::try_from(counted).unwrap_or(i32::MAX).saturating_sub(1));
        }
    }
}

/// Entries of requests, and where in the batch each came from.
#[derive(Debug, Default)]
struct Wanted<'t> {
    places: Vec<usize>,
    entries: Vec<Entry<'t>>,
}

/// A batch, by what is to be done.
#[derive(Debug, Default)]
struct Sorted<'t> {
    /// One for each settlement; none where the answer is SQS's.
    answers: Vec<Option<Answer>>,
    deletes: Wanted<'t>,
    nacks: Wanted<'t>,
    releases: Wanted<'t>,
}

impl<'t> Wanted<'t> {
    fn push(&mut self, place: usize, token: &'t Token, after: Option<Duration>) {
        self.places.push(place);
        self.entries.push(Entry { token, after });
    }

    fn and(mut self, mut then: Self) -> Self {
        self.places.append(&mut then.places);
        self.entries.append(&mut then.entries);
        self
    }
}

impl SqsSettler {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            state: std::sync::Mutex::default(),
            extended: Notify::new(),
            turn: Mutex::new(()),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What is to be done with each, and what is answered already.
    fn sort<'t>(&self, batch: &'t [Settlement]) -> Sorted<'t> {
        let mut sorted = Sorted {
            answers: Vec::with_capacity(batch.len()),
            ..Sorted::default()
        };
        let (mut offsets, mut state) = (self.shared.offsets(), self.state());
        for (index, Settlement { token, disposition }) in batch.iter().enumerate() {
            let Some((id, _)) = parts(token) else {
                sorted.answers.push(Some(Err(SettleError::Stale)));
                continue;
            };
            count(&mut offsets, id, disposition);
            // To delete under an old handle would prove nothing.
            if state.is_lost(token) {
                if disposition.is_final() {
                    self.shared.meters.delete_abandoned.add(1);
                }
                sorted.answers.push(Some(Err(SettleError::Stale)));
                continue;
            }
            let deed = self.deed(token, disposition);
            sorted.answers.push((deed == Deed::Leave).then_some(Ok(())));
            match deed {
                Deed::Delete => sorted.deletes.push(index, token, None),
                Deed::Change(after) if *disposition == Disposition::Release => {
                    sorted.releases.push(index, token, Some(after));
                }
                Deed::Change(after) => sorted.nacks.push(index, token, Some(after)),
                Deed::Leave => {}
            }
        }
        sorted
    }

    fn deed(&self, token: &Token, disposition: &Disposition) -> Deed {
        match disposition {
            Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Parked => Deed::Delete,
            Disposition::Release | Disposition::Bury(_) => Deed::Change(Duration::ZERO),
            Disposition::Nack { delay, .. } => {
                let delay = delay.or_else(|| self.shared.config.error_visibility_timeout.map(|period| period.0));
                // From the receive on, as SQS counts it; whole seconds, so that rounding up does not go beyond.
                let left = || LONGEST.saturating_sub(self.shared.held_for(token) + MARGIN).as_secs();
                delay.map_or(Deed::Leave, |delay| {
                    Deed::Change(delay.min(Duration::from_secs(left())))
                })
            }
        }
    }

    /// Waits until nothing extends these any more: a late extension would take the place of what is set next.
    async fn let_extensions_end(&self, entries: &[Entry<'_>]) {
        loop {
            let ended = self.extended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let busy = {
                let state = self.state();
                entries
                    .iter()
                    .any(|entry| state.extending.contains_key(&entry.token.handle))
            };
            if !busy {
                return;
            }
            ended.await;
        }
    }

    /// Deletes members of FIFO groups: none before the one ahead of it.
    async fn delete_in_order(&self, entries: &[Entry<'_>]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = entries.iter().map(|_| None).collect();
        loop {
            let now = Instant::now();
            let round = self.heads(entries, &mut answers, now);
            if round.is_empty() {
                break;
            }
            let chosen: Vec<_> = round.iter().map(|index| entries[*index]).collect();
            // The driver tries again; meanwhile other groups go on.
            let results = self.shared.insist(&chosen, Duration::ZERO).await;
            let mut state = self.state();
            for (index, result) in round.into_iter().zip(results) {
                let token = entries[index].token;
                if matches!(result, Err(SettleError::Failed(_))) && token.fence != 0 {
                    let until = now + self.shared.config.visibility_timeout.0;
                    state.blocked.insert(token.fence, (token.handle.clone(), until));
                } else {
                    state.blocked.remove(&token.fence);
                }
                answers[index] = Some(result);
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Ok(()))).collect()
    }

    /// Of those without an answer the first of each group; what waits for an earlier call's head is answered.
    fn heads(&self, entries: &[Entry<'_>], answers: &mut [Option<Answer>], now: Instant) -> Vec<usize> {
        let mut state = self.state();
        state.blocked.retain(|_, (_, until)| now < *until);
        let (mut groups, mut round) = (HashSet::new(), Vec::new());
        for (index, Entry { token, .. }) in entries.iter().enumerate() {
            if answers[index].is_some() {
                continue;
            }
            match state.blocked.get(&token.fence).map(|(head, _)| *head == token.handle) {
                // The driver tells it again.
                Some(true) => self.shared.meters.delete_retried.add(1),
                Some(false) => {
                    let error = Error::unavailable("the message ahead of it in its group is not deleted yet");
                    answers[index] = Some(Err(SettleError::Failed(error)));
                    continue;
                }
                None => {}
            }
            if token.fence == 0 || groups.insert(token.fence) {
                round.push(index);
            }
        }
        round
    }
}

/// Handles whose extension is under way, until this is dropped.
struct Extending<'s>(&'s SqsSettler, Vec<Bytes>);

impl<'s> Extending<'s> {
    fn mark(settler: &'s SqsSettler, handles: Vec<Bytes>) -> Self {
        let mut state = settler.state();
        for handle in &handles {
            *state.extending.entry(handle.clone()).or_default() += 1;
        }
        drop(state);
        Self(settler, handles)
    }
}

impl Drop for Extending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        for handle in &self.1 {
            if let Some(count) = state.extending.get_mut(handle) {
                *count -= 1;
                if *count == 0 {
                    state.extending.remove(handle);
                }
            }
        }
        drop(state);
        self.0.extended.notify_waiters();
    }
}

#[async_trait]
impl Settler for SqsSettler {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Answer> {
        let fifo = self.shared.fifo;
        let _turn = if fifo { Some(self.turn.lock().await) } else { None };
        let Sorted {
            mut answers,
            deletes,
            nacks,
            releases,
        } = self.sort(&batch);
        let delete = async {
            if fifo {
                self.delete_in_order(&deletes.entries).await
            } else {
                self.shared.insist(&deletes.entries, PATIENCE).await
            }
        };
        // A failed head first, then those behind it.
        let failed = nacks.entries.len();
        let changes = nacks.and(releases);
        let change = async {
            self.let_extensions_end(&changes.entries).await;
            if fifo {
                let (first, then) = changes.entries.split_at(failed);
                let mut answers = self.shared.insist(first, PATIENCE).await;
                answers.extend(self.shared.insist(then, PATIENCE).await);
                answers
            } else {
                self.shared.insist(&changes.entries, PATIENCE).await
            }
        };
        let (deleted, changed) = if fifo {
            let deleted = delete.await;
            (deleted, change.await)
        } else {
            tokio::join!(delete, change)
        };
        let places = deletes.places.into_iter().chain(changes.places);
        for (index, answer) in places.zip(deleted.into_iter().chain(changed)) {
            answers[index] = Some(answer);
        }
        #[cfg(feature = "sqs-s3")]
        if let Some(payloads) = &self.shared.payloads {
            for (settlement, answer) in batch.iter().zip(&answers) {
                let is_final = settlement.disposition.is_final();
                // What could not be deleted is told again.
                if !(is_final && matches!(answer, Some(Err(SettleError::Failed(_))))) {
                    let done = is_final && matches!(answer, Some(Ok(())));
                    payloads.settled(&settlement.token.handle, done).await;
                }
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Ok(()))).collect()
    }

    async fn extend(&self, batch: Vec<Token>, by: Duration) -> Vec<Answer> {
        let longest = self.shared.config.max_extension.0;
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(batch.len());
        let mut changes = Vec::new();
        for token in &batch {
            let left = longest
                .saturating_sub(self.shared.held_for(token) + if longest == LONGEST { MARGIN } else { Duration::ZERO });
            let is_over = parts(token).is_none() || left < Duration::from_secs(1);
            answers.push(is_over.then_some(Err(SettleError::Stale)));
            if !is_over {
                // Down, not up: SQS refuses what goes beyond its 12 hours.
                let after = Some(Duration::from_secs(by.min(left).as_secs()));
                changes.push(Entry { token, after });
            }
        }
        let mark = Extending::mark(self, changes.iter().map(|entry| entry.token.handle.clone()).collect());
        // Longer than half of what is left, and the next look tries again anyway.
        let results = self.shared.insist(&changes, by / 4).await;
        drop(mark);
        let mut results = results.into_iter();
        let mut state = self.state();
        batch
            .iter()
            .zip(answers)
            .map(|(token, answer)| {
                let answer = answer.or_else(|| results.next()).unwrap_or(Ok(()));
                if matches!(answer, Err(SettleError::Stale)) && parts(token).is_some() {
                    state.lost.insert(token.handle.clone());
                }
                answer
            })
            .collect()
    }
}

/// Gives messages back at once.
pub(super) async fn release(settler: &SqsSettler, deliveries: Vec<Delivery>) {
    settle_all(settler, deliveries, &Disposition::Release).await;
}

/// Leaves messages to their visibility, or to `error_visibility_timeout`.
#[cfg(feature = "sqs-s3")]
pub(super) async fn nack(settler: &SqsSettler, deliveries: Vec<Delivery>) {
    let nack = Disposition::Nack {
        delay: None,
        attempts: Vec::new(),
    };
    settle_all(settler, deliveries, &nack).await;
}

pub(super) async fn delete(settler: &SqsSettler, deliveries: Vec<Delivery>) {
    settle_all(settler, deliveries, &Disposition::Ack(Reply::default())).await;
}

async fn settle_all(settler: &SqsSettler, deliveries: Vec<Delivery>, disposition: &Disposition) {
    if deliveries.is_empty() {
        return;
    }
    let settlement = |delivery: Delivery| Settlement {
        token: delivery.receipt.into_parts().0,
        disposition: disposition.clone(),
    };
    let batch = deliveries.into_iter().map(settlement).collect();
    for answer in settler.settle(batch).await {
        if let Err(error) = answer {
            tracing::debug!(%error, "settled by the source itself: its visibility decides");
        }
    }
}
