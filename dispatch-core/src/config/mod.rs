//! The TOML model.

mod component;
mod component_table;
mod dedupe;
mod diagnose;
mod document;
mod echo;
mod interpolate;
mod layers;
mod load;
mod loaded;
mod model;
mod plain;
mod read;
mod schema;
mod shape;
mod sinks;
mod stability;
mod template;
mod value;
mod verdict;

pub use crate::selector::{Selector, SelectorError};
pub use component::{BuildContext, ConfigError, LayerConfig, SinkConfig, SourceConfig, StoreConfig, StoreContext};
pub use diagnose::{Diagnostic, Diagnostics};
pub use document::Override;
pub use echo::echo;
pub use layers::{
    BackoffConfig, BreakerConfig, ConcurrencyConfig, DeadlineConfig, LayersConfig, RateLimitConfig, RetryConfig,
};
pub use load::Loader;
pub use loaded::LoadedPipeline;
pub use model::{AdminConfig, MonitoringConfig};
pub use schema::schema;
pub use shape::{Percent, Switch};
pub use stability::Stability;
pub use template::{Template, TemplateError};
pub use value::{ByteSize, Period, Rate, Secret};

pub use crate::layer::{MessageLayer, MessageService};
pub use verdict::Verdict;
