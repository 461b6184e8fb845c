//! Outcomes on their way back: deletes and visibilities, in batches.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
};
use bytes::Bytes;
use dispatch_core::{Class, Disposition, Error, SettleError, Settlement, Settler, Token};
use dispatch_sqs_client::{SqsError, is_stale, judge};
use rand::RngExt as _;
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep},
};

use super::{config::LONGEST, source::Shared, wire::parts};

/// The most entries of one request (DeleteMessageBatch).
const BATCH: usize = 10;
/// What fails without the sender's fault is tried again for so long here; then the driver does so.
const PATIENCE: Duration = Duration::from_secs(10);

/// SQS counts its 12 hours from when it hands a message out, and we know only when it came.
const MARGIN: Duration = Duration::from_secs(2);

type Answer = Result<(), SettleError>;

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

/// One entry of a request: to be deleted, or visible again after so long.
#[derive(Debug, Clone)]
struct Entry {
    token: Token,
    after: Option<Duration>,
}

const DELETE: &str = "DeleteMessageBatch";
const CHANGE: &str = "ChangeMessageVisibilityBatch";
const ENTRY: &str = "entry of a batch";

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Delete,
    /// Visible again after so long.
    Change(Duration),
    /// Its visibility decides.
    Leave,
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

    /// Notes what an outcome means for the number of the next attempt.
    fn count(&self, id: &str, disposition: &Disposition) {
        let mut offsets = self.shared.offsets();
        match disposition {
            Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Parked => offsets.remove(id),
            Disposition::Release => offsets.add(id, -1),
            Disposition::Nack { attempts, .. } => {
                let counted = attempts.iter().filter(|attempt| attempt.counts()).count();
                offsets.add(id, i32::try_from(counted).unwrap_or(i32::MAX).saturating_sub(1));
            }
        }
    }

    fn deed(&self, token: &Token, disposition: &Disposition) -> Deed {
        // From the receive on, as SQS counts it; whole seconds, so that rounding up does not go beyond.
        let left = LONGEST.saturating_sub(self.shared.held_for(token) + MARGIN);
        let left = Duration::from_secs(left.as_secs());
        match disposition {
            Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Parked => Deed::Delete,
            Disposition::Release => Deed::Change(Duration::ZERO),
            Disposition::Nack { delay, .. } => {
                let delay = delay.or_else(|| self.shared.config.error_visibility_timeout.map(|period| period.0));
                delay.map_or(Deed::Leave, |delay| Deed::Change(delay.min(left)))
            }
        }
    }

    /// Waits until nothing extends these any more: a late extension would take the place of what is set next.
    async fn let_extensions_end(&self, entries: &[Entry]) {
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

    /// Makes one request of up to 10 entries: the numbers of those that were done, and what was said of the others.
    async fn call(&self, entries: &[Entry]) -> Result<(Vec<usize>, Vec<BatchResultErrorEntry>), SqsError> {
        let client = self.shared.client().await?;
        let meters = &self.shared.meters;
        let deletes = entries.first().is_some_and(|entry| entry.after.is_none());
        let handle = |entry: &Entry| parts(&entry.token).map_or("", |(_, handle)| handle).to_owned();
        let numbered = entries.iter().enumerate();
        if deletes {
            let built = numbered.map(|(index, entry)| {
                DeleteMessageBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(handle(entry))
                    .build()
            });
            let built: Result<Vec<_>, _> = built.collect();
            let built = built.map_err(|error| self.misuse(DELETE, &error))?;
            let request = client
                .queue
                .sqs
                .delete_message_batch()
                .queue_url(&client.queue.url)
                .set_entries(Some(built));
            meters.delete_requests.add(1);
            let answer = request
                .send()
                .await
                .map_err(|error| judge(DELETE, client.queue.name(), error))?;
            meters.deleted.add(answer.successful.len() as u64);
            let done = answer.successful.iter().filter_map(|entry| entry.id.parse().ok());
            return Ok((done.collect(), answer.failed));
        }
        let built = numbered.map(|(index, entry)| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(handle(entry))
                .visibility_timeout(whole_seconds(entry.after.unwrap_or_default()))
                .build()
        });
        let built: Result<Vec<_>, _> = built.collect();
        let built = built.map_err(|error| self.misuse(CHANGE, &error))?;
        let request = client
            .queue
            .sqs
            .change_message_visibility_batch()
            .queue_url(&client.queue.url)
            .set_entries(Some(built));
        meters.visibility_requests.add(1);
        let answer = request
            .send()
            .await
            .map_err(|error| judge(CHANGE, client.queue.name(), error))?;
        let done = answer.successful.iter().filter_map(|entry| entry.id.parse().ok());
        Ok((done.collect(), answer.failed))
    }

    fn misuse(&self, operation: &'static str, error: &dyn std::error::Error) -> SqsError {
        SqsError::Misuse {
            operation,
            queue: self.shared.label().to_owned(),
            code: "build".to_owned(),
            message: error.to_string(),
        }
    }

    /// Calls with up to 10 at a time, until each is done, refused, or `patience` is over.
    async fn insist(&self, entries: Vec<Entry>, patience: Duration) -> Vec<Answer> {
        if entries.len() <= BATCH {
            return self.insist_on(entries, patience).await;
        }
        let chunks = entries
            .chunks(BATCH)
            .map(|chunk| self.insist_on(chunk.to_vec(), patience));
        let chunks: Vec<_> = chunks.collect();
        futures::future::join_all(chunks).await.into_iter().flatten().collect()
    }

    async fn insist_on(&self, chunk: Vec<Entry>, patience: Duration) -> Vec<Answer> {
        if chunk.is_empty() {
            return Vec::new();
        }
        let (began, label) = (Instant::now(), self.shared.label());
        let mut answers: Vec<Option<Answer>> = chunk.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..chunk.len()).collect();
        for round in 0.. {
            let now: Vec<_> = open.iter().map(|index| chunk[*index].clone()).collect();
            let error = match self.call(&now).await {
                Ok((done, failed)) => {
                    for index in done {
                        if let Some(index) = open.get(index) {
                            answers[*index] = Some(Ok(()));
                        }
                    }
                    let mut words = None;
                    for entry in failed {
                        let Some(index) = entry.id.parse::<usize>().ok().and_then(|id| open.get(id)) else {
                            continue;
                        };
                        let message = entry.message.as_deref();
                        let stale = is_stale(&entry.code, message.unwrap_or_default());
                        let error = SqsError::of_entry(ENTRY, label, &entry.code, message, entry.sender_fault);
                        // A throttle is nobody's fault, whatever is said of it.
                        let refused = entry.sender_fault && !error.may_pass();
                        if (refused || stale) && chunk[*index].after.is_none() {
                            self.shared.meters.delete_rejected.add(1);
                        }
                        if stale {
                            answers[*index] = Some(Err(SettleError::Stale));
                        } else if refused {
                            answers[*index] = Some(Err(refused_with(&error)));
                        } else {
                            words = Some(error);
                        }
                    }
                    words.unwrap_or_else(|| self.silent())
                }
                Err(error) => {
                    self.shared.heard(&error).await;
                    error
                }
            };
            open.retain(|index| answers[*index].is_none());
            if open.is_empty() {
                break;
            }
            let wait = Duration::from_millis(100 * (1 << u32::min(round, 5)));
            let wait = wait
                .mul_f64(rand::rng().random_range(0.5..1.0))
                .max(error.rest().min(Duration::from_secs(2)));
            if !error.may_pass() || began.elapsed() + wait > patience {
                for index in open {
                    answers[index] = Some(Err(failed_with(&error)));
                }
                break;
            }
            tracing::debug!(error = %error, entries = open.len(), ?wait, "settling again");
            self.note_again(&chunk, open.len());
            sleep(wait).await;
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Ok(()))).collect()
    }

    fn note_again(&self, chunk: &[Entry], count: usize) {
        if chunk.first().is_some_and(|entry| entry.after.is_none()) {
            self.shared.meters.delete_retried.add(count as u64);
        }
    }

    /// An entry that was neither done nor refused.
    fn silent(&self) -> SqsError {
        SqsError::Server {
            operation: ENTRY,
            queue: self.shared.label().to_owned(),
            code: "no answer for an entry".to_owned(),
        }
    }

    /// Deletes members of FIFO groups: none before the one ahead of it.
    async fn delete_in_order(&self, entries: &[Entry]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = entries.iter().map(|_| None).collect();
        loop {
            let now = Instant::now();
            let round = self.heads(entries, &mut answers, now);
            if round.is_empty() {
                break;
            }
            let chosen = round.iter().map(|index| entries[*index].clone()).collect();
            // The driver tries again; meanwhile other groups go on.
            let results = self.insist(chosen, Duration::ZERO).await;
            let mut state = self.state();
            for (index, result) in round.into_iter().zip(results) {
                let token = &entries[index].token;
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
    fn heads(&self, entries: &[Entry], answers: &mut [Option<Answer>], now: Instant) -> Vec<usize> {
        let mut state = self.state();
        state.blocked.retain(|_, (_, until)| now < *until);
        let (mut groups, mut round) = (HashSet::new(), Vec::new());
        for (index, Entry { token, .. }) in entries.iter().enumerate() {
            if answers[index].is_some() {
                continue;
            }
            if state
                .blocked
                .get(&token.fence)
                .is_some_and(|(head, _)| *head != token.handle)
            {
                let error = Error::unavailable("the message ahead of it in its group is not deleted yet");
                answers[index] = Some(Err(SettleError::Failed(error)));
            } else if token.fence == 0 || groups.insert(token.fence) {
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

/// The sender's fault: to tell it again is of no use.
fn refused_with(error: &SqsError) -> SettleError {
    match failed_with(error) {
        SettleError::Failed(error) => SettleError::Failed(error.with_class(Class::Permanent)),
        other => other,
    }
}

fn failed_with(error: &SqsError) -> SettleError {
    use dispatch_core::Classify as _;
    let code = error.code();
    let failed = Error::new(error.class(), error.to_string());
    SettleError::Failed(match code {
        Some(code) => failed.with_code(code),
        None => failed,
    })
}

/// Seconds for SQS, rounded up.
fn whole_seconds(period: Duration) -> i32 {
    let seconds = period.as_secs() + u64::from(period.subsec_nanos() > 0);
    i32::try_from(seconds.min(LONGEST.as_secs())).unwrap_or(i32::MAX)
}

#[async_trait]
impl Settler for SqsSettler {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Answer> {
        let fifo = self.shared.fifo;
        let _turn = if fifo { Some(self.turn.lock().await) } else { None };
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(batch.len());
        let (mut deletes, mut nacks, mut releases) = (Vec::new(), Vec::new(), Vec::new());
        for (index, Settlement { token, disposition }) in batch.iter().enumerate() {
            let Some((id, _)) = parts(token) else {
                answers.push(Some(Err(SettleError::Stale)));
                continue;
            };
            self.count(id, disposition);
            // To delete under an old handle would prove nothing.
            if self.state().lost.remove(&token.handle) {
                if disposition.is_final() {
                    self.shared.meters.delete_abandoned.add(1);
                }
                answers.push(Some(Err(SettleError::Stale)));
                continue;
            }
            let deed = self.deed(token, disposition);
            answers.push((deed == Deed::Leave).then_some(Ok(())));
            let entry = |after| {
                (
                    index,
                    Entry {
                        token: token.clone(),
                        after,
                    },
                )
            };
            match deed {
                Deed::Delete => deletes.push(entry(None)),
                Deed::Change(after) if *disposition == Disposition::Release => releases.push(entry(Some(after))),
                Deed::Change(after) => nacks.push(entry(Some(after))),
                Deed::Leave => {}
            }
        }
        let delete = async {
            let entries: Vec<_> = deletes.iter().map(|(_, entry): &(_, Entry)| entry.clone()).collect();
            if fifo {
                self.delete_in_order(&entries).await
            } else {
                self.insist(entries, PATIENCE).await
            }
        };
        let change = async {
            let first: Vec<Entry> = nacks.iter().map(|(_, entry): &(_, Entry)| entry.clone()).collect();
            let then: Vec<Entry> = releases.iter().map(|(_, entry): &(_, Entry)| entry.clone()).collect();
            self.let_extensions_end(&[first.clone(), then.clone()].concat()).await;
            if fifo {
                // A failed head first, then those behind it.
                let mut answers = self.insist(first, PATIENCE).await;
                answers.extend(self.insist(then, PATIENCE).await);
                answers
            } else {
                self.insist([first, then].concat(), PATIENCE).await
            }
        };
        let (deleted, changed) = if fifo {
            let deleted = delete.await;
            (deleted, change.await)
        } else {
            tokio::join!(delete, change)
        };
        for ((index, _), answer) in deletes.into_iter().zip(deleted) {
            answers[index] = Some(answer);
        }
        let changes = nacks.into_iter().chain(releases);
        for ((index, _), answer) in changes.zip(changed) {
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
                changes.push(Entry {
                    token: token.clone(),
                    after,
                });
            }
        }
        let mark = Extending::mark(self, changes.iter().map(|entry| entry.token.handle.clone()).collect());
        // Longer than half of what is left, and the next look tries again anyway.
        let results = self.insist(changes, by / 4).await;
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
