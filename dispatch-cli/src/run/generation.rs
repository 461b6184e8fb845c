//! The pipelines that run at one time; a reload puts the next generation in their place.

use std::sync::{Arc, PoisonError, RwLock};

use dispatch_core::{
    Error, Store,
    pipeline::{Handle, Phase, Summary},
};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{Monitors, Plan};
use crate::logs;

/// One running pipeline, as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) file: String,
    pub(crate) handle: Handle,
    pub(crate) store: Arc<dyn Store>,
    /// What it runs by, fit to be shown; only where somebody may ask.
    pub(crate) shown: Option<Arc<Value>>,
}

/// What runs now, for those that outlive a generation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board(Arc<RwLock<Arc<[Member]>>>);

impl Board {
    pub(crate) fn members(&self) -> Arc<[Member]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn show(&self, members: &Arc<[Member]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(members);
    }

    /// Whether all that has not ended by itself can do its work.
    pub(crate) fn ready(&self) -> bool {
        let all: Vec<_> = self.members().iter().map(|member| member.handle.status()).collect();
        all.iter().any(|status| status.ready) && all.iter().all(|status| status.ready || status.phase == Phase::Ended)
    }
}

/// Pipelines that run together.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) members: Arc<[Member]>,
    tasks: JoinSet<Result<Summary, Error>>,
    /// Open until everything has ended.
    monitors: Monitors,
    ended: Ended,
}

/// How a generation ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// What each pipeline did.
    pub(crate) summaries: Vec<Summary>,
    /// Whether one of them could not run, or not go on.
    pub(crate) failed: bool,
}

impl Generation {
    /// Opens the scoreboards, starts every pipeline of the plan, and shows them on the board.
    pub(crate) fn start(plan: Plan, board: &Board) -> crate::failure::Result<Self> {
        let mut monitors = Monitors::of(&plan);
        monitors.open()?;
        Ok(Self::begin(plan, monitors, board))
    }

    /// As [`start`](Self::start), but nothing stands in the way of the pipelines: what ran before has ended.
    pub(crate) fn follow(plan: Plan, board: &Board) -> Self {
        let mut monitors = Monitors::of(&plan);
        if let Err(failure) = monitors.open() {
            tracing::error!(error = failure.text, "no scoreboard");
        }
        Self::begin(plan, monitors, board)
    }

    fn begin(plan: Plan, monitors: Monitors, board: &Board) -> Self {
        let mut tasks = JoinSet::new();
        let mut members = Vec::new();
        // What an operator has paused stays so over a reload, until it is resumed.
        let before = board.members();
        let paused = |name: &str| {
            before
                .iter()
                .any(|old| old.handle.name() == name && old.handle.status().paused)
        };
        for planned in plan.pipelines {
            let handle = planned.pipeline.handle();
            if paused(handle.name()) {
                handle.pause();
            }
            // Of the whole process, whichever pipeline is asked; Python's names are those of dispatcherd's clients.
            handle.commands().on("set_log_level", |python: String| {
                let (before, set) = logs::level_now_and(&python);
                async move { if set { before } else { String::new() } }
            });
            members.push(Member {
                file: planned.file,
                handle,
                store: planned.store,
                shown: planned.shown,
            });
            tasks.spawn(planned.pipeline.run());
        }
        let members = members.into();
        board.show(&members);
        Self {
            members,
            tasks,
            monitors,
            ended: Ended::default(),
        }
    }

    /// Waits until all have ended. One that cannot run, or whose sink is gone, ends the others.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Ended {
        while let Some(joined) = self.tasks.join_next().await {
            match joined {
                Ok(Ok(summary)) => {
                    if summary.sink_gone.is_some() {
                        self.fail();
                    }
                    self.ended.summaries.push(summary);
                }
                Ok(Err(error)) => {
                    tracing::error!(error = error.report(), "pipeline cannot run");
                    self.fail();
                }
                Err(error) => {
                    tracing::error!(%error, "pipeline panicked");
                    self.fail();
                }
            }
        }
        self.monitors.stop().await;
        std::mem::take(&mut self.ended)
    }

    fn fail(&mut self) {
        self.ended.failed = true;
        self.drain();
    }

    pub(crate) fn drain(&self) {
        self.members.iter().for_each(|member| member.handle.drain());
    }

    pub(crate) fn pause(&self) {
        self.members.iter().for_each(|member| member.handle.pause());
    }

    pub(crate) fn stores(&self) -> Vec<Arc<dyn Store>> {
        self.members.iter().map(|member| Arc::clone(&member.store)).collect()
    }
}
