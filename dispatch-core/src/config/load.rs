//! From a file to a pipeline: parse, fill in, read every component, build.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use smol_str::SmolStr;
use toml::de::{DeTable, DeValue};

use super::{
    AdminConfig, BuildContext, ConfigError, Diagnostics, LayersConfig, MonitoringConfig, Override, Period,
    StoreContext, Switch,
    component_table::{Places, component, no_type},
    dedupe::DedupePlan,
    document,
    interpolate::Surroundings,
    model::{LanesConfig, OnLostLease, TopConfig},
    read::{Reader, Value, remove},
    sinks::SinkPlan,
};
use crate::{
    Commands, Pipeline, Source, Store,
    config::diagnose::Sources,
    layer::{MessageLayer, Stack},
    pipeline::{Lanes, PipelineBuilder},
    registry::{Builder, Registry},
    telemetry::Meter,
};

/// Reads files into pipelines.
///
/// ```
/// use dispatch_core::{Registry, config::Loader};
///
/// let registry = Registry::new();
/// let mistakes = Loader::new(&registry).load("pipeline.toml", "nme = \"x\"").unwrap_err();
/// assert!(mistakes.to_string().contains("did you mean `name`?"));
/// ```
#[derive(Debug)]
pub struct Loader<'a> {
    registry: &'a Registry,
    base_dir: PathBuf,
    overrides: Vec<Override>,
    lenient: bool,
    environment: Option<BTreeMap<String, String>>,
}

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
    store: (Builder<StoreContext, Arc<dyn Store>>, Places),
    sources: Vec<(SmolStr, Builder<BuildContext, Box<dyn Source>>, Places)>,
    sink: SinkPlan,
    then: Vec<SinkPlan>,
    own_layers: Vec<(Builder<BuildContext, MessageLayer>, Places)>,
    dedupe: Option<DedupePlan>,
    stack: Stack,
    lanes: Option<Lanes>,
    top: TopConfig,
    base_dir: PathBuf,
    origin: Sources,
    hash: SmolStr,
}

impl std::fmt::Debug for LoadedPipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedPipeline")
            .field("name", &self.name)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

impl<'a> Loader<'a> {
    /// A loader that knows the registry's types; relative paths start in the working directory.
    #[must_use]
    pub fn new(registry: &'a Registry) -> Self {
        Self {
            registry,
            base_dir: PathBuf::new(),
            overrides: Vec::new(),
            lenient: false,
            environment: None,
        }
    }

    /// Where relative paths start.
    #[must_use]
    pub fn base_dir(mut self, base_dir: impl Into<PathBuf>) -> Self {
        self.base_dir = base_dir.into();
        self
    }

    /// Lays settings over each file, the later ones on top.
    #[must_use]
    pub fn overrides(mut self, overrides: impl IntoIterator<Item = Override>) -> Self {
        self.overrides.extend(overrides);
        self
    }

    /// Uses stand-ins for variables and files that are not there; for checks away from where they are.
    #[must_use]
    pub const fn lenient(mut self, lenient: bool) -> Self {
        self.lenient = lenient;
        self
    }

    /// Reads variables from here and not from the process's environment.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment = Some(variables.into_iter().collect());
        self
    }

    /// Reads one file's text.
    ///
    /// # Errors
    /// Every mistake in it, at once.
    pub fn load(&self, name: &str, text: &str) -> Result<LoadedPipeline, Diagnostics> {
        let texts: Vec<_> = std::iter::once((name.to_owned(), text.to_owned()))
            .chain(self.overrides.iter().map(|over| (over.origin.clone(), over.line())))
            .collect();
        let mut filled = Vec::new();
        let mut reader = Reader::default();
        let mut value = document::parse(&texts, &mut reader);
        if !reader.diagnostics.is_empty() {
            return Err(Diagnostics(reader.diagnostics));
        }
        let variable = |name: &str| match &self.environment {
            Some(own) => own.get(name).cloned(),
            None => std::env::var(name).ok(),
        };
        let from = Surroundings {
            variable: &variable,
            base_dir: &self.base_dir,
            lenient: self.lenient,
        };
        filled.extend(document::filled_texts(&value, &from, &mut reader));
        // A second reader, since what is filled in must outlive what reads it.
        let Reader {
            sources, diagnostics, ..
        } = reader;
        let places = filled.iter().map(|(at, text)| (*at, text.as_str())).collect();
        let mut reader = Reader {
            sources,
            filled: places,
            diagnostics,
            beside: &[],
        };
        document::put_texts(&mut value, &reader);
        let loaded = self.read(name, value, &mut reader);
        let mut diagnostics = std::mem::take(&mut reader.diagnostics);
        // What could not be filled in was noted first; what its stand-in led to says nothing more. Stable: the file's
        // own mistakes by their places, then those of what lies over it.
        let file: Arc<str> = name.into();
        diagnostics.sort_by_key(|one| (one.origin != file, one.origin.clone(), one.line, one.column));
        diagnostics.dedup_by_key(|one| (one.origin.clone(), one.line, one.column));
        match loaded {
            Some(mut loaded) if diagnostics.iter().all(|diagnostic| diagnostic.warning) => {
                loaded.warnings = Diagnostics(diagnostics);
                Ok(loaded)
            }
            _ => Err(Diagnostics(diagnostics)),
        }
    }

    fn read<'i>(&self, file: &str, mut value: Value<'i>, reader: &mut Reader<'i>) -> Option<LoadedPipeline> {
        let settings = plain(&value);
        let hash = hash_of(&settings);
        let whole = value.span();
        let DeValue::Table(table) = value.get_mut() else {
            return None;
        };
        let mut take = |key: &str| remove(table, key).map(|(_, value)| value);
        let parts = [
            take("source"),
            take("sink"),
            take("then"),
            take("store"),
            take("layers"),
            take("dedupe"),
        ];
        let [source, sink, then, store, layers, dedupe] = parts;

        let top = reader.read_top(value);
        let sources = match source {
            Some(source) => self.read_sources(source, reader),
            None => missing(
                reader,
                &whole,
                "source",
                "add [source] with a `type`, such as type = \"stdin\"",
            ),
        };
        let sink = match sink {
            Some(sink) => SinkPlan::read(self.registry, sink, reader),
            None => missing(
                reader,
                &whole,
                "sink",
                "add [sink] with a `type`, such as type = \"stdout\"",
            ),
        };
        let then = match then {
            Some(then) => self.read_then(then, reader),
            None => Some(Vec::new()),
        };
        let store = store.unwrap_or_else(|| default_store(&whole));
        let store_key = store_key(&store);
        self.refuse_a_part(&store, reader);
        let store = component(&self.registry.stores, &self.registry.absent, "store", store, reader);
        let layers = self.read_layers(layers, reader);
        let dedupe = dedupe.map(|dedupe| DedupePlan::read(self.registry, dedupe, reader));

        let top = top?;
        let name = self.name(file, &whole, &top, reader);
        let lanes = top.lanes.as_ref().map(LanesConfig::lanes);
        let (stack, own_layers) = layers?;
        let (_, store, store_places) = store?;
        Some(LoadedPipeline {
            name: name?,
            admin: top.admin.clone(),
            monitoring: top.monitoring.clone(),
            store_key,
            settings,
            warnings: Diagnostics::default(),
            store: (store, store_places),
            sources: sources?,
            sink: sink?,
            then: then?,
            own_layers,
            dedupe: match dedupe {
                Some(dedupe) => Some(dedupe?),
                None => None,
            },
            stack,
            lanes,
            top,
            base_dir: self.base_dir.clone(),
            origin: reader.sources.clone(),
            hash,
        })
    }

    /// A store that keeps some things only cannot be the pipeline's.
    fn refuse_a_part(&self, store: &Value<'_>, reader: &mut Reader<'_>) {
        let Some(named) = store.get_ref().get("type") else {
            return;
        };
        let name = named.get_ref().as_str().unwrap_or_default();
        if self.registry.stores.get(name).is_some_and(|factory| !factory.whole) {
            let diagnostic = reader
                .sources
                .error(
                    named.span(),
                    format!("the store `{name}` keeps no dead letters and no queue"),
                )
                .label("here")
                .help(format!(
                    "[store] takes another; `{name}` goes under [dedupe]: store = {{ type = \"{name}\", … }}"
                ));
            reader.error(diagnostic);
        }
    }

    /// The name given, or the file's.
    fn name(&self, file: &str, whole: &Range<usize>, top: &TopConfig, reader: &mut Reader<'_>) -> Option<SmolStr> {
        let fits = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        match &top.name {
            Some(name) if fits(name) => Some(name.into()),
            Some(name) => {
                let help = format!("lower-case letters, digits and `_`, such as \"{}\"", fitting(name));
                let diagnostic = reader
                    .sources
                    .error(whole.start..whole.start, format!("\"{name}\" is not a name"))
                    .help(help);
                reader.error(diagnostic);
                None
            }
            None => Some(fitting(&Path::new(file).file_stem().unwrap_or_default().to_string_lossy()).into()),
        }
    }

    /// One source with a `type`, or several under names of their own.
    fn read_sources<'i>(
        &self,
        value: Value<'i>,
        reader: &mut Reader<'i>,
    ) -> Option<Vec<(SmolStr, Builder<BuildContext, Box<dyn Source>>, Places)>> {
        let (sources, absent) = (&self.registry.sources, &self.registry.absent);
        let single = !value.get_ref().is_table() || value.get_ref().get("type").is_some();
        if single {
            let (_, builder, places) = component(sources, absent, "source", value, reader)?;
            return Some(vec![("source".into(), builder, places)]);
        }
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            return None;
        };
        if !table.is_empty() && table.values().all(|value| !value.get_ref().is_table()) {
            let diagnostic = no_type(reader, "source", span, sources.keys().copied());
            reader.error(diagnostic);
            return None;
        }
        if table.is_empty() {
            return missing(
                reader,
                &span,
                "source",
                "add `type`, or [source.NAME] with a `type` each",
            );
        }
        let mut all = Some(Vec::new());
        for (name, value) in table {
            let label = SmolStr::from(format!("source.{}", name.get_ref()));
            match component(sources, absent, "source", value, reader) {
                Some((_, builder, places)) => {
                    if let Some(all) = &mut all {
                        all.push((label, builder, places));
                    }
                }
                None => all = None,
            }
        }
        all
    }

    fn read_then<'i>(&self, value: Value<'i>, reader: &mut Reader<'i>) -> Option<Vec<SinkPlan>> {
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            let diagnostic = reader
                .sources
                .error(span, "`then` is a list of sinks")
                .label("here")
                .help("then = [{ type = \"…\" }]");
            reader.error(diagnostic);
            return None;
        };
        let plans: Vec<_> = array
            .into_iter()
            .map(|value| SinkPlan::read(self.registry, value, reader))
            .collect();
        plans.into_iter().collect()
    }

    /// The built-in layers, and those that were registered.
    fn read_layers<'i>(
        &self,
        value: Option<Value<'i>>,
        reader: &mut Reader<'i>,
    ) -> Option<(Stack, Vec<(Builder<BuildContext, MessageLayer>, Places)>)> {
        let Some(mut value) = value else {
            return Some((Stack::default(), Vec::new()));
        };
        let mut own = Some(Vec::new());
        if let DeValue::Table(table) = value.get_mut() {
            for (name, factory) in &self.registry.layers {
                let Some((_, value)) = remove(table, name) else {
                    continue;
                };
                let places = Places::of(&value);
                match (reader.read_with(value, factory.read), &mut own) {
                    (Some(builder), Some(own)) => own.push((builder, places)),
                    _ => own = None,
                }
            }
        }
        let places = Places::of(&value);
        let config = reader.read::<LayersConfig>(value)?;
        match config.stack() {
            Ok(stack) => Some((stack, own?)),
            Err(error) => {
                let diagnostic = places.explain(error, &reader.sources);
                reader.error(diagnostic);
                None
            }
        }
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
        if let Some(Period(timeout)) = self.top.drain_timeout {
            pipeline = pipeline.drain_timeout(timeout);
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

fn missing<T>(reader: &mut Reader<'_>, whole: &Range<usize>, what: &str, help: &str) -> Option<T> {
    let diagnostic = reader
        .sources
        .error(whole.start..whole.start, format!("there is no `{what}`"))
        .help(help);
    reader.error(diagnostic);
    None
}

fn default_store<'i>(whole: &Range<usize>) -> Value<'i> {
    let place = whole.start..whole.start;
    let text = |text: &'static str| toml::Spanned::new(place.clone(), text.into());
    let kind = Value::new(place.clone(), DeValue::String("sqlite".into()));
    let table: DeTable<'i> = [(text("type"), kind)].into_iter().collect();
    Value::new(place.clone(), DeValue::Table(table))
}

fn store_key(store: &Value<'_>) -> String {
    plain(store).to_string()
}

/// The value as JSON, without places.
pub(super) fn plain(value: &Value<'_>) -> serde_json::Value {
    match value.get_ref() {
        DeValue::Table(table) => {
            let mut entries: Vec<_> = table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), plain(value)))
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            serde_json::Value::Object(entries.into_iter().collect())
        }
        DeValue::Array(array) => array.iter().map(plain).collect(),
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.as_str().into(), Into::into)
        }
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or_else(|_| number.as_str().into(), Into::into),
        DeValue::Datetime(time) => time.to_string().into(),
    }
}

/// Tells configurations apart; the same over restarts of the same build.
fn hash_of(settings: &serde_json::Value) -> SmolStr {
    // FNV-1a: no secret needs hiding here, and the result must not change with the standard library.
    let hash = settings
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}").into()
}

fn fitting(name: &str) -> String {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(fit).collect();
    if name.is_empty() { "pipeline".to_owned() } else { name }
}
