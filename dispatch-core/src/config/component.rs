//! What a connector's configuration must be able to do.

use std::{path::PathBuf, sync::Arc};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use smol_str::SmolStr;

use super::Stability;
use crate::{Commands, Sink, Source, Store, layer::MessageLayer, telemetry::Meter};

/// The configuration of a source: what stands in `[source]` beside `type`.
///
/// Derive `Deserialize` and `JsonSchema`, with `#[serde(deny_unknown_fields)]`.
pub trait SourceConfig: DeserializeOwned + JsonSchema + Send + 'static {
    /// The name after `type =`.
    const TYPE: &'static str;
    /// One line for `dispatch list`.
    const SUMMARY: &'static str;
    /// What those who name it may rely on.
    const STABILITY: Stability = Stability::Experimental;

    /// Checks the values and makes the source. Connects to nothing: the first `receive` or `probe` does.
    ///
    /// # Errors
    /// Names the field that is wrong and what is allowed.
    fn build(self, context: &BuildContext) -> Result<Box<dyn Source>, ConfigError>;
}

/// The configuration of a sink: what stands in `[sink]` beside `type`.
pub trait SinkConfig: DeserializeOwned + JsonSchema + Send + 'static {
    /// The name after `type =`.
    const TYPE: &'static str;
    /// One line for `dispatch list`.
    const SUMMARY: &'static str;
    /// What those who name it may rely on.
    const STABILITY: Stability = Stability::Experimental;

    /// Checks the values and makes the sink. Connects to nothing: the first `send` or `probe` does.
    ///
    /// # Errors
    /// Names the field that is wrong and what is allowed.
    fn build(self, context: &BuildContext) -> Result<Arc<dyn Sink>, ConfigError>;
}

/// The configuration of a store: what stands in `[store]` beside `type`.
pub trait StoreConfig: DeserializeOwned + JsonSchema + Send + 'static {
    /// The name after `type =`.
    const TYPE: &'static str;
    /// One line for `dispatch list`.
    const SUMMARY: &'static str;
    /// What those who name it may rely on.
    const STABILITY: Stability = Stability::Experimental;
    /// Whether it keeps all that a pipeline's `[store]` must: dead letters, parked retries and the queue, too. One that
    /// does not can stand where reservations alone are kept, under `[dedupe]`.
    const WHOLE: bool = true;

    /// Checks the values and makes the store. Connects to nothing: the first use or `probe` does.
    ///
    /// # Errors
    /// Names the field that is wrong and what is allowed.
    fn build(self, context: &StoreContext) -> Result<Arc<dyn Store>, ConfigError>;
}

/// The configuration of a layer of your own: what stands in `[layers.<type>]`.
pub trait LayerConfig: DeserializeOwned + JsonSchema + Send + 'static {
    /// The name under `[layers]`.
    const TYPE: &'static str;
    /// One line for `dispatch list`.
    const SUMMARY: &'static str;
    /// What those who name it may rely on.
    const STABILITY: Stability = Stability::Experimental;

    /// Checks the values and makes the layer. It stands right around the sink, inside the built-in ones.
    ///
    /// # Errors
    /// Names the field that is wrong and what is allowed.
    fn build(self, context: &BuildContext) -> Result<MessageLayer, ConfigError>;
}

/// What a source, sink or layer may know of the pipeline it is built for.
#[derive(Debug, Clone)]
pub struct BuildContext {
    /// The pipeline's name.
    pub pipeline: SmolStr,
    /// The component's label: `source`, `source.jobs`, `sink`, `then.0`, …
    pub component: SmolStr,
    /// The pipeline's store.
    pub store: Arc<dyn Store>,
    /// Where relative paths start: the working directory unless the embedder says otherwise.
    pub base_dir: PathBuf,
    /// How many messages the pipeline works on at once.
    pub concurrency: usize,
    /// Where the component counts what only it can count.
    pub meter: Meter,
    /// Where the component answers commands, and asks others.
    pub commands: Commands,
}

/// What a store may know when it is built.
#[derive(Debug, Clone)]
pub struct StoreContext {
    /// Where relative paths start.
    pub base_dir: PathBuf,
}

/// A value that parsed but cannot be meant: which field, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// The field, dotted where it lies deeper; none for the component as a whole.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl ConfigError {
    /// A mistake in one field.
    pub fn at(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            message: message.into(),
            help: None,
        }
    }

    /// A mistake of the component as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            field: None,
            message: message.into(),
            help: None,
        }
    }

    /// Says what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
