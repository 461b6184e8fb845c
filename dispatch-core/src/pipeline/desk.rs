//! Settlements on their way back to one source, gathered into batches.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{Capabilities, Disposition, Error, SettleError, Settlement, Settler, Token};

/// So many settling calls to one source at once; a further batch waits and grows.
const CALLS: usize = 4;

/// One source's settler, and what is to be told to it.
pub(super) struct Desk {
    pub(super) settler: Arc<dyn Settler>,
    pub(super) capabilities: Capabilities,
    /// Whether the source keeps its dead letters itself, where they belong.
    pub(super) keeps_letters: bool,
    waiting: Vec<Settlement>,
    slots: Vec<usize>,
    /// When the oldest that waits was put in.
    since: Option<Instant>,
    calls: usize,
    /// How many are settled and not confirmed.
    unconfirmed: usize,
    /// Whether one of those that wait has little left of its lease.
    hurried: bool,
}

/// A batch that has left the desk.
pub(super) struct Parcel {
    pub(super) settler: Arc<dyn Settler>,
    pub(super) batch: Vec<Settlement>,
    pub(super) slots: Vec<usize>,
}

impl Desk {
    pub(super) fn new(settler: Arc<dyn Settler>, capabilities: Capabilities) -> Self {
        Self {
            settler,
            capabilities,
            keeps_letters: false,
            waiting: Vec::new(),
            slots: Vec::new(),
            since: None,
            calls: 0,
            unconfirmed: 0,
            hurried: false,
        }
    }

    /// The one that was put in last has little left of its lease: it waits for no company.
    pub(super) const fn hurry(&mut self) {
        self.hurried = true;
    }

    /// A delivery's outcome is known.
    pub(super) const fn decided(&mut self) {
        self.unconfirmed += 1;
    }

    /// The source has confirmed its settlement, or it was given up on.
    pub(super) const fn confirmed(&mut self) {
        self.unconfirmed -= 1;
    }

    /// How many places of the window are free again although their deliveries are not settled yet.
    pub(super) fn lent(&self) -> usize {
        if self.capabilities.settles_apart {
            self.unconfirmed
                .min(self.capabilities.settle_batch.saturating_mul(CALLS + 1))
        } else {
            0
        }
    }

    #[inline(always)]
    pub(super) fn put(&mut self, slot: usize, token: Token, disposition: Disposition) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
        }
        self.waiting.push(Settlement { token, disposition });
        self.slots.push(slot);
    }

    /// When the oldest settlement has waited long enough for company.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.calls < CALLS)
            .then_some(self.since?)
            .map(|since| since + self.linger())
    }

    fn linger(&self) -> Duration {
        self.capabilities.settle_linger
    }

    /// The next batch to send: a full one, one that has waited long enough, or, where nothing more can come, any. What
    /// settles apart holds nobody up while it waits for company: it does unless the pipeline is `ending`.
    pub(super) fn take(&mut self, now: Instant, nothing_more: bool, ending: bool) -> Option<Parcel> {
        let most = self.capabilities.settle_batch.max(1);
        let waited = self.hurried || self.since.is_some_and(|since| now >= since + self.linger());
        let nothing_more = nothing_more && (ending || !self.capabilities.settles_apart);
        let ready = self.waiting.len() >= most || ((waited || nothing_more) && !self.waiting.is_empty());
        if !ready || self.calls >= CALLS {
            return None;
        }
        self.calls += 1;
        let count = match self.waiting.len() {
            few if few < most => few,
            _ => together(&self.waiting, most),
        };
        let (batch, slots) = if count == self.waiting.len() {
            self.since = None;
            self.hurried = false;
            (
                std::mem::replace(&mut self.waiting, Vec::with_capacity(count)),
                std::mem::replace(&mut self.slots, Vec::with_capacity(count)),
            )
        } else {
            (
                self.waiting.drain(..count).collect(),
                self.slots.drain(..count).collect(),
            )
        };
        Some(Parcel {
            settler: Arc::clone(&self.settler),
            batch,
            slots,
        })
    }

    /// Everything that waits, however little or much.
    pub(super) fn take_all(&mut self) -> Option<Parcel> {
        let (batch, slots) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.slots));
        (!batch.is_empty()).then(|| Parcel {
            settler: Arc::clone(&self.settler),
            batch,
            slots,
        })
    }

    /// A call has come back.
    pub(super) const fn returned(&mut self) {
        self.calls -= 1;
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.calls == 0
    }
}

/// How many go, `most` at most: where it can be, what was received under one fence ends in one call.
fn together(waiting: &[Settlement], most: usize) -> usize {
    let is_border = |pair: &[Settlement]| pair[0].token.fence != pair[1].token.fence;
    let seen = &waiting[..waiting.len().min(most + 1)];
    seen.windows(2).rposition(is_border).map_or(most, |before| before + 1)
}

impl Parcel {
    /// Hands the batch over. Nobody knows what became of an entry that the settler does not answer for.
    pub(super) async fn send(self) -> (Vec<usize>, Vec<Result<(), SettleError>>) {
        let mut results = self.settler.settle(self.batch).await;
        results.resize_with(self.slots.len(), || {
            Err(SettleError::Failed(Error::permanent(
                "the settler gave no answer for it",
            )))
        });
        (self.slots, results)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    struct Nobody;

    #[async_trait]
    impl Settler for Nobody {
        async fn settle(&self, _: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
            Vec::new()
        }
    }

    fn desk(count: usize) -> Desk {
        let mut desk = Desk::new(
            Arc::new(Nobody),
            Capabilities {
                settle_batch: 10,
                ..Default::default()
            },
        );
        (0..count).for_each(|slot| desk.put(slot, Token::default(), Disposition::Release));
        desk
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_is_full_or_old_or_nothing_more_can_come() {
        let now = Instant::now();

        assert_eq!(
            desk(12).take(now, false, false).map(|parcel| parcel.slots.len()),
            Some(10)
        );
        assert!(desk(3).take(now, false, false).is_none());
        assert_eq!(desk(3).take(now, true, false).map(|parcel| parcel.slots.len()), Some(3));
        assert_eq!(
            desk(3)
                .take(now + Duration::from_millis(1), false, false)
                .map(|parcel| parcel.slots.len()),
            Some(3)
        );
        assert!(desk(0).take(now, true, false).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_under_one_fence_goes_together() {
        let mut desk = desk(0);
        let fences = [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3];
        let mut taken = Vec::new();
        for (slot, fence) in fences.into_iter().enumerate() {
            desk.put(slot, Token::new(0, fence), Disposition::Release);
            taken.extend(desk.take(Instant::now(), false, false).map(|parcel| parcel.slots));
        }
        taken.extend(desk.take(Instant::now(), true, false).map(|parcel| parcel.slots));

        let range = |range: std::ops::Range<usize>| range.collect::<Vec<_>>();
        assert_eq!(taken, [range(0..2), range(2..12), range(12..14)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_with_little_left_of_its_lease_takes_the_others_along() {
        let (mut hurried, now) = (desk(3), Instant::now());

        hurried.hurry();

        assert_eq!(
            hurried.take(now, false, false).map(|parcel| parcel.slots.len()),
            Some(3)
        );
        hurried.put(0, Token::default(), Disposition::Release);
        assert!(hurried.take(now, false, false).is_none(), "only those");
    }

    #[tokio::test(start_paused = true)]
    async fn what_settles_apart_waits_for_company_and_lends_its_places() {
        let now = Instant::now();
        let apart = |count| {
            let mut desk = desk(count);
            desk.capabilities.settles_apart = true;
            (0..count).for_each(|_| desk.decided());
            desk
        };

        assert!(apart(3).take(now, true, false).is_none());
        assert_eq!(apart(3).take(now, true, true).map(|parcel| parcel.slots.len()), Some(3));
        assert_eq!((apart(3).lent(), apart(99).lent(), desk(3).lent()), (3, 50, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_bounded_and_what_waits_goes_together() {
        let mut desk = desk(0);
        for slot in 0..8 {
            desk.put(slot, Token::default(), Disposition::Release);
            let _ = desk.take(Instant::now(), true, false);
        }

        assert!(desk.take(Instant::now(), true, false).is_none());
        desk.returned();
        assert_eq!(
            desk.take(Instant::now(), true, false).map(|parcel| parcel.slots.len()),
            Some(4)
        );
    }
}
