//! One process: generation after generation, until the end or a signal.

use std::sync::Arc;

use dispatch_core::Registry;
use tokio::time::{MissedTickBehavior, interval};

use super::{Board, Ended, Generation, Live, Plan, Signals, Stores, Systemd, TICK, Watch, Wish, at_work, report};
use crate::{config::ConfigArgs, failure::Result, global::Global, logs::Screen, output::note, server::Server};

/// How the pipelines came to their end.
pub(crate) enum End {
    Ended(Ended),
    /// By this signal, with everything still under way.
    AtOnce(i32),
}

/// A process that runs pipelines.
pub(crate) struct Process<'a> {
    /// The files to read again; none where there are none: SIGHUP drains then.
    pub(crate) args: Option<&'a ConfigArgs>,
    /// Where the files are read again when they change.
    pub(crate) watch: Option<Watch>,
    pub(crate) global: &'a Global,
    pub(crate) registry: &'a Registry,
    pub(crate) screen: Screen,
    pub(crate) systemd: Systemd,
    pub(crate) generation: Generation,
    pub(crate) board: Board,
    pub(crate) stores: Stores,
    pub(crate) server: Server,
}

impl Process<'_> {
    /// Watches over the pipelines, generation after generation.
    pub(crate) async fn supervise(&mut self, signals: &mut Signals) -> End {
        let mut live = Live::new(&self.screen, &self.generation.members);
        let every = if self.screen.0.is_some() {
            Some(TICK)
        } else {
            self.systemd.interval()
        };
        let mut clock = every.map(interval);
        if let Some(clock) = &mut clock {
            clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        }
        let (mut next, mut stopping) = (None, false);
        let mut watch = self.watch.take();
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let tick = async {
                match &mut clock {
                    Some(clock) => drop(clock.tick().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                wish = signals.next() => match wish {
                    Wish::Quit(signal) => return End::AtOnce(signal),
                    Wish::Stop(signal) if stopping => return End::AtOnce(signal),
                    Wish::Stop(signal) => {
                        tracing::info!(signal, "draining; once more to end at once");
                        stopping = true;
                        self.generation.drain();
                        self.systemd.stopping();
                    }
                    Wish::Reload if self.args.is_none() && !stopping => {
                        tracing::info!("draining; once more to end at once");
                        stopping = true;
                        self.generation.drain();
                        self.systemd.stopping();
                    }
                    Wish::Reload if stopping => tracing::info!("ending already, not reloading"),
                    Wish::Reload => next = self.reload().await.or(next),
                    Wish::Pause => {
                        tracing::info!("paused: nothing is received until `dispatch resume`");
                        self.generation.pause();
                    }
                    Wish::Dump => self.dump(),
                },
                ended = self.generation.ended() => {
                    live.clear();
                    match next.take() {
                        Some(plan) if !stopping && !ended.failed => {
                            self.generation = Generation::follow(plan, &self.board);
                            self.stores.keep(&self.generation.stores()).await;
                            live = Live::new(&self.screen, &self.generation.members);
                            tracing::info!("reloaded");
                        }
                        _ => return End::Ended(ended),
                    }
                }
                () = changed => {
                    if !stopping {
                        tracing::info!("the files have changed");
                        next = self.reload().await.or(next);
                    }
                }
                () = tick => {
                    live.tick();
                    self.systemd.tick(&self.board);
                }
            }
        }
    }

    /// Reads the files again; if they are right, drains what runs, to be followed by what they say now.
    async fn reload(&mut self) -> Option<Plan> {
        let plan = Plan::read(self.args?, self.registry, &mut self.stores, self.global.color);
        let plan = match plan {
            Ok(plan) => plan,
            Err(failure) => {
                note(&failure.text);
                tracing::error!("not reloaded: the files have mistakes; what ran goes on");
                return None;
            }
        };
        if let Err(failure) = self.server.follow(&plan.admin, &self.board).await {
            tracing::error!(error = failure.text, "not reloaded; what ran goes on");
            return None;
        }
        tracing::info!("reloading: draining first");
        self.systemd.reloading();
        self.generation.drain();
        Some(plan)
    }

    /// Prints how every pipeline is, and what it is working on.
    fn dump(&self) {
        let members = Arc::clone(&self.generation.members);
        // A driver that does not turn takes a second: the next signal need not wait for it.
        tokio::spawn(async move {
            match serde_json::to_string(&at_work(&members).await) {
                Ok(text) => note(&text),
                Err(error) => tracing::warn!(%error, "status cannot be printed"),
            }
        });
    }

    /// Closes what outlives generations, and says what was done.
    pub(crate) async fn close(mut self, ended: &Ended) -> Result<()> {
        self.systemd.stopping();
        self.server.stop().await;
        self.stores.keep(&[]).await;
        report(ended, &self.generation.members, self.global, self.screen.0.is_some())
    }
}
