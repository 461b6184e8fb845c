//! What must be in the Store before the source may forget it: dead letters and parked retries, gathered into batches.

use std::{sync::Arc, time::Duration};

use smol_str::SmolStr;
use tokio::time::Instant;

use crate::{
    Attempt, Error,
    store::{DeadLetter, Item, Store},
};

/// The pause after a Store that failed, where a source cannot take its message back.
const AGAIN: Duration = Duration::from_secs(1);

/// Something to be kept, and the slot it came from.
pub(super) enum Keepsake {
    Letter(Arc<DeadLetter>),
    Retry(Box<Item>),
}

/// Keepsakes on their way into the Store; one call at a time, the next batch gathers meanwhile.
pub(super) struct Keep {
    store: Arc<dyn Store>,
    parked: Arc<str>,
    waiting: Vec<(usize, Keepsake)>,
    busy: bool,
    not_before: Option<Instant>,
}

/// A batch that has left for the Store.
pub(super) struct Batch {
    store: Arc<dyn Store>,
    parked: Arc<str>,
    entries: Vec<(usize, Keepsake)>,
}

/// What came back: the entries in their order, and whether they are kept.
pub(super) struct Kept {
    pub(super) letters: (Vec<(usize, Keepsake)>, Result<(), Error>),
    pub(super) retries: (Vec<(usize, Keepsake)>, Result<(), Error>),
}

impl Keep {
    pub(super) fn new(store: Arc<dyn Store>, parked: Arc<str>) -> Self {
        Self {
            store,
            parked,
            waiting: Vec::new(),
            busy: false,
            not_before: None,
        }
    }

    pub(super) fn put(&mut self, slot: usize, keepsake: Keepsake) {
        self.waiting.push((slot, keepsake));
    }

    /// Puts back what the Store did not take, before what came after it; it is tried again after a pause.
    pub(super) fn put_back(&mut self, refused: Vec<(usize, Keepsake)>) {
        if !refused.is_empty() {
            self.not_before = Some(Instant::now() + AGAIN);
            self.waiting.splice(..0, refused);
        }
    }

    /// Which keys are parked in the Store, as far as it knows.
    pub(super) fn keys(&self) -> impl Future<Output = Result<Vec<(SmolStr, u64)>, Error>> + Send + use<> {
        let (store, parked) = (Arc::clone(&self.store), Arc::clone(&self.parked));
        async move { store.queue().keys(&parked).await }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        if self.busy || self.waiting.is_empty() {
            None
        } else {
            self.not_before
        }
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<Batch> {
        if self.busy || self.waiting.is_empty() || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.busy = true;
        self.not_before = None;
        let entries = std::mem::take(&mut self.waiting);
        Some(Batch {
            store: Arc::clone(&self.store),
            parked: Arc::clone(&self.parked),
            entries,
        })
    }

    /// Gives up on what waits, at the end of a drain: the slots it came from.
    pub(super) fn abandon(&mut self) -> Vec<usize> {
        self.waiting.drain(..).map(|(slot, _)| slot).collect()
    }

    pub(super) const fn returned(&mut self) {
        self.busy = false;
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.busy
    }
}

impl Batch {
    pub(super) async fn send(self) -> Kept {
        let (letters, retries): (Vec<_>, Vec<_>) = self
            .entries
            .into_iter()
            .partition(|(_, keepsake)| matches!(keepsake, Keepsake::Letter(_)));
        let buried = match letters
            .iter()
            .filter_map(|(_, kept)| kept.letter())
            .cloned()
            .collect::<Vec<_>>()
        {
            rows if rows.is_empty() => Ok(()),
            rows => self.store.dead_letters().bury(rows).await,
        };
        let parked = match retries
            .iter()
            .filter_map(|(_, kept)| kept.retry())
            .cloned()
            .collect::<Vec<_>>()
        {
            rows if rows.is_empty() => Ok(()),
            rows => self.store.queue().enqueue(&self.parked, rows).await.map(|_| ()),
        };
        Kept {
            letters: (letters, buried),
            retries: (retries, parked),
        }
    }
}

impl Keepsake {
    fn letter(&self) -> Option<&DeadLetter> {
        if let Self::Letter(letter) = self {
            Some(letter)
        } else {
            None
        }
    }

    fn retry(&self) -> Option<&Item> {
        if let Self::Retry(item) = self { Some(item) } else { None }
    }

    /// The attempts that led here.
    pub(super) fn into_attempts(self) -> Vec<Attempt> {
        match self {
            Self::Letter(letter) => Arc::unwrap_or_clone(letter).attempts,
            Self::Retry(item) => item.history,
        }
    }
}
