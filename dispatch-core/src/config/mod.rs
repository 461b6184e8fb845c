//! The TOML model.

mod component;
mod value;

pub use component::{
    BuildContext, ConfigError, LayerConfig, MessageLayer, MessageService, SinkConfig, SourceConfig, StoreConfig,
    StoreContext,
};
pub use value::{ByteSize, Period, Rate, Secret};
