//! `[dedupe]`: work on each message once, however often it is delivered.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use smol_str::SmolStr;
use toml::de::DeValue;

use super::{
    ConfigError, Diagnostic, Diagnostics, Period, StoreContext,
    component_table::{Places, component},
    diagnose::Sources,
    layers::key_fn,
    read::{Reader, Value, remove},
};
use crate::{
    Selector, Store,
    layer::DedupeLayer,
    registry::{Builder, Registry},
};

/// What may stand in `[dedupe]` beside `store`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DedupeConfig {
    /// What tells messages apart; `"id"`.
    key: Option<Selector>,
    /// What stands before each key in the store, so that several queues can share one; the pipeline's name.
    scope: Option<String>,
    /// How long a finished message is remembered; 24 h.
    keep: Option<Period>,
    /// How long a killed process locks what it was working on, from 10 ms; 30 s. Renewed at half its length.
    lease: Option<Period>,
    /// How often what has expired is swept out of the store; 1 h.
    sweep: Option<Period>,
}

/// `[dedupe]`, read.
pub(super) struct DedupePlan {
    config: DedupeConfig,
    store: Option<(Builder<StoreContext, Arc<dyn Store>>, Places)>,
    places: Places,
}

impl DedupePlan {
    pub(super) fn read<'i>(registry: &Registry, mut value: Value<'i>, reader: &mut Reader<'i>) -> Option<Self> {
        let places = Places::of(&value);
        let store = match value.get_mut() {
            DeValue::Table(table) => remove(table, "store"),
            _ => None,
        };
        let store = match store {
            Some((_, store)) => {
                let (_, builder, places) = component(&registry.stores, &registry.absent, "store", store, reader)?;
                Some((builder, places))
            }
            None => None,
        };
        let config = reader.read::<DedupeConfig>(value)?;
        Some(Self { config, store, places })
    }

    /// The layer over its own store or the pipeline's, and how often to sweep.
    pub(super) fn build(
        self,
        pipeline: &SmolStr,
        store: &Arc<dyn Store>,
        context: &StoreContext,
        origin: &Sources,
    ) -> Result<(DedupeLayer, Duration), Diagnostics> {
        let explained = |places: &Places, error| Diagnostics(vec![places.explain(error, origin) as Diagnostic]);
        let DedupeConfig {
            key,
            scope,
            keep,
            lease,
            sweep,
        } = self.config;
        for (field, period) in [("keep", keep), ("lease", lease), ("sweep", sweep)] {
            if period.is_some_and(|Period(period)| period < Duration::from_millis(10)) {
                let error = ConfigError::at(field, "this is too short").help("at least \"10ms\"");
                return Err(explained(&self.places, error));
            }
        }
        let store = match self.store {
            Some((builder, places)) => builder(context).map_err(|error| explained(&places, error))?,
            None => Arc::clone(store),
        };
        let mut layer = DedupeLayer::new(store, scope.map_or_else(|| pipeline.clone(), SmolStr::from))
            .keep(keep.map_or(DedupeLayer::KEEP, |Period(keep)| keep))
            .lease(lease.map_or(DedupeLayer::LEASE, |Period(lease)| lease));
        if let Some(key) = key {
            layer = layer.key(key_fn(&key));
        }
        Ok((layer, sweep.map_or(Duration::from_secs(3_600), |Period(sweep)| sweep)))
    }
}
