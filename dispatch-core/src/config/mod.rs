//! The TOML model.

mod component;
mod template;
mod value;
mod verdict;

pub use crate::selector::{Selector, SelectorError};
pub use component::{
    BuildContext, ConfigError, LayerConfig, MessageLayer, MessageService, SinkConfig, SourceConfig, StoreConfig,
    StoreContext,
};
pub use template::{Template, TemplateError};
pub use value::{ByteSize, Period, Rate, Secret};
pub use verdict::Verdict;
