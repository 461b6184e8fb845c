//! Reserved keys, in the order they expire.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use smol_str::SmolStr;
use tokio::time::Instant;

use super::MemoryStore;
use crate::{
    Error, clock,
    store::{Reservation, Reservations},
};

/// So many finished keys are remembered unless told otherwise: some 150 MB of them.
const MOST: usize = 1_000_000;

/// Every reserved key, and when it is free again.
#[derive(Debug)]
pub(super) struct Reserved {
    /// What is being worked on, by whom; never forgotten for want of room.
    leased: HashMap<SmolStr, Lease>,
    done: HashMap<SmolStr, Place>,
    /// The finished ones by their end, so that forgetting touches none that stays.
    order: BTreeMap<Place, SmolStr>,
    /// How many have been finished so far.
    count: u64,
    most: usize,
}

#[derive(Debug)]
struct Lease {
    owner: SmolStr,
    until: Instant,
}

/// When a finished key is free again, and which one it was: two may end at one time.
type Place = (Instant, u64);

impl Default for Reserved {
    fn default() -> Self {
        Self {
            leased: HashMap::new(),
            done: HashMap::new(),
            order: BTreeMap::new(),
            count: 0,
            most: MOST,
        }
    }
}

impl Reserved {
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most.max(1);
    }

    fn is_owned_by(&self, key: &str, owner: &str) -> bool {
        self.leased.get(key).is_some_and(|lease| lease.owner == owner)
    }

    fn finish(&mut self, key: SmolStr, until: Instant) {
        self.count += 1;
        let place = (until, self.count);
        self.order.insert(place, key.clone());
        self.done.insert(key, place);
        while self.done.len() > self.most {
            let Some((_, first)) = self.order.pop_first() else {
                break;
            };
            self.done.remove(&first);
        }
    }

    fn forget_until(&mut self, now: Instant) -> u64 {
        let before = self.leased.len() + self.done.len();
        self.leased.retain(|_, lease| lease.until > now);
        while let Some(first) = self.order.first_entry().filter(|first| first.key().0 <= now) {
            self.done.remove(&first.remove());
        }
        (before - self.leased.len() - self.done.len()) as u64
    }
}

#[async_trait]
impl Reservations for MemoryStore {
    async fn reserve(&self, key: &str, owner: &str, lease: Duration) -> Result<Reservation, Error> {
        let now = Instant::now();
        let reserved = &mut self.state().reserved;
        if let Some(place) = reserved.done.get(key).copied() {
            if place.0 > now {
                return Ok(Reservation::Done(clock::system_time_at(place.0)));
            }
            reserved.order.remove(&place);
            reserved.done.remove(key);
        }
        let until = now + lease;
        match reserved.leased.get_mut(key) {
            Some(held) if held.until > now && held.owner != owner => {
                return Ok(Reservation::InProgress(clock::system_time_at(held.until)));
            }
            Some(held) if held.owner == owner => held.until = until,
            Some(held) => {
                *held = Lease {
                    owner: owner.into(),
                    until,
                };
            }
            None => {
                let owner = owner.into();
                reserved.leased.insert(key.into(), Lease { owner, until });
            }
        }
        Ok(Reservation::Reserved)
    }

    async fn commit(&self, key: &str, owner: &str, keep: Duration) -> Result<bool, Error> {
        let reserved = &mut self.state().reserved;
        // An owner whose lease ran out still holds the key until somebody else takes it.
        if !reserved.is_owned_by(key, owner) {
            return Ok(false);
        }
        if let Some((key, _)) = reserved.leased.remove_entry(key) {
            reserved.finish(key, Instant::now() + keep);
        }
        Ok(true)
    }

    async fn cancel(&self, key: &str, owner: &str) -> Result<(), Error> {
        let reserved = &mut self.state().reserved;
        if reserved.is_owned_by(key, owner) {
            reserved.leased.remove(key);
        }
        Ok(())
    }

    async fn expire(&self) -> Result<u64, Error> {
        Ok(self.state().reserved.forget_until(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_to_expire_gives_way_and_no_work_in_progress_does() {
        let second = Duration::from_secs(1);
        let store = MemoryStore::new().max_reservations(2);
        store.reserve("working", "me", second).await.unwrap();
        for (key, keep) in [("long", 9), ("short", 3), ("middle", 6)] {
            store.reserve(key, "me", second).await.unwrap();
            store.commit(key, "me", keep * second).await.unwrap();
        }

        let mut found = Vec::new();
        for key in ["working", "short", "middle", "long"] {
            found.push(store.reserve(key, "you", second).await.unwrap());
        }

        assert!(
            matches!(
                found[..],
                [
                    Reservation::InProgress(_),
                    Reservation::Reserved,
                    Reservation::Done(_),
                    Reservation::Done(_)
                ]
            ),
            "{found:?}"
        );
    }
}
