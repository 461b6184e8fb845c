//! `dispatch echo`: files as they are meant.

use clap::Args;
use dispatch_core::{Registry, config};
use serde_json::{Map, Value};

use crate::{
    config::{ConfigArgs, mistaken},
    failure::{Failure, Result},
    global::Global,
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
            let toml = toml::to_string_pretty(&in_order(without_nulls(value)))
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

/// The tables in the order in which people write them, and in each component its `type` first.
fn in_order(value: Value) -> Value {
    let Value::Object(mut table) = value else { return value };
    let mut ordered = Map::new();
    for key in ["type", "name"] {
        ordered.extend(table.remove_entry(key));
    }
    let parts = ["source", "layers", "sink", "then", "store", "admin", "monitoring"];
    let mut last: Vec<_> = parts.iter().filter_map(|key| table.remove_entry(*key)).collect();
    ordered.extend(table);
    ordered.extend(last.drain(..).map(|(key, value)| (key, in_order(value))));
    Value::Object(ordered)
}

/// What is not set is left out: TOML has no word for it.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(table) => {
            let set = table.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(set.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
