//! The whole Store in process memory: for tests, and for pipelines that may forget everything when they end.

mod dead_letters;
mod queue;
mod reservations;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use smol_str::SmolStr;
use tokio::time::Instant;

use super::{DeadLetters, Positions, Queue, Rates, Reservations, Slots, Store, Taken};
use crate::Error;
use dead_letters::Letters;
use queue::Line;
use reservations::Reserved;

/// A [`Store`] that lives and dies with the process.
///
/// It keeps every promise of the traits but one: nothing outlives the process. Time is tokio's, so that a test with a
/// paused clock decides when leases end and delays pass.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), dispatch_core::Error> {
/// use std::time::Duration;
/// use dispatch_core::{MemoryStore, Message, Store, store::{Claim, Item}};
///
/// let store = MemoryStore::new();
/// store.queue().enqueue("jobs", vec![Item::of(&Message::new("hello"))]).await?;
/// let claim = Claim { max: 10, lease: Duration::from_secs(30), ordered: false, below: None };
/// assert_eq!(store.queue().claim("jobs", claim).await?.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: HashMap<SmolStr, Line>,
    letters: Letters,
    reserved: Reserved,
    slots: HashMap<SmolStr, BTreeSet<SystemTime>>,
    positions: HashMap<SmolStr, u64>,
    rates: HashMap<SmolStr, Rate>,
}

/// Up to when a rate's time is taken, in microseconds since its first use.
#[derive(Debug)]
struct Rate {
    since: Instant,
    taken_until: i64,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers at most so many finished reservations; the first to expire give way to new ones. One million by default.
    #[must_use]
    pub fn max_reservations(self, most: usize) -> Self {
        self.state().reserved.limit(most);
        self
    }

    /// Keeps at most so many dead letters; the oldest give way to new ones, each with a warning in the log. 10 000 by
    /// default.
    #[must_use]
    pub fn max_dead_letters(self, most: usize) -> Self {
        self.state().letters.limit(most);
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No method panics between two changes that belong together, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn line(&mut self, queue: &str) -> &mut Line {
        self.lines.entry(queue.into()).or_default()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }
    fn reservations(&self) -> &dyn Reservations {
        self
    }
    fn slots(&self) -> &dyn Slots {
        self
    }
    fn queue(&self) -> &dyn Queue {
        self
    }
    fn positions(&self) -> &dyn Positions {
        self
    }
    fn rates(&self) -> &dyn Rates {
        self
    }
    async fn probe(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Slots for MemoryStore {
    async fn take(&self, schedule: &str, at: SystemTime) -> Result<bool, Error> {
        let mut state = self.state();
        Ok(state.slots.entry(schedule.into()).or_default().insert(at))
    }

    async fn last(&self, schedule: &str) -> Result<Option<SystemTime>, Error> {
        Ok(self.state().slots.get(schedule).and_then(|taken| taken.last().copied()))
    }

    async fn prune(&self, before: SystemTime) -> Result<u64, Error> {
        let mut pruned = 0;
        for taken in self.state().slots.values_mut() {
            let old = taken.iter().take_while(|at| **at < before).count();
            for _ in 0..old.min(taken.len().saturating_sub(1)) {
                pruned += u64::from(taken.pop_first().is_some());
            }
        }
        Ok(pruned)
    }
}

#[async_trait]
impl Positions for MemoryStore {
    async fn load(&self, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.state().positions.get(name).copied())
    }

    async fn save(&self, name: &str, position: Option<u64>) -> Result<(), Error> {
        let mut state = self.state();
        match position {
            Some(position) => state.positions.insert(name.into(), position),
            None => state.positions.remove(name),
        };
        Ok(())
    }
}

#[async_trait]
impl Rates for MemoryStore {
    async fn take(&self, name: &str, span: Duration, burst: Duration) -> Result<Taken, Error> {
        let micros = |length: Duration| i64::try_from(length.as_micros()).unwrap_or(i64::MAX).min(i64::MAX / 8);
        let mut state = self.state();
        let rate = state.rates.entry(name.into()).or_insert_with(|| Rate {
            since: Instant::now(),
            taken_until: i64::MIN,
        });
        let now = micros(rate.since.elapsed());
        let begin = rate.taken_until.max(now - micros(burst));
        rate.taken_until = begin + micros(span);
        Ok(Taken::in_micros(begin - now))
    }
}
