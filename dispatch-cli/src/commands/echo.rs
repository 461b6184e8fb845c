//! `dispatch echo`: files as they are meant.

use clap::Args;
use dispatch_core::{Registry, config};

use crate::{
    args::Global,
    config::{ConfigArgs, mistaken},
    failure::{Failure, Result},
    output::{print, print_json},
};

/// Print pipeline files with their defaults, secrets hidden
#[derive(Debug, Args)]
pub(crate) struct Echo {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Echo {
    pub(super) fn execute(self, global: &Global, registry: &Registry) -> Result {
        let environment = self.config.over.environment()?;
        let overrides = self.config.over.overrides(&environment)?;
        // What is not set here may be set where the file is run.
        let loader = self.config.over.loader(registry)?.lenient(true);
        let schema = config::schema(registry);
        let texts = self.config.texts()?;
        let several = texts.len() > 1;
        for text in texts {
            let wrong = |diagnostics| mistaken([diagnostics], global.color);
            loader.load(&text.name, &text.text).map_err(wrong)?;
            let value = config::echo(&schema, &text.name, &text.text, &overrides).map_err(wrong)?;
            if global.json {
                print_json(&value)?;
                continue;
            }
            let toml = toml::to_string_pretty(&value)
                .map_err(|error| Failure::run(format!("{} cannot be written as TOML: {error}", text.name)))?;
            let head = if several {
                format!("# {}\n", text.name)
            } else {
                String::new()
            };
            print(&format!("{head}{toml}"))?;
        }
        Ok(0)
    }
}
