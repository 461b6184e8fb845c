//! The keys at the top of a file that belong to no component.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Period, Secret};
use crate::Selector;

/// What may stand at the top of a file beside `source`, `layers`, `sink`, `then` and `store`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TopConfig {
    /// The pipeline's name, in metrics, dead letters and the store: lower-case letters, digits and `_`. The file's
    /// name by default.
    #[schemars(regex(pattern = r"^[a-z0-9_]+$"))]
    pub(super) name: Option<String>,
    /// How many deliveries are held beyond the concurrency; what the sources advise by default.
    pub(super) prefetch: Option<usize>,
    /// How long a drain waits for what is started; 25 s.
    pub(super) drain_timeout: Option<Period>,
    /// Drivers over the same sources, for pipelines that the engine itself limits; 1.
    #[schemars(range(min = 1, max = 256))]
    pub(super) shards: Option<usize>,
    /// Order or fairness by key; neither by default.
    pub(super) lanes: Option<LanesConfig>,
    /// What becomes of an attempt whose lease was lost; it may finish by default.
    pub(super) on_lost_lease: OnLostLease,
    /// Health, metrics and control.
    pub(super) admin: AdminConfig,
}

/// `[lanes]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LanesConfig {
    /// What messages are sorted by, such as `"header:tenant"`.
    pub(super) key: Selector,
    /// One at a time for each key, in order, a failing head holding its followers back; if not, keys only take turns.
    #[serde(default)]
    pub(super) order: bool,
}

/// What becomes of an attempt whose lease was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnLostLease {
    /// It goes on; its settlement changes nothing.
    #[default]
    Finish,
    /// It is cancelled.
    Cancel,
}

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where `/metrics`, `/livez`, `/readyz`, `/healthz`, `/version` and `/v1/` are: an address and port, or `"off"`.
    pub listen: String,
    /// What callers must send as a bearer token; needed where the address is not a loopback one.
    pub token: Option<Secret>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9090".to_owned(),
            token: None,
        }
    }
}
