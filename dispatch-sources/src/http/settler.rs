use std::sync::Arc;

use async_trait::async_trait;
use dispatch_core::{SettleError, Settlement, Settler};

use super::intake::Intake;

/// Tells callers what became of their messages.
#[derive(Debug)]
pub(super) struct WaitingSettler(pub(super) Arc<Intake>);

#[async_trait]
impl Settler for WaitingSettler {
    /// A caller that is gone is a lease that is lost.
    async fn settle(&self, batch: Vec<Settlement>) -> Vec<Result<(), SettleError>> {
        let tell = |entry: Settlement| {
            let told = self.0.waiting.tell(entry.token.number, entry.disposition);
            told.then_some(()).ok_or(SettleError::Stale)
        };
        batch.into_iter().map(tell).collect()
    }
}
