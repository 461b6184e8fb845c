//! One file a verb.

mod check;
mod completions;
mod create;
#[cfg(feature = "dispatcherd")]
mod ctl;
#[cfg(feature = "dispatcherd")]
mod dispatcherd;
mod dlq;
mod echo;
mod healthcheck;
mod lint;
mod list;
mod nodes;
mod page;
#[cfg(feature = "sqs")]
mod redrive;
mod run;
mod schema;
mod send;
mod sqsd;
mod steer;
mod version;

use std::future::Future;

use clap::Subcommand;
use dispatch_core::Registry;

use crate::{
    failure::{Failure, Result},
    global::Global,
    logs::{self, Screen},
};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run pipelines until their input ends or a signal comes
    Run(run::Run),
    /// Find mistakes in pipeline files without connecting to anything
    Lint(lint::Lint),
    /// Lint pipeline files, then connect to every component
    Check(check::Check),
    /// List the components of this build, and how stable each is
    List(list::List),
    /// Write a new pipeline file, such as: create file/rate_limit,retry/http
    Create(create::Create),
    /// Print pipeline files with their defaults, secrets hidden
    Echo(echo::Echo),
    /// Print the JSON Schema of pipeline files, or of a preset's own file
    Schema(schema::Schema),
    /// Hand messages to a pipeline's source
    Send(send::Send),
    /// See and replay messages that were given up on
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// List the processes that claim from a store's queues
    Nodes(nodes::Nodes),
    /// Show how running pipelines are
    Status(steer::Steer),
    /// Stop receiving; what is started goes on
    Pause(steer::Steer),
    /// Receive again
    Resume(steer::Steer),
    /// Finish what is started and end
    Drain(steer::Steer),
    /// Exit 0 if running pipelines are ready, else 1
    Healthcheck(healthcheck::Healthcheck),
    /// Take messages from SQS and POST them to a worker, as sqsd does
    Sqsd(sqsd::Sqsd),
    /// Run the tasks of a dispatcherd project: PostgreSQL notifications to Python workers
    #[cfg(feature = "dispatcherd")]
    Dispatcherd(dispatcherd::Dispatcherd),
    /// Send a command to dispatcherd services over PostgreSQL, and print what they answer
    #[cfg(feature = "dispatcherd")]
    Ctl(ctl::Ctl),
    /// Print completions for a shell
    Completions(completions::Completions),
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

/// Says which binary this is.
pub(crate) fn version(global: &Global) -> Result {
    version::execute(global)
}

/// Does what the command line says. `whole` describes it all.
pub(crate) fn execute(
    verb: Option<Verb>,
    global: &Global,
    registry: &Registry,
    whole: fn() -> clap::Command,
) -> Result {
    match verb {
        None => Err(Failure::usage("no verb: see dispatch --help")),
        Some(Verb::Run(run)) => run.execute(global, registry),
        Some(Verb::Lint(lint)) => lint.execute(global, registry),
        Some(Verb::Check(check)) => work(global, check.execute(global, registry)),
        Some(Verb::List(list)) => list.execute(global, registry),
        Some(Verb::Create(create)) => create.execute(global, registry),
        Some(Verb::Echo(echo)) => echo.execute(global, registry),
        Some(Verb::Schema(schema)) => schema.execute(registry),
        Some(Verb::Send(send)) => work(global, send.execute(global, registry)),
        Some(Verb::Dlq(dlq)) => work(global, dlq.execute(global, registry)),
        Some(Verb::Nodes(nodes)) => work(global, nodes.execute(global, registry)),
        Some(Verb::Status(steer)) => work(global, steer.execute(steer::Wish::Status, global)),
        Some(Verb::Pause(steer)) => work(global, steer.execute(steer::Wish::Pause, global)),
        Some(Verb::Resume(steer)) => work(global, steer.execute(steer::Wish::Resume, global)),
        Some(Verb::Drain(steer)) => work(global, steer.execute(steer::Wish::Drain, global)),
        Some(Verb::Healthcheck(healthcheck)) => work(global, healthcheck.execute(global)),
        Some(Verb::Sqsd(sqsd)) => sqsd.execute(global, registry),
        #[cfg(feature = "dispatcherd")]
        Some(Verb::Ctl(ctl)) => work(global, ctl.execute(global)),
        #[cfg(feature = "dispatcherd")]
        Some(Verb::Dispatcherd(dispatcherd)) => dispatcherd.execute(global, registry),
        Some(Verb::Completions(completions)) => completions.execute(whole()),
        Some(Verb::Man) => completions::man(whole()),
    }
}

/// Runs a short verb to its end; it logs warnings only, unless told otherwise.
fn work(global: &Global, verb: impl Future<Output = Result>) -> Result {
    let mut calm = global.clone();
    if calm.log_level.is_none() && std::env::var_os("RUST_LOG").is_none() && calm.verbose == 0 {
        calm.quiet = calm.quiet.saturating_add(1);
    }
    logs::start(&calm, &Screen::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::run(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(verb);
    // A read of standard input under way cannot be ended.
    runtime.shutdown_background();
    result
}
