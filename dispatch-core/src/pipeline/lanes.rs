//! What has been received and not been started: one queue, or a queue a key.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
};

use smol_str::SmolStr;

use crate::layer::KeyFn;

/// How messages of different keys stand to each other.
#[derive(Clone)]
pub struct Lanes {
    /// Reads a message's key; messages without one are each a key of their own.
    pub key: KeyFn,
    /// Whether messages of one key are worked on one at a time, in the order they came, a failing head holding its
    /// followers back. Otherwise keys only take turns.
    pub order: bool,
    /// Where an ordered lane waits whose head has failed.
    pub policy: LanePolicy,
}

/// Where an ordered lane waits for its head's next attempt, once that is further away than memory keeps a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LanePolicy {
    /// In the window: its head and those behind it hold their places.
    #[default]
    Block,
    /// In the Store: its head, those behind it and those that come later are parked there in their order, and come back in
    /// it, so that a key that fails takes no place from the others. What a source keeps in order itself goes back to the
    /// source instead, and a message whose sender waits for the answer is answered.
    ParkKey,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("order", &self.order)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Deliveries that wait for their turn.
#[derive(Debug)]
pub(super) struct Backlog<T> {
    /// Whether keys have lanes, and whether these are ordered.
    lanes: Option<bool>,
    /// Those without a lane.
    plain: VecDeque<T>,
    keyed: HashMap<SmolStr, Lane<T>>,
    /// The lanes that have something to start, in turn; the empty name stands for `plain`.
    turns: VecDeque<SmolStr>,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    busy: bool,
}

impl<T> Backlog<T> {
    /// `lanes`: none for one queue, else whether lanes are ordered.
    pub(super) fn new(lanes: Option<bool>) -> Self {
        Self {
            lanes,
            plain: VecDeque::new(),
            keyed: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    /// Whether keys have lanes at all.
    pub(super) const fn has_lanes(&self) -> bool {
        self.lanes.is_some()
    }

    /// Whether one of a key goes at a time.
    pub(super) fn is_ordered(&self) -> bool {
        self.lanes == Some(true)
    }

    /// Puts one in, behind its likes.
    pub(super) fn push(&mut self, item: T, key: Option<&SmolStr>) {
        let Some(key) = key.filter(|key| self.lanes.is_some() && !key.is_empty()) else {
            if self.plain.is_empty() && self.lanes.is_some() {
                self.turns.push_back(SmolStr::default());
            }
            self.plain.push_back(item);
            return;
        };
        let lane = self.keyed.entry(key.clone()).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            busy: false,
        });
        if lane.waiting.is_empty() && !lane.busy {
            self.turns.push_back(key.clone());
        }
        lane.waiting.push_back(item);
    }

    /// The next to start: each lane with something to start in its turn, one message a turn (deficit round robin
    /// where every message costs the same).
    pub(super) fn pop(&mut self) -> Option<T> {
        let Some(ordered) = self.lanes else {
            return self.plain.pop_front();
        };
        let key = self.turns.pop_front()?;
        if key.is_empty() {
            let item = self.plain.pop_front()?;
            if !self.plain.is_empty() {
                self.turns.push_back(key);
            }
            return Some(item);
        }
        let lane = self.keyed.get_mut(&key)?;
        let item = lane.waiting.pop_front()?;
        lane.busy = ordered;
        if ordered {
            // Its followers wait for `done`.
        } else if lane.waiting.is_empty() {
            self.keyed.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        Some(item)
    }

    /// The head of an ordered lane is settled: its followers may go.
    pub(super) fn done(&mut self, key: &SmolStr) {
        let Some(lane) = self.keyed.get_mut(key) else { return };
        if !std::mem::take(&mut lane.busy) {
            return;
        }
        if lane.waiting.is_empty() {
            self.keyed.remove(key);
        } else {
            self.turns.push_back(key.clone());
        }
    }

    /// Takes out those that wait behind `key`; the source will give them again, behind their head.
    pub(super) fn take_followers(&mut self, key: &SmolStr) -> VecDeque<T> {
        self.keyed
            .get_mut(key)
            .map(|lane| std::mem::take(&mut lane.waiting))
            .unwrap_or_default()
    }

    /// Takes out what is picked; those behind it move up.
    pub(super) fn take_out(&mut self, picks: impl Fn(&T) -> bool) {
        self.plain.retain(|item| !picks(item));
        self.keyed.retain(|_, lane| {
            lane.waiting.retain(|item| !picks(item));
            lane.busy || !lane.waiting.is_empty()
        });
        let (plain, keyed) = (&self.plain, &self.keyed);
        self.turns.retain(|key| {
            if key.is_empty() {
                return !plain.is_empty();
            }
            keyed.get(key).is_some_and(|lane| !lane.waiting.is_empty())
        });
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.turns.clear();
        let keyed = self
            .keyed
            .values_mut()
            .flat_map(|lane| std::mem::take(&mut lane.waiting));
        let all = self.plain.drain(..).chain(keyed).collect();
        self.keyed.retain(|_, lane| lane.busy);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(order: bool, messages: &[&'static str]) -> Backlog<&'static str> {
        let mut backlog = Backlog::new(Some(order));
        for text in messages {
            backlog.push(*text, text.split_once('-').map(|(key, _)| key.into()).as_ref());
        }
        backlog
    }

    fn is_empty(backlog: &Backlog<&str>) -> bool {
        backlog.plain.is_empty() && backlog.keyed.is_empty() && backlog.turns.is_empty()
    }

    #[test]
    fn keys_take_turns() {
        let mut backlog = backlog(false, &["hot-1", "hot-2", "hot-3", "cold-1", "none"]);

        let order: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();

        assert_eq!(order, ["hot-1", "cold-1", "none", "hot-2", "hot-3"]);
        assert!(is_empty(&backlog));
    }

    #[test]
    fn an_ordered_lane_gives_its_next_only_when_the_last_is_done() {
        let mut backlog = backlog(true, &["a-1", "a-2", "b-1"]);

        assert_eq!(
            [backlog.pop(), backlog.pop(), backlog.pop()],
            [Some("a-1"), Some("b-1"), None]
        );
        backlog.done(&"a".into());
        assert_eq!(backlog.pop(), Some("a-2"));
        backlog.done(&"a".into());
        backlog.done(&"b".into());

        assert!(is_empty(&backlog));
    }

    #[test]
    fn what_is_taken_out_leaves_the_others_their_turns() {
        let mut backlog = backlog(true, &["a-1", "a-2", "a-3", "b-1", "none", "c-1"]);
        backlog.pop();

        backlog.take_out(|item| matches!(*item, "a-2" | "b-1" | "none"));

        assert_eq!([backlog.pop(), backlog.pop()], [Some("c-1"), None]);
        backlog.done(&"a".into());
        backlog.done(&"c".into());
        assert_eq!(backlog.pop(), Some("a-3"));
        backlog.take_out(|_| true);
        backlog.done(&"a".into());
        assert!(is_empty(&backlog));
        backlog.push("none", None);
        assert_eq!(backlog.pop(), Some("none"));
    }

    #[test]
    fn followers_can_be_sent_back_behind_their_head() {
        let mut backlog = backlog(true, &["a-1", "a-2", "a-3", "b-1"]);
        backlog.pop();

        let followers = backlog.take_followers(&"a".into());

        assert_eq!((followers.len(), backlog.drain()), (2, vec!["b-1"]));
    }
}
