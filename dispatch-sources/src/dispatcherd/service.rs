//! The sections `service` and `worker`: who does the tasks.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// `service`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Service {
    /// The pool of workers.
    pub pool_kwargs: PoolKwargs,
    /// The service itself.
    pub main_kwargs: MainKwargs,
    /// Metrics; absent, they are off.
    pub metrics_kwargs: Option<MetricsKwargs>,
    /// How workers start.
    pub process_manager_cls: ProcessManager,
    /// What that is made with.
    pub process_manager_kwargs: ProcessManagerKwargs,
}

/// `service.pool_kwargs`; seconds.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
#[expect(missing_docs, reason = "dispatcherd's own names")]
pub struct PoolKwargs {
    pub min_workers: usize,
    pub max_workers: Option<usize>,
    pub scaledown_wait: f64,
    pub scaledown_interval: f64,
    pub scaledown_reserve: usize,
    pub worker_stop_wait: f64,
    pub worker_removal_wait: f64,
    pub worker_max_lifetime_seconds: Option<f64>,
    pub results_read_timeout: Option<f64>,
}

impl Default for PoolKwargs {
    fn default() -> Self {
        Self {
            min_workers: 1,
            max_workers: None,
            scaledown_wait: 15.0,
            scaledown_interval: 15.0,
            scaledown_reserve: 0,
            worker_stop_wait: 30.0,
            worker_removal_wait: 30.0,
            worker_max_lifetime_seconds: Some(14_400.0),
            results_read_timeout: None,
        }
    }
}

/// `service.main_kwargs`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MainKwargs {
    /// Who answers commands; a random UUID by default.
    pub node_id: Option<String>,
    /// Seconds that the pieces of a message may take; 0 or less for ever. 1800.
    pub chunk_message_timeout_seconds: Option<f64>,
}

/// `service.metrics_kwargs`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MetricsKwargs {
    /// The port; 8070.
    pub port: u16,
    /// The host; `localhost`.
    pub host: String,
    /// Of the original alone.
    pub log_level: Option<String>,
}

impl Default for MetricsKwargs {
    fn default() -> Self {
        Self {
            port: 8070,
            host: "localhost".to_owned(),
            log_level: None,
        }
    }
}

/// How workers start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum ProcessManager {
    /// A fork of the service; here, of the zygote.
    #[serde(rename = "ProcessManager")]
    Fork,
    /// A fork of a server that has imported what workers need.
    #[default]
    #[serde(rename = "ForkServerManager")]
    ForkServer,
    /// From nothing.
    #[serde(rename = "SpawnServerManager")]
    Spawn,
}

/// `service.process_manager_kwargs`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ProcessManagerKwargs {
    /// Modules that are imported once, before workers are forked; null for none.
    #[serde(deserialize_with = "listed")]
    #[schemars(with = "Option<Vec<String>>")]
    pub preload_modules: Vec<String>,
}

/// A list, or null for an empty one.
fn listed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// `worker`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Worker {
    /// The worker class; dispatcherd's own by default.
    pub worker_cls: Option<String>,
    /// What it is made with; `idle_timeout` among it.
    pub worker_kwargs: Map<String, Value>,
}
