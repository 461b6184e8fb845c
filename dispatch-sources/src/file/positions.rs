//! Up to where every line is settled, and when that is saved.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use dispatch_core::{Error, Message, SettleError, Settlement, Settler, Store};
use tokio::sync::Notify;

/// How long a settled line may wait for its position to be saved.
const SAVE_AFTER: Duration = Duration::from_millis(200);

/// Takes outcomes, and saves positions a little later, many at once.
#[derive(Debug)]
pub(super) struct Positions {
    store: Arc<dyn Store>,
    state: Mutex<State>,
    /// One writer at a time, so that an older position never overwrites a newer one.
    saving: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Lines handed out and not known to be settled, oldest first; the first one's number is `first`.
    lines: VecDeque<Line>,
    first: u64,
    /// Which of them were given back.
    back: VecDeque<u64>,
    /// What is to be saved, by the position's name.
    unsaved: BTreeMap<Arc<str>, u64>,
    scheduled: bool,
    closed: bool,
}

#[derive(Debug)]
struct Line {
    name: Arc<str>,
    end: u64,
    /// None once it is settled.
    message: Option<Message>,
}

impl Positions {
    pub(super) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            state: Mutex::default(),
            saving: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Notes a line that is handed out, and gives it a number to settle it by.
    pub(super) fn hand_out(&self, name: &Arc<str>, end: u64, message: Message) -> u64 {
        let mut state = self.state();
        let number = state.first + state.lines.len() as u64;
        state.lines.push_back(Line {
            name: name.clone(),
            end,
            message: Some(message),
        });
        number
    }

    /// Lines that were given back, with their numbers, at most `max`.
    pub(super) fn hand_out_again(&self, max: usize) -> Vec<(u64, Message)> {
        let mut state = self.state();
        let count = max.min(state.back.len());
        let numbers: Vec<_> = state.back.drain(..count).collect();
        numbers
            .into_iter()
            .filter_map(|number| Some((number, state.line(number)?.message.clone()?)))
            .collect()
    }

    /// Waits until a line was given back, or all are settled; says whether they are.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub(super) async fn all_settled(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if !state.back.is_empty() {
                    return false;
                }
                if state.lines.is_empty() {
                    return true;
                }
            }
            changed.await;
        }
    }

    /// Notes lines that were settled by the source itself.
    pub(super) fn settled(self: &Arc<Self>, numbers: impl IntoIterator<Item = u64>) {
        let mut state = self.state();
        for number in numbers {
            state.settle(number, true);
        }
        self.schedule(&mut state);
        self.changed.notify_waiters();
    }

    /// Saves now, and from now on with every settlement.
    pub(super) async fn close(&self) -> Result<(), Error> {
        self.state().closed = true;
        self.save().await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No statement leaves the state half changed, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(self: &Arc<Self>, state: &mut State) {
        if state.unsaved.is_empty() || state.scheduled || state.closed {
            return;
        }
        state.scheduled = true;
        let this = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SAVE_AFTER).await;
            this.state().scheduled = false;
            if let Err(error) = this.save().await {
                tracing::warn!(
                    error = error.report(),
                    "position not saved; lines may come again in the next run"
                );
                let mut state = this.state();
                this.schedule(&mut state);
            }
        });
    }

    async fn save(&self) -> Result<(), Error> {
        let _alone = self.saving.lock().await;
        let unsaved = self.state().unsaved.clone();
        for (name, position) in unsaved {
            self.store.positions().save(&name, Some(position)).await?;
            let mut state = self.state();
            if state.unsaved.get(&name) == Some(&position) {
                state.unsaved.remove(&name);
            }
        }
        Ok(())
    }
}

impl State {
    fn line(&mut self, number: u64) -> Option<&mut Line> {
        let index = number
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok())?;
        self.lines.get_mut(index).filter(|line| line.message.is_some())
    }

    /// Settles line `number`, or takes it back; says whether it was still open.
    fn settle(&mut self, number: u64, is_final: bool) -> bool {
        let Some(line) = self.line(number) else {
            return false;
        };
        if !is_final {
            self.back.push_back(number);
            return true;
        }
        line.message = None;
        while let Some(line) = self.lines.pop_front_if(|line| line.message.is_none()) {
            self.first += 1;
            self.unsaved.insert(line.name, line.end);
        }
        true
    }
}

/// The settler of a file source.
#[derive(Debug)]
pub(super) struct LineSettler(pub(super) Arc<Positions>);

#[async_trait]
impl Settler for LineSettler {
    /// A line that is not finally settled stays open: it comes again in this run, or in the next, since the position
    /// stops before it.
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        let (results, closed) = {
            let mut state = self.0.state();
            let results = batch
                .into_iter()
                .map(
                    |entry| match state.settle(entry.token.number, entry.disposition.is_final()) {
                        true => Ok(()),
                        false => Err(SettleError::Stale),
                    },
                )
                .collect();
            self.0.schedule(&mut state);
            (results, state.closed)
        };
        self.0.changed.notify_waiters();
        if closed && let Err(error) = self.0.save().await {
            tracing::warn!(
                error = error.report(),
                "position not saved; lines may come again in the next run"
            );
        }
        results
    }
}
