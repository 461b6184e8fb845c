//! The store that a verb works on: a file's, or one that is named.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use dispatch_core::{Registry, Store, config::StoreContext};

use crate::{
    config::{OverArgs, read_text},
    failure::{Failure, Result},
    output::Color,
};

/// Which store.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StoreArgs {
    /// The pipeline file whose store is meant; by default the one that `run` would take
    #[arg(short, long = "config", value_name = "FILE", conflicts_with = "store")]
    pub(crate) config: Option<PathBuf>,
    /// The store itself: sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    #[command(flatten)]
    pub(crate) over: OverArgs,
}

impl StoreArgs {
    /// Opens the store.
    pub(crate) async fn open(&self, registry: &Registry, color: Color) -> Result<Arc<dyn Store>> {
        let store = match (&self.store, &self.config) {
            (Some(url), None) => named(url)?,
            _ => self.of_file(registry, color)?,
        };
        store.probe().await?;
        Ok(store)
    }

    fn of_file(&self, registry: &Registry, color: Color) -> Result<Arc<dyn Store>> {
        let args = crate::config::ConfigArgs {
            config: self.config.iter().cloned().collect(),
            ..Default::default()
        };
        let path = args.paths()?.swap_remove(0);
        let text = read_text(&path)?;
        let mistaken = |diagnostics| crate::config::mistaken([diagnostics], color);
        let mut loaded = self
            .over
            .loader(registry)?
            .load(&text.name, &text.text)
            .map_err(mistaken)?;
        if loaded
            .settings
            .pointer("/store/type")
            .is_some_and(|kind| kind == "memory")
        {
            return Err(Failure::config(format!(
                "the store of {} is in the memory of the process that runs it: ask that process, as with \
                 `curl http://127.0.0.1:9090/v1/dlq`, or give the file a store that lasts",
                text.name
            )));
        }
        loaded.build_store().map_err(mistaken)
    }
}

/// Makes the store that a URL names.
fn named(url: &str) -> Result<Arc<dyn Store>> {
    let context = StoreContext { base_dir: ".".into() };
    let mistaken = |error: dispatch_core::config::ConfigError| {
        Failure::usage(format!(
            "--store: {error}{}",
            error.help.as_ref().map(|help| format!(": {help}")).unwrap_or_default()
        ))
    };
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        if !path.is_file() {
            return Err(Failure::run(format!("--store: there is no file {}", path.display())));
        }
        return sqlite(path, &context).map(|store| store.map_err(mistaken))?;
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return postgres(url, &context).map(|store| store.map_err(mistaken))?;
    }
    Err(Failure::usage(
        "--store: write sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE",
    ))
}

type Built = std::result::Result<Arc<dyn Store>, dispatch_core::config::ConfigError>;

#[cfg(feature = "sqlite")]
#[expect(clippy::unnecessary_wraps, reason = "as where the store is left out")]
fn sqlite(path: PathBuf, context: &StoreContext) -> Result<Built> {
    use dispatch_core::config::StoreConfig as _;
    let config = dispatch_store::SqliteConfig {
        path,
        ..Default::default()
    };
    Ok(config.build(context))
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_: PathBuf, _: &StoreContext) -> Result<Built> {
    Err(absent("sqlite"))
}

#[cfg(feature = "postgres")]
fn postgres(url: &str, context: &StoreContext) -> Result<Built> {
    use dispatch_core::config::StoreConfig as _;
    let config: dispatch_store::PostgresConfig = serde_json::from_value(serde_json::json!({ "url": url }))
        .map_err(|error| Failure::usage(format!("--store: {error}")))?;
    Ok(config.build(context))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str, _: &StoreContext) -> Result<Built> {
    Err(absent("postgres"))
}

#[cfg(any(not(feature = "sqlite"), not(feature = "postgres")))]
fn absent(name: &str) -> Failure {
    let remedy = crate::register::FEATURES
        .into_iter()
        .find(|(feature, ..)| *feature == name);
    let remedy = remedy.map(|(_, remedy, _)| remedy).unwrap_or_default();
    Failure::usage(format!("--store: the store `{name}` is not compiled in: {remedy}"))
}
