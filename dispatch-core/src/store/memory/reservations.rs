//! Reserved keys, in the order they expire.

use std::{
    collections::{BTreeSet, HashMap},
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
    keys: HashMap<SmolStr, Held>,
    /// The finished ones by their end, so that forgetting touches none that stays.
    done: BTreeSet<(Instant, SmolStr)>,
    /// The same for those in progress.
    leased: BTreeSet<(Instant, SmolStr)>,
    most: usize,
}

/// One reserved key; done once nobody owns it.
#[derive(Debug)]
struct Held {
    owner: Option<SmolStr>,
    until: Instant,
}

impl Default for Reserved {
    fn default() -> Self {
        Self {
            keys: HashMap::new(),
            done: BTreeSet::new(),
            leased: BTreeSet::new(),
            most: MOST,
        }
    }
}

impl Reserved {
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most.max(1);
    }

    fn put(&mut self, key: SmolStr, owner: Option<SmolStr>, until: Instant) {
        self.remove(&key);
        if owner.is_some() {
            self.leased.insert((until, key.clone()));
        } else {
            self.done.insert((until, key.clone()));
        }
        self.keys.insert(key, Held { owner, until });
        // What is being worked on is never forgotten for want of room.
        while self.done.len() > self.most {
            let Some((_, oldest)) = self.done.pop_first() else {
                break;
            };
            self.keys.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, held)) = self.keys.remove_entry(key) {
            let order = if held.owner.is_some() {
                &mut self.leased
            } else {
                &mut self.done
            };
            order.remove(&(held.until, key));
        }
    }

    fn forget_until(&mut self, now: Instant) -> u64 {
        let mut forgotten = 0;
        for order in [&mut self.done, &mut self.leased] {
            while order.first().is_some_and(|(until, _)| *until <= now) {
                if let Some((_, key)) = order.pop_first() {
                    self.keys.remove(&key);
                    forgotten += 1;
                }
            }
        }
        forgotten
    }
}

#[async_trait]
impl Reservations for MemoryStore {
    async fn reserve(&self, key: &str, owner: &str, lease: Duration) -> Result<Reservation, Error> {
        let now = Instant::now();
        let reserved = &mut self.state().reserved;
        if let Some(held) = reserved.keys.get(key).filter(|held| held.until > now) {
            let until = clock::system_time_at(held.until);
            match &held.owner {
                None => return Ok(Reservation::Done(until)),
                Some(other) if other != owner => return Ok(Reservation::InProgress(until)),
                Some(_) => {}
            }
        }
        reserved.put(key.into(), Some(owner.into()), now + lease);
        Ok(Reservation::Reserved)
    }

    async fn commit(&self, key: &str, owner: &str, keep: Duration) -> Result<bool, Error> {
        let reserved = &mut self.state().reserved;
        // An owner whose lease ran out still holds the key until somebody else takes it.
        let ours = reserved
            .keys
            .get(key)
            .is_some_and(|held| held.owner.as_deref() == Some(owner));
        if ours {
            reserved.put(key.into(), None, Instant::now() + keep);
        }
        Ok(ours)
    }

    async fn cancel(&self, key: &str, owner: &str) -> Result<(), Error> {
        let reserved = &mut self.state().reserved;
        if reserved
            .keys
            .get(key)
            .is_some_and(|held| held.owner.as_deref() == Some(owner))
        {
            reserved.remove(key);
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
