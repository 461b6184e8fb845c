//! Which keys have messages in the Store, so that none of theirs goes before those; for the policy `park_key`.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use smol_str::SmolStr;
use tokio::time::Instant;

use super::lanes::{LanePolicy, Lanes};
use crate::{Message, clock, store::Item};

/// The metadata of a parked message that keeps its own key, while its lane stands in the key's place.
const OWN_KEY: &str = "dispatch_key";

/// How often the Store is asked which keys it holds, while any is thought to be parked.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// The parked keys of one pipeline.
#[derive(Debug)]
pub(super) struct Parking {
    keys: HashMap<SmolStr, Parked>,
}

/// What is known of a parked key. It stays parked until its last message has left the Store for good.
#[derive(Debug)]
struct Parked {
    /// How many are in the Store, or on their way there.
    count: u64,
    /// How many of those are on their way.
    coming: u64,
    /// When the head is tried again: those behind it need not be looked at before.
    until: Option<Instant>,
    /// Whether nothing was on its way when the Store was last asked, nor has set out since.
    asked: bool,
}

impl Parking {
    /// For these lanes, if it is their policy, with what the Store holds already.
    pub(super) fn of(lanes: &Lanes, kept: Vec<(SmolStr, u64)>) -> Option<Self> {
        let parked = |count| Parked {
            count,
            coming: 0,
            until: None,
            asked: false,
        };
        (lanes.order && lanes.policy == LanePolicy::ParkKey).then(|| Self {
            keys: kept.into_iter().map(|(key, count)| (key, parked(count))).collect(),
        })
    }

    /// Whether a message of this lane must wait behind others in the Store.
    pub(super) fn holds(&self, lane: &SmolStr) -> bool {
        self.keys.contains_key(lane)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Makes `item` ready to be parked, at the end of its lane: its lane takes the place of its key. `due` is when it is to
    /// be tried, if it is the head.
    pub(super) fn park(&mut self, item: &mut Item, lane: Option<&SmolStr>, due: Option<Instant>) {
        let own = std::mem::replace(&mut item.key, lane.cloned());
        item.metadata.insert(OWN_KEY, own.unwrap_or_default().as_str());
        let due = match lane {
            None => due,
            Some(lane) => {
                let parked = self.keys.entry(lane.clone()).or_insert_with(|| {
                    tracing::debug!(key = %lane, "key parked");
                    Parked {
                        count: 0,
                        coming: 0,
                        until: None,
                        asked: false,
                    }
                });
                parked.count += 1;
                parked.coming += 1;
                parked.asked = false;
                if due.is_some() {
                    parked.until = due;
                }
                parked.until
            }
        };
        item.run_at = Some(due.map_or_else(SystemTime::now, clock::system_time_at));
    }

    /// The head in the Store is tried again then.
    pub(super) fn waits(&mut self, lane: &SmolStr, due: Instant) {
        if let Some(parked) = self.keys.get_mut(lane) {
            parked.until = Some(due);
        }
    }

    /// One has come into the Store.
    pub(super) fn arrived(&mut self, lane: &SmolStr) {
        if let Some(parked) = self.keys.get_mut(lane) {
            parked.coming = parked.coming.saturating_sub(1);
        }
    }

    /// One has left the Store for good. The last one frees its key.
    pub(super) fn left(&mut self, lane: &SmolStr) {
        let Some(parked) = self.keys.get_mut(lane) else { return };
        parked.count = parked.count.saturating_sub(1);
        if parked.count == 0 {
            tracing::debug!(key = %lane, "key no longer parked");
            self.keys.remove(lane);
        }
    }

    /// The Store is being asked which keys it holds.
    pub(super) fn ask(&mut self) {
        for parked in self.keys.values_mut() {
            parked.asked = parked.coming == 0;
        }
    }

    /// The Store's answer: a key that it does not hold, and to which nothing was on its way, is free, whatever was counted.
    /// Others may have taken, purged or replayed messages meanwhile.
    pub(super) fn answered(&mut self, kept: &[(SmolStr, u64)]) {
        let kept: HashSet<_> = kept.iter().map(|(key, _)| key).collect();
        self.keys.retain(|key, parked| !parked.asked || kept.contains(key));
    }
}

/// Gives a message from the Store its own key again; says whether it had been parked with its lane.
pub(super) fn restore(message: &mut Message) -> bool {
    let Some(own) = message.metadata().get(OWN_KEY).map(SmolStr::new) else {
        return false;
    };
    message.metadata_mut().remove(OWN_KEY);
    message.set_key((!own.is_empty()).then_some(own));
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn parking(kept: &[(&str, u64)]) -> Parking {
        let lanes = Lanes {
            key: Arc::new(|message| message.key().cloned()),
            order: true,
            policy: LanePolicy::ParkKey,
        };
        Parking::of(
            &lanes,
            kept.iter().map(|(key, count)| ((*key).into(), *count)).collect(),
        )
        .unwrap()
    }

    fn park(parking: &mut Parking, lane: &str, due: Option<Instant>) -> Item {
        let mut item = Item::of(&Message::new("x").with_key("own"));
        parking.park(&mut item, Some(&lane.into()), due);
        item
    }

    #[test]
    fn the_last_message_frees_its_key() {
        let (mut parking, a) = (parking(&[("a", 1)]), SmolStr::new("a"));
        park(&mut parking, "a", None);

        parking.left(&a);
        let one_left = parking.holds(&a);
        parking.left(&a);

        assert_eq!((one_left, parking.holds(&a)), (true, false));
    }

    #[test]
    fn a_key_that_the_store_does_not_hold_is_free_unless_something_is_on_its_way() {
        let mut parking = parking(&[("gone", 3), ("kept", 1), ("comes", 1)]);
        park(&mut parking, "before", None);

        parking.ask();
        park(&mut parking, "comes", None);
        parking.answered(&[("kept".into(), 1)]);

        let held = ["gone", "kept", "comes", "before"].map(|key| parking.holds(&key.into()));
        assert_eq!(held, [false, true, true, true]);
        for key in ["comes", "before"] {
            parking.arrived(&key.into());
        }
        parking.ask();
        parking.answered(&[]);
        assert!(parking.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn those_behind_are_due_with_their_head() {
        let mut parking = parking(&[]);
        let due = Instant::now() + Duration::from_secs(60);

        let head = park(&mut parking, "a", Some(due));
        let follower = park(&mut parking, "a", None);

        let wait = |item: &Item| {
            item.run_at
                .unwrap()
                .duration_since(SystemTime::now())
                .unwrap_or_default()
        };
        assert!(wait(&head) > Duration::from_secs(59) && wait(&follower) > Duration::from_secs(59));
    }

    #[test]
    fn a_message_gets_its_own_key_back() {
        for own in [Some("own"), None] {
            let message = Message::new("x");
            let message = own.map_or(message.clone(), |own| message.with_key(own));
            let mut item = Item::of(&message);
            parking(&[]).park(&mut item, Some(&"lane".into()), None);
            let lane = item.key.clone();
            let (mut message, _) = item.into_message();

            let (first, again) = (restore(&mut message), restore(&mut message));

            assert_eq!((lane.as_deref(), first, again), (Some("lane"), true, false));
            assert_eq!((message.key().map(SmolStr::as_str), message.metadata().len()), (own, 0));
        }
    }
}
