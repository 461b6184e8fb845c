//! Who is asked what is being worked on. The drivers look at one number in each turn, and only that until somebody asks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, SystemTime},
};

use smol_str::SmolStr;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::{Instant, timeout_at},
};

use super::visit::{Held, Visit, Wanted};
use crate::{Message, Token, lock::lock};

/// How long a driver may take to answer: it answers between two turns, unless a sink blocks its thread.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same where who asks has to answer within a second himself.
const VISIT: Duration = Duration::from_millis(200);

/// A message that is being worked on.
#[derive(Debug, Clone)]
pub struct InProgress {
    /// The message.
    pub message: Message,
    /// Its source's label, such as `source` or `source.jobs`; `parked` for what the pipeline had put into the Store.
    pub source: SmolStr,
    /// What its source knows the delivery by.
    pub token: Token,
    /// When the work on it began.
    pub started_at: SystemTime,
}

/// What came of asking every driver.
#[derive(Debug)]
pub(super) struct Called {
    /// What is at the sink, the oldest first.
    pub(super) all: Vec<InProgress>,
    /// How many drivers have not answered.
    pub(super) silent: usize,
}

type Answer = (u64, Vec<InProgress>);

/// Who asks, and who can answer.
#[derive(Default)]
pub(super) struct Roll {
    /// Which question is the latest.
    question: AtomicU64,
    askers: Mutex<Vec<UnboundedSender<Answer>>>,
    /// What wakes each driver.
    drivers: Mutex<BTreeMap<u64, Waker>>,
    numbers: AtomicU64,
    /// What is asked by commands.
    visits: Mutex<Vec<Arc<Visit>>>,
}

impl std::fmt::Debug for Roll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roll").finish_non_exhaustive()
    }
}

impl Roll {
    /// Adds a driver; what comes back is its number.
    pub(super) fn enter(&self, waker: Waker) -> u64 {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        lock(&self.drivers).insert(number, waker);
        number
    }

    pub(super) fn leave(&self, driver: u64) {
        lock(&self.drivers).remove(&driver);
    }

    /// The latest question; a driver that has not answered it does.
    pub(super) fn question(&self) -> u64 {
        self.question.load(Ordering::Acquire)
    }

    pub(super) fn answer(&self, driver: u64, all: &[InProgress]) {
        lock(&self.askers).retain(|asker| asker.send((driver, all.to_vec())).is_ok());
    }

    /// What is asked by commands and may not be answered yet.
    pub(super) fn visits(&self) -> Vec<Arc<Visit>> {
        lock(&self.visits).clone()
    }

    /// Asks every driver for what it holds of what is wanted; one that does not answer in time is left out, and nothing is
    /// taken from it any more.
    pub(super) async fn visit(&self, wanted: Wanted) -> Held {
        let (asker, mut answers) = unbounded_channel();
        let visit = Arc::new(Visit::new(wanted, asker));
        lock(&self.visits).push(Arc::clone(&visit));
        self.question.fetch_add(1, Ordering::AcqRel);
        let mut asked: BTreeMap<u64, Waker> = lock(&self.drivers).clone();
        asked.values().for_each(Waker::wake_by_ref);
        let until = Instant::now() + VISIT;
        let mut all = Held::default();
        while !asked.is_empty()
            && let Ok(Some((driver, held))) = timeout_at(until, answers.recv()).await
        {
            all.add(held);
            let left = lock(&self.drivers);
            asked.retain(|other, _| *other != driver && left.contains_key(other));
        }
        lock(&self.visits).retain(|other| !Arc::ptr_eq(other, &visit));
        all
    }

    /// Asks every driver.
    pub(super) async fn call(&self) -> Called {
        let (asker, mut answers) = unbounded_channel();
        {
            let mut askers = lock(&self.askers);
            // Those who were never answered, and have gone.
            askers.retain(|asker| !asker.is_closed());
            askers.push(asker);
        }
        self.question.fetch_add(1, Ordering::AcqRel);
        let asked: BTreeMap<u64, Waker> = lock(&self.drivers).clone();
        asked.values().for_each(Waker::wake_by_ref);
        let until = Instant::now() + PATIENCE;
        // Another asker's question may be answered to us as well: the latest answer of each driver counts.
        let mut all = BTreeMap::new();
        while asked.keys().any(|driver| !all.contains_key(driver)) {
            match timeout_at(until, answers.recv()).await {
                Ok(Some((driver, list))) => drop(all.insert(driver, list)),
                Ok(None) | Err(_) => break,
            }
            let left = lock(&self.drivers);
            // A driver that has ended since works on nothing.
            let gone: Vec<_> = asked
                .keys()
                .filter(|driver| !left.contains_key(driver))
                .copied()
                .collect();
            drop(left);
            for driver in gone {
                all.entry(driver).or_insert_with(Vec::new);
            }
        }
        // One that came meanwhile may have answered, too.
        let silent = asked.keys().filter(|driver| !all.contains_key(driver)).count();
        let mut all: Vec<_> = all.into_values().flatten().collect();
        all.sort_by_key(|one: &InProgress| one.started_at);
        Called { all, silent }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, task::Wake};

    use super::*;

    /// A driver that answers as soon as it is woken, or never.
    struct Driver {
        roll: Arc<Roll>,
        number: Mutex<Option<u64>>,
    }

    impl Wake for Driver {
        fn wake(self: Arc<Self>) {
            if let Some(number) = *lock(&self.number) {
                self.roll.answer(number, &[]);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn drivers_that_do_not_answer_are_counted() {
        let roll = Arc::new(Roll::default());
        let enter = |answers| {
            let (roll_of, number) = (Arc::clone(&roll), Mutex::new(None));
            let driver = Arc::new(Driver { roll: roll_of, number });
            let number = roll.enter(Arc::clone(&driver).into());
            *lock(&driver.number) = Some(number).filter(|_| answers);
            number
        };
        let (_, silent) = (enter(true), enter(false));

        for _ in 0..3 {
            assert_eq!(roll.call().await.silent, 1);
            assert!(lock(&roll.askers).len() <= 1, "who has gone is forgotten");
        }
        roll.leave(silent);
        assert_eq!(roll.call().await.silent, 0);
    }
}
