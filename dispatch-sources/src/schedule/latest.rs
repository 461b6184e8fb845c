//! Only the latest slot's message is worked on: what a later slot has overtaken is withdrawn and does not come again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use dispatch_core::{Delivery, Disposition, Error, Reply, SettleError, Settlement, Settler, Store, Token};
use smol_str::SmolStr;

use crate::slots::{self, SLOT};

/// How long a message is ours in the Store, which a pause of the process must not outlast.
const LEASE: Duration = Duration::from_secs(30);

/// Settles for a schedule's queue, and knows which slot each delivery is of.
pub(super) struct Latest {
    store: Arc<dyn Store>,
    schedule: SmolStr,
    queue: Arc<dyn Settler>,
    out: Mutex<HashMap<Token, SystemTime>>,
}

impl Latest {
    /// What the driver is told of the leases: it extends at half of that and looks at each quarter, and so hears within 3 s
    /// that a later slot has come.
    pub(super) const HEARS: Duration = Duration::from_secs(4);

    pub(super) fn new(store: Arc<dyn Store>, schedule: SmolStr, queue: Arc<dyn Settler>) -> Self {
        Self {
            store,
            schedule,
            queue,
            out: Mutex::default(),
        }
    }

    fn out(&self) -> MutexGuard<'_, HashMap<Token, SystemTime>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is not overtaken, to be settled here. The rest is done with.
    pub(super) async fn keep(self: &Arc<Self>, batch: Vec<Delivery>) -> Result<Vec<Delivery>, Error> {
        let latest = self.store.slots().last(&self.schedule).await?;
        let mut kept = Vec::with_capacity(batch.len());
        for delivery in batch {
            let slot = delivery.message.metadata().get(SLOT).and_then(slots::time);
            if slot.is_some() && slot < latest {
                tracing::info!(id = %delivery.message.id(), "superseded by a later slot");
                // In a task of its own: who receives may stop waiting, and this must end all the same.
                tokio::spawn(delivery.settle(Disposition::Ack(Reply::default())));
                continue;
            }
            let (token, _) = delivery.receipt.into_parts();
            if let Some(slot) = slot {
                self.out().insert(token.clone(), slot);
            }
            let settler = Arc::clone(self) as Arc<dyn Settler>;
            kept.push(Delivery::new(delivery.message, token, settler).with_history(delivery.history));
        }
        Ok(kept)
    }

    /// Which of these deliveries are overtaken; none while the Store does not say, for then they are looked at again.
    async fn overtaken(&self, tokens: impl Iterator<Item = &Token>) -> Vec<bool> {
        let latest = match self.store.slots().last(&self.schedule).await {
            Ok(latest) => latest,
            Err(error) => {
                tracing::warn!(schedule = %self.schedule, error = error.report(), "latest slot not known");
                None
            }
        };
        let out = self.out();
        tokens
            .map(|token| out.get(token).is_some_and(|slot| Some(*slot) < latest))
            .collect()
    }
}

#[async_trait]
impl Settler for Latest {
    /// What would come again is done with where a later slot has come.
    async fn settle(&self, mut batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        if batch.iter().any(|settlement| !settlement.disposition.is_final()) {
            let overtaken = self.overtaken(batch.iter().map(|settlement| &settlement.token)).await;
            for (settlement, overtaken) in batch.iter_mut().zip(overtaken) {
                if overtaken && !settlement.disposition.is_final() {
                    tracing::info!(schedule = %self.schedule, "attempt superseded by a later slot");
                    settlement.disposition = Disposition::Ack(Reply::default());
                }
            }
        }
        let tokens: Vec<_> = batch.iter().map(|settlement| settlement.token.clone()).collect();
        let results = self.queue.settle(batch).await;
        let mut out = self.out();
        for (token, result) in tokens.iter().zip(&results) {
            // What failed is told again.
            if !matches!(result, Err(SettleError::Failed(_))) {
                out.remove(token);
            }
        }
        results
    }

    async fn extend(&self, batch: Vec<Token>, _: Duration) -> Vec<Result<(), SettleError>> {
        let overtaken = self.overtaken(batch.iter()).await;
        let extended = self.queue.extend(batch, LEASE).await;
        let answer = |(result, overtaken): (Result<(), SettleError>, bool)| {
            result.and(if overtaken { Err(SettleError::Withdrawn) } else { Ok(()) })
        };
        extended.into_iter().zip(overtaken).map(answer).collect()
    }
}
