//! What becomes of what was claimed.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    claims::Claiming,
    landed::{GoingBack, Landed},
};
use crate::{
    Attempt, Class, Delivery, Disposition, Error, SettleError, Settlement, Settler, Token,
    store::{Completion, Lease, Outcome, Stale, Store},
};

/// Settles what was claimed from one queue.
#[derive(Debug)]
pub(super) struct QueueSettler {
    pub(super) store: Arc<dyn Store>,
    pub(super) queue: Arc<str>,
}

impl QueueSettler {
    /// Gives back what claims bring that are still under way, each of them, whatever becomes of the others.
    pub(super) async fn give_back(&self, claims: VecDeque<Claiming>, landed: &Arc<Landed>) -> Result<(), Error> {
        let mut given_back = Ok(());
        for claiming in claims {
            let number = claiming.number;
            match claiming.called_off().await {
                Ok(()) => self.release(landed.remove(number)).await,
                Err(error) => given_back = Err(error),
            }
        }
        given_back
    }

    async fn end(&self, batch: Vec<Completion>) -> Vec<Result<(), SettleError>> {
        let count = batch.len();
        answers(count, self.store.queue().settle(&self.queue, batch).await)
    }

    /// A letter that the Store refuses for good must not keep what came with it from being settled.
    async fn settle_letters(&self, batch: Vec<Completion>) -> Vec<Result<(), SettleError>> {
        let results = self.end(batch.clone()).await;
        // All fail as one, or none does.
        let refused =
            matches!(results.first(), Some(Err(SettleError::Failed(error))) if error.class() == Class::Permanent);
        if batch.len() == 1 || !refused {
            return results;
        }
        let is_letter = |completion: &Completion| matches!(completion.outcome, Outcome::Bury(_));
        let others: Vec<_> = batch.iter().filter(|one| !is_letter(one)).cloned().collect();
        let mut settled = match others {
            others if others.is_empty() => Vec::new(),
            others => self.end(others).await,
        }
        .into_iter();
        let mut results = Vec::with_capacity(batch.len());
        for one in batch {
            let result = if is_letter(&one) {
                self.end(vec![one]).await.pop()
            } else {
                settled.next()
            };
            results.push(result.unwrap_or(Ok(())));
        }
        results
    }

    /// A lease that cannot be given back runs out.
    pub(super) async fn release(&self, going: Option<GoingBack>) {
        let Some(mut going) = going else { return };
        let deliveries = std::mem::take(&mut going.deliveries);
        let release = |delivery: Delivery| Settlement {
            token: delivery.receipt.into_parts().0,
            disposition: Disposition::Release,
        };
        drop(self.settle(deliveries.into_iter().map(release).collect()).await);
    }
}

const fn lease_of(token: &Token) -> Lease {
    Lease {
        row: token.number,
        fence: token.fence,
    }
}

/// The waits before a message comes again whose nack says none: after its first attempt, and at most.
const DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// Twice as long after each attempt: what never works must not come for ever in quick succession.
fn default_delay(attempts: &[Attempt]) -> Duration {
    let [first, most] = DELAYS;
    let tried = attempts.last().map_or(1, |attempt| attempt.number.max(1));
    first.saturating_mul(1 << (tried - 1).min(16)).min(most)
}

fn answers(count: usize, result: Result<Vec<Result<(), Stale>>, Error>) -> Vec<Result<(), SettleError>> {
    match result {
        Ok(results) => results
            .into_iter()
            .map(|result| result.map_err(|Stale| SettleError::Stale))
            .collect(),
        Err(error) => {
            let (class, text) = (error.class(), error.report());
            (0..count)
                .map(|_| Err(SettleError::Failed(Error::new(class, text.clone()))))
                .collect()
        }
    }
}

#[async_trait]
impl Settler for QueueSettler {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let mut letters = 0;
        let complete = |settlement: Settlement| Completion {
            lease: lease_of(&settlement.token),
            outcome: match settlement.disposition {
                Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Parked => Outcome::Done,
                Disposition::Bury(letter) => {
                    letters += 1;
                    Outcome::Bury(letter)
                }
                Disposition::Nack { delay, attempts } => Outcome::Retry {
                    delay: delay.unwrap_or_else(|| default_delay(&attempts)),
                    attempts,
                },
                Disposition::Release => Outcome::Release,
            },
        };
        let batch = batch.into_iter().map(complete).collect();
        if letters > 0 {
            return self.settle_letters(batch).await;
        }
        self.end(batch).await
    }

    async fn extend(&self, batch: Vec<Token>, by: Duration) -> Vec<Result<(), SettleError>> {
        let count = batch.len();
        let leases = batch.iter().map(lease_of).collect();
        answers(count, self.store.queue().extend(&self.queue, leases, by).await)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_fails_for_ever_comes_ever_more_seldom() {
        let after = |number| {
            let attempt = Attempt::failed(number, SystemTime::now(), Duration::ZERO, &Error::retry("no"));
            default_delay(&[attempt]).as_secs()
        };

        assert_eq!([1, 2, 3, 9, 10, u32::MAX].map(after), [1, 2, 4, 256, 300, 300]);
        assert_eq!(default_delay(&[]).as_secs(), 1);
    }
}
