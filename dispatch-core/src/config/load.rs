//! From a file to what a pipeline is built of: parse, fill in, read every component.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use smol_str::SmolStr;
use toml::de::{DeTable, DeValue};

use super::{
    BuildContext, Diagnostics, LayersConfig, LoadedPipeline, Override,
    component_table::{Places, component, no_type},
    dedupe::DedupePlan,
    document,
    interpolate::Surroundings,
    model::{LanesConfig, TopConfig},
    plain::{hash_of, plain},
    read::{Reader, Value, remove},
    sinks::SinkPlan,
};
use crate::{
    Source,
    layer::{MessageLayer, Stack},
    registry::{Builder, Registry},
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

    /// One file's text as it is meant, to be shown: as [`echo`](super::echo), under this loader's overrides.
    ///
    /// # Errors
    /// Mistakes of syntax.
    pub fn echo(&self, name: &str, text: &str) -> Result<serde_json::Value, Diagnostics> {
        super::echo(&super::schema(self.registry), name, text, &self.overrides)
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
