//! The `dispatch` command line, as a library, so that a binary with components of its own keeps every verb.
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     dispatch_cli::main_with(|registry| {
//!         // registry.source::<my_crate::MySourceConfig>();
//!     })
//! }
//! ```

mod about;
mod args;
mod client;
mod commands;
mod config;
mod env_file;
mod failure;
mod files;
mod global;
mod letters;
mod logs;
mod output;
mod register;
mod run;
mod server;
mod store;
mod traces;

use std::process::ExitCode;

use dispatch_core::Registry;

pub use register::register;

/// Runs the command line with every component that was compiled in.
#[must_use]
pub fn main() -> ExitCode {
    main_with(|_| ())
}

/// Runs the command line with every component that was compiled in and those that `more` adds.
#[must_use]
pub fn main_with(more: impl FnOnce(&mut Registry)) -> ExitCode {
    let mut registry = Registry::new();
    register(&mut registry);
    more(&mut registry);
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is nobody's mistake.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    let color = cli.global.color;
    let executed = if cli.version {
        commands::version(&cli.global)
    } else {
        commands::execute(cli.verb, &cli.global, &registry, args::command)
    };
    match executed {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::complain(&failure.text, color);
            ExitCode::from(failure.code)
        }
    }
}
