//! What the pool knows of one worker.

use std::{collections::VecDeque, sync::Arc};

use rustix::process::Signal;
use tokio::time::Instant;

use super::{
    cancel::{Cancel, Reason},
    job::Job,
    link::Link,
    output::Tail,
    process::Handle,
};

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
    /// The first is at work, the second waits in it.
    pub(super) tasks: VecDeque<(u64, Job)>,
    /// How many tasks it takes at a time.
    pub(super) depth: usize,
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

    /// Asks for the task that waits in it, so that an idle worker can have it.
    pub(super) fn recall(&mut self) {
        let (Some(link), Some((_, job))) = (&self.link, self.tasks.get_mut(1)) else {
            return;
        };
        job.recalled = true;
        link.put(|out| job.write_note(out, "revoke"));
        link.ring();
        link.flush();
    }
}
