//! Which `type = "…"` makes which component; filled by explicit calls, no linker tricks.

use std::{collections::BTreeMap, fmt, sync::Arc};

use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use toml::{Spanned, de::DeValue, de::ValueDeserializer};

use crate::{
    Sink, Source, Store,
    config::{
        BuildContext, ConfigError, LayerConfig, MessageLayer, SinkConfig, SourceConfig, Stability, StoreConfig,
        StoreContext,
    },
};

/// What a parsed configuration turns into, once its surroundings are known.
pub(crate) type Builder<C, T> = Box<dyn FnOnce(&C) -> Result<T, ConfigError> + Send>;

/// One `type` of one kind of component.
pub struct Factory<C, T> {
    /// One line for people.
    pub summary: &'static str,
    /// What those who name it may rely on.
    pub stability: Stability,
    /// Whether it does all that its place in a file asks for; see [`StoreConfig::WHOLE`].
    pub(crate) whole: bool,
    /// The JSON Schema of its configuration.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Reads its configuration; what comes back builds it.
    pub(crate) read: fn(Spanned<DeValue<'_>>) -> Result<Builder<C, T>, toml::de::Error>,
}

impl<C, T> fmt::Debug for Factory<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factory")
            .field("summary", &self.summary)
            .finish_non_exhaustive()
    }
}

/// A type of component, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// The name after `type =`, or under `[layers]`.
    pub name: &'static str,
    /// One line about it.
    pub summary: &'static str,
    /// What those who name it may rely on.
    pub stability: Stability,
}

impl Component {
    fn of<C, T>((name, factory): (&&'static str, &Factory<C, T>)) -> Self {
        Self {
            name,
            summary: factory.summary,
            stability: factory.stability,
        }
    }
}

/// The component types that configuration files may name.
///
/// Each crate of connectors has a `register(&mut Registry)`; your own adds one line. Registering a name twice replaces
/// the first.
#[derive(Debug, Default)]
pub struct Registry {
    pub(crate) sources: BTreeMap<&'static str, Factory<BuildContext, Box<dyn Source>>>,
    pub(crate) sinks: BTreeMap<&'static str, Factory<BuildContext, Arc<dyn Sink>>>,
    pub(crate) stores: BTreeMap<&'static str, Factory<StoreContext, Arc<dyn Store>>>,
    pub(crate) layers: BTreeMap<&'static str, Factory<BuildContext, MessageLayer>>,
    pub(crate) absent: BTreeMap<&'static str, &'static str>,
}

fn read<T: DeserializeOwned>(value: Spanned<DeValue<'_>>) -> Result<T, toml::de::Error> {
    T::deserialize(ValueDeserializer::from(value))
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source.
    pub fn source<S: SourceConfig>(&mut self) -> &mut Self {
        let factory = Factory {
            summary: S::SUMMARY,
            stability: S::STABILITY,
            whole: true,
            schema: S::json_schema,
            read: |value| {
                let config: S = read(value)?;
                Ok(Box::new(move |context: &BuildContext| config.build(context)))
            },
        };
        self.sources.insert(S::TYPE, factory);
        self
    }

    /// Adds a sink.
    pub fn sink<S: SinkConfig>(&mut self) -> &mut Self {
        let factory = Factory {
            summary: S::SUMMARY,
            stability: S::STABILITY,
            whole: true,
            schema: S::json_schema,
            read: |value| {
                let config: S = read(value)?;
                Ok(Box::new(move |context: &BuildContext| config.build(context)))
            },
        };
        self.sinks.insert(S::TYPE, factory);
        self
    }

    /// Adds a store.
    pub fn store<S: StoreConfig>(&mut self) -> &mut Self {
        let factory = Factory {
            summary: S::SUMMARY,
            stability: S::STABILITY,
            whole: S::WHOLE,
            schema: S::json_schema,
            read: |value| {
                let config: S = read(value)?;
                Ok(Box::new(move |context: &StoreContext| config.build(context)))
            },
        };
        self.stores.insert(S::TYPE, factory);
        self
    }

    /// Adds a layer.
    pub fn layer<L: LayerConfig>(&mut self) -> &mut Self {
        let factory = Factory {
            summary: L::SUMMARY,
            stability: L::STABILITY,
            whole: true,
            schema: L::json_schema,
            read: |value| {
                let config: L = read(value)?;
                Ok(Box::new(move |context: &BuildContext| config.build(context)))
            },
        };
        self.layers.insert(L::TYPE, factory);
        self
    }

    /// Notes a type that exists but was not compiled in, and what to do about it; a file that names it is told.
    pub fn absent(&mut self, name: &'static str, remedy: &'static str) -> &mut Self {
        self.absent.insert(name, remedy);
        self
    }

    /// The sources, by type.
    pub fn sources(&self) -> impl Iterator<Item = Component> {
        self.sources.iter().map(Component::of)
    }

    /// The sinks, by type.
    pub fn sinks(&self) -> impl Iterator<Item = Component> {
        self.sinks.iter().map(Component::of)
    }

    /// The stores, by type.
    pub fn stores(&self) -> impl Iterator<Item = Component> {
        self.stores.iter().map(Component::of)
    }

    /// The layers that were added, by name.
    pub fn layers(&self) -> impl Iterator<Item = Component> {
        self.layers.iter().map(Component::of)
    }
}
