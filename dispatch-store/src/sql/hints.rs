use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use smol_str::SmolStr;
use tokio::sync::Notify;

/// What this process knows about news in its queues.
#[derive(Debug, Default)]
pub(super) struct Hints(Mutex<HashMap<SmolStr, Arc<Hint>>>);

/// What this process knows about news in one queue.
#[derive(Debug)]
pub(super) struct Hint {
    /// Counts news.
    news: AtomicU64,
    /// The news that the latest claim with room to spare had seen when it began.
    seen: AtomicU64,
    /// Whether the latest claim has seen the end of the queue.
    empty: AtomicBool,
    /// Whether claims ask for order by key, so that an item that is due may yet be held back.
    ordered: AtomicBool,
    /// Looks that found nothing, since one that did.
    fruitless: AtomicU32,
    changed: Notify,
}

/// The wait after the first look that finds nothing.
const SOON: Duration = Duration::from_millis(1);

impl Hints {
    pub(super) fn of(&self, queue: &str) -> Arc<Hint> {
        let mut hints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hint) = hints.get(queue) {
            return Arc::clone(hint);
        }
        let hint = Arc::new(Hint {
            news: AtomicU64::new(1),
            seen: AtomicU64::new(0),
            empty: AtomicBool::new(false),
            ordered: AtomicBool::new(false),
            fruitless: AtomicU32::new(0),
            changed: Notify::new(),
        });
        hints.insert(queue.into(), Arc::clone(&hint));
        hint
    }

    /// Wakes everybody: news may have been missed.
    #[cfg(feature = "postgres")]
    pub(super) fn bump_all(&self) {
        for hint in self.0.lock().unwrap_or_else(PoisonError::into_inner).values() {
            hint.bump();
        }
    }
}

impl Hint {
    pub(super) fn bump(&self) {
        self.news.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Whether this claim is for news that came after the end of the queue was seen: few, and waited for.
    pub(super) fn was_announced(&self) -> bool {
        self.empty.swap(false, Ordering::Relaxed) && self.has_news()
    }

    /// Begins a claim; what is news from here on may be missed by it.
    pub(super) fn begin(&self, ordered: bool) -> u64 {
        self.ordered.store(ordered, Ordering::Relaxed);
        self.news.load(Ordering::Acquire)
    }

    /// A claim found less than it had room for.
    pub(super) fn emptied(&self, begun: u64) {
        self.seen.fetch_max(begun, Ordering::AcqRel);
        self.empty.store(true, Ordering::Relaxed);
    }

    /// A claim found something: more may be on its way that nobody will announce.
    pub(super) fn found(&self) {
        self.fruitless.store(0, Ordering::Relaxed);
    }

    /// How long to wait for an announcement before looking again: twice as long after each look in vain.
    pub(super) fn patience(&self) -> Duration {
        let looks = self.fruitless.fetch_add(1, Ordering::Relaxed);
        SOON * 2_u32.saturating_pow(looks.min(16))
    }

    pub(super) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire) > self.seen.load(Ordering::Acquire)
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.ordered.load(Ordering::Relaxed)
    }

    /// Waits for the next news; counts from when the future is first polled or enabled.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}
