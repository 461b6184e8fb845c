//! Where tasks wait: for their delay, for their like to be done, for their turn.

mod away;
mod settling;
mod spilled;
mod state;
mod task;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use dispatch_core::{
    Delivery, Settler, Source as _, Store,
    store::{Enqueued, Item, QueueSource},
    tasks::heed,
    telemetry::{Counter, Gauge, Meter},
};
use tokio::{sync::Notify, time::Instant};

pub(super) use self::task::{Room, Task};
use self::{
    settling::Settling,
    state::{Place, State},
    task::Patterns,
};

/// What becomes of a task that finds the hall full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It goes into the store, and comes back from there once there is room.
    #[default]
    Spill,
    /// It is dropped, counted and logged.
    Shed,
}

/// Every task that was received and is not done, each in one place.
pub(super) struct Hall {
    state: Mutex<State>,
    changed: Notify,
    /// Told when there may be room again.
    freed: Notify,
    /// Told when there is none.
    full: Notify,
    /// Told when something has arrived in the store.
    arrived: Notify,
    /// Held while what the store hands out comes in, so that nobody finds it in neither place.
    coming: Mutex<()>,
    /// Ends what the store has of spilled tasks.
    store: Arc<dyn Settler>,
    settings: Settings,
    discarded: Counter,
    shed: Counter,
    spilled: Counter,
    waiting: Gauge,
}

pub(super) struct Settings {
    /// At most so many tasks wait here.
    pub(super) most: usize,
    pub(super) overflow: Overflow,
    pub(super) store: Arc<dyn Store>,
    /// The queue in the store for what finds no room.
    pub(super) queue: String,
}

/// Where a listed task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Where {
    Blocked,
    Queued,
    Delayed,
    /// With a worker, or on its way to one.
    Out,
}

/// Tasks on their way into the store.
struct Leaving<'h>(&'h Hall, u64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.state().leaving.remove(&self.1);
        self.0.arrived.notify_waiters();
    }
}

impl Hall {
    pub(super) fn new(settings: Settings, meter: &Meter) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            freed: Notify::new(),
            full: Notify::new(),
            arrived: Notify::new(),
            coming: Mutex::default(),
            store: QueueSource::new(Arc::clone(&settings.store), settings.queue.as_str()).settler(),
            settings,
            discarded: meter.counter(
                "dispatch_tasks_discarded_total",
                "tasks dropped because their like ran or waited",
            ),
            shed: meter.counter("dispatch_tasks_shed_total", "tasks dropped because too many waited"),
            spilled: meter.counter(
                "dispatch_tasks_spilled_total",
                "tasks put into the store because too many waited",
            ),
            waiting: meter.gauge(
                "dispatch_tasks_waiting",
                "tasks that wait for their delay, their like or their turn",
            ),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes tasks in; those that find no room are spilled or shed.
    pub(super) async fn admit(&self, tasks: impl IntoIterator<Item = Task>) {
        let (rest, leaving) = {
            let mut state = self.state();
            let (most, spills) = (self.settings.most, self.settings.overflow == Overflow::Spill);
            let mut rest = Vec::new();
            for task in tasks {
                let superfluous = if state.may_enter(&task, most) {
                    !state.admit(task)
                } else if !state.closed && state.is_superfluous(&task) {
                    true
                } else {
                    if let Some(identity) = task.identity().filter(|_| spills) {
                        state.away.leaves(identity);
                    }
                    rest.push(task);
                    false
                };
                self.discarded.add(u64::from(superfluous));
            }
            self.gauge(&state);
            let leaving = (!rest.is_empty()).then(|| Leaving(self, state.leaves()));
            if leaving.is_some() && state.waiting() >= most {
                self.full.notify_one();
            }
            (rest, leaving)
        };
        self.changed.notify_one();
        if leaving.is_some() {
            self.put_away(rest, "too many wait").await;
        }
    }

    /// Waits until the store has all that is on its way there now.
    pub(super) async fn all_arrived(&self) {
        let latest = self.state().latest();
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            if self.state().leaving.first().is_none_or(|first| *first > latest) {
                return;
            }
            arrived.await;
        }
    }

    fn gauge(&self, state: &State) {
        self.waiting.set(i64::try_from(state.waiting()).unwrap_or(i64::MAX));
    }

    /// Into the store, or away.
    async fn put_away(&self, tasks: Vec<Task>, why: &'static str) {
        let count = tasks.len();
        if self.settings.overflow == Overflow::Shed {
            for task in &tasks {
                tracing::error!(
                    task = task.name(),
                    uuid = task.uuid(),
                    why,
                    "task lost: overflow is shed"
                );
            }
            return self.shed.add(count as u64);
        }
        let (now, mut patterns) = (SystemTime::now(), Patterns::default());
        let later = |task: &Task| {
            let mut item = Item::of(&patterns.message(task, now));
            if let Err(error) = heed(&mut item) {
                tracing::debug!(%error, "a task's own wishes are not heeded in the store");
            }
            // What is left of its delay; its text has the whole.
            item.run_at = task.delay.map(|delay| now + delay);
            item
        };
        let items: Vec<Item> = tasks.iter().map(later).collect();
        let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
        let stored = self.settings.store.queue().enqueue(&self.settings.queue, items).await;
        {
            let mut state = self.state();
            for (place, key) in keys.iter().enumerate() {
                let is_there = stored
                    .as_ref()
                    .is_ok_and(|stored| stored.get(place) == Some(&Enqueued::New));
                if let (false, Some(key)) = (is_there, key) {
                    state.away.back(key);
                }
            }
        }
        match stored {
            Ok(stored) => {
                let duplicates = stored.iter().filter(|answer| **answer == Enqueued::Duplicate).count() as u64;
                self.discarded.add(duplicates);
                self.spilled.add(count as u64 - duplicates);
            }
            Err(error) => {
                self.shed.add(count as u64);
                tracing::error!(
                    tasks = count,
                    error = error.report(),
                    "tasks lost: the store did not take them"
                );
            }
        }
    }

    /// Waits for tasks whose turn it is, and hands out at most `max`.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub(super) async fn next(self: &Arc<Self>, max: usize) -> Vec<Delivery> {
        loop {
            let changed = self.changed.notified();
            let due = {
                let mut state = self.state();
                self.discarded.add(state.undelay(Instant::now()));
                self.end_dropped(&mut state);
                let taken = state.take(max, &self.settler());
                if !taken.is_empty() {
                    self.gauge(&state);
                    self.freed.notify_one();
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return taken;
                }
                state.due()
            };
            tokio::select! {
                () = changed => {}
                () = async { match due { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
            }
        }
    }

    pub(super) fn settler(self: &Arc<Self>) -> Arc<dyn Settler> {
        Arc::new(Settling(Arc::clone(self)))
    }

    /// Every task that `wanted` picks, with the place it is in, by places and then as they came; of those that wait only what
    /// `fits`.
    pub(super) fn list(
        &self,
        wanted: impl Fn(&Task) -> bool,
        mut fits: impl FnMut(&str) -> bool,
    ) -> Vec<(Where, String)> {
        let state = self.state();
        let mut found: Vec<_> = state.tasks.iter().filter(|(_, live)| wanted(&live.task)).collect();
        found.sort_by_key(|(_, live)| (live.place.shown(), live.came));
        found
            .into_iter()
            .map(|(_, live)| (live.place.shown(), live.task.text()))
            .filter(|(place, text)| *place == Where::Out || fits(text))
            .map(|(place, text)| (place, text.to_owned()))
            .collect()
    }

    /// Takes out every waiting task that `wanted` picks; what has been handed out is its worker's to cancel.
    pub(super) fn cancel(&self, wanted: impl Fn(&Task) -> bool) -> Vec<(Where, String)> {
        let _nothing_comes = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        let mut chosen: Vec<_> = state
            .tasks
            .iter()
            .filter(|(_, live)| live.place != Place::Running && wanted(&live.task))
            .map(|(at, live)| (live.place.shown(), live.came, at))
            .collect();
        chosen.sort_unstable();
        let all: HashSet<usize> = chosen.iter().map(|(_, _, at)| *at).collect();
        state.ready.retain(|at| !all.contains(at));
        let cancelled = chosen
            .into_iter()
            .map(|(place, _, at)| {
                let task = state.remove(at).task;
                let text = task.text().to_owned();
                state.dropped.extend(task.stored);
                (place, text)
            })
            .collect();
        self.gauge(&state);
        self.end_dropped(&mut state);
        drop(state);
        self.freed.notify_one();
        self.changed.notify_one();
        cancelled
    }

    /// How many tasks wait for nothing but their turn.
    pub(super) fn queued(&self) -> usize {
        self.state().ready.len()
    }

    /// Hands out nothing more; what waits goes into the store, or is logged as lost. What the store has goes back to it.
    pub(super) async fn close(&self) {
        let waiting = self.state().close(Instant::now());
        self.waiting.set(0);
        let (stored, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|task| task.stored.is_some());
        self.give_back(stored).await;
        if !waiting.is_empty() {
            self.put_away(waiting, "the service ends").await;
        }
    }
}
