//! `layers.concurrency`: how many at once, by key, or by latency.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use smol_str::SmolStr;

use crate::{
    Selector,
    config::{
        ConfigError,
        shape::{Short, short_or_table},
    },
    layer::{AdaptiveSettings, Limit},
};

use super::key_fn;

/// `concurrency = 64`, `"adaptive"` or a table.
#[derive(Debug, Clone)]
pub struct ConcurrencyConfig(ConcurrencyTable);

/// The long form of `concurrency`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ConcurrencyTable {
    /// At once in all, or for each key; 64.
    limit: Option<usize>,
    /// Counts by key, such as `"header:tenant"`.
    key: Option<Selector>,
    /// Other limits for some keys.
    limits: BTreeMap<String, usize>,
    /// In all, where there is a key; the sum of `limits` or four times `limit`, whichever is more.
    total: Option<usize>,
    /// Finds the limit by latency; not with `limit` or `key`.
    adaptive: Option<AdaptiveConfig>,
}

/// How fast an adaptive limit moves; the defaults are those that Vector publishes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct AdaptiveConfig {
    /// The limit at the start.
    initial: usize,
    /// The limit's own limit.
    max: usize,
    /// How much the newest mean latency weighs, from 0 to 1.
    ewma_alpha: f64,
    /// What the limit is multiplied by when the far side slows down.
    decrease_ratio: f64,
    /// How many deviations above the mean count as slowing down.
    deviation_scale: f64,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        let AdaptiveSettings {
            initial,
            max,
            ewma_alpha,
            decrease_ratio,
            deviation_scale,
        } = AdaptiveSettings::default();
        Self {
            initial,
            max,
            ewma_alpha,
            decrease_ratio,
            deviation_scale,
        }
    }
}

impl From<ConcurrencyTable> for ConcurrencyConfig {
    fn from(table: ConcurrencyTable) -> Self {
        Self(table)
    }
}

impl Short for ConcurrencyConfig {
    const WANTED: &'static str = "a number of messages, \"adaptive\" or a table";
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "adaptive" => Ok(Self(ConcurrencyTable {
                adaptive: Some(AdaptiveConfig::default()),
                ..Default::default()
            })),
            // A number that came from a variable.
            _ => match text.trim().parse() {
                Ok(number) => Self::from_number(number),
                Err(_) => Err(format!("\"{text}\" where {} is wanted", Self::WANTED)),
            },
        }
    }
    fn from_number(number: i64) -> Result<Self, String> {
        match usize::try_from(number) {
            Ok(limit) if limit > 0 => Ok(Self(ConcurrencyTable {
                limit: Some(limit),
                ..Default::default()
            })),
            _ => Err(format!(
                "{number} messages at once move nothing: concurrency is at least 1"
            )),
        }
    }
}

short_or_table!(
    ConcurrencyConfig,
    ConcurrencyTable,
    "Concurrency",
    vec![
        serde_json::json!({ "type": "integer", "minimum": 1 }),
        serde_json::json!({ "const": "adaptive" })
    ]
);

impl ConcurrencyConfig {
    pub(super) fn limit(&self) -> Result<Limit, ConfigError> {
        let table = &self.0;
        if let Some(adaptive) = &table.adaptive {
            if table.limit.is_some() || table.key.is_some() {
                return Err(
                    ConfigError::at("concurrency", "an adaptive limit has no `limit` and no `key`")
                        .help("leave them out, or leave `adaptive` out"),
                );
            }
            let AdaptiveConfig {
                initial,
                max,
                ewma_alpha,
                decrease_ratio,
                deviation_scale,
            } = *adaptive;
            if !(0.0..=1.0).contains(&ewma_alpha)
                || !(0.0..1.0).contains(&decrease_ratio)
                || initial == 0
                || max < initial
            {
                return Err(ConfigError::at("concurrency.adaptive", "these numbers find no limit")
                    .help("1 <= initial <= max, 0 <= ewma_alpha <= 1, 0 <= decrease_ratio < 1"));
            }
            return Ok(Limit::Adaptive(AdaptiveSettings {
                initial,
                max,
                ewma_alpha,
                decrease_ratio,
                deviation_scale,
            }));
        }
        let limit = table.limit.unwrap_or(64);
        if limit == 0 || table.limits.values().any(|own| *own == 0) || table.total == Some(0) {
            return Err(ConfigError::at("concurrency", "0 messages at once move nothing").help("at least 1"));
        }
        match &table.key {
            None if table.limits.is_empty() => Ok(Limit::Fixed(limit)),
            None => {
                Err(ConfigError::at("concurrency.limits", "limits by key need a key").help("add key = \"header:…\""))
            }
            Some(key) => {
                let limits: std::collections::HashMap<SmolStr, usize> =
                    table.limits.iter().map(|(key, own)| (key.into(), *own)).collect();
                let total = table
                    .total
                    .unwrap_or_else(|| limits.values().sum::<usize>().max(limit.saturating_mul(4)));
                Ok(Limit::Keyed {
                    total,
                    limit,
                    limits,
                    key: key_fn(key),
                })
            }
        }
    }
}
