//! The pool's manager: starts workers, stops those too many or too old, ends what takes too long.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    cancel::{Reason, Step},
    life,
    pool::{Effects, Pool, State},
    worker::{RECALL_AFTER, Status, Worker},
};

/// So often at least the gauges are right while there is work.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// Manages `pool` until it is closed, or nobody has it any more. All that runs for the pool runs in here.
pub(super) async fn run(pool: Weak<Pool>) {
    let mut lives = JoinSet::new();
    loop {
        let Some(strong) = pool.upgrade() else { return };
        let queued = queued(&strong).await;
        let (starts, next) = strong.look(queued);
        for worker in starts {
            strong.metrics.starts.add(1);
            lives.spawn(life::lead(Arc::downgrade(&strong), worker));
        }
        let over = {
            let state = strong.lock();
            state.closing && state.workers.iter().all(|worker| !worker.status.lives())
        };
        if over {
            break;
        }
        tokio::select! {
            () = strong.kick.notified() => {}
            () = sleep_until(next) => {}
            Some(_) = lives.join_next(), if !lives.is_empty() => {}
        }
    }
}

/// How many tasks wait where no worker is seen from, as those who know say.
async fn queued(pool: &Pool) -> usize {
    let answers = pool.commands.ask("queued", "{}").await;
    answers
        .iter()
        .filter_map(|answer| answer.trim().parse::<usize>().ok())
        .sum()
}

impl Pool {
    /// One look at everything: the workers to start, and when to look again.
    fn look(&self, queued: usize) -> (Vec<u64>, Instant) {
        let now = Instant::now();
        let mut effects = Effects::default();
        let mut state = self.lock();
        let settings = &self.settings;
        state
            .workers
            .retain(|worker| worker.gone.is_none_or(|at| now < at + settings.removal_wait));
        let active = state.active() + queued;
        state.levels.see(active, now);
        if !state.closing {
            self.retire_aged(&mut state, now);
            self.shrink(&mut state, active, now);
        }
        for worker in &mut state.workers {
            end_late(worker, now, settings.start_wait);
            enforce(worker, settings.cancel_grace, now);
        }
        recall(&mut state, now);
        let starts = self.grow(&mut state, active, now);
        // Enough of them are there or coming, or none may be started yet: who waits need not wake us.
        state.may_grow = state.capacity() < settings.bounds.max && now >= state.start_after;
        let next = self.next_look(&state, active, now);
        state.looks_at = Some(next);
        self.metrics.show(&state.seen());
        drop(state);
        self.carry_out(&mut effects);
        (starts, next)
    }

    fn grow(&self, state: &mut State, active: usize, now: Instant) -> Vec<u64> {
        if state.closing || now < state.start_after {
            return Vec::new();
        }
        let mut missing = self.settings.bounds.grow(state.capacity(), active);
        if state.failures > 1 {
            // While workers die as they start, one at a time has to do.
            let coming = state
                .workers
                .iter()
                .any(|worker| matches!(worker.status, Status::Spawned | Status::Starting));
            missing = usize::from(missing > 0 && !coming);
        }
        let first = state.next_worker;
        state.next_worker += missing as u64;
        for id in first..state.next_worker {
            state.workers.push(Worker::new(id, now));
        }
        (first..state.next_worker).collect()
    }

    fn retire_aged(&self, state: &mut State, now: Instant) {
        let Some(lifetime) = self.settings.max_lifetime else {
            return;
        };
        let mut retired = 0;
        for worker in &mut state.workers {
            if worker.status == Status::Ready && now >= worker.made + lifetime {
                tracing::debug!(worker = worker.id, "worker is old and is replaced");
                worker.stop(worker.tasks.is_empty().then_some(now + self.settings.stop_wait));
                worker.flush();
                retired += 1;
            }
        }
        state.retired += retired;
    }

    fn shrink(&self, state: &mut State, active: usize, now: Instant) {
        while self
            .settings
            .bounds
            .may_shrink(state.capacity(), active, &state.levels, now)
        {
            let idle = state.workers.iter_mut().filter(|worker| worker.is_idle());
            let Some(worker) = idle.min_by_key(|worker| worker.idle_turn) else {
                return;
            };
            tracing::debug!(worker = worker.id, "worker is not needed any more");
            worker.stop(Some(now + self.settings.stop_wait));
            worker.flush();
        }
    }

    fn next_look(&self, state: &State, active: usize, now: Instant) -> Instant {
        let settings = &self.settings;
        let mut next = now + settings.interval;
        let mut sooner = |at: Option<Instant>| next = at.map_or(next, |at| next.min(at));
        if active > 0 {
            sooner(Some(now + SHOWN_EVERY));
        }
        if !state.closing {
            if now < state.start_after && settings.bounds.grow(state.capacity(), active) > 0 {
                sooner(Some(state.start_after));
            }
            let shrink = settings.bounds.shrink_at(state.capacity(), active, &state.levels, now);
            // A moment later, since its age must be more than the wait.
            sooner(
                shrink
                    .map(|at| at.max(now) + Duration::from_millis(1))
                    .filter(|_| state.workers.iter().any(Worker::is_idle)),
            );
        }
        let some_idle = state.workers.iter().any(Worker::is_idle);
        for worker in &state.workers {
            sooner(worker.kill_at);
            sooner(worker.gone.map(|at| at + settings.removal_wait));
            if worker.status == Status::Starting {
                sooner(Some(worker.made + settings.start_wait));
            }
            if let (Status::Ready, Some(lifetime)) = (worker.status, settings.max_lifetime) {
                sooner(Some(worker.made + lifetime));
            }
            for (place, (_, job)) in worker.tasks.iter().enumerate() {
                let at_work = place == 0;
                match &job.cancel {
                    Some(cancel) => sooner(cancel.due(settings.cancel_grace, at_work)),
                    None if at_work => sooner(job.timeout.map(|timeout| worker.since + timeout)),
                    // If it is past, there were too few idle ones.
                    None if some_idle => sooner(worker.recall_at().map(|at| at.max(now + RECALL_AFTER))),
                    None => {}
                }
            }
        }
        next
    }

    /// Tells every worker to end, and cancels what they are at.
    pub(super) fn begin_close(&self) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            state.closing = true;
            let now = Instant::now();
            while let Some((_, job)) = state.waiting.pop_first() {
                effects.answers.push((job.answer, Err(super::ProcessSinkError::Closed)));
            }
            let kill_at = now + self.settings.stop_wait;
            for worker in &mut state.workers {
                if worker.status == Status::Starting {
                    // It has nothing to tidy up yet.
                    worker.signal(Signal::TERM);
                }
                worker.stop(None);
                worker.kill_at = Some(worker.kill_at.unwrap_or(kill_at).min(kill_at));
                for place in (0..worker.tasks.len()).rev() {
                    worker.cancel(place, Reason::Closing, now);
                }
                worker.flush();
            }
        }
        effects.kick = true;
        self.carry_out(&mut effects);
    }
}

/// Kills who was told to end, or was to be ready, long ago.
fn end_late(worker: &mut Worker, now: Instant, start_wait: Duration) {
    if worker.gone.is_some() {
        return;
    }
    if worker.status == Status::Starting && now >= worker.made + start_wait {
        tracing::warn!(worker = worker.id, after = ?start_wait, "worker is not ready in time and is killed");
        worker.signal(Signal::KILL);
        // Should even that not help, it is tried again.
        worker.made = now;
    }
    if worker.kill_at.is_some_and(|at| now >= at) && worker.process.is_some() {
        tracing::warn!(worker = worker.id, "worker did not end in time and is killed");
        worker.signal(Signal::KILL);
        worker.kill_at = None;
    }
}

/// Cancels what has been at work too long, and does more to what ignores that.
fn enforce(worker: &mut Worker, grace: Duration, now: Instant) {
    let timeout = worker.tasks.front().and_then(|(_, job)| job.timeout);
    if let Some(timeout) = timeout.filter(|timeout| now >= worker.since + *timeout) {
        worker.cancel(0, Reason::Timeout(timeout), now);
    }
    for place in 0..worker.tasks.len() {
        let (_, job) = &mut worker.tasks[place];
        let Some(cancel) = &mut job.cancel else { continue };
        match cancel.step(now, grace, place == 0) {
            Step::Nothing => {}
            Step::Ask => worker.ask(place),
            step => {
                let (signal, word) = if step == Step::Terminate {
                    (Signal::TERM, "SIGTERM")
                } else {
                    (Signal::KILL, "SIGKILL")
                };
                tracing::warn!(worker = worker.id, task = %job.task, uuid = %job.uuid, "task ignores its cancel: its worker gets {word}");
                worker.signal(signal);
            }
        }
    }
}

/// Lets idle workers have what waits in busy ones.
fn recall(state: &mut State, now: Instant) {
    let mut idle = state.workers.iter().filter(|worker| worker.is_idle()).count();
    if !state.waiting.is_empty() {
        return;
    }
    for worker in &mut state.workers {
        if idle > 0 && worker.recall_at().is_some_and(|at| now >= at) {
            idle -= worker.recall(idle, now);
        }
    }
}
