//! What the pool knows of one worker.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rustix::process::Signal;
use tokio::time::Instant;

use super::{
    cancel::{Cancel, REPEAT, Reason},
    handle::Handle,
    job::{HELD_BYTES, Job},
    link::Link,
    output::Tail,
};

/// How much work waits in a worker at most, beyond the one task that hides the way through the pipe.
const AHEAD: Duration = Duration::from_millis(1);
/// Tasks that wait in a worker go to idle ones when the task before it has been at work this long.
pub(super) const RECALL_AFTER: Duration = Duration::from_millis(10);
/// As many frames are written at once; what is put in beyond them goes with the next `done`, in one write.
const WRITTEN: usize = 4;

/// Where a worker stands in its life; the words are dispatcherd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It is being made.
    Spawned,
    /// Its process runs and prepares itself.
    Starting,
    /// It takes tasks.
    Ready,
    /// It was told to end, or said that it will.
    Stopping,
    /// It has said its last word.
    Exited,
    /// It ended in good order.
    Retired,
    /// It ended otherwise.
    Error,
}

impl Status {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Spawned => "spawned",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Retired => "retired",
            Self::Error => "error",
        }
    }

    /// Whether it can be counted on for tasks, now or soon.
    pub(super) const fn counts(self) -> bool {
        matches!(self, Self::Spawned | Self::Starting | Self::Ready)
    }

    /// Whether its process may still be there.
    pub(super) const fn lives(self) -> bool {
        !matches!(self, Self::Retired | Self::Error)
    }
}

/// The record of one worker.
pub(super) struct Worker {
    pub(super) id: u64,
    pub(super) status: Status,
    pub(super) made: Instant,
    pub(super) process: Option<Arc<Handle>>,
    pub(super) link: Option<Arc<Link>>,
    pub(super) zygote: Option<u64>,
    /// The first is at work, the others wait in it.
    pub(super) tasks: VecDeque<(u64, Job)>,
    /// How many tasks it takes at a time.
    pub(super) depth: usize,
    /// How long its tasks take, of late.
    pace: Duration,
    /// Whether frames were put in that are not written yet.
    pub(super) unwritten: bool,
    /// Whether it understands notes: it said that it holds more than one task.
    pub(super) notes: bool,
    /// Since when its first task is at work; while it has none, since when it is idle.
    pub(super) since: Instant,
    /// Grows with each time any worker becomes idle: the smallest has been idle longest.
    pub(super) idle_turn: u64,
    pub(super) finished: u64,
    /// Whether it said that it begins no further task.
    pub(super) leaving: bool,
    /// When it is killed, if it is still there.
    pub(super) kill_at: Option<Instant>,
    /// When its process ended.
    pub(super) gone: Option<Instant>,
    pub(super) tail: Tail,
}

impl Worker {
    pub(super) fn new(id: u64, now: Instant) -> Self {
        Self {
            id,
            status: Status::Spawned,
            made: now,
            process: None,
            link: None,
            zygote: None,
            tasks: VecDeque::with_capacity(2),
            depth: 1,
            pace: AHEAD,
            unwritten: false,
            notes: false,
            since: now,
            idle_turn: 0,
            finished: 0,
            leaving: false,
            kill_at: None,
            gone: None,
            tail: Tail::default(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.status == Status::Ready && self.tasks.is_empty()
    }

    /// Whether it can hold one more behind the one at work.
    pub(super) fn has_room(&self, job: &Job) -> bool {
        let held = self.tasks.len();
        if held < 2 {
            return held < self.depth;
        }
        let bytes = || {
            self.tasks
                .iter()
                .skip(1)
                .map(|(_, job)| job.message.payload.len())
                .sum::<usize>()
        };
        held < self.depth
            && self.pace * u32::try_from(held).unwrap_or(u32::MAX) < AHEAD
            && bytes() + job.message.payload.len() <= HELD_BYTES
    }

    /// Its first task took so long.
    pub(super) fn took(&mut self, time: Duration) {
        self.pace = (self.pace * 7 + time.min(RECALL_AFTER)) / 8;
    }

    /// Whether what was put in is to be written now; if not, the next `done` does it.
    pub(super) fn writes_now(&mut self) -> bool {
        let now = self.tasks.len() <= WRITTEN;
        self.unwritten |= !now;
        now
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let (Some(process), None) = (&self.process, self.gone) {
            process.signal(signal);
        }
    }

    /// Tells it to end after what it holds. It is killed at `kill_at` if that is not none.
    pub(super) fn stop(&mut self, kill_at: Option<Instant>) {
        if !matches!(self.status, Status::Starting | Status::Ready) {
            return;
        }
        self.status = Status::Stopping;
        self.kill_at = kill_at;
        self.put(|out| out.extend_from_slice(super::wire::STOP));
    }

    /// Writes as much as fits of what was put in.
    pub(super) fn flush(&self) {
        if let Some(link) = &self.link {
            link.flush();
        }
    }

    fn put(&self, frame: impl FnOnce(&mut Vec<u8>)) {
        if let Some(link) = &self.link {
            link.put(frame);
        }
    }

    /// Cancels the task at `place` among its tasks, unless that is under way; says whether it was not.
    pub(super) fn cancel(&mut self, place: usize, reason: Reason, now: Instant) -> bool {
        let Some((_, job)) = self.tasks.get_mut(place) else {
            return false;
        };
        if job.cancel.is_some() {
            return false;
        }
        job.cancel = Some(Cancel::new(reason, now));
        self.ask(place);
        true
    }

    /// Asks the worker to end, or give back, the task at `place`.
    pub(super) fn ask(&self, place: usize) {
        let Some(link) = &self.link else { return };
        if self.notes {
            let (_, job) = &self.tasks[place];
            // A note that found no room before will find none now.
            if link.is_stuck() && place == 0 {
                return link.ring_at_once();
            }
            link.put(|out| job.write_note(out, "cancel"));
        }
        link.ring();
        link.flush();
    }

    /// When it may be asked for what waits in it, if there is something that an idle worker could have.
    pub(super) fn recall_at(&self) -> Option<Instant> {
        let (_, job) = self
            .tasks
            .get(1)
            .filter(|(_, job)| self.notes && job.cancel.is_none())?;
        // Again after a while: the signal may have come right before a sleep.
        Some(job.recalled.map_or(self.since + RECALL_AFTER, |at| at + REPEAT))
    }

    /// Asks for what waits in it, so that `idle` workers can have it; says how much that is.
    pub(super) fn recall(&mut self, idle: usize, now: Instant) -> usize {
        let Some(link) = &self.link else { return 0 };
        let mut asked = 0;
        for (_, job) in self
            .tasks
            .iter_mut()
            .skip(1)
            .filter(|(_, job)| job.cancel.is_none())
            .take(idle)
        {
            job.recalled = Some(now);
            link.put(|out| job.write_note(out, "revoke"));
            link.ring();
            link.flush();
            asked += 1;
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use dispatch_core::Message;

    use super::*;

    fn job(bytes: usize) -> Job {
        let text = format!(r#"{{"task": "a.b", "args": ["{}"]}}"#, "x".repeat(bytes));
        Job::new(&Message::new(text)).unwrap().0
    }

    /// How many tasks of that size it takes.
    fn holds(worker: &mut Worker, bytes: usize) -> usize {
        worker.tasks.clear();
        while worker.has_room(&job(bytes)) {
            worker.tasks.push_back((0, job(bytes)));
        }
        worker.tasks.len()
    }

    #[test]
    fn a_worker_holds_more_while_its_tasks_are_short_and_small() {
        let mut worker = Worker::new(0, Instant::now());
        worker.depth = 8;
        assert_eq!(holds(&mut worker, 100), 2, "nobody knows yet how long they take");

        for _ in 0..100 {
            worker.took(Duration::from_micros(20));
        }
        assert_eq!(holds(&mut worker, 100), 8);
        assert_eq!(holds(&mut worker, HELD_BYTES / 4), 4, "beside the first, three fit");

        worker.took(Duration::from_secs(1));
        assert_eq!(holds(&mut worker, 100), 2, "one long task is enough");
        worker.depth = 1;
        assert_eq!(holds(&mut worker, 100), 1);
    }
}
