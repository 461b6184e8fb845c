//! Announcements that go along with what they announce. NOTIFY takes a lock that is one for the whole server, and holds it for the
//! disk where it commits with what has to be kept: so one goes along only where nobody else is held up by it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::queue::Along;

/// After an announcement the next ones go by themselves, several at a time.
const APART: Duration = Duration::from_millis(1);
/// A commit that takes longer, for its disk or for others with the lock, goes without one.
const SLOW: Duration = Duration::from_millis(1);
/// For so long.
const PAUSE: Duration = Duration::from_secs(1);

/// What this process enqueues and announces.
#[derive(Debug, Default)]
pub(super) struct Rides(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Enqueues under way.
    under_way: usize,
    /// No announcement goes along before.
    not_before: Option<Instant>,
}

/// An enqueue under way.
#[derive(Debug)]
pub(super) struct Enqueuing {
    rides: Arc<Rides>,
    began: Instant,
    pub(super) along: Option<Along>,
}

impl Rides {
    /// Begins an enqueue; `along` makes its announcement, if that is to go along.
    pub(super) fn begin(self: &Arc<Self>, along: impl FnOnce() -> Along) -> Enqueuing {
        let began = Instant::now();
        let mut state = self.state();
        let goes_along = state.under_way == 0 && state.not_before.is_none_or(|at| at <= began);
        state.under_way += 1;
        drop(state);
        Enqueuing {
            rides: Arc::clone(self),
            began,
            along: goes_along.then(along),
        }
    }

    /// Something was announced by itself.
    pub(super) fn announced(&self) {
        self.state().wait(Instant::now(), APART);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, now: Instant, pause: Duration) {
        self.not_before = self.not_before.max(Some(now + pause));
    }
}

impl Drop for Enqueuing {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.rides.state();
        state.under_way -= 1;
        if self.along.is_some() {
            let slow = now.duration_since(self.began) > SLOW;
            state.wait(now, if slow { PAUSE } else { APART });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn along() -> Along {
        ("dispatch_q".to_owned(), "me".into())
    }

    #[tokio::test(start_paused = true)]
    async fn an_announcement_goes_along_where_nobody_is_held_up() {
        let rides = Arc::new(Rides::default());
        let goes = || rides.begin(along).along.is_some();

        let first = rides.begin(along);
        assert!(first.along.is_some());
        assert!(!goes(), "not beside another enqueue");
        drop(first);
        assert!(!goes(), "not right after one");
        advance(APART).await;
        assert!(goes(), "a moment later");
        rides.announced();
        assert!(!goes(), "not right after one that went by itself");
        advance(APART).await;

        let slow = rides.begin(along);
        advance(SLOW * 2).await;
        drop(slow);
        advance(PAUSE / 2).await;
        assert!(!goes(), "not where the last one took long");
        advance(PAUSE).await;
        assert!(goes(), "for a while");
    }
}
