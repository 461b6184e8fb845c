//! `dispatch dispatcherd`: dispatcherd's own front door. It reads a `dispatcher.yml`, makes a pipeline file of it, and runs that.

mod metrics;
pub(crate) mod pipeline;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use dispatch_core::Registry;
use dispatch_sources::dispatcherd::{Settings, SettingsError, VARIABLE};

use crate::{
    commands::run,
    config::{OverArgs, Text},
    failure::{FAILED, Failure, Result},
    global::Global,
    output,
};

/// Under which name mistakes of the pipeline are told; nobody has written it.
const NAME: &str = "dispatcherd";

/// The file, where nobody names one.
pub(crate) const FILE: &str = "dispatcher.yml";

/// Run the tasks of a dispatcherd project: PostgreSQL notifications to Python workers
///
/// Reads a dispatcher.yml, version 2, as dispatcherd does. What is made of it is an ordinary pipeline: --print-config shows
/// it. Publishers, tasks, worker classes and dispatcherctl stay as they are; docs/dispatcherd.md says what is different.
///
/// SIGTERM, SIGINT and SIGHUP end it, with exit code 0; a configuration that cannot be used is exit code 1.
#[derive(Debug, Args)]
pub(crate) struct Dispatcherd {
    /// The file; where this is left at its default, DISPATCHERD_CONFIG_FILE goes before it
    #[arg(long, value_name = "PATH", default_value = FILE)]
    config: PathBuf,
    /// The Python that runs the workers: a name to look up in PATH, so that a virtual environment works, or a path
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// What becomes of running tasks at the end
    #[arg(long, value_enum, default_value_t = OnStop::Drain)]
    on_stop: OnStop,
    /// Print the pipeline file that the configuration makes, and end
    #[arg(long)]
    print_config: bool,
    /// Lay a setting over the pipeline, such as admin.listen=127.0.0.1:9090
    #[arg(short, long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What becomes of running tasks at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnStop {
    /// They may finish, for 25 seconds
    Drain,
    /// They are cancelled at once, as dispatcherd does
    Cancel,
}

/// The settings of `config`, or of the file that the environment names where that was left at its default; and that file.
pub(crate) fn settings(config: &Path) -> std::result::Result<(Settings, PathBuf), Failure> {
    let named = std::env::var_os(VARIABLE).filter(|_| config == OsStr::new(FILE));
    let path = named.map_or_else(|| config.to_owned(), PathBuf::from);
    let read = if path.exists() || path != OsStr::new(FILE) {
        Settings::from_file(&path)
    } else {
        Err(SettingsError::NotConfigured)
    };
    match read {
        Ok(settings) => Ok((settings, path)),
        Err(error) => Err(broken(&path, &error)),
    }
}

/// A file that cannot be used, by its name.
pub(crate) fn broken(path: &Path, error: &SettingsError) -> Failure {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    let text = match error {
        SettingsError::NotConfigured => {
            format!("there is no {FILE} here: name a file with --config, or set {VARIABLE} to one")
        }
        SettingsError::File { .. } => format!("{error}{source}"),
        _ => format!("{}: {error}{source}", path.display()),
    };
    Failure {
        code: FAILED,
        ..Failure::config(text)
    }
}

impl Dispatcherd {
    pub(crate) fn execute(self, global: &Global, registry: &Registry) -> Result {
        let (settings, path) = settings(&self.config)?;
        for name in &settings.unknown {
            output::note(&format!("warning: {}: `{name}` means nothing here", path.display()));
        }
        let made = pipeline::make(&settings, &self.python, self.on_stop).map_err(|error| broken(&path, &error))?;
        if self.print_config {
            output::print(&made.text)?;
            return Ok(0);
        }
        let over = OverArgs {
            set: self.set,
            env_file: Vec::new(),
        };
        let variables: std::collections::BTreeMap<String, String> = std::env::vars().chain(made.variables).collect();
        let overrides = over.overrides(&variables)?;
        let loader = dispatch_core::config::Loader::new(registry)
            .environment(variables)
            .overrides(overrides);
        let text = Text {
            name: NAME.to_owned(),
            text: made.text,
        };
        let metrics = settings.service.metrics_kwargs;
        run::beside(text, &loader, global, registry, |board| metrics::serve(metrics, board))
            // The original knows two exit codes.
            .map_err(|failure| Failure {
                code: FAILED,
                ..failure
            })
    }
}
