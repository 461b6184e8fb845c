//! Messages handed out by a source that cannot ask anybody for them again, and those that came back.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
#[cfg(feature = "stdin")]
use dispatch_core::Class;
use dispatch_core::{Delivery, Error, Message, SettleError, Settlement, Settler, Store, Token, store::Item};
use tokio::sync::Notify;

/// How long after a failure the Store is asked again.
#[cfg(feature = "stdin")]
const AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// What each settlement is answered.
type Answers = Vec<Result<(), SettleError>>;

/// Keeps each message until it is finally settled. One that is released or nacked is handed out again, or put into a
/// queue of the Store once nothing more is handed out.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    out: HashMap<u64, Message>,
    back: VecDeque<Message>,
    next: u64,
    /// Where messages go that come back now.
    parking: Option<(Arc<dyn Store>, String)>,
}

impl Loans {
    /// Hands `message` out.
    pub(crate) fn lend(self: &Arc<Self>, message: Message) -> Delivery {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.out.insert(number, message.clone());
        Delivery::new(message, Token::new(number, 0), self.clone())
    }

    /// Hands out again what came back, at most `max`.
    pub(crate) fn lend_again(self: &Arc<Self>, max: usize) -> Vec<Delivery> {
        let back: Vec<_> = {
            let mut state = self.state();
            let count = max.min(state.back.len());
            state.back.drain(..count).collect()
        };
        back.into_iter().map(|message| self.lend(message)).collect()
    }

    /// Waits until something came back, or everything is settled; says whether it is.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(crate) async fn all_settled(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if !state.back.is_empty() {
                    return false;
                }
                if state.out.is_empty() {
                    return true;
                }
            }
            changed.await;
        }
    }

    /// Waits until something came back.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    #[cfg(feature = "stdin")]
    pub(crate) async fn came_back(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.state().back.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// From now on puts what comes back into `queue`, and what came back already; `more` goes there at once too.
    #[cfg(feature = "stdin")]
    pub(crate) async fn park(&self, store: &Arc<dyn Store>, queue: String, more: Vec<Message>) -> Result<u64, Error> {
        let back: Vec<_> = {
            let mut state = self.state();
            state.parking = Some((store.clone(), queue.clone()));
            state.back.drain(..).collect()
        };
        let items: Vec<_> = back.iter().chain(&more).map(Item::of).collect();
        if items.is_empty() {
            return Ok(0);
        }
        // Nobody else has them: whoever closes says how long this may take.
        loop {
            match store.queue().enqueue(&queue, items.clone()).await {
                Ok(_) => return Ok(items.len() as u64),
                Err(error) if error.class() == Class::Permanent => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        error = error.report(),
                        count = items.len(),
                        "the Store does not take what was read; trying again"
                    );
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No statement leaves the state half changed, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes outcomes in; says what came back and must be parked: it stays lent until it is.
    fn take_in(&self, batch: Vec<Settlement>) -> (Answers, Vec<(usize, u64, Message)>) {
        let mut to_park = Vec::new();
        let mut state = self.state();
        let results = batch
            .into_iter()
            .enumerate()
            .map(|(index, entry)| {
                let number = entry.token.number;
                let message = state.out.remove(&number).ok_or(SettleError::Stale)?;
                match (entry.disposition.is_final(), state.parking.is_some()) {
                    (true, _) => {}
                    (false, true) => {
                        state.out.insert(number, message.clone());
                        to_park.push((index, number, message));
                    }
                    (false, false) => state.back.push_back(message),
                }
                Ok(())
            })
            .collect();
        (results, to_park)
    }
}

#[async_trait]
impl Settler for Loans {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        let (mut results, to_park) = self.take_in(batch);
        let parking = self.state().parking.clone().filter(|_| !to_park.is_empty());
        if let Some((store, queue)) = parking {
            let items = to_park.iter().map(|(_, _, message)| Item::of(message)).collect();
            let parked = store.queue().enqueue(&queue, items).await;
            let mut state = self.state();
            for (index, number, _) in to_park {
                match &parked {
                    Ok(_) => drop(state.out.remove(&number)),
                    Err(error) => results[index] = Err(SettleError::Failed(Error::new(error.class(), error.report()))),
                }
            }
        }
        self.changed.notify_waiters();
        results
    }
}
