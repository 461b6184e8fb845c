//! Checks of the far side that close the gate while it is not well.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use smol_str::SmolStr;

use super::control::Shared;
use crate::Error;

/// A question that is asked again and again for as long as a pipeline runs: nothing is received before the first good
/// answer, nor while the far side is ill. What is started goes on.
///
/// It changes its mind only after several answers in a row. It has nothing to do with an operator's pause: neither ends
/// the other.
#[derive(Clone)]
pub struct HealthCheck {
    check: Arc<dyn Fn() -> BoxFuture<'static, Result<(), Error>> + Send + Sync>,
    every: Duration,
    again: Duration,
    healthy: u32,
    unhealthy: u32,
}

impl fmt::Debug for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthCheck")
            .field("every", &self.every)
            .field("healthy", &self.healthy)
            .field("unhealthy", &self.unhealthy)
            .finish_non_exhaustive()
    }
}

impl HealthCheck {
    /// Asks `check`, which should bound its own time: each 10 s while the answer is good, each second while it is not;
    /// one good answer makes the far side well, three bad ones make it ill.
    pub fn new<F, Fut>(check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Self {
            check: Arc::new(move || Box::pin(check())),
            every: Duration::from_secs(10),
            again: Duration::from_secs(1),
            healthy: 1,
            unhealthy: 3,
        }
    }

    /// How often to ask while the answer is good.
    #[must_use]
    pub const fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// How often to ask while the answer is not good.
    #[must_use]
    pub const fn again(mut self, again: Duration) -> Self {
        self.again = again;
        self
    }

    /// How many good answers in a row make the far side well; at least 1.
    #[must_use]
    pub const fn healthy(mut self, answers: u32) -> Self {
        self.healthy = answers;
        self
    }

    /// How many bad answers in a row make the far side ill; at least 1.
    #[must_use]
    pub const fn unhealthy(mut self, answers: u32) -> Self {
        self.unhealthy = answers;
        self
    }

    /// Asks for ever. The gate counts this check as ill from the start.
    pub(super) async fn watch(self, shared: Arc<Shared>, label: SmolStr) {
        let (mut well, mut good, mut bad) = (false, 0, 0);
        loop {
            match (self.check)().await {
                Ok(()) => {
                    (good, bad) = (good + 1, 0);
                    // ill -> well: enough good answers in a row.
                    if !well && good >= self.healthy.max(1) {
                        well = true;
                        tracing::info!(pipeline = %shared.name, "far side is well");
                        shared.connected(&label);
                        shared.wanted.send_modify(|wanted| wanted.ill -= 1);
                    }
                }
                Err(error) => {
                    (good, bad) = (0, bad + 1);
                    // well -> ill: enough bad answers in a row.
                    if well && bad >= self.unhealthy.max(1) {
                        well = false;
                        tracing::warn!(pipeline = %shared.name, error = error.report(), "far side is not well: nothing is received");
                        shared.wanted.send_modify(|wanted| wanted.ill += 1);
                    } else if !well && bad == 1 {
                        tracing::warn!(pipeline = %shared.name, error = error.report(), "far side is not well yet: nothing is received");
                    }
                    if !well {
                        shared.failed(&label, error.report());
                    }
                }
            }
            tokio::time::sleep(if well && bad == 0 { self.every } else { self.again }).await;
        }
    }
}
