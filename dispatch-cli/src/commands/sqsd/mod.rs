//! `dispatch sqsd`: sqsd's own front door. It reads sqsd's environment, makes a pipeline file of it, and runs that.

mod duration;
mod environment;
mod pipeline;
mod settings;
#[cfg(test)]
mod tests;
mod variables;

use std::path::PathBuf;

use clap::Args;
use dispatch_core::Registry;

use crate::{
    commands::run,
    config::{OverArgs, Text},
    failure::{FAILED, Failure, Result},
    global::Global,
    output,
};

/// Under which name mistakes of the pipeline are told; nobody has written it.
const NAME: &str = "sqsd";

/// Take messages from SQS and POST them to a worker, as sqsd does
///
/// Reads the environment variables of sqsd, of its first version and of its like; docs/sqsd.md lists them. What is made of
/// them is an ordinary pipeline: --print-config shows it.
///
/// SIGTERM, SIGINT and SIGHUP drain; a second SIGTERM or SIGINT ends at once. Exit codes: 0 drained, 1 could not start or not
/// drain in time, 2 a wrong command line, 130 or 143 ended at once.
#[derive(Debug, Args)]
pub(crate) struct Sqsd {
    /// A file of NAME=VALUE lines, tried in the working directory first; the environment goes before it
    #[arg(short, long, value_name = "PATH")]
    env_file: Option<PathBuf>,
    /// Print the pipeline file that the environment makes, and end
    #[arg(long)]
    print_config: bool,
    /// Lay a setting over the pipeline, such as admin.listen=127.0.0.1:9090
    #[arg(short, long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Sqsd {
    pub(crate) fn execute(self, global: &Global, registry: &Registry) -> Result {
        // The original knows two exit codes.
        self.run(global, registry).map_err(|failure| Failure {
            code: FAILED,
            ..failure
        })
    }

    fn run(&self, global: &Global, registry: &Registry) -> Result {
        let environment = environment::read(self.env_file.as_deref())?;
        // Before anything is said, so that it is said once.
        #[cfg(unix)]
        if !self.print_config {
            environment.make_own()?;
        }
        let read = settings::Settings::read(&environment);
        for note in &read.notes {
            output::note(&format!("warning: {note}"));
        }
        let settings = read.settings.map_err(|problems| {
            let list: Vec<_> = problems.iter().map(|problem| format!("  {problem}")).collect();
            Failure::config(format!("the environment cannot be used:\n{}", list.join("\n")))
        })?;
        let text = pipeline::text(&settings);
        if self.print_config {
            output::print(&text)?;
            return Ok(0);
        }
        let mut global = global.clone();
        if global.log_level.is_none() {
            global.log_level = Some(settings.log_level.clone());
        }
        let over = OverArgs {
            set: self.set.clone(),
            env_file: Vec::new(),
        };
        let variables = environment.into_variables();
        let overrides = over.overrides(&variables)?;
        let loader = dispatch_core::config::Loader::new(registry)
            .environment(variables)
            .overrides(overrides);
        let text = Text {
            name: NAME.to_owned(),
            text,
        };
        run::pinned(text, &loader, &global, registry)
    }
}
