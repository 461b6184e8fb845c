//! Reservations, schedule slots, positions and shared rates in a Redis server, type `redis`.
//!
//! ```toml
//! [source]
//! type = "queue"
//! queue = "jobs"
//!
//! [dedupe]
//! store = { type = "redis", url = "redis://127.0.0.1:6379/0" }
//!
//! [sink]
//! type = "stdout"
//! ```
//!
//! It keeps no dead letters and no queue, so it stands under `[dedupe]` and not as `[store]`. Every change is one command
//! or one script, so it holds whole or not at all; a key forgets itself when its time is over. What a server forgets when
//! it restarts, or evicts when memory is short, is worked on again by the next delivery.
//!
//! ```
//! use dispatch_core::config::{Secret, StoreConfig, StoreContext};
//! use dispatch_store::RedisConfig;
//!
//! # let runtime = tokio::runtime::Runtime::new().unwrap();
//! # let _entered = runtime.enter();
//! let config = RedisConfig::new(Secret::new("redis://127.0.0.1:6379/0"));
//! let store = config.build(&StoreContext { base_dir: ".".into() }).unwrap(); // connects at the first use
//! # drop(store);
//! ```

mod config;
mod error;
mod roles;
mod store;

pub use config::RedisConfig;
pub use error::RedisStoreError;
