//! `dispatch run`: pipelines until their input ends or a signal comes.

use std::num::NonZeroUsize;

use clap::Args;
use dispatch_core::Registry;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    args::Global,
    config::ConfigArgs,
    failure::{FAILED, Failure, Result},
    logs::{self, Screen},
    output::note,
    run::{Board, Ended, Generation, Live, Plan, Signals, Stores, Systemd, TICK, Wish, report},
    server::Server,
};

/// Run pipelines until their input ends or a signal comes
///
/// SIGTERM and SIGINT drain: nothing new is received, what is started is finished; the second one ends at once, as
/// SIGQUIT does. SIGHUP reads the files again and changes over if they are right. SIGUSR1 and SIGTSTP stop receiving,
/// SIGUSR2 and SIGTTIN print the status.
///
/// Exit codes: 0 ended or drained, 1 failed or not drained in time, 78 a mistake in a file, 130 or 143 ended at once.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    config: ConfigArgs,
    /// Worker threads; by default one for each processor
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl Run {
    pub(crate) fn execute(self, global: &Global, registry: &Registry) -> Result {
        let mut builder = match self.threads.map(NonZeroUsize::get) {
            Some(1) => tokio::runtime::Builder::new_current_thread(),
            threads => {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                if let Some(threads) = threads {
                    builder.worker_threads(threads);
                }
                builder
            }
        };
        let runtime = builder
            .enable_all()
            .build()
            .map_err(|error| Failure::run(format!("cannot start the runtime: {error}")))?;
        let result = runtime.block_on(self.run(global, registry));
        // Whatever is still under way was either told to end at once or cannot be ended (a read of standard input).
        runtime.shutdown_background();
        result
    }

    async fn run(&self, global: &Global, registry: &Registry) -> Result {
        let mut stores = Stores::default();
        let plan = Plan::read(&self.config, registry, &mut stores, global.color)?;
        let screen = if plan.prints && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            Screen::default()
        } else {
            Screen::live(global)
        };
        logs::start(global, &screen)?;
        let mut signals =
            Signals::listen().map_err(|error| Failure::run(format!("cannot listen for signals: {error}")))?;
        let board = Board::default();
        let server = Server::start(&plan.admin, &board).await?;
        let mut process = Process {
            args: &self.config,
            global,
            registry,
            screen,
            systemd: Systemd::new(),
            generation: Generation::start(plan, &board),
            board,
            stores,
            server,
        };
        let ended = match process.supervise(&mut signals).await {
            End::Ended(ended) => ended,
            End::AtOnce(signal) => return Ok(at_once(signal)),
        };
        tokio::select! {
            closed = process.close(&ended) => closed?,
            signal = second(&mut signals) => return Ok(at_once(signal)),
        }
        let finished = !ended.failed && ended.summaries.iter().all(|summary| summary.finished);
        Ok(if finished { 0 } else { FAILED })
    }
}

/// The exit code after `signal`, with everything still under way.
fn at_once(signal: i32) -> u8 {
    tracing::warn!(
        signal,
        "ending at once: what is in flight comes again when its leases run out"
    );
    u8::try_from(128 + signal).unwrap_or(FAILED)
}

/// A signal that ends a process which is about to end anyway.
async fn second(signals: &mut Signals) -> i32 {
    loop {
        if let Wish::Stop(signal) | Wish::Quit(signal) = signals.next().await {
            return signal;
        }
    }
}

/// How the pipelines came to their end.
enum End {
    Ended(Ended),
    /// By this signal, with everything still under way.
    AtOnce(i32),
}

/// A process that runs pipelines.
struct Process<'a> {
    args: &'a ConfigArgs,
    global: &'a Global,
    registry: &'a Registry,
    screen: Screen,
    systemd: Systemd,
    generation: Generation,
    board: Board,
    stores: Stores,
    server: Server,
}

impl Process<'_> {
    /// Watches over the pipelines, generation after generation.
    async fn supervise(&mut self, signals: &mut Signals) -> End {
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
        loop {
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
                            self.generation = Generation::start(plan, &self.board);
                            self.stores.keep(&self.generation.stores()).await;
                            live = Live::new(&self.screen, &self.generation.members);
                            tracing::info!("reloaded");
                        }
                        _ => return End::Ended(ended),
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
        let plan = Plan::read(self.args, self.registry, &mut self.stores, self.global.color);
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

    /// Prints how every pipeline is.
    fn dump(&self) {
        let all: Vec<_> = self
            .generation
            .members
            .iter()
            .map(|member| member.handle.status())
            .collect();
        match serde_json::to_string(&all) {
            Ok(text) => note(&text),
            Err(error) => tracing::warn!(%error, "status cannot be printed"),
        }
    }

    /// Closes what outlives generations, and says what was done.
    async fn close(mut self, ended: &Ended) -> Result<()> {
        self.systemd.stopping();
        self.server.stop().await;
        self.stores.keep(&[]).await;
        report(ended, &self.generation.members, self.global, self.screen.0.is_some())
    }
}
