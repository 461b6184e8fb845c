//! `dispatch run`: pipelines until their input ends or a signal comes.

use std::{future::Future, num::NonZeroUsize};

use clap::Args;
use dispatch_core::{Registry, config::Loader};

use crate::{
    config::{ConfigArgs, Text, load_texts},
    failure::{FAILED, Failure, Result},
    global::Global,
    logs::{self, Screen},
    run::{Board, End, Ended, Generation, Plan, Process, Signals, Stores, Systemd, Watch, Wish},
    server::Server,
    traces::Traces,
};

/// Run pipelines until their input ends or a signal comes
///
/// SIGTERM and SIGINT drain: nothing new is received, what is started is finished; the second one ends at once, as
/// SIGQUIT does. SIGHUP reads the files again and changes over if they are right. SIGUSR1 and SIGTSTP stop receiving,
/// SIGUSR2 and SIGTTIN print the status and what is at the sinks.
///
/// Traces go to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names, by http/protobuf.
///
/// Exit codes: 0 ended or drained, 1 failed or not drained in time, 78 a mistake in a file, 130 or 143 ended at once.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    config: ConfigArgs,
    /// Worker threads; by default one for each processor
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Read the files again when they change, as SIGHUP does
    #[arg(short, long)]
    watch: bool,
}

impl Run {
    pub(crate) fn execute(self, global: &Global, registry: &Registry) -> Result {
        blocking(self.threads, async {
            let mut stores = Stores::default();
            // Before they are read: a change in between is not missed.
            let watch = self.watch.then(|| Watch::new(&self.config));
            let plan = Plan::read(&self.config, registry, &mut stores, global.color)?;
            let files = Files {
                args: &self.config,
                watch,
            };
            run(plan, stores, Some(files), global, registry).await
        })
    }
}

/// The files of a run, which are read again on SIGHUP and, where they are watched, when they change.
struct Files<'a> {
    args: &'a ConfigArgs,
    watch: Option<Watch>,
}

/// Runs one pipeline that no file holds; SIGHUP drains it.
pub(crate) fn pinned(text: Text, loader: &Loader<'_>, global: &Global, registry: &Registry) -> Result {
    blocking(None, async {
        let mut stores = Stores::default();
        let loaded = load_texts(vec![text], loader, global.color)?;
        let plan = Plan::of(loaded, &mut stores, global.color)?;
        run(plan, stores, None, global, registry).await
    })
}

/// As [`pinned`], with `more` beside it for as long as it runs. What a drain had to cancel is no failure.
#[cfg(feature = "dispatcherd")]
pub(crate) fn beside<F: Future<Output = ()> + Send + 'static>(
    text: Text,
    loader: &Loader<'_>,
    global: &Global,
    registry: &Registry,
    more: impl FnOnce(Board) -> F,
) -> Result {
    // One: the work is the worker processes', and a task's way between threads costs more than all that is done to it.
    blocking(NonZeroUsize::new(1), async {
        let mut stores = Stores::default();
        let loaded = load_texts(vec![text], loader, global.color)?;
        let plan = Plan::of(loaded, &mut stores, global.color)?;
        let mut tasks = tokio::task::JoinSet::new();
        let ended = supervised(plan, stores, None, global, registry, |board| {
            tasks.spawn(more(board.clone()));
        })
        .await?;
        Ok(match ended {
            Outcome::AtOnce(code) => code,
            Outcome::Ended(ended) => u8::from(ended.failed),
        })
    })
}

/// Runs `run` on a runtime of its own.
fn blocking(threads: Option<NonZeroUsize>, run: impl Future<Output = Result>) -> Result {
    let mut builder = match threads.map(NonZeroUsize::get) {
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
    let result = runtime.block_on(run);
    // Whatever is still under way was either told to end at once or cannot be ended (a read of standard input). Its
    // futures are dropped first, so that no process that a sink has started outlives us.
    runtime.shutdown_timeout(LAST_MOMENT);
    result
}

async fn run(plan: Plan, stores: Stores, files: Option<Files<'_>>, global: &Global, registry: &Registry) -> Result {
    Ok(match supervised(plan, stores, files, global, registry, |_| ()).await? {
        Outcome::AtOnce(code) => code,
        Outcome::Ended(ended) if !ended.failed && ended.summaries.iter().all(|summary| summary.finished) => 0,
        Outcome::Ended(_) => FAILED,
    })
}

/// How a run ended.
enum Outcome {
    Ended(Ended),
    /// By a second signal, with this exit code.
    AtOnce(u8),
}

/// Runs everything to its end; `started` sees the board once there is something on it.
async fn supervised(
    plan: Plan,
    stores: Stores,
    files: Option<Files<'_>>,
    global: &Global,
    registry: &Registry,
    started: impl FnOnce(&Board),
) -> std::result::Result<Outcome, Failure> {
    let screen = if plan.prints && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        Screen::default()
    } else {
        Screen::live(global)
    };
    logs::start(global, &screen)?;
    let traces = Traces::start()?;
    let mut signals = Signals::listen().map_err(|error| Failure::run(format!("cannot listen for signals: {error}")))?;
    let board = Board::default();
    let server = Server::start(&plan.admin, &board).await?;
    let (args, watch) = match files {
        Some(Files { args, watch }) => (Some(args), watch),
        None => (None, None),
    };
    let mut process = Process {
        args,
        watch,
        global,
        registry,
        screen,
        systemd: Systemd::new(),
        generation: Generation::start(plan, &board)?,
        board,
        stores,
        server,
    };
    started(&process.board);
    let ended = match process.supervise(&mut signals).await {
        End::Ended(ended) => ended,
        End::AtOnce(signal) => return Ok(Outcome::AtOnce(at_once(signal))),
    };
    let close = async {
        let closed = process.close(&ended).await;
        traces.flush().await;
        closed
    };
    tokio::select! {
        closed = close => closed?,
        signal = second(&mut signals) => return Ok(Outcome::AtOnce(at_once(signal))),
    }
    Ok(Outcome::Ended(ended))
}

/// How long the runtime has to drop what is under way.
const LAST_MOMENT: std::time::Duration = std::time::Duration::from_millis(100);

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
