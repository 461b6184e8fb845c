//! Which task is where, and who is whose like.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use dispatch_core::{
    Delivery, Settler, Token,
    tasks::{OnDuplicate, json},
};
use smol_str::SmolStr;
use tokio::time::Instant;

use super::{
    Where,
    away::Away,
    task::{Patterns, Task},
};

/// What is in the hall, under one lock.
#[derive(Default)]
pub(super) struct State {
    pub(super) tasks: slab::Slab<Live>,
    pub(super) ready: VecDeque<usize>,
    delayed: BTreeSet<(Instant, usize)>,
    blocked: usize,
    /// Who is whose like, once a task has come that asks for it; before that nobody pays for it.
    groups: Option<HashMap<Like, Group>>,
    /// Counts tasks in, and what is handed out.
    serial: u64,
    pub(super) closed: bool,
    patterns: Patterns,
    /// How many tasks here are the store's.
    pub(super) stored: usize,
    /// What the store still has of tasks that have been dropped.
    pub(super) dropped: Vec<Token>,
    /// What is on its way into the store, where nobody sees it meanwhile.
    pub(super) leaving: BTreeSet<u64>,
    /// Of whom the store has some.
    pub(super) away: Away,
}

/// The same for every task of the same name and arguments.
type Like = Arc<[u8]>;

/// Tasks that are each other's like.
#[derive(Default)]
struct Group {
    /// How many run, or are about to.
    running: usize,
    blocked: VecDeque<usize>,
}

/// A task that is in the hall or handed out.
pub(super) struct Live {
    pub(super) task: Task,
    pub(super) place: Place,
    /// When it came, among all.
    pub(super) came: u64,
    /// Which hand-over holds it.
    pub(super) fence: u64,
    /// Its group, while there are groups.
    like: Option<Like>,
    /// Since when the store does not take its end.
    pub(super) unsettled: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Delayed(Instant),
    Blocked,
    Ready,
    Running,
}

impl Group {
    /// Whether a task of this policy is dropped beside those that are here.
    fn drops(&self, policy: OnDuplicate) -> bool {
        match policy {
            OnDuplicate::Parallel | OnDuplicate::Serial => false,
            OnDuplicate::Discard => self.running > 0 || !self.blocked.is_empty(),
            OnDuplicate::QueueOne => !self.blocked.is_empty(),
        }
    }
}

impl Live {
    /// The task as it is to go on elsewhere: with what is left of its delay.
    pub(super) fn remaining(mut self, now: Instant) -> Task {
        self.task.delay = match self.place {
            Place::Delayed(at) => Some(at.saturating_duration_since(now)),
            Place::Blocked | Place::Ready | Place::Running => None,
        };
        self.task
    }
}

/// What makes a task the like of others: its name and its arguments, however they are written. An absent argument list is
/// not an empty one.
fn like(task: &Task) -> Like {
    let members = json::members(task.text()).ok().flatten().unwrap_or_default();
    let mut like = task.name().as_bytes().to_vec();
    for name in ["args", "kwargs"] {
        let raw = members.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| *raw);
        // No canonical form begins so.
        like.push(0);
        if let Some(Ok(canonical)) = raw.map(json::canonical) {
            like.extend(canonical);
        }
    }
    like.into()
}

impl Place {
    pub(super) const fn shown(self) -> Where {
        match self {
            Self::Delayed(_) => Where::Delayed,
            Self::Blocked => Where::Blocked,
            Self::Ready => Where::Queued,
            Self::Running => Where::Out,
        }
    }
}

impl State {
    /// A number for tasks that leave for the store.
    pub(super) fn leaves(&mut self) -> u64 {
        self.serial += 1;
        self.leaving.insert(self.serial);
        self.serial
    }

    /// The number of what came or left last.
    pub(super) const fn latest(&self) -> u64 {
        self.serial
    }

    pub(super) fn waiting(&self) -> usize {
        self.ready.len() + self.blocked + self.delayed.len()
    }

    /// Whether a task that comes now, and finds no room, is dropped because of its like.
    pub(super) fn is_superfluous(&mut self, task: &Task) -> bool {
        if task.delay.is_some() || matches!(task.on_duplicate, OnDuplicate::Parallel | OnDuplicate::Serial) {
            return false;
        }
        self.groups()
            .get(&like(task))
            .is_some_and(|group| group.drops(task.on_duplicate))
    }

    /// Whether its like waits in the store, before it.
    fn is_behind(&self, task: &Task) -> bool {
        !self.away.is_empty() && task.identity().is_some_and(|identity| self.away.has(&identity))
    }

    /// Whether a task that comes now may wait here: there is room, and it would overtake nobody.
    pub(super) fn may_enter(&self, task: &Task, most: usize) -> bool {
        !self.closed && self.waiting() < most && !self.is_behind(task)
    }

    /// How many of the store's are here, under each identity.
    pub(super) fn here(&self) -> HashMap<SmolStr, u64> {
        let mut here = HashMap::new();
        if self.stored > 0 {
            let stored = self.tasks.iter().filter(|(_, live)| live.task.stored.is_some());
            for identity in stored.filter_map(|(_, live)| live.task.identity()) {
                *here.entry(identity).or_default() += 1;
            }
        }
        here
    }

    /// Puts a task where it belongs; false: it is dropped, since its like runs or waits.
    pub(super) fn admit(&mut self, task: Task) -> bool {
        let Some(delay) = task.delay else {
            return self.admit_now(task);
        };
        let due = Instant::now() + delay;
        let at = self.insert(task, Place::Delayed(due), None);
        self.delayed.insert((due, at));
        true
    }

    fn insert(&mut self, task: Task, place: Place, like: Option<Like>) -> usize {
        self.serial += 1;
        self.stored += usize::from(task.stored.is_some());
        self.tasks.insert(Live {
            task,
            place,
            came: self.serial,
            fence: 0,
            like,
            unsettled: None,
        })
    }

    /// The policy is the incoming task's own. Who runs, or is about to, counts as running.
    fn admit_now(&mut self, task: Task) -> bool {
        if task.on_duplicate == OnDuplicate::Parallel && self.groups.is_none() {
            let at = self.insert(task, Place::Ready, None);
            self.ready.push_back(at);
            return true;
        }
        let like = like(&task);
        let group = self.groups().entry(Arc::clone(&like)).or_default();
        if group.drops(task.on_duplicate) {
            self.dropped.extend(task.stored);
            return false;
        }
        let wait = matches!(task.on_duplicate, OnDuplicate::Serial | OnDuplicate::QueueOne) && group.running > 0;
        let place = if wait { Place::Blocked } else { Place::Ready };
        let at = self.insert(task, place, Some(Arc::clone(&like)));
        let group = self.groups().entry(like).or_default();
        if wait {
            group.blocked.push_back(at);
            self.blocked += 1;
        } else {
            group.running += 1;
            self.ready.push_back(at);
        }
        true
    }

    /// The groups; made of what is here when they are first asked for.
    fn groups(&mut self) -> &mut HashMap<Like, Group> {
        let tasks = &mut self.tasks;
        self.groups.get_or_insert_with(|| {
            let mut groups: HashMap<Like, Group> = HashMap::new();
            for (_, live) in tasks.iter_mut() {
                if let Place::Ready | Place::Running = live.place {
                    let like = live.like.insert(like(&live.task));
                    groups.entry(Arc::clone(like)).or_default().running += 1;
                }
            }
            groups
        })
    }

    /// Takes a task out of everything but `ready`, and lets its next like go.
    pub(super) fn remove(&mut self, at: usize) -> Live {
        let live = self.tasks.remove(at);
        self.stored -= usize::from(live.task.stored.is_some());
        if let Place::Delayed(due) = live.place {
            self.delayed.remove(&(due, at));
        }
        if let (Some(groups), Some(like)) = (&mut self.groups, &live.like)
            && let Some(group) = groups.get_mut(like)
        {
            match live.place {
                Place::Blocked => {
                    group.blocked.retain(|other| *other != at);
                    self.blocked -= 1;
                }
                Place::Ready | Place::Running => group.running -= 1,
                Place::Delayed(_) => {}
            }
            if group.running == 0 {
                match group.blocked.pop_front() {
                    Some(next) => {
                        group.running = 1;
                        self.blocked -= 1;
                        self.tasks[next].place = Place::Ready;
                        self.ready.push_back(next);
                    }
                    None => {
                        groups.remove(like);
                    }
                }
            }
        }
        live
    }

    /// When the next delayed task is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// Hands out nothing more, and gives away what waits, as it came.
    pub(super) fn close(&mut self, now: Instant) -> Vec<Task> {
        self.closed = true;
        (self.groups, self.blocked) = (None, 0);
        self.ready.clear();
        self.delayed.clear();
        let mut waiting: Vec<_> = self
            .tasks
            .iter()
            .filter(|(_, live)| live.place != Place::Running)
            .map(|(at, live)| (live.came, at))
            .collect();
        waiting.sort_unstable();
        waiting
            .into_iter()
            .map(|(_, at)| {
                let live = self.tasks.remove(at);
                self.stored -= usize::from(live.task.stored.is_some());
                live.remaining(now)
            })
            .collect()
    }

    /// Admits every delayed task that is due; says how many were dropped.
    pub(super) fn undelay(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some((due, at)) = self.delayed.first().copied().filter(|(due, _)| *due <= now) {
            self.delayed.remove(&(due, at));
            let live = self.tasks.remove(at);
            self.stored -= usize::from(live.task.stored.is_some());
            dropped += u64::from(!self.admit_now(live.task));
        }
        dropped
    }

    /// Hands out at most `max` tasks whose turn it is.
    pub(super) fn take(&mut self, max: usize, settler: &Arc<dyn Settler>) -> Vec<Delivery> {
        if self.closed {
            return Vec::new();
        }
        let count = max.min(self.ready.len());
        let mut taken = Vec::with_capacity(count);
        let now = SystemTime::now();
        for at in self.ready.drain(..count) {
            self.serial += 1;
            let live = &mut self.tasks[at];
            (live.place, live.fence) = (Place::Running, self.serial);
            let token = Token::new(at as u64, self.serial);
            let message = self.patterns.message(&live.task, now);
            taken.push(Delivery::new(message, token, Arc::clone(settler)));
        }
        taken
    }
}
