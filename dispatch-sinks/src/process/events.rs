//! What workers say, and what follows from it.

use bytes::Bytes;
use dispatch_core::Reply;
use tokio::time::Instant;

use super::{
    ProcessSinkError,
    error::StartError,
    pool::{Effects, Pool, State},
    process::Exit,
    wire::{Event, TaskError},
    worker::Status,
};

/// The result of a task that was cancelled and let it happen.
const CANCELLED: &str = "\"<cancel>\"";
/// So many starts must fail in a row before those who wait are told.
const FAILURES_TOLD: u32 = 3;
/// The longest wait before the next start, in seconds.
const LONGEST_BACKOFF: u64 = 30;

impl Pool {
    /// Takes one event in.
    pub(super) fn happened(&self, id: u64, event: Event<'_>, effects: &mut Effects) {
        let mut state = self.lock();
        let Some(index) = state.find(id) else { return };
        match event {
            Event::Ready { prefetch } => self.ready(&mut state, index, prefetch, effects),
            Event::Done {
                result,
                error,
                stopping,
            } => {
                if state.workers[index].tasks.is_empty() {
                    drop(state);
                    tracing::warn!(worker = id, "worker is done with a task that it does not have, skipped");
                    return;
                }
                if stopping {
                    self.leaves(&mut state, index, effects);
                }
                done(&mut state, index, result, error, effects);
                self.rest(&mut state, index);
                state.fill(effects);
                effects.kick |= state.may_recall(index);
            }
            Event::Revoked { uuid } => {
                let tasks = &state.workers[index].tasks;
                // Never the one at work: what is given back waits behind it, or nothing is at work.
                let place = tasks.iter().rposition(|(_, job)| job.uuid == *uuid);
                if let Some(place) = place.filter(|place| *place > 0) {
                    state.take_back(index, place, effects);
                    state.fill(effects);
                }
            }
            Event::Shutdown => {
                state.workers[index].status = Status::Exited;
                let now = Instant::now();
                let worker = &mut state.workers[index];
                worker.kill_at = worker.kill_at.or(Some(now + self.settings.stop_wait));
                self.take_all_back(&mut state, index, effects);
                effects.kick = true;
            }
            // Answered by who can await.
            Event::Control { .. } => {}
        }
    }

    fn ready(&self, state: &mut State, index: usize, prefetch: usize, effects: &mut Effects) {
        let worker = &mut state.workers[index];
        worker.notes = prefetch > 1;
        worker.depth = prefetch.clamp(1, self.settings.prefetch);
        if worker.status == Status::Starting {
            worker.status = Status::Ready;
            worker.kill_at = None;
            tracing::debug!(worker = worker.id, took = ?worker.made.elapsed(), "worker is ready");
            state.idle(index, Instant::now());
            state.fill(effects);
        }
        effects.kick = true;
    }

    /// It begins no further task: what waits in it goes elsewhere.
    fn leaves(&self, state: &mut State, index: usize, effects: &mut Effects) {
        let worker = &mut state.workers[index];
        worker.leaving = true;
        worker.status = Status::Stopping;
        worker.kill_at = Some(Instant::now() + self.settings.stop_wait);
        while state.workers[index].tasks.len() > 1 {
            state.take_back(index, 1, effects);
        }
        effects.kick = true;
    }

    /// A worker that was told to end has nothing more to do: its time to do so begins.
    fn rest(&self, state: &mut State, index: usize) {
        let worker = &mut state.workers[index];
        if worker.status == Status::Stopping && worker.tasks.is_empty() && worker.kill_at.is_none() {
            worker.kill_at = Some(Instant::now() + self.settings.stop_wait);
            self.kick.notify_one();
        }
    }

    fn take_all_back(&self, state: &mut State, index: usize, effects: &mut Effects) {
        while !state.workers[index].tasks.is_empty() {
            state.take_back(index, 0, effects);
        }
        state.fill(effects);
    }

    /// A worker's process has ended, and all that it said is read.
    pub(super) fn gone(&self, id: u64, exit: Exit) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            let Some(index) = state.find(id) else { return };
            let now = Instant::now();
            let worker = &mut state.workers[index];
            let (before, told) = (worker.status, worker.tail.told());
            let in_order = before == Status::Exited && matches!(exit, Exit::Code(0) | Exit::Unknown);
            worker.status = if in_order { Status::Retired } else { Status::Error };
            worker.gone = Some(now);
            worker.kill_at = None;
            (worker.process, worker.link) = (None, None);
            let was_told = matches!(before, Status::Stopping | Status::Exited);
            let (age, finished) = (worker.made.elapsed(), worker.finished);
            if before == Status::Starting && !state.closing {
                let error = StartError::Exited {
                    exit,
                    output: told.clone(),
                };
                self.start_failed(&mut state, id, &error, &mut effects);
            } else if !was_told && !state.closing {
                self.metrics.crashes.add(1);
                tracing::warn!(worker = id, %exit, output = told, ?age, finished, "worker died");
                if finished == 0 {
                    // One that never does anything is not replaced in a circle.
                    state.failures += 1;
                    state.start_after = now + backoff(state.failures);
                }
            } else {
                tracing::debug!(worker = id, %exit, "worker ended");
            }
            self.lose_task(&mut state, index, exit, before, &told, &mut effects);
            self.take_all_back(&mut state, index, &mut effects);
        }
        effects.kick = true;
        self.carry_out(&mut effects);
        self.ended.notify_waiters();
    }

    /// What the dead worker may have been at.
    fn lose_task(
        &self,
        state: &mut State,
        index: usize,
        exit: Exit,
        before: Status,
        told: &str,
        effects: &mut Effects,
    ) {
        let worker = &state.workers[index];
        let Some((_, job)) = worker.tasks.front() else { return };
        if before == Status::Exited || worker.leaving {
            return;
        }
        let task = job.task.clone();
        let error = match &job.cancel {
            Some(cancel) => ProcessSinkError::Cancelled {
                task,
                reason: cancel.reason,
            },
            None => ProcessSinkError::WorkerLost {
                task,
                worker: worker.id,
                exit,
                output: told.to_owned(),
                class: self.settings.on_crash,
            },
        };
        state.cancelled += 1;
        state.finish(index, Err(error), effects);
    }

    /// A worker did not come to be.
    pub(super) fn start_failed(&self, state: &mut State, id: u64, error: &StartError, effects: &mut Effects) {
        self.metrics.start_failures.add(1);
        state.failures += 1;
        let wait = backoff(state.failures);
        state.start_after = Instant::now() + wait;
        tracing::error!(worker = id, error = %error, next_in = ?wait, "worker did not start");
        if state.failures >= FAILURES_TOLD && state.capacity() == 0 {
            let program = self.launcher.program();
            while let Some((_, job)) = state.waiting.pop_first() {
                let why = ProcessSinkError::NoWorkers(format!("{program}: {error}"));
                effects.answers.push((job.answer, Err(why)));
            }
        }
        effects.kick = true;
    }

    /// A worker's process could not be made.
    pub(super) fn not_started(&self, id: u64, error: &StartError) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            let Some(index) = state.find(id) else { return };
            let worker = &mut state.workers[index];
            worker.status = Status::Error;
            worker.gone = Some(Instant::now());
            if !state.closing {
                self.start_failed(&mut state, id, error, &mut effects);
            }
        }
        self.carry_out(&mut effects);
        self.ended.notify_waiters();
    }

    /// The zygote has ended: its workers would, too, but only after their next task.
    pub(super) fn zygote_gone(&self, number: u64) {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            if !state.closing {
                tracing::warn!("zygote ended by itself; its workers are replaced");
            }
            let kill_at = Instant::now() + self.settings.stop_wait;
            for worker in state.workers.iter_mut().filter(|worker| worker.zygote == Some(number)) {
                worker.stop(worker.tasks.is_empty().then_some(kill_at));
                effects.links.extend(worker.link.clone());
            }
        }
        effects.kick = true;
        self.carry_out(&mut effects);
    }
}

/// The first one is free: a worker that dies under its first task is replaced at once.
fn backoff(failures: u32) -> std::time::Duration {
    match failures {
        0 | 1 => std::time::Duration::ZERO,
        more => std::time::Duration::from_millis(100 << (more - 2).min(10))
            .min(std::time::Duration::from_secs(LONGEST_BACKOFF)),
    }
}

/// The task at work is done.
fn done(state: &mut State, index: usize, result: &str, error: Option<TaskError>, effects: &mut Effects) {
    state.failures = 0;
    let worker = &mut state.workers[index];
    let Some((_, job)) = worker.tasks.front() else { return };
    let outcome = match (error, &job.cancel) {
        (Some(error), _) => {
            tracing::debug!(
                worker = worker.id,
                task = %job.task,
                uuid = %job.uuid,
                class = error.kind,
                traceback = error.traceback,
                "task failed"
            );
            Err(ProcessSinkError::Failed {
                task: job.task.clone(),
                kind: error.kind,
                message: error.message,
            })
        }
        (None, Some(cancel)) if result == CANCELLED => Err(ProcessSinkError::Cancelled {
            task: job.task.clone(),
            reason: cancel.reason,
        }),
        (None, _) if result == "null" => Ok(Reply::new(Bytes::from_static(b"null"))),
        (None, _) => Ok(Reply::new(Bytes::copy_from_slice(result.as_bytes()))),
    };
    if matches!(outcome, Err(ProcessSinkError::Cancelled { .. })) {
        state.cancelled += 1;
    } else {
        worker.finished += 1;
        state.finished += 1;
    }
    state.finish(index, outcome, effects);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_to_its_bound() {
        let millis = |failures| backoff(failures).as_millis();

        assert_eq!([0, 1, 2, 3, 4].map(millis), [0, 0, 100, 200, 400]);
        assert_eq!([10, 11, 12, 1_000_000].map(millis), [25_600, 30_000, 30_000, 30_000]);
    }
}
