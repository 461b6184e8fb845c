//! What becomes of the tasks that were handed out.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use dispatch_core::{Disposition, SettleError, Settlement, Settler};
use tokio::time::Instant;

use super::{Hall, spilled::Ended, state::Place};

/// Takes outcomes back into the hall.
pub(super) struct Settling(pub(super) Arc<Hall>);

#[async_trait]
impl Settler for Settling {
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        let hall = &self.0;
        let (mut results, mut homeless, mut stored) = (Vec::with_capacity(batch.len()), Vec::new(), Vec::new());
        {
            let mut state = hall.state();
            let mut back = Vec::new();
            for Settlement { token, disposition } in batch {
                let at = usize::try_from(token.number).unwrap_or(usize::MAX);
                let held = state
                    .tasks
                    .get(at)
                    .filter(|live| live.fence == token.fence && live.place == Place::Running);
                let Some(live) = held else {
                    results.push(Err(SettleError::Stale));
                    continue;
                };
                results.push(Ok(()));
                let goes_back = !disposition.is_final();
                if let Some(token) = live.task.stored.clone().filter(|_| state.closed || !goes_back) {
                    stored.push(Ended {
                        result: results.len() - 1,
                        at,
                        fence: live.fence,
                        settlement: Settlement { token, disposition },
                    });
                    continue;
                }
                match disposition {
                    Disposition::Ack(_) | Disposition::DeadLetter(_) | Disposition::Bury(_) | Disposition::Parked => {
                        state.remove(at);
                    }
                    Disposition::Release if !state.closed => back.push(at),
                    Disposition::Nack { delay, .. } if !state.closed => {
                        let mut task = state.remove(at).task;
                        task.delay = Some(delay.unwrap_or(Duration::from_secs(1)));
                        state.admit(task);
                    }
                    Disposition::Nack { delay, .. } => {
                        let mut task = state.remove(at).task;
                        task.delay = delay;
                        homeless.push(task);
                    }
                    Disposition::Release => homeless.push(state.remove(at).remaining(Instant::now())),
                }
            }
            // First again, in their order.
            for at in back.into_iter().rev() {
                state.tasks[at].place = Place::Ready;
                state.ready.push_front(at);
            }
            hall.gauge(&state);
        }
        hall.changed.notify_one();
        if !homeless.is_empty() {
            hall.put_away(homeless, "the service ends").await;
        }
        if !stored.is_empty() {
            self.settle_stored(stored, &mut results).await;
        }
        results
    }
}
