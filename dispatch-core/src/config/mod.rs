//! The TOML model.

mod component;
mod template;
mod value;
mod verdict;

pub use crate::selector::{Selector, SelectorError};
pub use component::{BuildContext, ConfigError, LayerConfig, SinkConfig, SourceConfig, StoreConfig, StoreContext};
pub use template::{Template, TemplateError};
pub use value::{ByteSize, Period, Rate, Secret};

pub use crate::layer::{MessageLayer, MessageService};
pub use verdict::Verdict;
