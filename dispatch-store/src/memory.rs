//! The Store in process memory, type `memory`: nothing to install, nothing kept when the process ends.
//!
//! ```toml
//! [store]
//! type = "memory"
//! ```
//!
//! Every promise of a Store holds but one: dead letters, parked retries and reservations end with the process. Use it
//! for trials and tests, and where the source keeps all that matters.
//!
//! ```
//! use dispatch_core::config::{StoreConfig, StoreContext};
//! use dispatch_store::MemoryConfig;
//!
//! let store = MemoryConfig::default().build(&StoreContext { base_dir: ".".into() }).unwrap();
//! # drop(store);
//! ```

use std::sync::Arc;

use dispatch_core::{
    MemoryStore, Store,
    config::{ConfigError, Stability, StoreConfig, StoreContext},
};
use schemars::JsonSchema;
use serde::Deserialize;

/// What stands in `[store]` beside `type = "memory"`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// How many finished messages `dedupe` remembers at most; 1 000 000. The first to expire give way to new ones.
    #[schemars(range(min = 1))]
    pub max_reservations: Option<usize>,
    /// How many dead letters are kept at most; 10 000. The oldest give way to new ones, each with a warning in the log.
    #[schemars(range(min = 1))]
    pub max_dead_letters: Option<usize>,
}

impl StoreConfig for MemoryConfig {
    const TYPE: &'static str = "memory";
    const SUMMARY: &'static str = "process memory: nothing is kept when the process ends";
    const STABILITY: Stability = Stability::Stable;

    fn build(self, _: &StoreContext) -> Result<Arc<dyn Store>, ConfigError> {
        let mut store = MemoryStore::new();
        match self.max_reservations {
            Some(0) => {
                return Err(ConfigError::at("max_reservations", "nothing would be remembered").help("at least 1"));
            }
            Some(most) => store = store.max_reservations(most),
            None => {}
        }
        match self.max_dead_letters {
            Some(0) => return Err(ConfigError::at("max_dead_letters", "none would be kept").help("at least 1")),
            Some(most) => store = store.max_dead_letters(most),
            None => {}
        }
        Ok(Arc::new(store))
    }
}
