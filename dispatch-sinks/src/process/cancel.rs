//! Ending a task that is at work: first asked, then told, then made to.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// So often a cancel is repeated: a signal that comes right before a process goes to sleep may be seen only after the sleep.
pub(super) const REPEAT: Duration = Duration::from_secs(1);

/// Who cancelled a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Its own `timeout` passed.
    Timeout(Duration),
    /// The command `cancel`.
    Command,
    /// Nobody waits for it any more: a layer's timeout, a deadline, the end of a drain.
    Dropped,
    /// The pool is being closed.
    Closing,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(after) => write!(f, "its timeout of {after:?} passed"),
            Self::Command => f.write_str("by the command `cancel`"),
            Self::Dropped => f.write_str("nobody waits for it any more"),
            Self::Closing => f.write_str("the pool is being closed"),
        }
    }
}

/// A cancel under way.
#[derive(Debug, Clone)]
pub(super) struct Cancel {
    pub(super) reason: Reason,
    /// Since when the task could have obeyed: it has been at work, and been asked.
    since: Instant,
    repeat_at: Instant,
    told: u8,
}

/// What is to be done about a task that still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Ask,
    Terminate,
    Kill,
}

impl Cancel {
    pub(super) fn new(reason: Reason, now: Instant) -> Self {
        Self {
            reason,
            since: now,
            repeat_at: now + REPEAT,
            told: 0,
        }
    }

    /// It had waited behind another, and is at work now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since = now;
        self.repeat_at = now + REPEAT;
    }

    /// What is due now; `at_work`: whether it is at work, or waits behind another task that must not be harmed.
    pub(super) fn step(&mut self, now: Instant, grace: Duration, at_work: bool) -> Step {
        if at_work && self.told < 2 && now >= self.since + grace * 2 {
            self.told = 2;
            return Step::Kill;
        }
        if at_work && self.told < 1 && now >= self.since + grace {
            self.told = 1;
            return Step::Terminate;
        }
        if self.told == 0 && now >= self.repeat_at {
            self.repeat_at = now + REPEAT;
            return Step::Ask;
        }
        Step::Nothing
    }

    /// When something is due next.
    pub(super) fn due(&self, grace: Duration, at_work: bool) -> Option<Instant> {
        match (self.told, at_work) {
            (0, true) => Some(self.repeat_at.min(self.since + grace)),
            (0, false) => Some(self.repeat_at),
            (1, true) => Some(self.since + grace * 2),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cancel_is_repeated_and_then_made_stronger() {
        let grace = Duration::from_millis(2_500);
        let mut cancel = Cancel::new(Reason::Command, Instant::now());
        let mut steps = Vec::new();

        while let Some(due) = cancel.due(grace, true) {
            advance(due - Instant::now()).await;
            steps.push(cancel.step(Instant::now(), grace, true));
        }

        assert_eq!(steps, [Step::Ask, Step::Ask, Step::Terminate, Step::Kill]);
        assert_eq!(cancel.step(Instant::now(), grace, true), Step::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_behind_another_task_is_only_asked() {
        let grace = Duration::from_secs(1);
        let mut cancel = Cancel::new(Reason::Dropped, Instant::now());
        advance(Duration::from_secs(60)).await;

        assert_eq!(cancel.step(Instant::now(), grace, false), Step::Ask);
        cancel.begin(Instant::now());
        assert_eq!(cancel.step(Instant::now(), grace, true), Step::Nothing);
        assert_eq!(cancel.due(grace, true), Some(Instant::now() + grace));
    }
}
