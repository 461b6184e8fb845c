use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{Delivery, Message, lock::lock};

/// A claim that was under way for longer has ended.
const LONGEST_CLAIM: Duration = Duration::from_secs(600);

/// What claims have brought and nobody was handed yet: leased, and not at work. Who asks what waits finds it here.
#[derive(Default)]
pub(super) struct Landed {
    state: Mutex<State>,
    /// Told when something is back in the Store.
    back: Notify,
}

#[derive(Default)]
struct State {
    /// By the number of the claim, with the time its leases began.
    claims: BTreeMap<u64, (Instant, VecDeque<Delivery>)>,
    withdrawals: Vec<Withdrawal>,
    /// What is on its way back into the Store, where nobody sees it meanwhile; and the number of the next.
    going_back: BTreeSet<u64>,
    next: u64,
}

/// Deliveries that go back into the Store; dropped when they are there.
pub(super) struct GoingBack {
    landed: Arc<Landed>,
    number: u64,
    pub(super) deliveries: Vec<Delivery>,
}

impl Drop for GoingBack {
    fn drop(&mut self) {
        lock(&self.landed.state).going_back.remove(&self.number);
        self.landed.back.notify_waiters();
    }
}

pub(super) type Pick = Arc<dyn Fn(&Message) -> bool + Send + Sync>;

/// What is to be taken out of the claims under way, which may have been before it in the Store.
struct Withdrawal {
    number: u64,
    pick: Pick,
    /// Of the claims that began before this time; none while the Store is still looked through.
    until: Option<Instant>,
}

impl State {
    /// Takes what is withdrawn out of deliveries that were received from the Store at this time.
    fn pick_withdrawn(&self, deliveries: &mut VecDeque<Delivery>, at: Instant) -> Vec<Delivery> {
        let applies = |withdrawal: &&Withdrawal| withdrawal.until.is_none_or(|until| at <= until);
        let mut withdrawn = Vec::new();
        for withdrawal in self.withdrawals.iter().filter(applies) {
            take_out(deliveries, &withdrawal.pick, &mut withdrawn);
        }
        withdrawn
    }
}

impl Landed {
    fn going(self: &Arc<Self>, state: &mut State, deliveries: Vec<Delivery>) -> Option<GoingBack> {
        if deliveries.is_empty() {
            return None;
        }
        let (landed, number) = (Arc::clone(self), state.next);
        state.next += 1;
        state.going_back.insert(number);
        Some(GoingBack {
            landed,
            number,
            deliveries,
        })
    }

    /// Takes in what a claim has brought, and answers with what is withdrawn of it.
    pub(super) fn put(&self, claim: u64, began: Instant, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let mut state = lock(&self.state);
        let mut deliveries = VecDeque::from(deliveries);
        let withdrawn = state.pick_withdrawn(&mut deliveries, began);
        if !deliveries.is_empty() {
            state.claims.insert(claim, (began, deliveries));
        }
        withdrawn
    }

    /// At most `max` of the claims before this one. Those leased before `since` go back.
    pub(super) fn take(
        self: &Arc<Self>,
        max: usize,
        before: u64,
        since: Option<Instant>,
    ) -> (Vec<Delivery>, Option<GoingBack>) {
        let mut state = lock(&self.state);
        let (mut taken, mut late) = (Vec::new(), Vec::new());
        while taken.len() < max
            && let Some(mut first) = state.claims.first_entry().filter(|first| *first.key() < before)
        {
            let (began, deliveries) = first.get_mut();
            if since.is_some_and(|since| *began <= since) {
                late.extend(first.remove().1);
                continue;
            }
            let more = deliveries.len().min(max - taken.len());
            taken.extend(deliveries.drain(..more));
            if deliveries.is_empty() {
                first.remove();
            }
        }
        let late = self.going(&mut state, late);
        (taken, late)
    }

    /// How many there are of the claims before this one.
    pub(super) fn count(&self, before: u64) -> usize {
        let state = lock(&self.state);
        let claims = state.claims.range(..before);
        claims.map(|(_, (_, deliveries))| deliveries.len()).sum()
    }

    /// All that a claim has brought, to go back.
    pub(super) fn remove(self: &Arc<Self>, claim: u64) -> Option<GoingBack> {
        let mut state = lock(&self.state);
        let (_, deliveries) = state.claims.remove(&claim)?;
        self.going(&mut state, deliveries.into())
    }

    /// All of the claims before this one, to go back.
    pub(super) fn clear(self: &Arc<Self>, before: u64) -> Option<GoingBack> {
        let mut state = lock(&self.state);
        let rest = state.claims.split_off(&before);
        let claims = std::mem::replace(&mut state.claims, rest);
        let all = claims.into_values().flat_map(|(_, deliveries)| deliveries);
        self.going(&mut state, all.collect())
    }

    /// What was taken at this time or later is to go back; and what is withdrawn of it.
    pub(super) fn give_back(
        self: &Arc<Self>,
        deliveries: Vec<Delivery>,
        taken: Instant,
    ) -> (Vec<Delivery>, Option<GoingBack>) {
        let mut state = lock(&self.state);
        let mut deliveries = VecDeque::from(deliveries);
        let withdrawn = state.pick_withdrawn(&mut deliveries, taken);
        (withdrawn, self.going(&mut state, deliveries.into()))
    }

    /// Waits until all that is on its way back now is in the Store.
    pub(super) async fn all_back(&self) {
        let next = lock(&self.state).next;
        loop {
            let mut back = std::pin::pin!(self.back.notified());
            back.as_mut().enable();
            if lock(&self.state).going_back.first().is_none_or(|first| *first >= next) {
                return;
            }
            back.await;
        }
    }

    /// Shows what is picked.
    pub(super) fn see(&self, pick: &Pick) -> Vec<Message> {
        let state = lock(&self.state);
        let all = state.claims.values().flat_map(|(_, deliveries)| deliveries);
        all.map(|delivery| &delivery.message)
            .filter(|message| pick(message))
            .cloned()
            .collect()
    }

    /// Takes out what is picked of what has come, and from now on of all claims that come, until
    /// [`withdrawn`](Self::withdrawn).
    pub(super) fn withdraw(&self, number: u64, pick: Pick) -> Vec<Delivery> {
        let mut state = lock(&self.state);
        let mut taken = Vec::new();
        for (_, deliveries) in state.claims.values_mut() {
            take_out(deliveries, &pick, &mut taken);
        }
        state.claims.retain(|_, (_, deliveries)| !deliveries.is_empty());
        let until = None;
        state.withdrawals.push(Withdrawal { number, pick, until });
        taken
    }

    /// Nothing is left in the Store of what was there when this withdrawal began, but what claims have taken that are
    /// under way.
    pub(super) fn withdrawn(&self, number: u64) {
        let now = Instant::now();
        let withdrawals = &mut lock(&self.state).withdrawals;
        if let Some(withdrawal) = withdrawals.iter_mut().find(|own| own.number == number) {
            withdrawal.until = Some(now);
        }
        withdrawals.retain(|old| old.until.is_none_or(|until| now.duration_since(until) < LONGEST_CLAIM));
    }
}

fn take_out(deliveries: &mut VecDeque<Delivery>, pick: &Pick, out: &mut Vec<Delivery>) {
    let all = std::mem::take(deliveries).into_iter();
    let (picked, kept): (VecDeque<_>, VecDeque<_>) = all.partition(|delivery| pick(&delivery.message));
    *deliveries = kept;
    out.extend(picked);
}
