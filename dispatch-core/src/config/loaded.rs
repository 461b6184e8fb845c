//! A file that has been read: what a pipeline is built of.

use std::{path::PathBuf, sync::Arc, time::Duration};

use smol_str::SmolStr;

use super::{
    AdminConfig, BuildContext, ConfigError, Diagnostics, MonitoringConfig, Period, StoreContext, Switch,
    component_table::Places,
    dedupe::DedupePlan,
    diagnose::Sources,
    model::{OnLostLease, OnStop, TopConfig},
    sinks::SinkPlan,
};
use crate::{
    Commands, Pipeline, Source, Store,
    layer::{MessageLayer, Stack},
    pipeline::{Lanes, PipelineBuilder},
    registry::Builder,
    telemetry::Meter,
};

/// A file that has been read without a mistake; building it connects to nothing.
pub struct LoadedPipeline {
    /// The pipeline's name.
    pub name: SmolStr,
    /// Where its admin server listens.
    pub admin: AdminConfig,
    /// Where its scoreboard listens, if it has one.
    pub monitoring: Option<MonitoringConfig>,
    /// The store's table as it was read; equal ones are one store.
    pub store_key: String,
    /// Everything as it was read, filled in and laid over, secrets included; not to be printed.
    pub settings: serde_json::Value,
    /// What could be better.
    pub warnings: Diagnostics,
    pub(super) store: (Builder<StoreContext, Arc<dyn Store>>, Places),
    pub(super) sources: Vec<(SmolStr, Builder<BuildContext, Box<dyn Source>>, Places)>,
    pub(super) sink: SinkPlan,
    pub(super) then: Vec<SinkPlan>,
    pub(super) own_layers: Vec<(Builder<BuildContext, MessageLayer>, Places)>,
    pub(super) dedupe: Option<DedupePlan>,
    pub(super) stack: Stack,
    pub(super) lanes: Option<Lanes>,
    pub(super) top: TopConfig,
    pub(super) base_dir: PathBuf,
    pub(super) origin: Sources,
    pub(super) hash: SmolStr,
}

impl std::fmt::Debug for LoadedPipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedPipeline")
            .field("name", &self.name)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

impl LoadedPipeline {
    /// Makes the store that this file names.
    ///
    /// # Errors
    /// The values that cannot be meant.
    pub fn build_store(&mut self) -> Result<Arc<dyn Store>, Diagnostics> {
        let nothing: Builder<StoreContext, Arc<dyn Store>> =
            Box::new(|_| Err(ConfigError::new("the store was built before")));
        let builder = std::mem::replace(&mut self.store.0, nothing);
        let context = StoreContext {
            base_dir: self.base_dir.clone(),
        };
        builder(&context).map_err(|error| Diagnostics(vec![self.store.1.explain(error, &self.origin)]))
    }

    /// Puts the pipeline together over `store`. Connects to nothing.
    ///
    /// # Errors
    /// Every value that cannot be meant, at once.
    pub fn build(self, store: &Arc<dyn Store>) -> Result<PipelineBuilder, Diagnostics> {
        let (meter, commands) = (Meter::default(), Commands::default());
        let context = |component: SmolStr| BuildContext {
            pipeline: self.name.clone(),
            meter: meter.of(component.clone()),
            commands: commands.clone(),
            component,
            store: Arc::clone(store),
            base_dir: self.base_dir.clone(),
            concurrency: self.stack.concurrency.most(),
        };
        let mut mistakes = Vec::new();
        let mut pipeline = Pipeline::builder(self.name.clone())
            .store(Arc::clone(store))
            .meter(meter.clone())
            .commands(commands.clone())
            .config_hash(self.hash.clone());
        for (label, builder, places) in self.sources {
            match builder(&context(label.clone())) {
                Ok(source) => pipeline = pipeline.labelled_source(label, source),
                Err(error) => mistakes.push(places.explain(error, &self.origin)),
            }
        }
        let mut chain = Vec::new();
        for (place, plan) in std::iter::once(self.sink).chain(self.then).enumerate() {
            let label = if place == 0 {
                "sink".into()
            } else {
                format!("then.{}", place - 1).into()
            };
            match plan.build(&context(label), &self.origin) {
                Ok(sink) => chain.push(sink),
                Err(more) => mistakes.extend(more),
            }
        }
        for (builder, places) in self.own_layers {
            match builder(&context("layers".into())) {
                Ok(layer) => pipeline = pipeline.message_layer(layer),
                Err(error) => mistakes.push(places.explain(error, &self.origin)),
            }
        }
        if let Some(dedupe) = self.dedupe {
            let context = StoreContext {
                base_dir: self.base_dir.clone(),
            };
            match dedupe.build(&self.name, store, &context, &self.origin) {
                Ok((layer, sweep)) => pipeline = pipeline.dedupe(layer).sweep(sweep),
                Err(more) => mistakes.extend(more.0),
            }
        }
        if !mistakes.is_empty() {
            return Err(Diagnostics(mistakes));
        }
        pipeline = match chain.len() {
            1 => pipeline.sink(chain.remove(0)),
            _ => pipeline.sink(crate::Then::new(chain)),
        };
        let stack = self.stack;
        pipeline = pipeline.stack(|own| *own = stack);
        if let Some(lanes) = self.lanes {
            pipeline = pipeline.lanes(lanes);
        }
        if let Some(prefetch) = self.top.prefetch {
            pipeline = pipeline.prefetch(prefetch);
        }
        match (self.top.on_stop, self.top.drain_timeout) {
            (OnStop::Cancel, _) => pipeline = pipeline.drain_timeout(Duration::ZERO),
            (OnStop::Drain, Some(Period(timeout))) => pipeline = pipeline.drain_timeout(timeout),
            (OnStop::Drain, None) => {}
        }
        match self.top.stuck_after {
            Some(Switch::On(Period(after))) => pipeline = pipeline.stuck_after(Some(after)),
            Some(Switch::Off) => pipeline = pipeline.stuck_after(None),
            None => {}
        }
        Ok(pipeline
            .shards(self.top.shards.unwrap_or(1))
            .cancel_on_lost_lease(self.top.on_lost_lease == OnLostLease::Cancel))
    }
}
