//! The way back of spilled tasks: through the hall, so that they wait for their like as all others do. Until such a task is
//! done the store has it too, under a lease that is extended here.

use std::{
    future::poll_fn,
    sync::{Arc, PoisonError},
    time::Duration,
};

use dispatch_core::{
    Commands, Delivery, Disposition, Error, Received, Reply, SettleError, Settlement, Source as _, Token,
    store::QueueSource, telemetry::Meter,
};
use tokio::time::{Instant, interval, sleep};

use super::{
    Hall, Overflow,
    settling::Settling,
    state::{Place, State},
    task::Task,
};

/// How long a crash can hide a spilled task that has come back.
const LEASE: Duration = Duration::from_secs(30);
/// So many come back at once, at most.
const MOST: usize = 500;
/// How often the store is asked of whom it has some, while it has any.
const LOOK: Duration = Duration::from_secs(10);
/// After an error of the store.
const AGAIN: Duration = Duration::from_secs(1);

impl Hall {
    /// Takes spilled tasks back whenever there is room, for ever.
    pub(in crate::pg_notify) async fn take_back(&self, commands: &Commands, meter: &Meter) {
        if self.settings.overflow == Overflow::Shed {
            return;
        }
        let store = Arc::clone(&self.settings.store);
        let mut source = QueueSource::new(store, self.settings.queue.as_str())
            .lease(LEASE)
            .answering_again(commands, meter);
        // What is claimed has its room here.
        source.hold_at_most(MOST);
        let taking = async {
            loop {
                let room = self.room().await;
                let coming = async {
                    let mut receive = std::pin::pin!(source.receive(room));
                    poll_fn(|cx| {
                        let _one_place = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
                        let at = Instant::now();
                        receive.as_mut().poll(cx).map(|received| match received {
                            Ok(Received::Batch(deliveries)) => Ok((self.admit_back(deliveries), at)),
                            Ok(_) => Ok((Vec::new(), at)),
                            Err(error) => Err(error),
                        })
                    })
                    .await
                };
                let received = tokio::select! {
                    biased;
                    // What is claimed already is for others.
                    () = self.full.notified() => None,
                    received = coming => Some(received),
                };
                let received = match received {
                    None => source.hold().await,
                    Some(Ok((rest, at))) => {
                        source.give_back(rest, at).await;
                        Ok(())
                    }
                    Some(Err(error)) => Err(error),
                };
                if let Err(error) = received {
                    tracing::debug!(error = error.report(), "spilled tasks do not come back yet");
                    sleep(AGAIN).await;
                }
            }
        };
        tokio::join!(taking, self.keep_leases(), self.keep_away());
    }

    /// Waits until there is room for some tens, and says for how many: room for one at a time would be a claim for each.
    async fn room(&self) -> usize {
        let enough = (self.settings.most / 2).clamp(1, MOST);
        loop {
            let freed = self.freed.notified();
            let room = self.settings.most.saturating_sub(self.state().waiting());
            if room >= enough {
                return room.min(MOST);
            }
            freed.await;
        }
    }

    /// Says what finds no room after all.
    fn admit_back(&self, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let mut rest = Vec::new();
        {
            let mut state = self.state();
            for delivery in deliveries {
                if state.closed || state.waiting() >= self.settings.most {
                    rest.push(delivery);
                    continue;
                }
                if let Some(identity) = delivery.message.key() {
                    state.away.back(identity);
                }
                let text = delivery.message.payload.clone();
                let token = delivery.receipt.token().clone();
                let Some(task) = str::from_utf8(&text)
                    .ok()
                    .and_then(|text| Task::back(text, token.clone()))
                else {
                    tracing::error!(queue = self.settings.queue, id = %delivery.message.id(), "no task: dropped from the store");
                    state.dropped.push(delivery.receipt.into_parts().0);
                    continue;
                };
                // From here on the lease is the hall's.
                drop(delivery.receipt.into_parts());
                if !state.admit(task) {
                    self.discarded.add(1);
                }
            }
            self.gauge(&state);
            self.end_dropped(&mut state);
        }
        self.changed.notify_one();
        rest
    }

    /// Ends in the store what was dropped or cancelled here; nobody waits for it.
    pub(super) fn end_dropped(&self, state: &mut State) {
        if state.dropped.is_empty() {
            return;
        }
        let (tokens, store) = (std::mem::take(&mut state.dropped), Arc::clone(&self.store));
        tokio::spawn(async move {
            let ends = tokens.into_iter().map(|token| Settlement {
                token,
                disposition: Disposition::Ack(Reply::default()),
            });
            for error in store.settle(ends.collect()).await.into_iter().filter_map(Result::err) {
                tracing::warn!(%error, "a task that was dropped or cancelled comes again from the store");
            }
        });
    }

    /// Gives back to the store what is its own.
    pub(super) async fn give_back(&self, tasks: Vec<Task>) {
        let settlement = |task: Task| {
            let disposition = match task.delay {
                None => Disposition::Release,
                delay => Disposition::Nack {
                    delay,
                    attempts: Vec::new(),
                },
            };
            task.stored.map(|token| Settlement { token, disposition })
        };
        let batch: Vec<_> = tasks.into_iter().filter_map(settlement).collect();
        if !batch.is_empty() {
            // What fails comes back when its lease has run out.
            drop(self.store.settle(batch).await);
        }
    }

    /// Asks the store of whom it has some: at the start, and while it is thought to have any, for others take from it too.
    async fn keep_away(&self) {
        loop {
            if let Err(error) = self.look_away().await {
                tracing::debug!(error = error.report(), "the store does not say what is spilled");
            }
            loop {
                sleep(LOOK).await;
                if !self.state().away.is_empty() {
                    break;
                }
            }
        }
    }

    pub(super) async fn look_away(&self) -> Result<(), Error> {
        self.state().away.ask();
        let keys = self.settings.store.queue().keys(&self.settings.queue).await?;
        let mut state = self.state();
        let here = state.here();
        state.away.answered(keys, &here);
        Ok(())
    }

    async fn keep_leases(&self) {
        let mut ticks = interval(LEASE / 3);
        loop {
            ticks.tick().await;
            let tokens = self.leased();
            for tokens in tokens.chunks(MOST) {
                let kept = self.store.extend(tokens.to_vec(), LEASE).await;
                let lost = tokens.iter().zip(kept).filter_map(|(token, kept)| match kept {
                    Err(SettleError::Stale) => Some(token),
                    _ => None,
                });
                self.forget(&lost.cloned().collect::<Vec<_>>());
            }
        }
    }

    /// Every lease that is to go on.
    fn leased(&self) -> Vec<Token> {
        let mut state = self.state();
        if state.stored == 0 {
            return Vec::new();
        }
        // Its end was told to the store in vain, and nobody tells it again: it comes again when its lease has run out.
        let given_up: Vec<usize> = state
            .tasks
            .iter()
            .filter(|(_, live)| live.unsettled.is_some_and(|since| since.elapsed() > LEASE))
            .map(|(at, _)| at)
            .collect();
        for at in given_up {
            state.remove(at);
        }
        let going_on = state.tasks.iter().filter(|(_, live)| live.unsettled.is_none());
        going_on.filter_map(|(_, live)| live.task.stored.clone()).collect()
    }

    /// Those that somebody else may have by now are not begun here.
    fn forget(&self, lost: &[Token]) {
        if lost.is_empty() {
            return;
        }
        let mut state = self.state();
        let gone: Vec<usize> = state
            .tasks
            .iter()
            .filter(|(_, live)| live.place != Place::Running)
            .filter(|(_, live)| live.task.stored.as_ref().is_some_and(|token| lost.contains(token)))
            .map(|(at, _)| at)
            .collect();
        for at in &gone {
            state.remove(*at);
        }
        // Last: one may have been let go by the one before.
        state.ready.retain(|at| !gone.contains(at));
        self.gauge(&state);
    }
}

/// The end of a task that the store has too.
pub(super) struct Ended {
    /// Its place among the answers.
    pub(super) result: usize,
    /// Its place in the hall, and the hand-over that has ended.
    pub(super) at: usize,
    pub(super) fence: u64,
    pub(super) settlement: Settlement,
}

impl Settling {
    /// Ends tasks that the store has too: there first.
    pub(super) async fn settle_stored(&self, ended: Vec<Ended>, results: &mut [Result<(), SettleError>]) {
        let hall = Arc::clone(&self.0);
        // In a task of its own: a settlement that nobody waits for any more is one all the same.
        let settling = tokio::spawn(async move {
            let (mut places, mut batch) = (Vec::new(), Vec::new());
            for one in ended {
                places.push((one.result, one.at, one.fence));
                batch.push(one.settlement);
            }
            let answers = hall.store.settle(batch).await;
            let mut state = hall.state();
            for ((_, at, fence), answer) in places.iter().zip(&answers) {
                // It may have been given up meanwhile, and its place be another's.
                let Some(live) = state.tasks.get_mut(*at).filter(|live| live.fence == *fence) else {
                    continue;
                };
                if let Err(SettleError::Failed(_)) = answer {
                    live.unsettled = Some(Instant::now());
                } else {
                    state.remove(*at);
                }
            }
            drop(state);
            hall.changed.notify_one();
            hall.freed.notify_one();
            let places = places.into_iter().map(|(result, ..)| result);
            places.zip(answers).collect::<Vec<_>>()
        });
        match settling.await {
            Ok(answers) => answers.into_iter().for_each(|(place, answer)| results[place] = answer),
            Err(error) => tracing::error!(error = Error::retry(error).report(), "spilled tasks come again"),
        }
    }
}
