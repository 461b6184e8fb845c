//! The pool: which task is where, and who gets the next one.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dispatch_core::Commands;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    ProcessSinkError,
    cancel::Reason,
    config::ProcessSinkConfig,
    job::{Job, Outcome},
    launch::Launcher,
    levels::{Bounds, Levels},
    link::Link,
    metrics::{Metrics, Seen},
    worker::{RECALL_AFTER, Status, Worker},
};

/// What all who have to do with the pool share.
pub(super) struct Pool {
    state: Mutex<State>,
    pub(super) settings: Settings,
    pub(super) launcher: Launcher,
    pub(super) commands: Commands,
    pub(super) metrics: Metrics,
    /// Wakes the manager.
    pub(super) kick: Notify,
    /// Tells that a worker's process has ended.
    pub(super) ended: Notify,
}

/// How the pool behaves.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) bounds: Bounds,
    pub(super) prefetch: usize,
    pub(super) interval: Duration,
    pub(super) start_wait: Duration,
    pub(super) stop_wait: Duration,
    pub(super) removal_wait: Duration,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) cancel_grace: Duration,
    pub(super) on_crash: dispatch_core::Class,
}

impl Settings {
    pub(super) fn of(config: &ProcessSinkConfig) -> Self {
        Self {
            bounds: Bounds {
                min: config.min,
                max: config.most(),
                reserve: config.scaledown_reserve,
                wait: config.scaledown_wait.0,
            },
            prefetch: config.prefetch,
            interval: config.scaledown_interval.0,
            start_wait: config.start_wait.0,
            stop_wait: config.stop_wait.0,
            removal_wait: config.removal_wait.0,
            max_lifetime: (!config.max_lifetime.0.is_zero()).then_some(config.max_lifetime.0),
            cancel_grace: config.cancel_grace.0,
            on_crash: config.on_crash.class(),
        }
    }
}

/// What changes, under one lock. Nothing is awaited under it.
pub(super) struct State {
    pub(super) workers: Vec<Worker>,
    /// Tasks that no worker has, by number: the oldest goes first, also one that came back.
    pub(super) waiting: BTreeMap<u64, Job>,
    /// How many tasks workers have.
    pub(super) out: usize,
    pub(super) levels: Levels,
    pub(super) next_job: u64,
    pub(super) next_worker: u64,
    idle_turns: u64,
    pub(super) finished: u64,
    pub(super) cancelled: u64,
    pub(super) retired: u64,
    /// Starts that failed in a row.
    pub(super) failures: u32,
    /// No worker is started before.
    pub(super) start_after: Instant,
    pub(super) closing: bool,
    /// Whether a task that has to wait may mean another worker.
    pub(super) may_grow: bool,
    /// When the manager looks next.
    pub(super) looks_at: Option<Instant>,
    prefetch: usize,
}

/// What follows from a change, to be done once the lock is free.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) answers: Vec<(oneshot::Sender<Outcome>, Outcome)>,
    pub(super) links: Vec<Arc<Link>>,
    pub(super) kick: bool,
}

impl Pool {
    pub(super) fn new(settings: Settings, launcher: Launcher, commands: Commands, metrics: Metrics) -> Self {
        let now = Instant::now();
        let state = State {
            workers: Vec::new(),
            waiting: BTreeMap::new(),
            out: 0,
            levels: Levels::new(settings.bounds.max.max(settings.bounds.min), now),
            next_job: 0,
            next_worker: 0,
            idle_turns: 0,
            finished: 0,
            cancelled: 0,
            retired: 0,
            failures: 0,
            start_after: now,
            closing: false,
            may_grow: true,
            looks_at: None,
            prefetch: settings.prefetch,
        };
        Self {
            state: Mutex::new(state),
            settings,
            launcher,
            commands,
            metrics,
            kick: Notify::new(),
            ended: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what follows; the lists are empty afterwards.
    pub(super) fn carry_out(&self, effects: &mut Effects) {
        // Workers first: they go on while the answers are read.
        for link in effects.links.drain(..) {
            link.flush();
        }
        for (answer, outcome) in effects.answers.drain(..) {
            // Nobody may be waiting any more.
            drop(answer.send(outcome));
        }
        if std::mem::take(&mut effects.kick) {
            self.kick.notify_one();
        }
    }

    /// Takes a task in, and hands it to a worker at once if one is free. The number is for [`abandon`](Self::abandon).
    pub(super) fn submit(&self, job: Job) -> Result<u64, ProcessSinkError> {
        let mut link = None;
        let (number, kick) = {
            let mut state = self.lock();
            if state.closing {
                return Err(ProcessSinkError::Closed);
            }
            let number = state.next_job;
            state.next_job += 1;
            let mut kick = false;
            let place = if state.waiting.is_empty() {
                state.place_for(&job)
            } else {
                None
            };
            match place {
                Some(place) => {
                    kick = state.hand_over(place, number, job);
                    let worker = &mut state.workers[place];
                    if worker.writes_now() {
                        link.clone_from(&worker.link);
                    }
                    // One more that waits in a worker is one more that another worker could do.
                    kick |= worker.tasks.len() > 1 && state.may_grow;
                }
                None => {
                    kick |= state.may_grow;
                    state.waiting.insert(number, job);
                }
            }
            (number, kick)
        };
        if let Some(link) = link {
            link.flush();
        }
        if kick {
            self.kick.notify_one();
        }
        Ok(number)
    }

    /// Nobody waits for that task any more.
    pub(super) fn abandon(&self, number: u64) {
        let mut state = self.lock();
        if state.drop_waiting(number).is_some() {
            return;
        }
        let now = Instant::now();
        for worker in &mut state.workers {
            if let Some(place) = worker.tasks.iter().position(|(own, _)| *own == number) {
                worker.cancel(place, Reason::Dropped, now);
                self.kick.notify_one();
                return;
            }
        }
    }
}

impl State {
    /// How many tasks want a worker.
    pub(super) fn active(&self) -> usize {
        self.out + self.waiting.len()
    }

    /// How many workers can be counted on.
    pub(super) fn capacity(&self) -> usize {
        self.workers.iter().filter(|worker| worker.status.counts()).count()
    }

    pub(super) fn seen(&self) -> Seen {
        let count = |these: &dyn Fn(Status) -> bool| self.workers.iter().filter(|worker| these(worker.status)).count();
        Seen {
            records: self.workers.len(),
            starting: count(&|status| matches!(status, Status::Spawned | Status::Starting)),
            ready: count(&|status| status == Status::Ready),
            stopping: count(&|status| matches!(status, Status::Stopping | Status::Exited)),
            busy: self.workers.iter().filter(|worker| !worker.tasks.is_empty()).count(),
            waiting: self.waiting.len(),
            finished: self.finished,
            cancelled: self.cancelled,
            retired: self.retired,
        }
    }

    /// The index of a worker's record.
    pub(super) fn find(&self, id: u64) -> Option<usize> {
        // In order of their ids: records are only added at the end.
        self.workers.binary_search_by_key(&id, |worker| worker.id).ok()
    }

    /// Takes a waiting task out.
    pub(super) fn drop_waiting(&mut self, number: u64) -> Option<Job> {
        let active = self.active();
        let job = self.waiting.remove(&number)?;
        self.levels.leave(active, Instant::now());
        Some(job)
    }

    /// Who can take this task now: the worker that became idle last, for it is warm; else, if it need not go to an idle one, the one
    /// with room that holds the fewest, of these the one whose task is the youngest, since that is likeliest to be quick.
    pub(super) fn place_for(&self, job: &Job) -> Option<usize> {
        let ready = || {
            self.workers
                .iter()
                .enumerate()
                .filter(|(_, worker)| worker.status == Status::Ready)
        };
        let idle = ready().filter(|(_, worker)| worker.tasks.is_empty());
        if let Some((index, _)) = idle.max_by_key(|(_, worker)| worker.idle_turn) {
            return Some(index);
        }
        if job.alone || self.prefetch < 2 {
            return None;
        }
        let room = ready().filter(|(_, worker)| !worker.leaving && worker.has_room(job));
        let (index, _) = room.max_by_key(|(_, worker)| (Reverse(worker.tasks.len()), worker.since))?;
        Some(index)
    }

    /// Puts a task on a worker's pipe; says whether the manager must look sooner than it means to.
    pub(super) fn hand_over(&mut self, index: usize, number: u64, job: Job) -> bool {
        self.out += 1;
        let worker = &mut self.workers[index];
        if let Some(link) = &worker.link {
            link.put(|out| job.write(out));
        }
        worker.tasks.push_back((number, job));
        if worker.tasks.len() > 1 {
            return false;
        }
        worker.since = Instant::now();
        self.begun(index)
    }

    /// The first task of a worker is at work from now on.
    pub(super) fn begun(&self, index: usize) -> bool {
        let worker = &self.workers[index];
        let timeout = worker.tasks.front().and_then(|(_, job)| job.timeout);
        let Some(timeout) = timeout else { return false };
        self.looks_at.is_none_or(|at| worker.since + timeout < at)
    }

    /// Hands out what waits, in order, as far as there is room.
    pub(super) fn fill(&mut self, effects: &mut Effects) {
        while let Some((_, job)) = self.waiting.first_key_value()
            && let Some(index) = self.place_for(job)
            && let Some((number, job)) = self.waiting.pop_first()
        {
            effects.kick |= self.hand_over(index, number, job);
            effects.links.extend(self.workers[index].link.clone());
        }
    }

    /// A worker has nothing to do.
    pub(super) fn idle(&mut self, index: usize, now: Instant) {
        self.idle_turns += 1;
        let turn = self.idle_turns;
        let worker = &mut self.workers[index];
        worker.idle_turn = turn;
        worker.since = now;
    }

    /// Whether the manager must look sooner than it means to, since this worker could have what waits in another.
    pub(super) fn may_recall(&self, index: usize) -> bool {
        self.workers[index].is_idle()
            && self.looks_at.is_none_or(|at| at > Instant::now() + RECALL_AFTER)
            && self.workers.iter().any(|worker| worker.tasks.len() > 1)
    }

    /// The first task of a worker is done with.
    pub(super) fn finish(&mut self, index: usize, outcome: Outcome, effects: &mut Effects) {
        let Some((_, job)) = self.workers[index].tasks.pop_front() else {
            return;
        };
        let now = Instant::now();
        let active = self.active();
        self.levels.leave(active, now);
        self.out -= 1;
        let worker = &mut self.workers[index];
        worker.took(now - worker.since);
        effects.answers.push((job.answer, outcome));
        self.next_begins(index, now, effects);
    }

    /// The first task of a worker has gone: the next one's time begins, or the worker is idle.
    fn next_begins(&mut self, index: usize, now: Instant, effects: &mut Effects) {
        self.write_rest(index, effects);
        if self.workers[index].tasks.is_empty() {
            self.idle(index, now);
            return;
        }
        let worker = &mut self.workers[index];
        worker.since = now;
        if let Some((_, job)) = worker.tasks.front_mut() {
            job.recalled = None;
            if let Some(cancel) = &mut job.cancel {
                cancel.begin(now);
                effects.kick = true;
            }
        }
        effects.kick |= self.begun(index);
    }

    /// Sees to it that what was put in for a worker is written.
    fn write_rest(&mut self, index: usize, effects: &mut Effects) {
        let worker = &mut self.workers[index];
        if std::mem::take(&mut worker.unwritten) {
            effects.links.extend(worker.link.clone());
        }
    }

    /// Takes a task that has not begun from its worker: another will have it, unless it is not wanted any more.
    pub(super) fn take_back(&mut self, index: usize, place: usize, effects: &mut Effects) {
        let Some((number, mut job)) = self.workers[index].tasks.remove(place) else {
            return;
        };
        self.out -= 1;
        let now = Instant::now();
        self.write_rest(index, effects);
        if let Some(cancel) = &job.cancel {
            self.levels.leave(self.active() + 1, now);
            self.cancelled += 1;
            let error = ProcessSinkError::Cancelled {
                task: job.task.clone(),
                reason: cancel.reason,
            };
            effects.answers.push((job.answer, Err(error)));
        } else {
            job.recalled = None;
            self.waiting.insert(number, job);
        }
        if place == 0 {
            self.next_begins(index, now, effects);
        }
    }
}
