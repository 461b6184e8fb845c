//! Requests about messages that were received: deletes and visibilities, ten to a request, told again entry by entry.

use std::time::Duration;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
};
use dispatch_core::{Class, Error, SettleError, Token};
use dispatch_sqs_client::{SqsError, is_stale, judge};
use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use super::{config::LONGEST, shared::Shared, wire::parts};

/// The most entries of one request (DeleteMessageBatch).
const BATCH: usize = 10;

pub(super) type Answer = Result<(), SettleError>;

/// One entry of a request: to be deleted, or visible again after so long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'t> {
    pub(super) token: &'t Token,
    pub(super) after: Option<Duration>,
}

const DELETE: &str = "DeleteMessageBatch";
const CHANGE: &str = "ChangeMessageVisibilityBatch";
const ENTRY: &str = "entry of a batch";

impl Shared {
    /// Makes one request of those entries of a chunk that are open: which of these were done, by their place among them,
    /// and what was said of the others.
    async fn call(
        &self,
        chunk: &[Entry<'_>],
        open: &[usize],
    ) -> Result<(Vec<usize>, Vec<BatchResultErrorEntry>), SqsError> {
        let client = self.client().await?;
        let meters = &self.meters;
        let deletes = chunk.first().is_some_and(|entry| entry.after.is_none());
        let handle = |entry: &Entry<'_>| parts(entry.token).map_or("", |(_, handle)| handle).to_owned();
        let numbered = open.iter().map(|index| &chunk[*index]).enumerate();
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
            meters.delete_batch.record(open.len() as u64);
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
            queue: self.label().to_owned(),
            code: "build".to_owned(),
            message: error.to_string(),
        }
    }

    /// Calls with up to 10 at a time, until each is done, refused, or `patience` is over.
    pub(super) async fn insist(&self, entries: &[Entry<'_>], patience: Duration) -> Vec<Answer> {
        if entries.len() <= BATCH {
            return self.insist_on(entries, patience).await;
        }
        let chunks: Vec<_> = entries.chunks(BATCH).collect();
        let chunks = chunks.into_iter().map(|chunk| self.insist_on(chunk, patience));
        futures::future::join_all(chunks).await.into_iter().flatten().collect()
    }

    async fn insist_on(&self, chunk: &[Entry<'_>], patience: Duration) -> Vec<Answer> {
        if chunk.is_empty() {
            return Vec::new();
        }
        let (began, label) = (Instant::now(), self.label());
        let mut answers: Vec<Option<Answer>> = chunk.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..chunk.len()).collect();
        for round in 0.. {
            // The SDK's futures are large, and there is one of these in every settling.
            let error = match Box::pin(self.call(chunk, &open)).await {
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
                            self.meters.delete_rejected.add(1);
                        }
                        if stale {
                            answers[*index] = Some(Err(SettleError::Stale));
                        } else if refused {
                            answers[*index] = Some(Err(refused_with(&error)));
                        } else {
                            words = Some(error);
                        }
                    }
                    open.retain(|index| answers[*index].is_none());
                    if open.is_empty() {
                        break;
                    }
                    words.unwrap_or_else(|| self.silent())
                }
                Err(error) => {
                    self.heard(&error).await;
                    error
                }
            };
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
            self.note_again(chunk, open.len());
            sleep(wait).await;
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Ok(()))).collect()
    }

    fn note_again(&self, chunk: &[Entry<'_>], count: usize) {
        if chunk.first().is_some_and(|entry| entry.after.is_none()) {
            self.meters.delete_retried.add(count as u64);
        }
    }

    /// An entry that was neither done nor refused.
    fn silent(&self) -> SqsError {
        SqsError::Server {
            operation: ENTRY,
            queue: self.label().to_owned(),
            code: "no answer for an entry".to_owned(),
        }
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
