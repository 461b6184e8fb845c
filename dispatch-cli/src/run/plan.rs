//! What files make together: pipelines, the stores they share, one admin server.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use dispatch_core::{
    Pipeline, Registry, Store,
    config::{AdminConfig, ConfigError, Diagnostics, LoadedPipeline},
};
use serde_json::Value;

use crate::{
    config::{ConfigArgs, Loaded, load, mistaken},
    failure::{Failure, Result},
    output::Color,
};

/// Pipelines that are ready to run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) pipelines: Vec<Planned>,
    pub(crate) admin: AdminConfig,
    /// Whether a sink prints to standard output.
    pub(crate) prints: bool,
}

/// A pipeline and what it was made from.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) file: String,
    pub(crate) pipeline: Pipeline,
    pub(crate) store: Arc<dyn Store>,
    /// What it runs by, fit to be shown; only where somebody may ask.
    pub(crate) shown: Option<Arc<Value>>,
    /// Where its scoreboard listens.
    pub(crate) monitoring: Option<SocketAddr>,
}

/// The stores in use, each under the settings that made it; kept over a reload, since one may hold what is parked.
#[derive(Debug, Default)]
pub(crate) struct Stores(BTreeMap<String, Arc<dyn Store>>);

impl Stores {
    /// Closes all but those that `plan` uses.
    pub(crate) async fn keep(&mut self, used: &[Arc<dyn Store>]) {
        let is_used = |store: &Arc<dyn Store>| used.iter().any(|used| Arc::ptr_eq(used, store));
        let unused: Vec<_> = self
            .0
            .iter()
            .filter(|(_, store)| !is_used(store))
            .map(|(key, _)| key.clone())
            .collect();
        for store in unused.iter().filter_map(|key| self.0.remove(key)) {
            if let Err(error) = store.close().await {
                tracing::warn!(error = error.report(), "store did not close");
            }
        }
    }
}

impl Plan {
    /// Reads the files and builds everything. Connects to nothing.
    pub(crate) fn read(args: &ConfigArgs, registry: &Registry, stores: &mut Stores, color: Color) -> Result<Self> {
        Self::of(load(args, registry, color)?, stores, color)
    }

    /// Builds everything. Connects to nothing.
    pub(crate) fn of(loaded: Vec<Loaded>, stores: &mut Stores, color: Color) -> Result<Self> {
        let admin = one_admin(&loaded)?;
        let prints = loaded.iter().any(|loaded| prints(&loaded.pipeline.settings));
        let mut pipelines = Vec::new();
        let mut mistakes: Vec<Diagnostics> = Vec::new();
        for loaded in loaded {
            let Loaded {
                file,
                mut pipeline,
                shown,
            } = loaded;
            let monitoring = monitoring(&file, &pipeline)?;
            let store = match stores.0.get(&pipeline.store_key) {
                Some(store) => Arc::clone(store),
                None => match pipeline.build_store() {
                    Ok(store) => Arc::clone(stores.0.entry(pipeline.store_key.clone()).or_insert(store)),
                    Err(diagnostics) => {
                        mistakes.push(diagnostics);
                        continue;
                    }
                },
            };
            match pipeline.build(&store) {
                Ok(builder) => {
                    let pipeline = builder
                        .build()
                        .map_err(|error| Failure::config(format!("{file}: {}", error.report())))?;
                    pipelines.push(Planned {
                        file,
                        pipeline,
                        store,
                        shown,
                        monitoring,
                    });
                }
                Err(diagnostics) => mistakes.push(diagnostics),
            }
        }
        if mistakes.is_empty() {
            Ok(Self {
                pipelines,
                admin,
                prints,
            })
        } else {
            Err(mistaken(mistakes, color))
        }
    }
}

/// Where a file wants its scoreboard.
fn monitoring(file: &str, pipeline: &LoadedPipeline) -> Result<Option<SocketAddr>> {
    let Some(config) = &pipeline.monitoring else {
        return Ok(None);
    };
    let wrong = |error: ConfigError| {
        let help = error
            .help
            .as_ref()
            .map(|help| format!("\n  help: {help}"))
            .unwrap_or_default();
        Failure::config(format!("{file}: monitoring.listen: {error}{help}"))
    };
    let address = config.address().map_err(wrong)?;
    if address.is_some() && !cfg!(feature = "monitoring") {
        return Err(Failure::config(format!(
            "{file}: [monitoring] is not compiled in: build dispatch-cli with `--features monitoring`, or with `--features full`"
        )));
    }
    Ok(address)
}

/// The one admin server of several files; a file that says nothing of it agrees with all.
fn one_admin(loaded: &[Loaded]) -> Result<AdminConfig> {
    let mut said: Option<&Loaded> = None;
    for one in loaded.iter().filter(|one| one.pipeline.settings.get("admin").is_some()) {
        match said {
            Some(other) if other.pipeline.admin != one.pipeline.admin => {
                let what = |loaded: &Loaded| format!("{} says \"{}\"", loaded.file, loaded.pipeline.admin.listen);
                return Err(Failure::config(format!(
                    "one process has one admin server: {}, {}; write the same [admin] in both, or in one only",
                    what(other),
                    what(one)
                )));
            }
            _ => said = Some(one),
        }
    }
    Ok(said.map(|loaded| loaded.pipeline.admin.clone()).unwrap_or_default())
}

/// Whether a sink among these settings is `stdout`.
fn prints(settings: &Value) -> bool {
    fn has_stdout(value: &Value) -> bool {
        match value {
            Value::Object(table) => {
                table.get("type").and_then(Value::as_str) == Some("stdout") || table.values().any(has_stdout)
            }
            Value::Array(items) => items.iter().any(has_stdout),
            _ => false,
        }
    }
    ["sink", "then"]
        .iter()
        .filter_map(|key| settings.get(key))
        .any(has_stdout)
}
