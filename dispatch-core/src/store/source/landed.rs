use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Delivery, Message, lock::lock};

/// A claim that was under way for longer has ended.
const LONGEST_CLAIM: Duration = Duration::from_secs(600);

/// What claims have brought and nobody was handed yet: leased, and not at work. Who asks what waits finds it here.
#[derive(Default)]
pub(super) struct Landed(Mutex<State>);

#[derive(Default)]
struct State {
    /// By the number of the claim, with the time its leases began.
    claims: BTreeMap<u64, (Instant, VecDeque<Delivery>)>,
    withdrawals: Vec<Withdrawal>,
}

pub(super) type Pick = Arc<dyn Fn(&Message) -> bool + Send + Sync>;

/// What is to be taken out of the claims under way, which may have been before it in the Store.
struct Withdrawal {
    number: u64,
    pick: Pick,
    /// Of the claims that began before this time; none while the Store is still looked through.
    until: Option<Instant>,
}

impl Landed {
    /// Takes in what a claim has brought, and answers with what is withdrawn of it.
    pub(super) fn put(&self, claim: u64, began: Instant, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let mut state = lock(&self.0);
        let applies = |withdrawal: &Withdrawal| withdrawal.until.is_none_or(|until| began <= until);
        let mut deliveries = VecDeque::from(deliveries);
        let picks: Vec<Pick> = state
            .withdrawals
            .iter()
            .filter(|withdrawal| applies(withdrawal))
            .map(|withdrawal| Arc::clone(&withdrawal.pick))
            .collect();
        let mut withdrawn = Vec::new();
        for pick in picks {
            take_out(&mut deliveries, &pick, &mut withdrawn);
        }
        if !deliveries.is_empty() {
            state.claims.insert(claim, (began, deliveries));
        }
        withdrawn
    }

    /// At most `max` of the claims before this one. Those leased before `since` go back, by being dropped.
    pub(super) fn take(&self, max: usize, before: u64, since: Option<Instant>) -> Vec<Delivery> {
        let mut state = lock(&self.0);
        let (mut taken, mut late) = (Vec::new(), Vec::new());
        while taken.len() < max
            && let Some(mut first) = state.claims.first_entry().filter(|first| *first.key() < before)
        {
            let (began, deliveries) = first.get_mut();
            if since.is_some_and(|since| *began <= since) {
                late.push(first.remove());
                continue;
            }
            let more = deliveries.len().min(max - taken.len());
            taken.extend(deliveries.drain(..more));
            if deliveries.is_empty() {
                first.remove();
            }
        }
        drop(state);
        taken
    }

    /// How many there are of the claims before this one.
    pub(super) fn count(&self, before: u64) -> usize {
        let state = lock(&self.0);
        let claims = state.claims.range(..before);
        claims.map(|(_, (_, deliveries))| deliveries.len()).sum()
    }

    /// All that a claim has brought.
    pub(super) fn remove(&self, claim: u64) -> Vec<Delivery> {
        let removed = lock(&self.0).claims.remove(&claim);
        removed.map(|(_, deliveries)| deliveries.into()).unwrap_or_default()
    }

    /// Shows what is picked.
    pub(super) fn see(&self, pick: &Pick) -> Vec<Message> {
        let state = lock(&self.0);
        let all = state.claims.values().flat_map(|(_, deliveries)| deliveries);
        all.map(|delivery| &delivery.message)
            .filter(|message| pick(message))
            .cloned()
            .collect()
    }

    /// Takes what is picked out of all claims that come, until [`withdrawn`](Self::withdrawn).
    pub(super) fn withdraw(&self, number: u64, pick: Pick) {
        let until = None;
        lock(&self.0).withdrawals.push(Withdrawal { number, pick, until });
    }

    /// Takes out what is picked of what has come: nothing is left in the Store of what was there when this withdrawal began,
    /// but what claims have taken that are under way.
    pub(super) fn withdrawn(&self, number: u64) -> Vec<Delivery> {
        let now = Instant::now();
        let mut state = lock(&self.0);
        let mut taken = Vec::new();
        let State { claims, withdrawals } = &mut *state;
        if let Some(withdrawal) = withdrawals.iter_mut().find(|own| own.number == number) {
            withdrawal.until = Some(now);
            for (_, deliveries) in claims.values_mut() {
                take_out(deliveries, &withdrawal.pick, &mut taken);
            }
        }
        claims.retain(|_, (_, deliveries)| !deliveries.is_empty());
        withdrawals.retain(|old| old.until.is_none_or(|until| now.duration_since(until) < LONGEST_CLAIM));
        taken
    }
}

fn take_out(deliveries: &mut VecDeque<Delivery>, pick: &Pick, out: &mut Vec<Delivery>) {
    let all = std::mem::take(deliveries).into_iter();
    let (picked, kept): (VecDeque<_>, VecDeque<_>) = all.partition(|delivery| pick(&delivery.message));
    *deliveries = kept;
    out.extend(picked);
}
