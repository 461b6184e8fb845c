//! One delivery on its way, and what is counted of all.

use smol_str::SmolStr;
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

use crate::{
    Attempt, Disposition, Message, Reply, Token,
    clock::Moment,
    store::DeadLetter,
    telemetry::{Stats, Tally},
};

/// What was counted since the last turn, by this driver alone.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) delivered: u64,
    pub(super) settled: i64,
    pub(super) queue: Tally,
    pub(super) total: Tally,
}

impl Counts {
    pub(super) fn flush(&mut self, stats: &Stats) {
        if self.delivered > 0 {
            stats.delivered.fetch_add(std::mem::take(&mut self.delivered), Relaxed);
        }
        if self.settled > 0 {
            stats.in_flight.fetch_sub(std::mem::take(&mut self.settled), Relaxed);
        }
        self.queue.flush(&stats.queue);
        self.total.flush(&stats.total);
    }
}

/// One delivery on its way.
pub(super) struct Entry {
    pub(super) message: Message,
    /// The attempts of earlier deliveries, and of this one once it has been kept or has rested; usually none.
    #[expect(clippy::box_collection, reason = "one word in each entry, for what few entries have")]
    pub(super) history: Option<Box<Vec<Attempt>>>,
    pub(super) token: Token,
    pub(super) source: u16,
    pub(super) lane: Option<Box<SmolStr>>,
    pub(super) serial: u32,
    pub(super) received: Moment,
    /// How many milliseconds after its receipt its lease last began.
    pub(super) leased: u32,
    /// How many attempts of earlier deliveries its history begins with.
    pub(super) prior: u16,
    /// Whether it has had its turn: from then on its lane is its own until it is settled.
    pub(super) started: bool,
    /// How long after its receipt that was, in milliseconds.
    pub(super) waited: u32,
    /// What it waits for, if it does, or the letter that its source is to keep.
    pub(super) aside: Option<Box<Aside>>,
    pub(super) lost: bool,
    /// Whether it came from the Store, where it stood in its lane.
    pub(super) parked: bool,
    /// On its way into the Store.
    pub(super) keeping: bool,
    /// Whether it is still to be settled: from its receipt until the settlement is on the desk.
    pub(super) open: bool,
    /// Once settled: how, and how often the source could not be told.
    pub(super) settling: Option<(Settled, u8)>,
}

/// What few entries have beside the rest.
#[derive(Debug, Clone)]
pub(super) enum Aside {
    /// The head of an ordered lane rests here, and is tried again then.
    Until(Instant),
    /// It was given back with this delay.
    Nacked(Duration),
    /// Its source keeps this letter with the settlement.
    Letter(Arc<DeadLetter>),
}

/// An outcome, which the source is told again if it could not be told.
#[derive(Clone, Copy)]
pub(super) enum Settled {
    Ack,
    DeadLetter,
    /// With the letter that is [`Aside`].
    Bury,
    Parked,
    /// With the delay of its [`Aside`]; without one in the source's own time.
    Nack,
    Release,
}

impl Settled {
    pub(super) const fn of(disposition: &Disposition) -> Self {
        match disposition {
            Disposition::Ack(_) => Self::Ack,
            Disposition::DeadLetter(_) => Self::DeadLetter,
            Disposition::Bury(_) => Self::Bury,
            Disposition::Parked => Self::Parked,
            Disposition::Nack { .. } => Self::Nack,
            Disposition::Release => Self::Release,
        }
    }

    pub(super) const fn goes_back(self) -> bool {
        matches!(self, Self::Nack | Self::Release)
    }
}

impl Entry {
    /// The source's place among the desks and labels.
    pub(super) const fn source(&self) -> usize {
        self.source as usize
    }

    /// Notes how it is settled.
    pub(super) fn settle(&mut self, disposition: &Disposition) {
        self.settling = Some((Settled::of(disposition), 0));
        match disposition {
            Disposition::Nack { delay: Some(delay), .. } => self.aside = Some(Box::new(Aside::Nacked(*delay))),
            Disposition::Bury(letter) => self.aside = Some(Box::new(Aside::Letter(Arc::clone(letter)))),
            _ => {}
        }
    }

    /// How it was settled, to be told again; without what came with it: the answer or the history went with the first
    /// telling.
    pub(super) fn settled(&self) -> Option<Disposition> {
        Some(match self.settling?.0 {
            Settled::Ack => Disposition::Ack(Reply::default()),
            Settled::DeadLetter => Disposition::DeadLetter(Vec::new()),
            Settled::Bury => Disposition::Bury(self.letter()?),
            Settled::Parked => Disposition::Parked,
            Settled::Nack => Disposition::Nack {
                delay: match self.aside.as_deref() {
                    Some(Aside::Nacked(delay)) => Some(*delay),
                    _ => None,
                },
                attempts: Vec::new(),
            },
            Settled::Release => Disposition::Release,
        })
    }

    /// Until when it rests here, if it does.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        match self.aside.as_deref() {
            Some(Aside::Until(until)) => Some(*until),
            _ => None,
        }
    }

    /// The letter that its source is to keep.
    pub(super) fn letter(&self) -> Option<Arc<DeadLetter>> {
        match self.aside.as_deref() {
            Some(Aside::Letter(letter)) => Some(Arc::clone(letter)),
            _ => None,
        }
    }

    /// Its source could not be told: it is to be settled once more, in another way.
    pub(super) fn reopen(&mut self) {
        (self.open, self.settling, self.aside) = (true, None, None);
    }

    /// Whether its source was told to keep its letter.
    pub(super) const fn is_buried(&self) -> bool {
        matches!(self.settling, Some((Settled::Bury, _)))
    }

    pub(super) fn leased_at(&self) -> Instant {
        self.received.instant() + Duration::from_millis(self.leased.into())
    }

    pub(super) fn lease_began(&mut self, at: Instant) {
        let after = at.saturating_duration_since(self.received.instant());
        self.leased = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
    }

    /// Whether it is settled as not done.
    pub(super) const fn goes_back(&self) -> bool {
        matches!(self.settling, Some((settled, _)) if settled.goes_back())
    }

    /// Adds failed attempts to its history, and those that count to its number.
    pub(super) fn remember(&mut self, attempts: Vec<Attempt>) {
        let counted = attempts.iter().filter(|attempt| attempt.counts()).count();
        if counted > 0 {
            let counted = u32::try_from(counted).unwrap_or(u32::MAX);
            self.message.attempt = self.message.attempt.saturating_add(counted);
        }
        let history = self.history.get_or_insert_default();
        let own = history.len() - usize::from(self.prior).min(history.len()) + attempts.len();
        history.extend(attempts);
        Attempt::shorten(history);
        // The last ones stay, so those of this delivery are behind all others as before.
        self.prior = u16::try_from(history.len().saturating_sub(own)).unwrap_or(u16::MAX);
    }

    pub(super) fn take_history(&mut self) -> Vec<Attempt> {
        self.history.take().map(|history| *history).unwrap_or_default()
    }

    /// What of `history` is of this delivery: the source remembers what came before.
    pub(super) fn own(&self, mut history: Vec<Attempt>) -> Vec<Attempt> {
        history.split_off(usize::from(self.prior).min(history.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::Error;

    fn attempts(numbers: std::ops::Range<u32>) -> Vec<Attempt> {
        let failed = |number| Attempt::failed(number, SystemTime::UNIX_EPOCH, Duration::ZERO, &Error::retry("no"));
        numbers.map(failed).collect()
    }

    fn entry(earlier: u32) -> Entry {
        Entry {
            message: Message::new("x"),
            history: Some(Box::new(attempts(0..earlier))),
            token: Token::default(),
            source: 0,
            lane: None,
            serial: 0,
            received: Moment::now(),
            leased: 0,
            prior: u16::try_from(earlier).unwrap(),
            started: true,
            waited: 0,
            aside: None,
            lost: false,
            parked: false,
            keeping: false,
            open: true,
            settling: None,
        }
    }

    #[test]
    fn attempts_of_this_delivery_are_told_apart_in_a_history_that_is_cut() {
        for earlier in [0, 3, 49, 50, 60] {
            let mut entry = entry(earlier);

            entry.remember(attempts(100..102));
            entry.remember(attempts(102..103));
            let history = entry.take_history();
            let own = entry.own(history);

            let numbers: Vec<_> = own.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, [100, 101, 102], "{earlier} before");
        }
    }
}
