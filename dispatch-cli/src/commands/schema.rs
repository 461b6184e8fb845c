//! `dispatch schema`.

use clap::{Args, ValueEnum};
use dispatch_core::Registry;

use crate::{failure::Result, output::print_pretty};

/// Print the JSON Schema of pipeline files, or of a preset's own file
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Of which files
    #[arg(value_enum, default_value_t = Of::Pipeline)]
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    /// Pipeline files
    Pipeline,
    /// dispatcher.yml
    #[cfg(feature = "dispatcherd")]
    Dispatcherd,
}

impl Schema {
    pub(super) fn execute(self, registry: &Registry) -> Result {
        print_pretty(&match self.of {
            Of::Pipeline => dispatch_core::config::schema(registry),
            #[cfg(feature = "dispatcherd")]
            Of::Dispatcherd => dispatch_sources::dispatcherd::Settings::schema(),
        })?;
        Ok(0)
    }
}
